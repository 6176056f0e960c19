"""What commands share: the data directory, rooms with a metadata service, progress, names of what was found."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from proxy.app import keys, worker
from proxy.app.context import WorkerContext, open_context
from proxy.app.processes import configure_log
from proxy.app.stores import claim_archive
from proxy.config.settings import Config
from proxy.jobs.progress import Findings, Progress
from proxy.model.errors import OperatorError
from proxy.runtime import data_directory
from proxy.runtime.data_directory import DataDirectory

Say = Callable[[str], None]
T = TypeVar("T")

_LINE_SECONDS = 30.0  # between two lines of progress where no bar can be drawn


class CommandRefused(OperatorError):
    """The command cannot run here; the text says why."""


async def visiting(config: Config, run: Callable[[WorkerContext], Awaitable[T]], *, fills_cache: bool = False) -> T:
    """`run` with rooms whose metadata service is the running one, or our own. The store is seen as it is, past the
    cache, unless `fills_cache`."""
    configure_log(config)
    data = existing(config)
    masters = keys.master_keys(config, data)
    async with contextlib.AsyncExitStack() as stack:
        if not config.metadata.url and not data_directory.is_locked(data):
            stack.callback(os.close, data_directory.lock_data_directory(data))
            await stack.enter_async_context(worker.metadata_service(config, data, masters))
        own = await stack.enter_async_context(open_context(config, data, masters, fills_cache=fills_cache))
        await claim_archive(config, data, own.metadata)
        return await run(own)


def existing(config: Config) -> DataDirectory:
    root = Path(config.server.data)
    if not root.is_dir():
        raise CommandRefused(f"{root.absolute()}: no such data directory; give --data, or run `wharfage serve` first")
    return data_directory.open_data(config)


def name(what: str, findings: Findings, say: Say) -> None:
    for finding in findings.named:
        say(f"{what}: {finding}")
    if findings.count > len(findings.named):
        say(f"{what}: and {findings.count - len(findings.named)} more")


def left(step: Progress, seconds: float, begun: int) -> str:
    """How long the rest will take if it goes on as in the last `seconds`, in which `begun` became `step.done`."""
    if step.done <= begun or not step.total:
        return ""
    rest = (step.total - step.done) * seconds / (step.done - begun)
    return f", {int(rest) // 3600}:{int(rest) // 60 % 60:02}:{int(rest) % 60:02} left"


@contextlib.contextmanager
def shown() -> Iterator[Callable[[Progress], None]]:
    """Draws progress on standard error: a bar on a terminal, a line now and then elsewhere; with ETA, both."""
    bar: Any = None
    doing = ""
    began, begun = time.monotonic(), 0  # when this step began, and what of it was done then
    due = began + _LINE_SECONDS

    def draw(step: Progress) -> None:
        nonlocal bar, doing
        if bar is None or step.doing != doing:
            if bar is not None:
                bar.close()
            from tqdm import tqdm  # type: ignore[import-untyped]  # loaded where there is a terminal to draw on

            doing = step.doing
            bar = tqdm(
                desc=doing,
                total=step.total or None,
                unit=step.unit[0] if step.unit == "bytes" else step.unit,
                unit_scale=step.unit == "bytes",
                dynamic_ncols=True,
            )
        if step.total and bar.total != step.total:
            bar.total = step.total
        bar.update(step.done - bar.n)

    def write_line(step: Progress) -> None:
        nonlocal due, doing, began, begun
        now = time.monotonic()
        if step.doing != doing:
            doing, began, begun = step.doing, now, step.done
        if now >= due:
            due = now + _LINE_SECONDS
            of = f" of {step.total:,}" if step.total else ""
            sys.stderr.write(f"{step.doing}: {step.done:,}{of} {step.unit}{left(step, now - began, begun)}\n")

    try:
        yield draw if sys.stderr.isatty() else write_line
    finally:
        if bar is not None:
            bar.close()
