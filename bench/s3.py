"""A registry on S3 against CNCF distribution on the same SeaweedFS: GB/s, CPU per GB, S3 requests and S3 bytes.

Each round does the same to each server, one after the other, the order turned each round; medians over rounds are
printed. Every server asks the store through a line that counts (`counted`). The yardstick of a push is bare PUTs of the
same bytes in the same round, by a client that neither hashes nor seals; those of the cache's filling are the peer's
pulls right beside it, and a program that does nothing but write the same bytes to a file.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT)]  # run as a script: `support` is in tests

import bars  # noqa: E402 - as above
from aiobotocore.config import AioConfig  # noqa: E402 - once the path above is set
from aiobotocore.session import get_session  # noqa: E402 - as above
from counted import Count, CountedLine  # noqa: E402 - as above
from figures import GB, RESULTS, Figure, busy, source, use_pages, write  # noqa: E402 - as above
from layers import Layers  # noqa: E402 - as above
from load import Content  # noqa: E402 - as above
from peers import Peer, distribution_on_s3, wharfage  # noqa: E402 - as above

from proxy.storage.s3.bucket import S3Location  # noqa: E402 - as above
from proxy.storage.s3.connection import Body  # noqa: E402 - as above
from support.seaweed import Seaweed  # noqa: E402 - as above

OURS, CACHED, LOCAL, THEIRS, BARE = "wharfage", "wharfage-cache", "wharfage-local", "distribution", "bare"
FILE = "a file"
WITHOUT_LINE = {LOCAL, FILE}  # they ask no store
SMALL = 2**20
PULLERS = 16
PUSH, COLD, FILLING, WARM = "push", "pull, no cache", "pull, cache filling", "pull, cache warm"
SMALL_PUSH = f"push, layers of {SMALL >> 20} MiB"
MANY = f"{PULLERS} pullers of one cold blob"

Work = Callable[[], Figure]


@dataclass(frozen=True, slots=True)
class Row:
    """One measurement of one server: `units` GB were moved by the client."""

    figure: Figure
    count: Count
    units: float


class Puts:
    """PUTs of whole layers by aiobotocore, from kept buffers, with no checksum and no hash: as quick as it can be."""

    def __init__(self, location: S3Location, layer_bytes: int, layers: int, connections: int) -> None:
        self._location = location
        self._contents = [memoryview(os.urandom(layer_bytes)) for _ in range(layers)]
        self._connections = connections
        self._made = 0
        self.units = layer_bytes * layers / GB

    def push(self) -> Figure:
        return asyncio.run(self._push())

    async def _push(self) -> Figure:
        style = AioConfig(
            signature_version="s3v4",
            max_pool_connections=self._connections,
            request_checksum_calculation="when_required",
            s3={"addressing_style": "path", "payload_signing_enabled": False},
        )
        gate = asyncio.Semaphore(self._connections)
        async with get_session().create_client(
            "s3",
            endpoint_url=self._location.endpoint,
            region_name=self._location.region,
            aws_access_key_id=self._location.access_key_id,
            aws_secret_access_key=self._location.secret_access_key,
            config=style,
        ) as client:

            async def put(content: memoryview) -> None:
                async with gate:
                    self._made += 1
                    body = Body(content)
                    await client.put_object(Bucket=self._location.bucket, Key=f"bare/{self._made}", Body=body)

            await client.head_bucket(Bucket=self._location.bucket)  # the client is made, a connection is there
            machine, cpu, began = busy(), time.process_time(), time.perf_counter()
            await asyncio.gather(*map(put, self._contents))
            spent, wall = time.process_time() - cpu, time.perf_counter() - began
            machine = busy() - machine
        return Figure(spent / self.units, 0.0, wall / self.units, machine=machine / self.units)


class Comparison:
    """All servers, and what was measured: rows[operation][server] over rounds."""

    def __init__(self, home: Path, asked: argparse.Namespace) -> None:
        self._home = home
        self._asked = asked
        self.rows: dict[str, dict[str, list[Row]]] = {}
        self.peers: dict[str, Peer] = {}
        self.seaweed = Seaweed.start(home / "seaweed", volumes=1000)
        self.line: CountedLine | None = None
        try:
            self.line = CountedLine.start(home / "line", self.seaweed.port, [OURS, CACHED, THEIRS, BARE])
            self.peers[OURS] = wharfage(home, OURS, self._s3(OURS) | {"WHARFAGE_CACHE_MIB": "0"})
            self.peers[THEIRS] = distribution_on_s3(home, self._place(THEIRS))
            self.peers[CACHED] = wharfage(home, CACHED, self._s3(CACHED))
            self.peers[LOCAL] = wharfage(home, LOCAL)
            content, small, large = Content(asked.layer_mib << 20), Content(SMALL), Content(asked.pull_mib << 20)
            self.pushes = {name: Layers(self.peers[name], content, asked.push_layers) for name in (OURS, THEIRS)}
            self.small = {name: Layers(self.peers[name], small, asked.small) for name in (OURS, THEIRS)}
            self.pulls = {name: Layers(peer, large, asked.layers) for name, peer in self.peers.items()}
            self.one = Layers(self.peers[CACHED], large, 1)
            self.puts = {c: Puts(self._place(BARE), content.size, asked.push_layers, c) for c in self._connections}
            for bench in (*self.pulls.values(), self.one):
                bench.lay(asked.connections)
        except BaseException:
            self.end()
            raise

    @property
    def _connections(self) -> Sequence[int]:
        return sorted({1, self._asked.connections})

    def end(self) -> None:
        for peer in self.peers.values():
            peer.daemon.stop()
        if self.line is not None:
            self.line.daemon.stop()
        self.seaweed.stop()

    def round(self, number: int) -> None:
        """The first one, number 0, warms all up and is not kept. Nothing that was pushed is removed: 3 GB stay."""
        for operation, each in self._operations().items():
            for name in each if number % 2 else reversed(each):
                units, work = each[name]
                line = self.line if name not in WITHOUT_LINE else None
                if line is not None:
                    line.take(name)
                try:
                    figure = work()
                except RuntimeError as error:
                    raise RuntimeError(f"{operation}, {name}: {error}") from error
                count = line.take(name) if line is not None else Count()
                if number:
                    self.rows.setdefault(operation, {}).setdefault(name, []).append(Row(figure, count, units))

    def _operations(self) -> dict[str, dict[str, tuple[float, Work]]]:
        """By operation and server: the GB that move, and the work. In the order in which they depend on each other."""
        found: dict[str, dict[str, tuple[float, Work]]] = {}
        for connections in self._connections:
            puts = self.puts[connections]
            found[f"{PUSH}, c = {connections}"] = {BARE: (puts.units, puts.push)} | {
                name: (bench.units, partial(bench.push, connections)) for name, bench in self.pushes.items()
            }
        found[SMALL_PUSH] = {
            name: (bench.units, partial(bench.push, self._asked.connections)) for name, bench in self.small.items()
        }
        found[COLD] = {name: self._pulls(self.pulls[name], 3) for name in (OURS, THEIRS)}
        cached = self.pulls[CACHED]
        found[FILLING] = {
            CACHED: (cached.units, partial(self._fill, cached, cached.count)),
            THEIRS: self._pulls(self.pulls[THEIRS], 3),
            FILE: (cached.units, partial(self._write_alone, cached.units)),
        }
        found[WARM] = {name: self._pulls(self.pulls[name], 9) for name in (CACHED, LOCAL)}  # they differ by little
        found[MANY] = {CACHED: (self.one.units * PULLERS, partial(self._fill, self.one, PULLERS))}
        return found

    def _pulls(self, bench: Layers, times: int) -> tuple[float, Work]:
        return bench.units * times, partial(bench.pull, self._asked.connections, bench.count * times)

    def _fill(self, cached: Layers, pulls: int) -> Figure:
        """Of layers that nobody has read since the cache was emptied, which is done behind its back."""
        for kept in self.peers[CACHED].stored.parent.glob("cache/??/*"):
            kept.unlink()
        use_pages(self._home, self._asked.layers * self._asked.pull_mib)
        return cached.pull(max(self._asked.connections, pulls), pulls)

    def _write_alone(self, units: float) -> Figure:
        """A MiB at a time from one buffer, at the place of the cache's own: what a cache has to pay at least."""
        use_pages(self._home, self._asked.layers * self._asked.pull_mib)
        path, piece = self._home / "alone", os.urandom(2**20)
        before, began = os.times(), time.perf_counter()
        with path.open("wb", buffering=0) as file:
            for _ in range(self._asked.layers * self._asked.pull_mib):
                file.write(piece)
        wall, after = time.perf_counter() - began, os.times()
        path.unlink()
        return Figure((after.user - before.user) / units, (after.system - before.system) / units, wall / units)

    def _place(self, name: str) -> S3Location:
        assert self.line is not None
        return dataclasses.replace(self.seaweed.place(), endpoint=self.line.url(name))

    def _s3(self, name: str) -> dict[str, str]:
        assert self.line is not None
        return self.seaweed.settings(f"{name}/") | {"WHARFAGE_STORAGE_ENDPOINT": self.line.url(name)}


