"""A registry on S3 while the line to the store fails: what clients are told, how soon, and that nothing is lost."""

from __future__ import annotations

import http.client
import random
import re
import socket
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from support.connections import Connection
from support.fault_proxy import FaultProxy, fault_proxy_in_thread
from support.images import MIB
from support.programs import run
from support.registry import Answer, digest_of
from support.seaweed import Seaweed
from support.server import Server

pytestmark = pytest.mark.needs("weed")

OCTETS = {"Content-Type": "application/octet-stream"}
RECOVERY = 20  # seconds in which a store that is back is used again; one, on a quiet machine
LARGE = random.Random(11).randbytes(21 * MIB)
SMALL = LARGE[: 2 * MIB]


@pytest.fixture(scope="module")
def store_line(seaweed: Seaweed) -> Iterator[FaultProxy]:
    with fault_proxy_in_thread(seaweed.port) as opened:
        yield opened


@pytest.fixture(scope="module")
def behind_settings(seaweed: Seaweed, store_line: FaultProxy) -> dict[str, str]:
    """Nothing is kept here: each read shows what the store does."""
    own = {"WHARFAGE_STORAGE_ENDPOINT": store_line.url, "WHARFAGE_CACHE_MIB": "0"}
    return seaweed.settings(f"{uuid.uuid4().hex[:8]}/") | own


