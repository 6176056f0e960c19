"""Read after write on every worker: what one acknowledged, the very next request to any other sees (invariant 5)."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from support.connections import Connection, connection_to_each_worker
from support.registry import OCI_MANIFEST, digest_of, image_manifest
from support.server import Server

WORKERS = 4
KIND = {"Content-Type": OCI_MANIFEST}
CONFIG = b'{"architecture": "amd64", "os": "linux"}'


@pytest.fixture(scope="module")
def four_workers(start_server: Callable[..., Server]) -> Server:
    return start_server(workers=WORKERS)


@pytest.fixture
def lines(four_workers: Server) -> Iterator[list[Connection]]:
    with connection_to_each_worker(four_workers, four_workers.password(), WORKERS) as found:
        yield found


@pytest.fixture
def more_lines(four_workers: Server) -> Iterator[list[Connection]]:
    with connection_to_each_worker(four_workers, four_workers.password(), WORKERS) as found:
        yield found


def numbered(number: int) -> bytes:
    """A manifest that says its number."""
    return image_manifest(CONFIG, [], annotations={"number": str(number)})


def test_every_acknowledged_change_is_seen_by_every_worker_at_once(lines: list[Connection], repository: str) -> None:
    """Moves, deletions and pushes at workers drawn at random, each asked of all four right after."""
    draw = random.Random(4)
    lines[0].push_blob(repository, CONFIG)
    base = f"/v2/{repository}"

    def everywhere(method: str, path: str, status: int, body: bytes | None = None) -> None:
        for line in draw.sample(lines, len(lines)):
            answer = line.ask(method, path, headers={"Accept": OCI_MANIFEST}).expect(status)
            assert body is None or answer.body == body

    for number in range(60):
        manifest = numbered(number)
        digest = digest_of(manifest)
        draw.choice(lines).ask("PUT", f"{base}/manifests/latest", manifest, KIND).expect(201)
        everywhere("GET", f"{base}/manifests/latest", 200, manifest)
        everywhere("GET", f"{base}/manifests/{digest}", 200, manifest)

        blob = draw.choice(lines).push_blob(repository, b"blob %d" % number)
        everywhere("HEAD", f"{base}/blobs/{blob}", 200)
        draw.choice(lines).ask("DELETE", f"{base}/blobs/{blob}").expect(202)
        everywhere("GET", f"{base}/blobs/{blob}", 404)

        draw.choice(lines).ask("DELETE", f"{base}/manifests/latest").expect(202)
        everywhere("GET", f"{base}/manifests/latest", 404)
        everywhere("GET", f"{base}/manifests/{digest}", 200, manifest)
        draw.choice(lines).ask("DELETE", f"{base}/manifests/{digest}").expect(202)
        everywhere("GET", f"{base}/manifests/{digest}", 404)


def test_no_reader_is_behind_what_was_acknowledged_while_a_tag_moves(
    lines: list[Connection], more_lines: list[Connection], repository: str
) -> None:
    """One reader a worker, without a pause; an answer is never older than the last acknowledgement before it."""
    moves = 400
    lines[0].push_blob(repository, CONFIG)
    path = f"/v2/{repository}/manifests/latest"
    acknowledged = -1
    done = threading.Event()

    def read(line: Connection) -> int:
        reads, newest = 0, -1
        while not done.is_set() or reads == 0:
            least = max(acknowledged, newest)
            answer = line.ask("GET", path, headers={"Accept": OCI_MANIFEST})
            if answer.status == 404:
                assert least == -1
                continue
            newest = int(answer.expect(200).json()["annotations"]["number"])
            assert newest >= least, f"read {newest} after {least} was acknowledged or read"
            reads += 1
        return reads

    def write(writers: list[Connection]) -> None:
        nonlocal acknowledged
        try:
            for number in range(moves):
                writers[number % len(writers)].ask("PUT", path, numbered(number), KIND).expect(201)
                acknowledged = number
        finally:
            done.set()

    with ThreadPoolExecutor(WORKERS + 1) as threads:
        writing = threads.submit(write, more_lines)
        reads = [each.result() for each in [threads.submit(read, line) for line in lines]]
        writing.result()
    assert min(reads) > 10
