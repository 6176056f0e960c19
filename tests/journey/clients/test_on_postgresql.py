"""The whole server with its rows in PostgreSQL: a real client, a restart under it, a second server, and no password."""

from __future__ import annotations

import base64
import http.client
import json
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from support import postgresql
from support.images import Layout, check_layout
from support.postgresql import Cluster
from support.programs import run
from support.server import Server

pytestmark = [
    pytest.mark.clients,
    pytest.mark.needs("crane"),
    pytest.mark.needs(postgresql.PROGRAM),
]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    started = Cluster.start()
    yield started
    started.remove()


@pytest.fixture(scope="module")
def database(cluster: Cluster) -> dict[str, str]:
    url = cluster.database("wharfage").replace("postgres@", "postgres:hush-hush@")  # trusted, whatever it is
    return {"WHARFAGE_METADATA_DATABASE": url}


@pytest.fixture(scope="module")
def server(start_server: Callable[..., Server], database: dict[str, str]) -> Iterator[Server]:
    started = start_server(workers=2, watched=True, extra=database)
    yield started
    started.stop()  # before its database goes


@pytest.fixture(scope="module")
def password(server: Server) -> str:
    return server.password()


def readiness(server: Server) -> tuple[int, dict[str, Any]]:
    line = http.client.HTTPConnection(server.address, timeout=10)
    try:
        line.request("GET", "/readyz")
        answer = line.getresponse()
        return answer.status, json.loads(answer.read())
    finally:
        line.close()


def until_said(server: Server, wanted: str) -> None:
    """/readyz answers 200 throughout: what was known is served on while the database is gone."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        status, said = readiness(server)
        if status == 200 and said["metadata"].startswith(wanted):
            return
        time.sleep(0.05)
    raise AssertionError(f"still {status} {said}")


def test_crane_pushes_and_pulls_through_an_outage_of_postgresql_and_the_server_is_never_restarted(
    server: Server, cluster: Cluster, docker_login: Path, repository: str, small_image: Layout, tmp_path: Path
) -> None:
    def crane(*words: str | Path, ok: bool = True) -> str:
        return run("crane", *words, "--insecure", extra={"DOCKER_CONFIG": str(docker_login)}, ok=ok).stdout

    before = [process.pid for process in server.processes()]
    crane("push", small_image.path, f"{server.address}/{repository}:v1")
    crane("pull", "--format=oci", f"{server.address}/{repository}:v1", tmp_path / "one")
    check_layout(tmp_path / "one", small_image)

    cluster.stop()
    until_said(server, "grace: no metadata service reaches its database")
    crane("push", small_image.path, f"{server.address}/{repository}:v2", ok=False)

    cluster.resume()
    until_said(server, "ok")
    crane("push", small_image.path, f"{server.address}/{repository}:v2")
    crane("pull", "--format=oci", f"{server.address}/{repository}:v2", tmp_path / "two")
    check_layout(tmp_path / "two", small_image)
    assert crane("ls", f"{server.address}/{repository}").split() == ["v1", "v2"]
    assert [process.pid for process in server.processes()] == before


def test_neither_settings_nor_log_hold_the_databases_password(server: Server, database: dict[str, str]) -> None:
    shown = run(sys.executable, "-m", "proxy", "serve", "--print-config", extra=database).stdout
    assert "postgresql://***@127.0.0.1:" in shown
    assert "hush-hush" not in shown + server.daemon.log.read_text()


def test_a_server_whose_store_is_not_what_the_databases_rows_are_about_ends_and_names_nothing(
    server: Server,
    database: dict[str, str],
    docker_login: Path,
    repository: str,
    small_image: Layout,
    tmp_path: Path,
) -> None:
    reference = f"{server.address}/{repository}:v1"
    run("crane", "push", small_image.path, reference, "--insecure", extra={"DOCKER_CONFIG": str(docker_login)})
    keys = tmp_path / "data" / "keys"
    keys.mkdir(parents=True)
    shutil.copy(server.data / "keys" / "master.json", keys)
    assert "the store is not the one that this registry's rows are about" in refused_start(tmp_path, database)
    assert not (tmp_path / "data" / "objects" / "wharfage-store").exists()


def refused_start(folder: Path, settings: dict[str, str]) -> str:
    command = ["serve", "--data", str(folder / "data"), "--listen", "127.0.0.1:0", "--workers", "1"]
    ended = run(sys.executable, "-m", "proxy", *command, extra=settings, ok=False)
    return ended.stdout + ended.stderr


def test_rows_move_from_sqlite_to_postgresql_and_the_image_pulls_as_before(
    start_server: Callable[..., Server], cluster: Cluster, small_image: Layout, tmp_path: Path
) -> None:
    database = {"WHARFAGE_METADATA_DATABASE": cluster.database("moved")}

    def crane(server: Server, *words: str | Path) -> None:
        basic = base64.b64encode(f"AWS:{server.password()}".encode()).decode()
        (tmp_path / "config.json").write_text(json.dumps({"auths": {server.address: {"auth": basic}}}))
        run("crane", *words, "--insecure", extra={"DOCKER_CONFIG": str(tmp_path)})

    def migrate(ok: bool) -> str:
        command = ["-m", "proxy", "migrate-metadata", "--data", str(tmp_path / "data")]
        done = run(sys.executable, *command, extra=database, ok=ok)
        return done.stdout + done.stderr

    first = start_server(tmp_path / "data", workers=1)
    crane(first, "push", small_image.path, f"{first.address}/team/app:v1")
    assert "works in this data directory" in migrate(ok=False)
    first.stop()
    assert "rows copied and counted" in migrate(ok=True)
    assert "holds rows already" in migrate(ok=False)
    second = start_server(tmp_path / "data", workers=1, extra=database)
    crane(second, "pull", "--format=oci", f"{second.address}/team/app:v1", tmp_path / "back")
    check_layout(tmp_path / "back", small_image)
    second.stop()
