"""Named faults against a real server: what was acknowledged stays, what was not is nowhere, and the server goes on."""

from __future__ import annotations

import http.client
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from proxy.registry.upload_lease import LEASE_SECONDS, STORE_GRACE_SECONDS
from support.connections import Connection, OpenPatch, connection_to_each_worker, owners
from support.images import MIB
from support.programs import Daemon
from support.registry import Answer, digest_of
from support.server import Server, free_port

WORKERS = 3
OCTETS = {"Content-Type": "application/octet-stream"}
RETRY_SECONDS = 40  # seconds in which a service that was killed is back, on a loaded machine


@pytest.fixture(scope="module")
def three_workers(start_server: Callable[..., Server]) -> Server:
    return start_server(workers=WORKERS, watched=True)


@pytest.fixture(scope="module")
def token(three_workers: Server) -> str:
    return three_workers.password()


@pytest.fixture
def lines(three_workers: Server, token: str) -> Iterator[list[Connection]]:
    with connection_to_each_worker(three_workers, token, WORKERS) as found:
        yield found


Connect = Callable[[Server, str], Connection]


@pytest.fixture
def connect() -> Iterator[Connect]:
    """Lines that are closed at the test's end, whatever became of their server."""
    made: list[Connection] = []

    def new(server: Server, token: str) -> Connection:
        made.append(Connection(server, token))
        return made[-1]

    yield new
    for line in made:
        line.close()


