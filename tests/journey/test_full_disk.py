"""A data directory on a disk without a free byte: what is there is served on, by the same processes."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from support.connections import Connection
from support.disks import fill, mounted
from support.registry import digest_of
from support.server import Server

OCTETS = {"Content-Type": "application/octet-stream"}
CONTENT = bytes(range(256)) * 4096


@pytest.fixture
def full(start_server: Callable[..., Server], tmp_path: Path, repository: str) -> Iterator[tuple[Server, str]]:
    """A server with a layer that no image uses and that was last asked about two hours ago, and a password; its disk is
    full."""
    with mounted(tmp_path / "data", 48) as data:
        server = start_server(data, workers=2)
        try:
            password = server.password()
            with closing(Connection(server, password)) as line:
                at = line.begin(repository)
                line.ask("PUT", f"{at}?digest={digest_of(CONTENT)}", CONTENT, OCTETS).expect(201)
            with closing(sqlite3.connect(server.data / "metadata.db")) as rows, rows:
                rows.execute("UPDATE blob_links SET touched_at = touched_at - 7200")
            fill(data)
            yield server, password
        finally:
            server.stop()


def test_on_a_full_disk_layers_are_pulled_and_no_process_dies(full: tuple[Server, str], repository: str) -> None:
    """Also with what nothing has counted before: methods, statuses and operations that are new to each worker."""
    server, password = full
    before = [process.pid for process in server.processes()]
    layer = f"/v2/{repository}/blobs/{digest_of(CONTENT)}"
    for _ in range(20):
        with closing(Connection(server, password)) as line:
            line.ask("HEAD", layer).expect(200)
            assert line.ask("GET", layer).expect(200).body == CONTENT
            line.ask("GET", layer, headers={"Range": "bytes=1-2"}).expect(206)
            line.ask("GET", f"/v2/{repository}/manifests/none").expect(404)
            line.ask("DELETE", f"/v2/{repository}/manifests/none").expect(404)
            line.ask("POST", f"/v2/{repository}/blobs/uploads/").expect(202, 507)
            line.ask("PUT", layer).expect(404, 405)
            line.ask("GET", "/healthz").expect(200)
            line.ask("GET", "/metrics").expect(200)
        assert server.password()
    assert [process.pid for process in server.processes()] == before