def table(rows: dict[str, dict[str, list[Row]]]) -> str:
    """Markdown, one row an operation and server; requests and bytes are per push or pull of all layers once."""
    lines = [
        "| operation | server | GB/s | CPU-s per GB (kernel) | S3 requests per GB | S3 bytes per byte | refused |",
        "|---|---|---|---|---|---|---|",
    ]
    for operation, by_server in rows.items():
        for name, each in by_server.items():
            kinds = each[-1].count.by_kind.most_common(4)
            made = ", ".join(f"{kind} {number / each[-1].units:.0f}" for kind, number in kinds)
            requests = _median(each, lambda row: row.count.requests / row.units)
            moved = _median(each, lambda row: (row.count.up + row.count.down) / row.units / GB)
            kernel = _median(each, lambda row: row.figure.kernel)
            lines.append(
                f"| {operation} | {name} | {1 / _median(each, lambda row: row.figure.wall):.2f} "
                f"| {_cpu(each):.2f} ({kernel:.2f}) | {requests:.0f} ({made}) | {moved:.3f} "
                f"| {sum(row.count.refused for row in each)} |"
            )
    return "\n".join(lines)


@dataclass(frozen=True, slots=True)
class Mark:
    """What was asked for (`at_most`, else at least), and each round's ratio."""

    what: str
    mark: float
    at_most: bool
    ratios: Sequence[float]

    @property
    def reached(self) -> float:
        return statistics.median(self.ratios)

    @property
    def met(self) -> bool:
        return self.reached <= self.mark if self.at_most else self.reached >= self.mark

    def __str__(self) -> str:
        low, high = min(self.ratios), max(self.ratios)
        return (
            f"- {self.what}: **{self.reached:.2f}** ({'≤' if self.at_most else '≥'} {self.mark:g}, "
            f"{'met' if self.met else 'missed'}; rounds {low:.2f} to {high:.2f})"
        )

    def told(self) -> dict[str, Any]:
        low, high = min(self.ratios), max(self.ratios)
        found = {"median": round(self.reached, 4), "lowest": round(low, 4), "highest": round(high, 4)}
        bar = {"at_most" if self.at_most else "at_least": self.mark, "met": self.met}
        return {"row": self.what, "unit": "ratio", "bar": bar, "ratio": found}


