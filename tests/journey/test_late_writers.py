"""A writer that wakes up late changes nothing that was acknowledged: real nodes, S3, PostgreSQL, and SIGSTOP.

Node A has an upload session when it is stopped for longer than its lease; node B takes the session over and commits it;
A goes on, and what it had sent to the store arrives only then. All schedules share one standstill, which is what takes
their time. `proxy/metadata/operations/handover.py` says why they end well.
"""

from __future__ import annotations

import http.client
import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field

import pytest

from proxy.registry.upload_lease import LEASE_SECONDS, STORE_GRACE_SECONDS
from support import balancer, postgresql
from support.cluster import Cluster
from support.cluster_faults import FaultProxies
from support.connections import Connection, OpenPatch
from support.images import MIB
from support.late_proxy import LateProxy
from support.registry import Answer, digest_of
from support.seaweed import Seaweed
from support.server import Server

pytestmark = pytest.mark.needs("weed", balancer.PROGRAM, postgresql.PROGRAM)

OCTETS = {"Content-Type": "application/octet-stream"}
RETRY_SECONDS = 60.0  # seconds for what takes one or two; a lease more where one has to end
SMALL, HALF, LARGE = 100_000, MIB, 9 * MIB  # less than a part each, but for LARGE: one of 8 MiB and a tail


@dataclass(slots=True)
class Schedule:
    """One session: `recorded` bytes are acknowledged before A is stopped, `sent` by A in the request that is never
    acknowledged, which `closes` the session or not."""

    name: str
    recorded: tuple[int, ...]
    sent: int
    whole: bool  # A's client sends all of its request, or half of its body
    closes: bool = True
    location: str = ""
    late: OpenPatch | None = None
    committed: int = 0  # the status of B's closing PUT
    content: bytes = b""

    @property
    def start(self) -> int:
        """Of the bytes that A's last request brings."""
        return sum(self.recorded)

    @property
    def digest(self) -> str:
        return digest_of(self.content)

    def closing(self) -> str:
        return f"{self.location}?digest={self.digest}"

    def placed(self) -> dict[str, str]:
        """The headers of a request that brings all bytes from `start` on."""
        return OCTETS | {"Content-Range": f"{self.start}-{len(self.content) - 1}"}


UNDO = "undo"
STALL = "stall"
COMPLETE_CONTINUED = "complete, parts of a session that goes on"
COMPLETE_ANEW = "complete, parts of a session that begins anew"
PUT = "put"
DELETE = "delete"

SCHEDULES = (
    (UNDO, (SMALL, SMALL), 2 * HALF, False, True),
    (STALL, (SMALL, SMALL), 2 * HALF, False, False),
    (COMPLETE_CONTINUED, (LARGE, SMALL), SMALL, True, True),
    (COMPLETE_ANEW, (), LARGE, True, True),
    (PUT, (), SMALL, True, True),
    (DELETE, (SMALL,), 2 * HALF, False, False),
)


@dataclass(slots=True)
class Played:
    """What became of all schedules; `delivered` late were these requests, with the store's answers."""

    cluster: Cluster
    schedules: dict[str, Schedule]
    delivered: list[str] = field(default_factory=list)
    pulled: dict[str, list[Answer]] = field(default_factory=dict)


def is_held(method: str, target: str) -> bool:
    """What makes an object whole, or removes one; the health check's own object is none."""
    if "/probe-" in target:
        return False
    return method == "DELETE" or (method == "POST" and "uploadId=" in target) or (method == "PUT" and "?" not in target)


def until(holds: Callable[[], bool], what: str, seconds: float = RETRY_SECONDS) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"not yet: {what}"
        time.sleep(0.02)


def signal_node(node: Server, number: signal.Signals) -> None:
    os.killpg(node.daemon.process.pid, number)


