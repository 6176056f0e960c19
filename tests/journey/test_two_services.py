"""Two metadata services over one PostgreSQL, and two nodes of proxies, as commands: TLS between them, one killed."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from proxy.http.selfsigned import make_self_signed
from proxy.metadata.client.epochs import Epochs
from support import postgresql
from support.connections import Connection
from support.cut_connection import CutLine
from support.metadata import postgresql_database
from support.programs import Daemon, run
from support.registry import OCI_MANIFEST, image_manifest
from support.server import Server, free_port

pytestmark = pytest.mark.needs(postgresql.PROGRAM)

SECRET = "a-shared-secret-of-some-length"
CONFIG = b'{"architecture": "amd64", "os": "linux"}'
KIND = {"Content-Type": OCI_MANIFEST}
SPREAD_SECONDS = 90.0  # nodes compare each 5 to 15 s, and two may move at once
HUNG_SECONDS = 6.0  # for which a service is stopped
HUNG_WAIT = 3.0  # in which each request is answered meanwhile; the aim is 1.5, the rest is for a busy machine
WHARFAGE = [sys.executable, "-m", "proxy"]


@pytest.fixture
def database() -> Iterator[CutLine]:
    """The services' line to PostgreSQL."""
    line = CutLine(postgresql.shared().port)
    yield line
    line.close()


@dataclass(frozen=True, slots=True)
class Settings:
    """What services are told, and what nodes are; `ports` are the services'."""

    ports: tuple[int, ...]
    serving: dict[str, str]
    asking: dict[str, str]


@pytest.fixture
def settings(tmp_path: Path, database: CutLine) -> Settings:
    ca, cert, key = make_self_signed(tmp_path / "tls", "127.0.0.1")
    ports = (free_port(), free_port())
    common = {"WHARFAGE_METADATA_SECRET": SECRET, "WHARFAGE_METADATA_CA_BUNDLE": str(ca)}
    common["WHARFAGE_STORAGE_PATH"] = str(tmp_path / "objects")
    serving = common | {
        "WHARFAGE_METADATA_DATABASE": f"postgresql://postgres@127.0.0.1:{database.port}/{name_of(tmp_path)}",
        "WHARFAGE_METADATA_TLS_CERT": str(cert),
        "WHARFAGE_METADATA_TLS_KEY": str(key),
    }
    urls = ",".join(f"https://127.0.0.1:{port}" for port in ports)
    return Settings(ports, serving, common | {"WHARFAGE_METADATA_URL": urls})


@pytest.fixture
def place(tmp_path: Path, settings: Settings) -> Iterator[tuple[list[Daemon], list[Server]]]:
    """Services and nodes. The first service makes keys and administrator; the others are given them."""
    services: list[Daemon] = []
    nodes: list[Server] = []

    def run(name: str, settings: dict[str, str], *words: str) -> tuple[Daemon, Path]:
        data = tmp_path / name
        if services:
            (data / "keys").mkdir(parents=True, mode=0o700)
            for file in ("keys/master.json", "credentials"):
                shutil.copy(tmp_path / "service0" / file, data / file)
        command = [*WHARFAGE, words[0], "--data", str(data), *words[1:]]
        return Daemon.start(command, tmp_path / f"{name}.log", settings), data

    try:
        for number, port in enumerate(settings.ports):
            daemon, data = run(f"service{number}", settings.serving, "metadata", "--listen", f"127.0.0.1:{port}")
            services.append(daemon)
            daemon.wait_until(lambda: "is ready" in daemon.log.read_text())  # noqa: B023  # waited for here
            assert (data / "credentials").exists()
        for number in range(2):
            address = f"127.0.0.1:{free_port()}"
            daemon, data = run(f"node{number}", settings.asking, "proxy", "--listen", address, "--workers", "1")
            nodes.append(Server(daemon, address, data))
            daemon.wait_until(nodes[-1].is_ready)
        yield services, nodes
    finally:
        for each in [*(node.daemon for node in nodes), *services]:
            each.kill()


