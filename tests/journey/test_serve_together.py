"""`wharfage serve` on two machines over one PostgreSQL and one bucket, as a user starts it: at the same moment."""

from __future__ import annotations

import contextlib
import json
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from proxy.blob.master_file import MasterKeys
from proxy.http.selfsigned import make_self_signed
from support import postgresql
from support.connections import Connection
from support.cut_connection import CutLine
from support.metadata import postgresql_database
from support.programs import Daemon
from support.registry import OCI_MANIFEST, image_manifest
from support.seaweed import Seaweed
from support.server import Server, free_port

pytestmark = pytest.mark.needs(postgresql.PROGRAM, "weed")

SECRET = "a-shared-secret-of-some-length"
CONFIG = b'{"architecture": "amd64", "os": "linux"}'
KIND = {"Content-Type": OCI_MANIFEST}
Together = Callable[..., list[Server]]


@pytest.fixture
def database() -> Iterator[CutLine]:
    """Both machines' line to PostgreSQL."""
    line = CutLine(postgresql.shared().port)
    yield line
    line.close()


@pytest.fixture
def begin(tmp_path: Path, database: CutLine, seaweed: Seaweed) -> Iterator[Together]:
    """Start two at once; `alike` gives both the same key file, `listen` an address for each other, under TLS."""
    url = f"postgresql://postgres@127.0.0.1:{database.port}/{postgresql_database(tmp_path).rpartition('/')[2]}"
    common = seaweed.settings(f"{uuid.uuid4().hex[:8]}/") | {"WHARFAGE_METADATA_DATABASE": url}
    started: list[Server] = []

    def start(*, alike: bool = True, listen: bool = False, again: Server | None = None) -> list[Server]:
        for data in [again.data] if again else [tmp_path / f"data{number}" for number in range(2)]:
            settings = common | {"WHARFAGE_LOG_FORM": "json"}
            if alike:
                made = MasterKeys.load_or_create(tmp_path / "master.json").path
                (data / "keys").mkdir(parents=True, mode=0o700)
                shutil.copy(made, data / "keys" / "master.json")
            if listen:
                ca, cert, key = make_self_signed(tmp_path / "tls", "127.0.0.1")
                settings |= {
                    "WHARFAGE_METADATA_LISTEN": f"127.0.0.1:{free_port()}",
                    "WHARFAGE_METADATA_SECRET": SECRET,
                    "WHARFAGE_METADATA_TLS_CERT": str(cert),
                    "WHARFAGE_METADATA_TLS_KEY": str(key),
                    "WHARFAGE_METADATA_CA_BUNDLE": str(ca),
                }
            started.append(Server.begin(data, workers=1, extra=settings))
        return started

    yield start
    for server in started:
        server.daemon.kill()


def said(server: Server, event: str) -> list[dict[str, Any]]:
    """Lines of its log that say so."""
    lines = [line for line in server.daemon.log.read_text().splitlines() if line.startswith("{")]
    return [found for found in map(json.loads, lines) if event in found["event"]]


def until(fulfilled: Callable[[], bool], daemon: Daemon) -> None:
    daemon.wait_until(fulfilled, 30)


def test_one_of_two_first_starts_makes_the_administrators_key_and_says_where_it_is(begin: Together) -> None:
    """Its credentials open both machines; the other one has no file that would be of no use."""
    servers = begin()
    for server in servers:
        until(server.is_ready, server.daemon)
    [owner] = [server for server in servers if (server.data / "credentials").exists()]
    access_key_id, secret = owner.credentials()
    [told] = [line for server in servers for line in said(server, "the administrator's key was made")]
    assert (told["access_key_id"], told["file"]) == (access_key_id, str(owner.data / "credentials"))
    assert told["host"]
    [other] = [server for server in servers if server is not owner]
    assert "another node" in other.daemon.log.read_text()
    assert secret not in owner.daemon.log.read_text() + other.daemon.log.read_text()
    password = owner.password()
    for server in servers:
        with contextlib.closing(Connection(server, password)) as line:
            line.ask("GET", "/v2/").expect(200)
        assert said(server, "there is no outage_grace")  # a socket is all that they listen on
    assert [server.stop() for server in servers] == [0, 0]


def test_of_two_first_starts_with_keys_of_their_own_one_serves_and_the_other_says_what_it_lacks(
    begin: Together,
) -> None:
    """And ends, and serves once it has the key."""
    servers = begin(alike=False)
    decided = time.monotonic() + 30
    while not any(server.daemon.process.poll() is not None for server in servers):
        assert time.monotonic() < decided
        time.sleep(0.1)
    [refused] = [server for server in servers if server.daemon.process.poll() is not None]
    [serves] = [server for server in servers if server is not refused]
    until(serves.is_ready, serves.daemon)
    assert refused.daemon.process.returncode == 1
    assert "keys/master.json from a node that serves" in said(refused, "lacks the master key")[0]["hint"]
    assert not (refused.data / "credentials").exists()
    shutil.copy(serves.data / "keys" / "master.json", refused.data / "keys" / "master.json")
    again = begin(alike=False, again=refused)
    until(again[-1].is_ready, again[-1].daemon)


def test_what_one_machine_acknowledges_the_other_reads_and_pulls_go_on_without_the_database(
    begin: Together, database: CutLine, repository: str
) -> None:
    """Then one is killed: the other one writes on."""
    servers = begin(listen=True)
    for server in servers:
        until(server.is_ready, server.daemon)
    [owner] = [server for server in servers if (server.data / "credentials").exists()]
    password = owner.password()
    with contextlib.ExitStack() as stack:
        lines = [stack.enter_context(contextlib.closing(Connection(server, password))) for server in servers]
        config = lines[0].push_blob(repository, CONFIG)
        path = f"/v2/{repository}/manifests/latest"

        def move(number: int, line: Connection) -> bytes:
            manifest = image_manifest(CONFIG, [], annotations={"number": str(number)})
            line.ask("PUT", path, manifest, KIND).expect(201)
            return manifest

        def pull(line: Connection, manifest: bytes) -> None:
            assert line.ask("GET", path, headers={"Accept": OCI_MANIFEST}).expect(200).body == manifest
            assert line.ask("GET", f"/v2/{repository}/blobs/{config}").expect(200).body == CONFIG

        for number in range(20):
            manifest = move(number, lines[number % 2])
            for line in lines:
                pull(line, manifest)
        assert not any(said(server, "there is no outage_grace") for server in servers)
        database.cut()
        for server, line in zip(servers, lines, strict=True):
            until(lambda: "grace" in line.ask("GET", "/readyz").expect(200).json()["metadata"], server.daemon)  # noqa: B023  # waited for here
            pull(line, manifest)
            assert line.ask("PUT", path, image_manifest(CONFIG, []), KIND).expect(503).headers["Retry-After"]
            pull(line, manifest)
        database.mend()
        for server, line in zip(servers, lines, strict=True):
            until(lambda: line.ask("GET", "/readyz").json()["metadata"] == "ok", server.daemon)  # noqa: B023  # as above
        servers[0].daemon.kill()
        began = time.monotonic()
        for number in range(20, 30):
            pull(lines[1], move(number, lines[1]))
        assert time.monotonic() - began < 10
    assert servers[1].stop() == 0