class ScheduleRun:
    """One run of all schedules on one cluster. `store` and `rows` are A's proxies to the store and to the metadata."""

    def __init__(self, cluster: Cluster, proxies: FaultProxies, repository: str, stack: ExitStack) -> None:
        self._a, self._b = cluster.nodes
        self._cluster, self._proxies, self._repository = cluster, proxies, repository
        self._token = cluster.password()
        self._store: LateProxy = proxies.by_name["node0-s3"]
        self._rows = proxies.by_name["node0-service0"]
        self._to_a, self._to_b = Connection(self._a, self._token), Connection(self._b, self._token)
        stack.callback(self._to_a.close)
        stack.callback(self._to_b.close)
        self._stack = stack
        self._stopped_at = 0  # of what the proxy to the metadata had seen
        draw = random.Random(20)
        self.played = Played(cluster, {name: Schedule(name, *rest) for name, *rest in SCHEDULES})  # type: ignore[arg-type]
        self._all = list(self.played.schedules.values())
        for each in self._all:
            each.content = draw.randbytes(each.start + each.sent)

    def run(self) -> Played:
        for each in self._all:
            self._record(each)
        self._store.holds, self._store.resets = is_held, False
        for each in sorted(self._all, key=lambda one: not one.whole):  # the halves last: a stall is seen after 5 s
            self._send_late(each)
        signal_node(self._a, signal.SIGSTOP)
        self._store.holds = None
        self._proxies.mend(self._store)  # A finds its connections reset when it goes on
        self._stopped_at = len(self._rows.requests)
        try:
            self._take_over()
        finally:
            signal_node(self._a, signal.SIGCONT)
        self._wake_up()
        self._pull()
        return self.played

    def _record(self, each: Schedule) -> None:
        each.location, at = self._to_a.begin(self._repository), 0
        for size in each.recorded:
            placed = OCTETS | {"Content-Range": f"{at}-{at + size - 1}"}
            answer = self._to_a.ask("PATCH", each.location, each.content[at : at + size], placed).expect(202)
            each.location, at = answer.headers["Location"], at + size

    def _send_late(self, each: Schedule) -> None:
        method, location = ("PUT", each.closing()) if each.closes else ("PATCH", each.location)
        count = len(self._store.held)
        each.late = late = OpenPatch(self._a, self._token, location, each.sent, method)
        self._stack.callback(late.sock.close)
        late.send(each.content[each.start : each.start + (each.sent if each.whole else each.sent // 2)])
        until(
            lambda: len(self._store.held) > count or (not each.whole and late.is_taken()),
            f"{each.name}: A waits for the store, or has read all that its client sent",
        )
        for _ in range(3):  # A has one worker: its loop has gone on since
            self._to_a.ask("GET", "/v2/").expect(200)

    def _take_over(self) -> None:
        """Every session but STALL's is committed by B, of which that one's client has only sent its PATCH again."""
        for each in self._all:
            path, method = (each.location, "PATCH") if each.name == STALL else (each.closing(), "PUT")
            answer = self._patiently(method, path, each)
            if each.name == STALL:
                answer.expect(202)
            else:
                each.committed = answer.status

    def _patiently(self, method: str, path: str, each: Schedule) -> Answer:
        """B's answer, once A's lease is over."""
        deadline = time.monotonic() + LEASE_SECONDS + STORE_GRACE_SECONDS + RETRY_SECONDS
        while True:
            answer = self._to_b.ask(method, path, each.content[each.start :], each.placed())
            if answer.status != 503:
                return answer
            assert time.monotonic() < deadline, answer
            time.sleep(0.5)

    def _wake_up(self) -> None:
        stall = self.played.schedules[STALL]
        until(
            lambda: "keep_open_object" in self._rows.requests[self._stopped_at :],
            "A's stall clock put what it had into rows",
        )
        stall.committed = self._to_b.ask("PUT", stall.closing()).status
        self.played.delivered = self._proxies.deliver(self._store)
        for each in self._all:
            assert each.late is not None
            with suppress(OSError, http.client.HTTPException):  # whatever A says of it: it has cleaned up by then
                if not each.whole:
                    each.late.send(each.content[each.start + each.sent // 2 :])
                each.late.finish()

    def _pull(self) -> None:
        for each in self._all:
            path = f"/v2/{self._repository}/blobs/{each.digest}"
            found = self.played.pulled[each.name] = []
            for node in (self._a, self._b):
                line = Connection(node, self._token)
                self._stack.callback(line.close)
                found.append(line.ask("GET", path))


@pytest.fixture(scope="module")
def played(seaweed: Seaweed, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Played]:
    with ExitStack() as stack:
        proxies = FaultProxies()
        stack.callback(proxies.close)
        folder = tmp_path_factory.mktemp("late")
        cluster = Cluster.begin(
            folder, postgresql.shared(), seaweed, nodes=2, services=1, through=proxies.through, watched=True
        )
        stack.callback(cluster.abandon)
        try:
            made = ScheduleRun(cluster, proxies, "late/writers", stack).run()
        except BaseException:
            print(cluster.tails())  # noqa: T201 - shown with the failure
            raise
        yield made


def require_whole(played: Played, name: str) -> None:
    """B answered 201, and both nodes give out what it acknowledged."""
    schedule = played.schedules[name]
    assert schedule.committed == 201
    for node, answer in zip("AB", played.pulled[name], strict=True):
        assert answer.status == 200, f"{node} says {answer}"
        assert digest_of(answer.body) == schedule.digest, f"{node} gives out other bytes"


def test_a_writer_that_cleans_up_late_removes_nothing_of_the_blob_that_its_successor_committed(played: Played) -> None:
    require_whole(played, UNDO)


def test_a_stall_that_is_noticed_late_writes_nothing_over_the_rows_that_a_successor_acknowledged(
    played: Played,
) -> None:
    require_whole(played, STALL)


@pytest.mark.parametrize("name", [COMPLETE_CONTINUED, COMPLETE_ANEW])
def test_a_completion_that_arrives_late_replaces_no_object_of_a_successor(played: Played, name: str) -> None:
    assert len([one for one in played.delivered if one.startswith("POST ")]) >= 2
    require_whole(played, name)


@pytest.mark.parametrize("name", [PUT, DELETE])
def test_a_put_or_delete_that_arrives_late_neither_replaces_nor_removes_what_a_successor_put(
    played: Played, name: str
) -> None:
    assert [one for one in played.delivered if one.startswith("PUT ")]
    require_whole(played, name)


def test_the_store_is_whole_after_all_late_writers_have_gone(played: Played) -> None:
    assert " 0 damaged, 0 unreadable, 0 quarantined" in played.cluster.check()
