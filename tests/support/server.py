"""A real Wharfage, started as a user starts it, on a free port with a data directory of its own.

`watched` starts it through `serve_watched`, in which a call that blocks an event loop raises: the request that made it
fails, and the log names the call.
"""

from __future__ import annotations

import base64
import configparser
import contextlib
import http.client
import socket
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import boto3
import psutil
from botocore.config import Config

from support.programs import ROOT, Daemon

START_SECONDS = 60  # a loaded two-core machine; an idle one takes about one


def free_port() -> int:
    """A port that nobody had a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def listens(port: int) -> bool:
    """Whether somebody accepts connections at 127.0.0.1."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@dataclass(slots=True)
class Server:
    """A running server: `address` is host:port, `data` its data directory."""

    daemon: Daemon
    address: str
    data: Path

    @classmethod
    def start(
        cls,
        data: Path,
        *,
        workers: int = 2,
        port: int | None = None,
        extra: Mapping[str, str] | None = None,
        flags: Sequence[str] = (),
        watched: bool = False,
        files: int | None = None,
    ) -> Server:
        server = cls.begin(data, workers=workers, port=port, extra=extra, flags=flags, watched=watched, files=files)
        try:
            server.daemon.wait_until(server.is_ready, START_SECONDS)
        except BaseException:
            server.daemon.kill()
            raise
        return server

    @classmethod
    def begin(
        cls,
        data: Path,
        *,
        workers: int = 2,
        port: int | None = None,
        extra: Mapping[str, str] | None = None,
        flags: Sequence[str] = (),
        watched: bool = False,
        files: int | None = None,
    ) -> Server:
        """As `start`, without waiting for it. `files` is the system's limit of open files for each process."""
        address = f"127.0.0.1:{port or free_port()}"
        program = [str(ROOT / "tests" / "support" / "serve_watched.py")] if watched else ["-m", "proxy"]
        serve = ["serve", "--data", str(data), "--listen", address, "--workers", str(workers), *flags]
        limited = ["sh", "-c", f'ulimit -n {files} && exec "$@"', "sh"] if files else []
        command = [*limited, sys.executable, *program, *serve]
        # All tests come from one address: a wrong password in one is no reason to refuse another.
        settings = {"WHARFAGE_SERVER_LOGIN_FAILURES": "0", **(extra or {})}
        return cls(Daemon.start(command, data.with_name(f"{data.name}.log"), settings), address, data)

    @property
    def url(self) -> str:
        return f"http://{self.address}"

    @property
    def port(self) -> int:
        return int(self.address.rpartition(":")[2])

    def is_ready(self) -> bool:
        line = http.client.HTTPConnection(self.address, timeout=5)
        try:
            line.request("GET", "/readyz")
            return line.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            line.close()

    def credentials(self) -> tuple[str, str]:
        """(access key id, secret) as the server wrote them, in AWS's shared-credentials form."""
        written = configparser.ConfigParser()
        written.read(self.data / "credentials")
        section = written["default"]
        return section["aws_access_key_id"], section["aws_secret_access_key"]

    def password(self) -> str:
        """A fresh password for user AWS, by GetAuthorizationToken through boto3."""
        return password_at(self.url, *self.credentials())

    def processes(self) -> list[psutil.Process]:
        """The supervisor and all that it started, the supervisor first."""
        first = psutil.Process(self.daemon.process.pid)
        return [first, *first.children(recursive=True)]

    def metadata_process(self) -> psutil.Process:
        """The one that owns the rows."""
        [found] = self.named("wharfage metadata")
        return found

    def workers(self) -> list[psutil.Process]:
        """The proxies."""
        return self.named("wharfage worker")

    def named(self, name: str) -> list[psutil.Process]:
        """Those whose name begins so, as far as the kernel keeps names (15 bytes); one that just ended has none."""
        found = []
        for process in self.processes():
            with contextlib.suppress(psutil.NoSuchProcess):
                if process.name().startswith(name[:15]):
                    found.append(process)
        return found

    def objects(self) -> list[Path]:
        """What lies in the store, the newest last."""
        return sorted(
            (path for path in (self.data / "objects").glob("???/*") if path.is_file()),
            key=lambda path: path.stat().st_mtime_ns,
        )

    def stop(self) -> int:
        return self.daemon.stop()


def password_at(url: str, access_key_id: str, secret: str, region: str = "us-east-1") -> str:
    """A fresh password for user AWS at the registry at `url`, by GetAuthorizationToken through boto3."""
    ecr = boto3.client(
        "ecr",
        endpoint_url=url,
        region_name=region,
        aws_access_key_id=access_key_id,
        aws_secret_access_key=secret,
        config=Config(retries={"max_attempts": 1}),
    )
    token = ecr.get_authorization_token()["authorizationData"][0]["authorizationToken"]
    user, _, password = base64.b64decode(token).decode().partition(":")
    assert user == "AWS"
    return password


def status_of(server: Server, password: str) -> int:
    """What `/v2/` answers to that password."""
    line = http.client.HTTPConnection(server.address, timeout=30)
    try:
        basic = base64.b64encode(f"AWS:{password}".encode()).decode()
        line.request("GET", "/v2/", headers={"Authorization": f"Basic {basic}"})
        return line.getresponse().status
    finally:
        line.close()