@pytest.fixture(scope="module")
def behind(
    start_server: Callable[..., Server], behind_settings: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Server:
    """One worker: each line of a client meets the same breaker."""
    folder: Path = tmp_path_factory.mktemp("behind")
    return start_server(folder / "data", workers=1, watched=True, extra=behind_settings)


@pytest.fixture(scope="module")
def token(behind: Server) -> str:
    return behind.password()


@pytest.fixture
def line(behind: Server, token: str, store_line: FaultProxy) -> Iterator[Connection]:
    opened = Connection(behind, token)
    yield opened
    store_line.mode, store_line.cut_after = "open", None
    store_line.lose_answers = store_line.false_answers = 0
    opened.close()


def closing(place: str, digest: str) -> str:
    return f"{place}{'&' if '?' in place else '?'}digest={digest}"


def until_recovered(ask: Callable[[], Answer]) -> Answer:
    """The first answer that is not 503; each 503 says when to come again."""
    deadline = time.monotonic() + RECOVERY
    while (answer := ask()).status == 503:
        assert answer.headers["Retry-After"]
        assert time.monotonic() < deadline, "the store is back, and still nobody asks it"
        time.sleep(0.1)
    return answer


@pytest.mark.parametrize(
    ("shape", "content", "lost"),
    [
        ("patched", SMALL, False),
        ("patched", LARGE, True),
        ("whole", LARGE, False),
        ("whole", SMALL, True),
        ("whole", LARGE, True),
    ],
    ids=[
        "small, patched",
        "parts, patched, answer lost",
        "parts, whole",
        "small, whole, answer lost",
        "parts, whole, answer lost",
    ],
)
def test_a_closing_request_that_met_an_outage_succeeds_when_it_comes_again(
    line: Connection, store_line: FaultProxy, repository: str, content: bytes, shape: str, lost: bool
) -> None:
    """`patched` is how clients push whose chunks have a place; `whole` is containerd's, whose PUT brings all the bytes
    again."""
    content = repository.encode() + content  # each a blob of its own
    digest = digest_of(content)
    place = line.begin(repository)
    body = content
    if shape == "patched":
        placed = OCTETS | {"Content-Range": f"0-{len(content) - 1}"}
        place = line.ask("PATCH", place, content, placed).expect(202).headers["Location"]
        body = b""

    def close() -> Answer:
        return line.ask("PUT", closing(place, digest), body, OCTETS)

    if lost:
        store_line.lose_to = b"<CompleteMultipartUpload" if content.endswith(LARGE) else b"PUT /"
        store_line.lose_answers = 10_000
    else:
        store_line.mode = "refuse"
    failed = close().expect(503)
    assert failed.code() == "UNAVAILABLE"
    assert failed.headers["Retry-After"]
    store_line.mode, store_line.lose_answers = "open", 0
    until_recovered(close).expect(201)
    assert line.ask("GET", f"/v2/{repository}/blobs/{digest}").expect(200).body == content


@pytest.mark.parametrize("content", [SMALL, LARGE], ids=["small", "parts"])
def test_a_layer_that_came_in_one_request_is_closed_while_the_store_is_gone(
    line: Connection, store_line: FaultProxy, repository: str, content: bytes
) -> None:
    """As docker and crane push. It was whole and durable when that request was answered."""
    content = repository.encode() + content
    digest = digest_of(content)
    place = line.ask("PATCH", line.begin(repository), content, OCTETS).expect(202).headers["Location"]
    store_line.mode = "refuse"
    line.ask("PUT", closing(place, digest), b"", OCTETS).expect(201)
    store_line.mode = "open"
    assert until_recovered(lambda: line.ask("GET", f"/v2/{repository}/blobs/{digest}")).expect(200).body == content


@pytest.mark.parametrize("lost", [False, True], ids=["never done", "done, answer lost"])
def test_a_layer_that_could_not_be_put_together_is_pushed_again(
    line: Connection, store_line: FaultProxy, repository: str, lost: bool
) -> None:
    """The request that brought it is told to come again, and finds the upload at its start."""
    content = repository.encode() + LARGE
    digest, place = digest_of(content), line.begin(repository)
    if lost:
        store_line.lose_to, store_line.lose_answers = b"<CompleteMultipartUpload", 10_000
    else:
        store_line.false_to, store_line.false_answers, store_line.false_pass = (
            b"<CompleteMultipartUpload",
            10_000,
            False,
        )
        store_line.false_answer = (b"503 Slow Down", b"SlowDown")
    failed = line.ask("PATCH", place, content, OCTETS).expect(503)
    assert failed.headers["Retry-After"]
    store_line.lose_answers = store_line.false_answers = 0
    again = until_recovered(lambda: line.ask("PATCH", place, content, OCTETS)).expect(202)
    line.ask("PUT", closing(again.headers["Location"], digest), b"", OCTETS).expect(201)
    assert line.ask("GET", f"/v2/{repository}/blobs/{digest}").expect(200).body == content


@pytest.mark.parametrize("lost", [False, True], ids=["never done", "done, answer lost"])
def test_a_last_chunk_that_comes_again_after_an_outage_is_taken(
    line: Connection, store_line: FaultProxy, repository: str, lost: bool
) -> None:
    """Also where the completion that the lost answer was about is done: its object goes on under a new key."""
    content = repository.encode() + LARGE[: 12 * MIB]
    digest, half = digest_of(content), 9 * MIB
    place = line.ask("PATCH", line.begin(repository), content[:half], OCTETS).expect(202).headers["Location"]

    def close() -> Answer:
        return line.ask(
            "PUT", closing(place, digest), content[half:], OCTETS | {"Content-Range": f"{half}-{len(content) - 1}"}
        )

    store_line.lose_to, store_line.lose_answers = b"<CompleteMultipartUpload", 10_000
    if not lost:
        store_line.mode = "refuse"
    close().expect(503)
    store_line.mode, store_line.lose_answers = "open", 0
    until_recovered(close).expect(201)
    assert line.ask("GET", f"/v2/{repository}/blobs/{digest}").expect(200).body == content


def test_a_dead_store_is_answered_for_in_milliseconds_and_used_again_without_a_restart(
    line: Connection, store_line: FaultProxy, repository: str
) -> None:
    content = repository.encode() * 10_000  # more than is read from memory
    digest = line.push_blob(repository, content)
    path = f"/v2/{repository}/blobs/{digest}"
    assert line.ask("GET", path).expect(200).body == content
    store_line.mode = "refuse"
    line.ask("GET", path).expect(503)  # the first one waits for the breaker: some seconds
    began = time.monotonic()
    for _ in range(20):
        assert line.ask("GET", path).expect(503).headers["Retry-After"]
    assert (time.monotonic() - began) / 20 < 0.25, "a try a second goes to the store, and fails at once as well"
    assert line.ask("GET", "/readyz").status == 503
    line.ask("GET", "/readyz?exclude=store").expect(200)  # what is cached is served on
    line.ask("HEAD", path).expect(200)  # rows answer it
    store_line.mode = "open"
    assert until_recovered(lambda: line.ask("GET", path)).expect(200).body == content


def test_a_pull_cut_on_the_stores_side_goes_on_inside_the_same_answer(
    line: Connection, store_line: FaultProxy, repository: str
) -> None:
    content = repository.encode() + LARGE
    digest = line.push_blob(repository, content)
    store_line.requests.clear()
    store_line.cut_after = 4 * MIB
    assert line.ask("GET", f"/v2/{repository}/blobs/{digest}").expect(200).body == content
    assert len([request for request in store_line.requests if request.startswith("GET")]) >= 5
    assert (
        line.ask("GET", f"/v2/{repository}/blobs/{digest}", headers={"Range": "bytes=1000-9000000"}).expect(206).body
        == content[1000:9_000_001]
    )


@pytest.mark.parametrize("mode", ["refuse", "error"])
def test_a_pull_that_the_store_lets_down_never_looks_whole(
    behind: Server, token: str, line: Connection, store_line: FaultProxy, repository: str, mode: str
) -> None:
    """The connection breaks in the middle of the body; what came is the blob's."""
    content = repository.encode() + LARGE
    digest = line.push_blob(repository, content)
    slow = Connection(behind, token)
    taken: socket.socket = slow._http.sock
    taken.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
    slow._http.request("GET", f"/v2/{repository}/blobs/{digest}", headers=slow._headers)
    answer = slow._http.getresponse()
    assert answer.status == 200
    began = answer.read(MIB)
    store_line.cut_after, store_line.mode = 1, mode  # what the line has taken is cut off, what is asked anew fails
    rest = bytearray()
    with pytest.raises((http.client.IncompleteRead, ConnectionError)):  # noqa: PT012  # it breaks somewhere in the middle
        while piece := answer.read(MIB):
            rest += piece
        raise http.client.IncompleteRead(bytes(rest)) if len(began) + len(rest) < len(content) else AssertionError
    assert content.startswith(began + bytes(rest))
    answer.close()
    slow.close()
    store_line.mode, store_line.cut_after = "open", None
    path = f"/v2/{repository}/blobs/{digest}"
    assert until_recovered(lambda: line.ask("GET", path)).expect(200).body == content


def test_the_quick_check_lists_rather_than_reads(
    behind: Server, behind_settings: dict[str, str], line: Connection, store_line: FaultProxy, repository: str
) -> None:
    """Nothing but listings, and the store's own name; it says what it did not verify."""
    for number in range(3):
        line.push_blob(repository, repository.encode() * (number + 1))
    store_line.requests.clear()
    checked = run(sys.executable, "-m", "proxy", "check", "--quick", "--data", behind.data, extra=behind_settings)
    assert " 0 damaged, 0 unreadable" in checked.stdout
    assert "not one of their bytes was verified" in checked.stdout
    asked = [request for request in store_line.requests if "wharfage-store" not in request]
    assert asked
    assert not [request for request in asked if not re.match(r"GET /wharfage-tests\?", request)]
