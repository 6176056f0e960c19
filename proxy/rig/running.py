"""push, pull and mix from their settings to their reports: what the command calls."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import uvloop
from yarl import URL

from proxy.rig import picture, plan, pulling, report
from proxy.rig.client import Client
from proxy.rig.crew import Act, Pace, work
from proxy.rig.errors import InvalidLoad, LoadFailed
from proxy.rig.live import shown
from proxy.rig.plan import ImageShape, LoadOperation, Target
from proxy.rig.pulling import Puller
from proxy.rig.pushing import Pusher, put_manifest
from proxy.rig.tally import LoadStatistics
from proxy.upstream.address import Reach
from proxy.upstream.errors import RequestFailed

Say = Callable[[str], None]
PREPARE = "prepare"
KEPT_MOST = 64 << 20  # bytes of manifests that `mix` keeps for its tags
LISTED_MOST = 10_000  # tags that a pull of a whole repository takes


@dataclass(frozen=True, slots=True)
class Load:
    """One load. `images`: how many there are to read; `named`: what to pull instead of the seed's images (no tags: all
    that the repository lists); `settings`: what the report repeats."""

    command: str
    base: URL
    shape: ImageShape
    pace: Pace
    images: int
    settings: dict[str, Any]
    weights: dict[str, int] | None = None
    named: tuple[str, tuple[str, ...]] | None = None
    ranges: int | None = None
    verify: bool = False
    parallel: int = 3
    chunked: bool = False
    moving_tags: int = 4
    allowed: frozenset[str] = frozenset()
    username: str = ""
    ca: Path | None = None


@dataclass(frozen=True, slots=True)
class ReportOptions:
    """Where the report goes beside `say`."""

    json: Path | None = None
    picture: Path | None = None
    quiet: bool = False


def run(load: Load, wanted: ReportOptions, *, password: str, version: str, say: Say) -> int:
    """Run the load and report on it; 0, or 1 when an operation failed or none was done. `InvalidLoad`, `LoadFailed`
    and `OSError` are for the operator."""
    if wanted.picture is not None:
        picture.check(wanted.picture)
    for file in (wanted.json, wanted.picture):
        if file is not None and not file.absolute().parent.is_dir():
            raise InvalidLoad(f"{file}: no such directory")
    trust = _trusted(load.ca) if load.base.scheme == "https" else None
    tally = LoadStatistics(time.monotonic)
    used = time.process_time()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        ended = runner.run(_run(load, tally, password, trust, quiet=wanted.quiet))
    run_info = report.RunInfo(
        version, load.command, str(load.base), load.shape.seed, load.settings, ended, time.process_time() - used
    )
    say(report.as_text(run_info, tally))
    if wanted.json is not None:
        wanted.json.write_text(json.dumps(report.as_json(run_info, tally), indent=1) + "\n", encoding="utf-8")
    if wanted.picture is not None:
        picture.draw(wanted.picture, run_info, tally)
    return 1 if tally.failed or not tally.done else 0


async def _run(load: Load, tally: LoadStatistics, password: str, trust: ssl.SSLContext | None, *, quiet: bool) -> str:
    """Everything that needs the loop; returns how it ended."""
    reach = Reach(load.base, load.allowed)
    stop = asyncio.Event()
    async with Client(reach, username=load.username, password=password, trust=trust, note=tally.request) as client:
        with _stopping(stop):
            await client.greet()
            operations, act, pace = await _begun(load, client, tally, stop, quiet=quiet)
            if act is not None and not stop.is_set():
                tally.requests.clear()  # of what went before
                async with shown(load.command, tally, pace, quiet=quiet):
                    await work(operations, act, pace, tally, stop, seed=load.shape.seed)
    if stop.is_set():
        return "interrupted"
    return "done" if act is None or (pace.count is not None and tally.taken >= pace.count) else "duration"


async def _begun(
    load: Load, client: Client, tally: LoadStatistics, stop: asyncio.Event, *, quiet: bool
) -> tuple[Iterator[LoadOperation], Act | None, Pace]:
    """The operations of a load, what does them (nothing, when there is nothing to load with), and how fast."""
    pusher = Pusher(client, load.shape, parallel=load.parallel, chunked=load.chunked)
    puller = Puller(client, parallel=load.parallel, verify=load.verify, ranges=load.ranges)
    seed = load.shape.seed
    if load.command == "push":

        async def push(operation: LoadOperation) -> int:
            return (await pusher.push(operation.image))[1]

        return plan.pushes(seed), push, load.pace
    if load.command == "pull":
        targets = await _targets(load, client)

        async def pull(operation: LoadOperation) -> int:
            target = targets[operation.image] if targets else load.shape.target(operation.image)
            return await (puller.pull(target) if load.ranges is None else puller.ranged(target, operation.draw))

        kind = "pull" if load.ranges is None else "range"
        images, pace = len(targets) or load.images, load.pace
        if pace.count is None and pace.duration is None:
            pace = replace(pace, count=images)
        return plan.pulls(seed, images, kind), pull, pace
    weights = load.weights or {}
    manifests = await _prepared(load, pusher, puller, tally, stop, quiet=quiet)
    if len(manifests) < load.images:
        return plan.mixed(seed, weights, load.images), None, load.pace

    async def mix(operation: LoadOperation) -> int:
        target = load.shape.target(operation.image)
        if operation.kind == "push":
            return (await pusher.push(operation.image))[1]
        if operation.kind == "pull":
            return await puller.pull(target)
        if operation.kind == "range":
            return await puller.ranged(target, operation.draw)
        if operation.kind == "head":
            return await puller.head(target)
        if operation.kind == "list":
            return (await pulling.tags(client, target.repository))[1]
        manifest = manifests[operation.image]
        moving = f"moving-{operation.draw % load.moving_tags}"
        await put_manifest(client, target.repository, moving, manifest)
        return len(manifest)

    return plan.mixed(seed, weights, load.images), mix, load.pace


async def _targets(load: Load, client: Client) -> list[Target]:
    """What a pull was given to pull; nothing: the seed's images."""
    if load.named is None:
        return []
    repository, names = load.named
    try:
        found = list(names) or (await pulling.tags(client, repository, most=LISTED_MOST))[0]
    except RequestFailed as failure:
        raise LoadFailed(f"the tags of {repository} cannot be listed: {failure}; name some with --tags") from None
    if not found:
        raise LoadFailed(f"{repository} has no tags to pull")
    return [Target(repository, name) for name in found]