def name_of(folder: Path) -> str:
    return postgresql_database(folder).rpartition("/")[2]


def test_without_a_database_pulls_go_on_pushes_are_refused_readyz_says_why_and_it_is_back_by_itself(
    place: tuple[list[Daemon], list[Server]], database: CutLine, repository: str
) -> None:
    _, nodes = place
    with contextlib.ExitStack() as stack:
        lines = [stack.enter_context(contextlib.closing(Connection(node, nodes[0].password()))) for node in nodes]
        config = lines[0].push_blob(repository, CONFIG)
        path, manifest = f"/v2/{repository}/manifests/latest", image_manifest(CONFIG, [])
        lines[0].ask("PUT", path, manifest, KIND).expect(201)

        def pull(line: Connection) -> None:
            assert line.ask("GET", path, headers={"Accept": OCI_MANIFEST}).expect(200).body == manifest
            assert line.ask("GET", f"/v2/{repository}/blobs/{config}").expect(200).body == CONFIG

        for line in lines:
            pull(line)
        database.cut()
        for line in lines:
            until(lambda: "grace" in line.ask("GET", "/readyz").expect(200).json()["metadata"])  # noqa: B023  # waited here
            pull(line)
            refused = line.ask("PUT", path, image_manifest(CONFIG, [], annotations={"new": "er"}), KIND).expect(503)
            assert refused.headers["Retry-After"]
            pull(line)
        database.mend()
        newer = image_manifest(CONFIG, [], annotations={"new": "est"})
        until(lambda: lines[0].ask("PUT", path, newer, KIND).status == 201)
        for line in lines:
            until(lambda: line.ask("GET", "/readyz").expect(200).json()["metadata"] == "ok")  # noqa: B023  # as above
            assert line.ask("GET", path, headers={"Accept": OCI_MANIFEST}).expect(200).body == newer


