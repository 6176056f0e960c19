"""Faults of a cluster, chosen from a seed: parts are killed and started again, processes are stopped and continued,
connections fail, and requests of nodes reach the store long after the nodes gave them up. For chaos tests.

Three tasks inject at once, each with its own random numbers: into the nodes, into the metadata services and PostgreSQL,
into S3 and the connections. Each ends its fault before it chooses the next, so at most three overlap. What is chosen
depends on the seed alone. `FaultProxies` holds the connections, in a thread of its own.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from support.cluster import Cluster
from support.fault_proxy import FaultProxy
from support.late_proxy import LateProxy
from support.postgresql import Cluster as Rows
from support.programs import Daemon
from support.seaweed import Seaweed

STANDSTILL_SECONDS = 20.0  # longer than any lease
LATE_SECONDS = 60.0  # how late a request may arrive
BACK_SECONDS = 90.0  # in which a part that was killed must be ready again, whatever else goes wrong meanwhile

Say = Callable[[str], None]


class FaultProxies:
    """Proxies by name, `open` until their mode is set. A cluster asks `through` for the port of one."""

    def __init__(self) -> None:
        self.by_name: dict[str, LateProxy] = {}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="lines")
        self._thread.start()
        self._deliveries: set[asyncio.Task[list[str]]] = set()

    def through(self, name: str, port: int) -> int:
        if name not in self.by_name:
            line = LateProxy(port)
            asyncio.run_coroutine_threadsafe(line.open(), self._loop).result(10)
            self.by_name[name] = line
        return self.by_name[name].port

    def mend(self, line: FaultProxy) -> None:
        """Open it; what it held is cut, never passed late."""
        line.mode, line.cut_after = "open", None
        self._loop.call_soon_threadsafe(line.cut)

    def deliver(self, line: LateProxy) -> list[str]:
        """What the line has held, as `LateProxy.deliver`."""
        return asyncio.run_coroutine_threadsafe(line.deliver(), self._loop).result(60)

    def deliver_later(self, line: LateProxy, seconds: float) -> None:
        def begin() -> None:
            task = self._loop.create_task(line.deliver())
            self._deliveries.add(task)
            task.add_done_callback(self._deliveries.discard)

        self._loop.call_soon_threadsafe(self._loop.call_later, seconds, begin)

    def deliver_all(self) -> list[str]:
        """At once, whatever all lines still hold; nothing is on its way any more."""
        delivered = [one for line in self.by_name.values() for one in self.deliver(line)]
        asyncio.run_coroutine_threadsafe(self._delivered(), self._loop).result(60)
        return delivered

    async def _delivered(self) -> None:
        await asyncio.gather(*self._deliveries)

    def close(self) -> None:
        for line in self.by_name.values():
            asyncio.run_coroutine_threadsafe(line.close(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()


@dataclass(frozen=True, slots=True)
class Fault:
    """`begin` and `end` block; `weight` is how often it is chosen, `seconds` how long it lasts where that is fixed."""

    name: str
    weight: int
    begin: Callable[[], None]
    end: Callable[[], None]
    seconds: float | None = None


class FaultInjector:
    """`injected` counts the faults that are over, by name."""

    def __init__(
        self, cluster: Cluster, rows: Rows, seaweed: Seaweed, proxies: FaultProxies, draw: random.Random
    ) -> None:
        self._cluster = cluster
        self._rows = rows
        self._seaweed = seaweed
        self._proxies = proxies
        self.injected: dict[str, int] = {}
        self._delays = random.Random(draw.getrandbits(64))
        self._groups: Sequence[tuple[Sequence[Fault], random.Random]] = [
            (faults, random.Random(draw.getrandbits(64)))
            for faults in (self._of_nodes(), self._of_rows(), [*self._of_the_store(), *self._of_lines()])
        ]

    async def inject(self, stop: asyncio.Event, say: Say) -> None:
        """Injects until `stop`; when it returns every fault is over and every part ready."""
        began = time.monotonic()
        async with asyncio.TaskGroup() as tasks:
            for faults, draw in self._groups:
                tasks.create_task(self._work(faults, draw, stop, lambda what: say(_at(began, what))))

    async def _work(self, faults: Sequence[Fault], draw: random.Random, stop: asyncio.Event, say: Say) -> None:
        while True:
            pause, lasts = draw.uniform(1.0, 6.0), draw.uniform(0.1, 3.0)
            [fault] = draw.choices(faults, [each.weight for each in faults])
            lasts = fault.seconds or lasts
            if await _is_set(stop, pause):
                return
            say(f"{fault.name}, for {lasts:.1f} s")
            await asyncio.to_thread(fault.begin)
            await _is_set(stop, lasts)  # a long one ends with the run
            await asyncio.to_thread(fault.end)
            self.injected[fault.name] = self.injected.get(fault.name, 0) + 1

    # ---- faults by part -----------------------------------------------------------------------------------------
    def _of_nodes(self) -> list[Fault]:
        found = []
        for number, node in enumerate(self._cluster.nodes):
            back = partial(_until_ready, partial(self._cluster.start_node, number))
            found.append(Fault(f"node{number} killed", 5, partial(self._cluster.kill_node, number), back))
            found += _standstills(f"node{number}", partial(getattr, node, "daemon"))
        return found

    def _of_rows(self) -> list[Fault]:
        found = []
        for number in range(len(self._cluster.services)):
            back = partial(_until_ready, partial(self._cluster.start_service, number))
            found.append(Fault(f"service{number} killed", 4, partial(self._cluster.kill_service, number), back))
            found += _standstills(f"service{number}", partial(self._cluster.services.__getitem__, number))
        kill = partial(self._rows.stop, signal.SIGKILL)
        found.append(Fault("PostgreSQL killed", 3, kill, self._rows.resume))
        found.append(Fault("PostgreSQL stopped", 2, self._rows.stop, self._rows.resume))
        return found

    def _of_the_store(self) -> list[Fault]:
        return [Fault("S3 killed", 8, self._seaweed.kill, self._seaweed.resume)]

    def _of_lines(self) -> list[Fault]:
        found = []
        for name, line in sorted(self._proxies.by_name.items()):
            mend = partial(self._proxies.mend, line)
            for mode in ("refuse", "stall", "busy") if name.endswith("-s3") else ("refuse", "stall"):
                found.append(Fault(f"line {name}: {mode}", 1, partial(_set, line, mode), mend))
            if name.endswith("-s3"):
                cut = partial(setattr, line, "cut_after", 300_000)
                found.append(Fault(f"line {name}: cut in mid-answer", 2, cut, mend))
                late = partial(setattr, line, "holds", _EverySecondWrite())
                found.append(Fault(f"line {name}: delivers late", 4, late, partial(self._end_late, line)))
        return found

    def _end_late(self, line: LateProxy) -> None:
        line.holds = None
        self._proxies.deliver_later(line, self._delays.uniform(1.0, LATE_SECONDS))


class _EverySecondWrite:
    """Of what makes, changes or removes objects, health checks' own excepted: a try again is let through, so that a
    node goes on while its first request waits."""

    def __init__(self) -> None:
        self._seen = 0

    def __call__(self, method: str, target: str) -> bool:
        if method not in ("PUT", "POST", "DELETE") or "/probe-" in target:
            return False
        self._seen += 1
        return self._seen % 2 == 1


def _set(line: FaultProxy, mode: str) -> None:
    line.mode = mode


def _standstills(name: str, daemon: Callable[[], Daemon | None]) -> list[Fault]:
    """All of a part's processes are stopped and continued, as on a paused machine: for a moment, or for longer than a
    lease."""

    def signal_all(number: signal.Signals) -> None:
        if (one := daemon()) is not None:
            os.killpg(one.process.pid, number)

    stop, go_on = partial(signal_all, signal.SIGSTOP), partial(signal_all, signal.SIGCONT)
    return [
        Fault(f"{name} is stopped", 2, stop, go_on),
        Fault(f"{name} is stopped for long", 1, stop, go_on, STANDSTILL_SECONDS),
    ]


def _until_ready(start: Callable[[], None]) -> None:
    """As an orchestrator does: a part that ends because what it needs is not there is started again."""
    deadline = time.monotonic() + BACK_SECONDS
    while True:
        try:
            return start()
        except AssertionError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.5)


async def _is_set(stop: asyncio.Event, seconds: float) -> bool:
    try:
        await asyncio.wait_for(stop.wait(), seconds)
    except TimeoutError:
        return False
    return True


def _at(began: float, what: str) -> str:
    return f"{time.monotonic() - began:6.1f} s  {what}"


def summary(injected: Mapping[str, int]) -> str:
    return ", ".join(f"{count} × {name}" for name, count in sorted(injected.items()))