async def _prepared(
    load: Load, pusher: Pusher, puller: Puller, tally: LoadStatistics, stop: asyncio.Event, *, quiet: bool
) -> dict[int, bytes]:
    """Makes what the mix reads: the manifests of the first images by number, pushed where they are not there yet, or
    have layers of other sizes. Those that fail are lacking, and counted under `prepare`, alone of all done here."""
    manifests: dict[int, bytes] = {}
    own = LoadStatistics(time.monotonic)
    kept = 0

    async def prepare(operation: LoadOperation) -> int:
        nonlocal kept
        target = load.shape.target(operation.image)
        sent = 0
        wanted = [load.shape.layer(operation.image, number).size for number in range(load.shape.layers)]
        try:
            found = await puller.manifest(target.repository, target.tag)
            there = pulling.sizes_of(found) == wanted
        except RequestFailed as failure:
            if not failure.kind.startswith("404"):
                raise
            there = False
        if not there:
            found, sent = await pusher.push(operation.image)
        manifests[operation.image] = found
        if (kept := kept + len(found)) > KEPT_MOST:
            raise RequestFailed("too-large", "the manifests of so many images; take fewer --images or --layers")
        return sent

    prepares = (replace(operation, kind=PREPARE) for operation in plan.pushes(load.shape.seed))
    pace = Pace(concurrency=load.pace.concurrency, count=load.images, timeout=load.pace.timeout)
    async with shown(PREPARE, own, pace, quiet=quiet):
        await work(prepares, prepare, pace, own, stop, seed=load.shape.seed)
    if own.failed or stop.is_set():
        tally.operations.update(own.operations)
        tally.said.update(own.said)
        tally.began, tally.ended = own.began, own.ended
    return manifests


@contextlib.contextmanager
def _stopping(stop: asyncio.Event) -> Iterator[None]:
    """SIGINT and SIGTERM end the load with a report; a second one ends the program."""
    loop = asyncio.get_running_loop()
    signals = (signal.SIGINT, signal.SIGTERM) if threading.current_thread() is threading.main_thread() else ()

    def ended() -> None:
        stop.set()
        for each in signals:
            loop.remove_signal_handler(each)

    for each in signals:
        loop.add_signal_handler(each, ended)
    try:
        yield
    finally:
        for each in signals:
            loop.remove_signal_handler(each)


def _trusted(ca: Path | None) -> ssl.SSLContext:
    """The system's authorities, or those of a PEM file instead."""
    try:
        return ssl.create_default_context(cafile=ca)
    except (OSError, ssl.SSLError) as error:
        raise InvalidLoad(f"--ca {ca}: no certificates can be read from it ({error})") from None