def marks(rows: dict[str, dict[str, list[Row]]]) -> list[Mark]:
    cold, pushed = rows[COLD], rows[SMALL_PUSH][OURS]
    small = GB / SMALL  # layers in a GB
    found = []
    for name, push in rows.items():
        if BARE in push:
            ratios = _ratios(push[BARE], push[OURS], lambda row: row.figure.wall)
            found.append(Mark(f"{name}, GB/s to bare PUTs'", 0.8, False, ratios))
            ratios = _ratios(push[OURS], push[THEIRS], _spent)
            found.append(Mark(f"{name}, CPU to distribution's", 0.5, True, ratios))
    requests = [row.count.requests / row.units / small for row in pushed]
    found.append(Mark(f"S3 requests a layer of {SMALL >> 20} MiB", 4, True, requests))
    found.append(Mark(f"{COLD}, CPU to distribution's", 1.4, True, _ratios(cold[OURS], cold[THEIRS], _spent)))
    filling, warm, many = rows[FILLING], rows[WARM], rows[MANY][CACHED]
    ratios = _ratios(filling[CACHED], filling[THEIRS], _spent)
    found.append(Mark(f"{FILLING}, CPU to distribution's cold pulls", 2.0, True, ratios))
    found.append(Mark(f"{WARM}, CPU to a local read's", 1.05, True, _ratios(warm[CACHED], warm[LOCAL], _spent)))
    moved = [row.count.down / (row.units * GB / PULLERS) for row in many]
    found.append(Mark(f"{MANY}, bytes from S3 to its own", 1.05, True, moved))
    return found