def content_of(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


def closing(location: str, content: bytes) -> str:
    return f"{location}{'&' if '?' in location else '?'}digest={digest_of(content)}"


def patiently(ask: Callable[[], Answer], *statuses: int) -> Answer:
    """Ask until one of `statuses` comes: 503s and cut connections are what a client tries again after."""
    deadline = time.monotonic() + RETRY_SECONDS
    while True:
        try:
            answer = ask()
        except (OSError, http.client.HTTPException) as error:
            said: object = error
        else:
            if answer.status in statuses:
                return answer
            said = answer
            assert answer.status in (502, 503), answer
        assert time.monotonic() < deadline, f"still {said}"
        time.sleep(0.05)  # between two tries, not for luck: the loop ends by what it reads


def offset_of(answer: Answer) -> int:
    """How many bytes an upload holds, from `Range: 0-N`."""
    return int(answer.headers["Range"].removeprefix("0-")) + 1


def pull(server: Server, token: str, repository: str, digest: str) -> Answer:
    line = Connection(server, token)
    try:
        return line.ask("GET", f"/v2/{repository}/blobs/{digest}")
    finally:
        line.close()


def test_the_closing_put_may_be_sent_twice_to_different_workers(lines: list[Connection], repository: str) -> None:
    content = content_of(100_000)
    location = lines[0].begin(repository)
    location = lines[0].ask("PATCH", location, content, OCTETS).expect(202).headers["Location"]
    first = lines[1].ask("PUT", closing(location, content)).expect(201)
    again = lines[2].ask("PUT", closing(location, content)).expect(201)
    assert again.headers["Docker-Content-Digest"] == first.headers["Docker-Content-Digest"] == digest_of(content)
    assert lines[0].ask("GET", f"/v2/{repository}/blobs/{digest_of(content)}").expect(200).body == content


def test_of_two_writers_on_one_session_one_is_told_where_it_truly_stands(
    three_workers: Server, token: str, lines: list[Connection], repository: str
) -> None:
    content = content_of(3 * MIB)
    location = lines[0].begin(repository)
    slow = hold(three_workers, token, lines[0], location, len(content), content[:MIB])

    loser = lines[1].ask("PATCH", location, b"other", OCTETS).expect(503)
    assert loser.headers["Range"] in ("0-0", "0--1")

    slow.send(content[MIB:])
    location = slow.finish().expect(202).headers["Location"]
    lines[2].ask("PUT", closing(location, content)).expect(201)
    assert lines[1].ask("GET", f"/v2/{repository}/blobs/{digest_of(content)}").expect(200).body == content


def hold(server: Server, token: str, line: Connection, location: str, length: int, first: bytes) -> OpenPatch:
    """A PATCH of `length` bytes that has sent its first and holds the session: empty appends on `line` are refused.

    Such an append may come before it and have it refused instead; then it is sent again.
    """
    deadline = time.monotonic() + RETRY_SECONDS
    while True:
        patch = OpenPatch(server, token, location, length)
        patch.send(first)
        while not patch.is_answered():
            if line.ask("PATCH", location, b"", OCTETS).status == 503:
                return patch
            assert time.monotonic() < deadline
        patch.cut()


def test_two_uploads_of_one_digest_both_succeed_and_one_object_stays(
    three_workers: Server, lines: list[Connection], repository: str
) -> None:
    content = content_of(MIB, seed=7)
    before = len(three_workers.objects())
    locations = [line.begin(repository) for line in lines[:2]]
    for line, location in zip(lines, locations, strict=False):
        line.ask("PATCH", location, content, OCTETS).expect(202)
    for line, location in zip(lines, locations, strict=False):
        line.ask("PUT", closing(location, content)).expect(201)
    assert len(three_workers.objects()) == before + 1
    assert lines[2].ask("GET", f"/v2/{repository}/blobs/{digest_of(content)}").expect(200).body == content


def test_a_patch_cut_by_its_client_keeps_what_arrived(
    three_workers: Server, token: str, lines: list[Connection], repository: str
) -> None:
    content = content_of(5 * MIB)
    location = lines[0].begin(repository)
    patch = hold(three_workers, token, lines[0], location, len(content), content[: 3 * MIB])
    patch.cut()

    status = patiently_past_the_writer(lines[1], location)
    kept = offset_of(status)
    assert 0 < kept <= 3 * MIB
    headers = {**OCTETS, "Content-Range": f"{kept}-{len(content) - 1}"}
    location = lines[2].ask("PATCH", location, content[kept:], headers).expect(202).headers["Location"]
    lines[0].ask("PUT", closing(location, content)).expect(201)
    assert lines[1].ask("GET", f"/v2/{repository}/blobs/{digest_of(content)}").expect(200).body == content


def patiently_past_the_writer(line: Connection, location: str) -> Answer:
    """The session's status once nobody writes to it: a 204 whose Range says that bytes are there."""
    deadline = time.monotonic() + RETRY_SECONDS
    while True:
        status = line.ask("GET", location).expect(204)
        if status.headers["Range"] not in ("0-0", "0--1"):
            return status
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_an_upload_whose_worker_was_killed_goes_on_at_another(
    three_workers: Server, token: str, lines: list[Connection], connect: Connect, repository: str
) -> None:
    content = content_of(6 * MIB)
    location = lines[0].begin(repository)
    first = lines[0].ask("PATCH", location, content[: 2 * MIB], OCTETS).expect(202)
    location = first.headers["Location"]
    patch = hold(three_workers, token, lines[0], location, 4 * MIB, content[2 * MIB : 4 * MIB])
    owners(three_workers)[patch.local_port].kill()
    with pytest.raises((OSError, http.client.HTTPException)):
        patch.finish()

    other = connect(three_workers, token)
    status = patiently(lambda: other.ask("GET", location), 204)
    assert offset_of(status) == 2 * MIB, "the open PATCH falls back to what was acknowledged"
    headers = {**OCTETS, "Content-Range": f"{2 * MIB}-{len(content) - 1}"}
    location = until_lease_ends(other, location, content[2 * MIB :], headers).headers["Location"]
    other.ask("PUT", closing(location, content)).expect(201)
    assert other.ask("GET", f"/v2/{repository}/blobs/{digest_of(content)}").expect(200).body == content


def until_lease_ends(line: Connection, location: str, content: bytes, headers: dict[str, str]) -> Answer:
    """The dead writer's lease and its store's time-out come first: until then 503 says how long they last at most."""
    deadline = time.monotonic() + 120
    while True:
        answer = line.ask("PATCH", location, content, headers)
        if answer.status == 202:
            return answer
        assert 1 <= int(answer.expect(503).headers["Retry-After"]) <= LEASE_SECONDS + STORE_GRACE_SECONDS
        assert time.monotonic() < deadline
        time.sleep(0.2)


def test_a_push_outlives_the_metadata_process(
    three_workers: Server, token: str, lines: list[Connection], repository: str
) -> None:
    """It is killed while a PATCH is open: the bytes go on, and the push ends as if nothing had been."""
    content = content_of(4 * MIB)
    location = lines[0].begin(repository)
    patch = hold(three_workers, token, lines[0], location, len(content), content[: 2 * MIB])
    three_workers.metadata_process().kill()
    patch.send(content[2 * MIB :])
    answer = patch.finish()
    if answer.status != 202:  # it could not be recorded: the client goes on where the status says
        answer.expect(409, 416, 503)
        status = patiently(lambda: lines[0].ask("GET", location), 204)
        kept = 0 if status.headers["Range"] in ("0-0", "0--1") else offset_of(status)
        headers = {**OCTETS, "Content-Range": f"{kept}-{len(content) - 1}"}
        until_lease_ends(lines[0], location, content[kept:], headers)
    patiently(lambda: lines[1].ask("PUT", closing(location, content)), 201)
    assert patiently(lambda: lines[2].ask("GET", f"/v2/{repository}/blobs/{digest_of(content)}"), 200).body == content


def test_what_was_acknowledged_outlives_the_kill_of_everything(
    start_server: Callable[..., Server], connect: Connect, tmp_path: Path, repository: str
) -> None:
    server = start_server(tmp_path / "data", workers=2)
    token = server.password()
    line = connect(server, token)
    contents = [content_of(size, seed=size) for size in (0, 1, 70_000, 3 * MIB)]
    digests = [line.push_blob(repository, content) for content in contents]
    unfinished = line.begin(repository)
    line.ask("PATCH", unfinished, b"half", OCTETS).expect(202)
    server.daemon.kill()

    server = start_server(tmp_path / "data", workers=2)
    line = connect(server, token)  # the token is good after a restart
    for digest, content in zip(digests, contents, strict=True):
        assert line.ask("GET", f"/v2/{repository}/blobs/{digest}").expect(200).body == content
    assert offset_of(line.ask("GET", unfinished).expect(204)) == 4
    line.ask("HEAD", f"/v2/{repository}/blobs/{digest_of(b'half')}").expect(404)


def obeys(process: psutil.Process, number: int) -> bool:
    """Whether a process has a handler for that signal, so that what follows is its own doing."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    caught = next(line for line in status.splitlines() if line.startswith("SigCgt:")).split()[1]
    return bool(int(caught, 16) >> (number - 1) & 1)


def test_workers_that_still_wait_for_their_rows_end_when_told(tmp_path: Path) -> None:
    """`wharfage proxy` whose metadata service never comes."""
    address = f"127.0.0.1:{free_port()}"
    command = [sys.executable, "-m", "proxy", "proxy", "--data", str(tmp_path / "data"), "--listen", address]
    server = Server(Daemon.start([*command, "--workers", "2"], tmp_path / "log"), address, tmp_path / "data")
    try:
        server.daemon.wait_until(lambda: [obeys(worker, signal.SIGTERM) for worker in server.workers()] == [True, True])
        asked = time.monotonic()
        assert server.stop() == 0, server.daemon.tail()
        assert time.monotonic() - asked < 10
    finally:
        server.daemon.kill()


# ---- a corrupt object ------------------------------------------------------------------------------------------------


def flip(path: Path, place: int) -> None:
    """Change one bit of a stored object."""
    with path.open("r+b") as stored:
        stored.seek(place)
        byte = stored.read(1)
        stored.seek(place)
        stored.write(bytes([byte[0] ^ 1]))


def rejected(line: Connection) -> float:
    """The counter of rejected frames, over all workers."""
    text = line.ask("GET", "/metrics").expect(200).body.decode()
    return sum(float(row.split()[-1]) for row in text.splitlines() if row.startswith("wharfage_frames_rejected_total"))


@pytest.mark.parametrize("where", ["early", "middle", "last"])
def test_a_broken_frame_is_never_served_and_a_fresh_push_heals_it(
    three_workers: Server, token: str, lines: list[Connection], repository: str, where: str
) -> None:
    content = content_of(8 * MIB, seed=len(where))
    digest = lines[0].push_blob(repository, content)
    stored = three_workers.objects()[-1]
    size = stored.stat().st_size
    assert size > len(content)
    flip(stored, {"early": 2000, "middle": size // 2, "last": size - 100}[where])
    counted = rejected(lines[0])

    try:
        answer = pull(three_workers, token, repository, digest)
    except (http.client.IncompleteRead, ConnectionError):
        pass  # a broken body: what came was less than Content-Length
    else:
        answer.expect(404)  # a bad start is a clean error

    for line in lines:
        line.ask("HEAD", f"/v2/{repository}/blobs/{digest}").expect(404)
        line.ask("GET", f"/v2/{repository}/blobs/{digest}").expect(404)
    assert rejected(lines[0]) > counted

    assert lines[1].push_blob(repository, content) == digest
    for line in lines:
        assert line.ask("GET", f"/v2/{repository}/blobs/{digest}").expect(200).body == content


def test_a_range_beside_the_broken_frame_is_served_and_one_across_it_is_not(
    three_workers: Server, token: str, lines: list[Connection], repository: str
) -> None:
    content = content_of(8 * MIB, seed=77)
    digest = lines[0].push_blob(repository, content)
    stored = three_workers.objects()[-1]
    flip(stored, stored.stat().st_size - 100)
    path = f"/v2/{repository}/blobs/{digest}"
    assert lines[1].ask("GET", path, headers={"Range": "bytes=0-99"}).expect(206).body == content[:100]
    lines[1].ask("GET", path, headers={"Range": "bytes=-100"}).expect(404)


@pytest.mark.parametrize("damage", ["shorter", "gone"])
def test_an_object_that_lost_bytes_is_never_served_short(
    three_workers: Server, token: str, lines: list[Connection], repository: str, damage: str
) -> None:
    content = content_of(4 * MIB, seed=len(damage))
    digest = lines[0].push_blob(repository, content)
    stored = three_workers.objects()[-1]
    if damage == "gone":
        stored.unlink()
    else:
        with stored.open("r+b") as file:
            file.truncate(2 * MIB)
    try:
        answer = pull(three_workers, token, repository, digest)
    except (http.client.IncompleteRead, ConnectionError):
        pass
    else:
        answer.expect(404)
    lines[0].ask("HEAD", f"/v2/{repository}/blobs/{digest}").expect(404)
    lines[1].push_blob(repository, content)
    assert lines[2].ask("GET", f"/v2/{repository}/blobs/{digest}").expect(200).body == content


# ---- a full disk -----------------------------------------------------------------------------------------------------


@contextmanager
def small_disk(path: Path, mib: int) -> Iterator[None]:
    path.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={mib}m,mode=0700", "wharfage-test", path], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", path], check=True)


@pytest.mark.needs("mount")
@pytest.mark.parametrize("place", ["objects", "all"])
def test_a_full_disk_answers_507_and_the_server_goes_on(
    start_server: Callable[..., Server], connect: Connect, tmp_path: Path, repository: str, place: str
) -> None:
    """Whether only the store's disk is full or also the one of the rows: reads and small pushes go on."""
    data = tmp_path / "data"
    with small_disk(data if place == "all" else data / "objects", 48):
        server = start_server(data, workers=2, watched=True)
        line = connect(server, server.password())
        small = content_of(MIB)
        digest = line.push_blob(repository, small)
        kept = set(server.objects())

        too_big = content_of(64 * MIB, seed=2)
        location = line.begin(repository)
        answer = send_until_answered(server, location, too_big)
        assert answer.status == 507
        assert answer.code() == "UNAVAILABLE"
        assert answer.json()["errors"][0]["message"]
        assert set(server.objects()) == kept, "nothing is left behind"

        line = connect(server, server.password())
        assert line.ask("GET", f"/v2/{repository}/blobs/{digest}").expect(200).body == small
        again = content_of(MIB, seed=3)
        assert line.ask("GET", f"/v2/{repository}/blobs/{line.push_blob(repository, again)}").expect(200).body == again
        assert server.stop() == 0


def send_until_answered(server: Server, location: str, content: bytes) -> Answer:
    """A PATCH whose answer may come before all of its body was taken."""
    patch = OpenPatch(server, server.password(), location, len(content))
    try:
        for start in range(0, len(content), MIB):
            patch.send(content[start : start + MIB])
    except ConnectionError:
        pass  # the answer is there already
    return patch.finish()