def until(fulfilled: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not fulfilled():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_what_one_node_acknowledges_the_other_reads_also_when_a_service_is_killed(
    place: tuple[list[Daemon], list[Server]], repository: str
) -> None:
    services, nodes = place
    with contextlib.ExitStack() as stack:
        lines = [stack.enter_context(contextlib.closing(Connection(node, nodes[0].password()))) for node in nodes]
        lines[0].push_blob(repository, CONFIG)
        path = f"/v2/{repository}/manifests/latest"
        for number in range(40):
            if number == 20:
                services[0].kill()
            manifest = image_manifest(CONFIG, [], annotations={"number": str(number)})
            lines[number % 2].ask("PUT", path, manifest, KIND).expect(201)
            for line in lines:
                for _ in range(2):
                    assert line.ask("GET", path, headers={"Accept": OCI_MANIFEST}).expect(200).body == manifest
        lines[1].ask("DELETE", path).expect(202)
        for line in lines:
            line.ask("GET", path).expect(404)
        kept = lines[0].ask("GET", "/metrics").expect(200).body.decode()
        hits = [line for line in kept.splitlines() if line.startswith('wharfage_metadata_cache_total{result="hit"}')]
        assert float(hits[0].split()[-1]) > 20
    assert [node.daemon.stop() for node in nodes] == [0, 0]
    assert services[1].stop() == 0


@pytest.mark.parametrize("hung", [0, 1])
def test_a_service_that_hangs_holds_no_request_of_any_node_for_long(
    place: tuple[list[Daemon], list[Server]], repository: str, hung: int
) -> None:
    """Stopped, it keeps its connections and answers nothing; woken up, it serves on and nothing is undone. Nodes spread
    over both before, and after."""
    services, nodes = place
    until(lambda: attachments(nodes) == {0, 1}, SPREAD_SECONDS)
    password = nodes[0].password()
    longest: dict[str, float] = {}
    number = iter(range(10**6))
    paths = [f"/v2/{repository}/manifests/node{at}" for at in range(len(nodes))]
    with contextlib.closing(Connection(nodes[0], password)) as line:
        line.push_blob(repository, CONFIG)
        for path in paths:
            line.ask("PUT", path, image_manifest(CONFIG, []), KIND).expect(201)
    failures: list[str] = []
    acknowledged: dict[str, bytes] = {}
    over = threading.Event()

    def ask(server: Server, name: str, method: str, path: str) -> None:
        with contextlib.closing(Connection(server, password)) as line:
            while not over.is_set():
                body = image_manifest(CONFIG, [], annotations={"n": str(next(number))}) if method == "PUT" else b""
                began = time.monotonic()
                answer = line.ask(method, path, body, KIND if body else {"Accept": OCI_MANIFEST})
                longest[name] = max(longest.get(name, 0.0), time.monotonic() - began)
                if answer.status not in (200, 201):
                    failures.append(f"{name}: {answer.status} {answer.body!r}")
                elif body:
                    acknowledged[path] = body
                time.sleep(0.01)

    asking = [
        threading.Thread(target=ask, args=(server, f"{method} by node {at}", method, paths[at]))
        for at, server in enumerate(nodes)
        for method in ("HEAD", "GET", "PUT")
    ]
    for thread in asking:
        thread.start()
    try:
        time.sleep(1.0)  # all are under way, and nodes keep what they were told
        os.killpg(services[hung].process.pid, signal.SIGSTOP)
        time.sleep(HUNG_SECONDS)
        assert attachments(nodes) == {1 - hung}
    finally:
        os.killpg(services[hung].process.pid, signal.SIGCONT)
        time.sleep(1.0)
        over.set()
        for thread in asking:
            thread.join()
    logging.getLogger(__name__).info("longest waits: %s", longest)
    assert failures == []
    assert max(longest.values()) < HUNG_WAIT, longest
    for server in nodes:
        with contextlib.closing(Connection(server, password)) as line:
            for path, content in acknowledged.items():
                assert line.ask("GET", path, headers={"Accept": OCI_MANIFEST}).expect(200).body == content
    until(lambda: attachments(nodes) == {0, 1}, SPREAD_SECONDS)


def attachments(nodes: list[Server]) -> set[int | None]:
    """The services that the nodes get their leases from."""
    pages = [Epochs(node.data / "run" / "node-epochs") for node in nodes]
    try:
        return {page.service() for page in pages}
    finally:
        for page in pages:
            page.close()


def test_a_backup_is_made_beside_a_service_and_on_a_node_that_knows_the_database(
    place: tuple[list[Daemon], list[Server]], settings: Settings, repository: str, tmp_path: Path
) -> None:
    """Both go into one folder; a node that knows the services only says what it lacks. Restored, the image is there."""
    _, [node, _] = place
    with contextlib.closing(Connection(node, node.password())) as line:
        line.push_blob(repository, CONFIG)
        path, manifest = f"/v2/{repository}/manifests/latest", image_manifest(CONFIG, [])
        line.ask("PUT", path, manifest, KIND).expect(201)
    phrase = tmp_path / "phrase"
    phrase.write_text("correct horse battery")
    sealed = ("--passphrase-file", phrase)

    def backup(data: Path, settings: dict[str, str], *, ok: bool = True) -> str:
        done = run(*WHARFAGE, "backup", tmp_path / "backup", "--data", data, *sealed, extra=settings, ok=ok)
        return done.stdout + done.stderr

    assert "[metadata] database" in backup(node.data, settings.asking, ok=False)
    rows = {"WHARFAGE_METADATA_DATABASE": settings.serving["WHARFAGE_METADATA_DATABASE"]}
    assert " 0 lacking" in backup(node.data, settings.asking | rows)
    assert "0 objects copied" in backup(tmp_path / "service1", settings.serving)
    again = tmp_path / "again"
    run(*WHARFAGE, "restore", tmp_path / "backup", "--data", again, *sealed)
    server = Server.start(again, workers=1)
    with contextlib.closing(Connection(server, server.password())) as line:
        assert line.ask("GET", path, headers={"Accept": OCI_MANIFEST}).expect(200).body == manifest
    assert server.stop() == 0