def full(rows: dict[str, dict[str, list[Row]]]) -> list[str]:
    """Of each push beside bare PUTs: how much of all cores was at work, and what would be reached were none ever idle,
    which is less than 1 by what all spend for a push more than for bare PUTs."""
    cores, lines = os.cpu_count() or 1, []
    for name, push in rows.items():
        if BARE in push:
            ours, bare = ([row.figure for row in push[server]] for server in (OURS, BARE))
            mine, its = (statistics.median(each.machine / each.wall / cores for each in side) for side in (ours, bare))
            best = statistics.median(its.wall * cores / mine.machine for mine, its in zip(ours, bare, strict=True))
            lines.append(
                f"- {name}: all cores were busy for {mine:.0%} of the time ({its:.0%} with bare PUTs), with "
                f"{_median(push[OURS], lambda row: row.figure.machine):.1f} CPU-s per GB of all that ran "
                f"({_median(push[BARE], lambda row: row.figure.machine):.1f}): were none idle, {best:.2f} of bare PUTs'"
            )
    return lines


def told(operation: str, by_server: dict[str, list[Row]]) -> dict[str, Any]:
    """One operation, as `compare.py` tells its rows."""
    row = bars.Row(operation, "cpu-s/GB", "cpu", None, list(by_server), lambda server: {})
    for name, each in by_server.items():
        for one in each:
            asked = {"GB/s": round(1 / one.figure.wall, 4), "S3 requests": round(one.count.requests / one.units, 1)}
            row.keep(name, {**one.figure.told(), **asked, "refused": one.count.refused})
    return row.told()


def _ratios(ours: Sequence[Row], theirs: Sequence[Row], of: Callable[[Row], float]) -> list[float]:
    return [of(mine) / of(its) for mine, its in zip(ours, theirs, strict=True)]


def _spent(row: Row) -> float:
    return row.figure.cpu


def _cpu(rows: Sequence[Row]) -> float:
    return _median(rows, _spent)


def _median(rows: Sequence[Row], of: Callable[[Row], float]) -> float:
    return statistics.median(map(of, rows))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--layers", type=int, default=4, help="that are pulled")
    parser.add_argument("--push-layers", type=int, default=8)
    parser.add_argument("--layer-mib", type=int, default=64, help="of a push")
    parser.add_argument("--pull-mib", type=int, default=256)
    parser.add_argument("--small", type=int, default=32, help="layers of 1 MiB")
    parser.add_argument("--connections", type=int, default=4)
    parser.add_argument("--home", help="where all data lie; /dev/shm for a busy disk, but no cache lies there")
    parser.add_argument("--results", type=Path, default=RESULTS, help="the folder of s3.json")
    asked = parser.parse_args()
    home = Path(tempfile.mkdtemp(prefix="wharfage-bench-", dir=asked.home))
    compared: Comparison | None = None
    try:
        compared = Comparison(home, asked)
        for number in range(asked.rounds + 1):
            compared.round(number)
            print(f"round {number} of {asked.rounds}{' (warming)' if not number else ''}", file=sys.stderr)
        here, reached = source(), marks(compared.rows)
        print(f"{here.line()}\n\n{table(compared.rows)}\n")
        print("\n".join([*map(str, reached), "", *full(compared.rows)]))
        rows = [told(operation, each) for operation, each in compared.rows.items()]
        where = "S3, beside a disk"
        found = {**dataclasses.asdict(here), "where": where, "rows": [*rows, *(mark.told() for mark in reached)]}
        write("s3", found, asked.results)
    finally:
        if compared is not None:
            compared.end()
        shutil.rmtree(home, ignore_errors=True)


if __name__ == "__main__":
    main()
