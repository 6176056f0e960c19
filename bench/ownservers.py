"""Rows that want servers of their own: memory at rest and in storms, what more connections and workers cost, a start.

Memory is the kernel's share of each page (PSS) over all processes; in storms only what a process's own doing fills,
anonymous and shared memory.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import psutil
import start_cost
from answergroups import MANIFEST, Asked
from asks import closed_loop
from bars import Bar, Group, Measured, Row
from figures import measure
from layers import Layers
from load import Content, Line, expect
from peers import DISTRIBUTION, OURS, Peer, distribution, wharfage

from support.pushes import memory_of, push_many

MB = 1e6
MIB = 1 << 20
WORKERS = 2  # of the bars
IDLE_CONNECTIONS = 1000
STREAMS = 64
SLOW_PACE = 8e6  # bytes a second of each slow pull
STARTS: dict[str, Callable[[Path], Peer]] = {OURS: partial(wharfage, workers=WORKERS), DISTRIBUTION: distribution}


@contextmanager
def fresh(home: Path, start: Callable[[Path], Peer]) -> Iterator[Peer]:
    """A server that has done nothing yet, on a store that goes with it."""
    folder = home / "fresh"
    folder.mkdir()
    peer: Peer | None = None
    try:
        peer = start(folder)
        yield peer
    finally:
        if peer is not None:
            peer.daemon.stop()
        shutil.rmtree(folder)


class Memory(Group):
    """A server at rest, and with connections at rest."""

    name = "memory"
    warms = False

    def __init__(self, home: Path) -> None:
        self._home = home
        self.rows = [
            Row("idle: the largest process", "MB", "largest", Bar(120, relative=False), list(STARTS), self._idle),
            Row(
                f"{IDLE_CONNECTIONS:,} idle connections more",
                *("MB", "more", Bar(60, relative=False), list(STARTS), self._connected),
            ),
        ]

    def _idle(self, server: str) -> Measured:
        with fresh(self._home, STARTS[server]) as peer:
            _ask_some(peer, 8)
            each = [pss(process) for process in peer.processes()]
            return {"largest": round(max(each) / MB, 1), "all": round(sum(each) / MB, 1)}

    def _connected(self, server: str) -> Measured:
        with fresh(self._home, STARTS[server]) as peer:
            _ask_some(peer, 64)
            before = sum(map(pss, peer.processes()))
            lines = [Line(peer.address, peer.headers, buffer=1) for _ in range(IDLE_CONNECTIONS)]
            try:
                for line in lines:
                    expect(line.ask("GET", "/v2/"), 200)
                after = sum(map(pss, peer.processes()))
                for line in lines:  # none was closed meanwhile
                    expect(line.ask("GET", "/v2/"), 200)
            finally:
                for line in lines:
                    line.close()
            return {"more": round((after - before) / MB, 1), "before": round(before / MB, 1)}


class Storms(Group):
    """Many large layers at once. They need 16 GiB of disk, and minutes."""

    name = "storms"
    warms = False
    most_rounds = 1

    def __init__(self, home: Path, *, quick: bool) -> None:
        self._home = home
        self._mib = 16 if quick else 256
        of = f"of {self._mib} MiB at once"
        bar = Bar(500, relative=False)
        self.rows = [
            Row(f"{STREAMS} pushes {of}", "MB", "peak", bar, list(STARTS), self._pushes),
            Row(f"{STREAMS} slow pulls {of}", "MB", "peak", bar, list(STARTS), self._slow_pulls),
        ]

    def _pushes(self, server: str) -> Measured:
        with fresh(self._home, STARTS[server]) as peer:
            word = peer.as_server().password() if server == OURS else ""
            run = asyncio.run(push_many(peer.as_server(), word, streams=STREAMS, mib=self._mib))
            rate = STREAMS * self._mib * MIB / run.seconds / MB
            return {"peak": round(run.peak / MB, 1), "idle": round(run.idle / MB, 1), "MB/s": round(rate)}

    def _slow_pulls(self, server: str) -> Measured:
        with fresh(self._home, STARTS[server]) as peer:
            side = Layers(peer, Content(self._mib * MIB), 4)
            side.lay()
            idle, most = memory_of(peer.as_server()), 0
            with ThreadPoolExecutor(STREAMS) as readers:
                reading = [readers.submit(side.pull_slowly, number, SLOW_PACE) for number in range(STREAMS)]
                while not all(each.done() for each in reading):
                    most = max(most, memory_of(peer.as_server()))
                    time.sleep(0.1)
                for each in reading:
                    each.result()  # what went wrong there is raised here
            return {"peak": round(most / MB, 1), "idle": round(idle / MB, 1)}


class Scale(Group):
    """What more connections and more workers cost, each to fewer of the same server; and what a start costs."""

    name = "scale"
    warms = False

    def __init__(self, home: Path, *, quick: bool) -> None:
        self._home = home
        self._content = Content((16 if quick else 256) * MIB)
        self._count = 500 if quick else 64_000  # a second of CPU: a tenth of one is the ticks that it is counted in
        once = [OURS]
        self.rows = [
            Row("pull, c = 64 to c = 4", "cpu-s/GB, ratio", "ratio", Bar(1.15, relative=False), once, self._wide),
            Row("metadata process, a cached pull", "cpu-s/GB", "cpu", Bar(0.01, relative=False), once, self._metadata),
            Row("manifest GET, 2 workers to 1", "cpu-s, ratio", "ratio", Bar(1.1, relative=False), once, self._workers),
            Row("start, to the first answer", "cpu-s", "cpu", Bar(1.5, relative=False), once, self._start),
        ]

    def _wide(self, server: str) -> Measured:
        with fresh(self._home, STARTS[server]) as peer:
            side = Layers(peer, self._content, 4)
            side.lay()
            side.pull(4, 4)
            few, many = (side.pull(connections, 64).cpu for connections in (4, 64))
            return {"ratio": many / few, "few": few, "many": many}

    def _metadata(self, server: str) -> Measured:
        with fresh(self._home, STARTS[server]) as peer:
            side = Layers(peer, self._content, 4)
            side.lay()
            side.pull(4, 4)
            process = peer.as_server().metadata_process()
            before = process.cpu_times()
            side.pull(4, 32)
            after = process.cpu_times()
            spent = after.user + after.system - before.user - before.system
            return {"cpu": spent / (32 * self._content.size / 1e9)}

    def _workers(self, server: str) -> Measured:
        spent = []
        for workers in (2, 1):
            with fresh(self._home, partial(wharfage, workers=workers)) as peer:
                asked = Asked.of(peer)
                request = asked.requests[MANIFEST]
                closed_loop(asked.peer, request, 32, self._count // 4)
                work = partial(closed_loop, asked.peer, request, 32, self._count)
                spent.append(measure(peer, self._count / 1000, work).cpu)
        two, one = spent
        return {"ratio": two / one, "one": one, "two": two}

    def _start(self, server: str) -> Measured:
        folder = self._home / "start"
        folder.mkdir()
        try:
            cpu, wall = start_cost.measure(folder / "data", WORKERS)
        finally:
            shutil.rmtree(folder)
        return {"cpu": round(cpu, 3), "wall": round(wall, 3)}


def pss(process: psutil.Process) -> int:
    """Bytes; 0 of one that just ended."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        for line in Path(f"/proc/{process.pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    return 0


def _ask_some(peer: Peer, lines: int) -> None:
    """So that what a first request loads is loaded, in every worker."""
    for _ in range(lines):
        line = Line(peer.address, peer.headers)
        expect(line.ask("GET", "/v2/"), 200)
        line.close()
