"""Whether the schedules of late writers find what they are for: each mutant takes one rule away, and must be found.

`make mutants-late`, or `python tests/mutation/late_writers.py [--schedules N] [--seed N] [name …]`. Prints for each
mutant after how many schedules it was found, and by which sentence; the status is 1 when one was not, or when the code
as it is fails.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

ROOT = Path(__file__).resolve().parents[2]
if __name__ == "__main__":
    sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from hypothesis import HealthCheck, Phase, Verbosity, given, seed, settings  # noqa: E402

from proxy import observe  # noqa: E402
from proxy.metadata.operations import INTERNAL, open_objects, uploads  # noqa: E402
from proxy.storage.s3 import append  # noqa: E402
from proxy.storage.s3.append import S3Appender  # noqa: E402
from proxy.storage.s3.lease import FencedRows  # noqa: E402
from support.late_writers import SCHEDULES, Schedule, explore, prepare  # noqa: E402  # below the path that finds the rest

SCHEDULES_MOST = 1000


def same_key_after_an_unsettled_lease() -> Any:
    """Whoever takes a session goes on under its key, though a request of the writer before may arrive yet."""
    return mock.patch.object(uploads, "leave_key", lambda tx, row: row)


def rows_without_a_fence_check() -> Any:
    """A writer whose lease another took changes the rows of its object all the same."""
    return mock.patch.object(open_objects, "need_fence")


def part_numbers_not_reserved() -> Any:
    """A continued multipart upload takes part numbers that the writer before may still use."""

    def without_numbers(name: str) -> Any:
        operation = INTERNAL[name]

        def run(tx: Any, object_key: str, fence: Any, offset: int = 0, numbers: int = 0) -> Any:
            more = {"offset": offset} if name == "cut_open_object" else {}
            return operation.run(tx, object_key, fence, numbers=0, **more)

        return replace(operation, run=run)

    names = ("cut_open_object", "reserve_part_numbers")
    return mock.patch.dict(INTERNAL, {name: without_numbers(name) for name in names})


@contextmanager
def undo_of_a_continued_upload() -> Iterator[None]:
    """A stretch that is given up aborts the multipart upload that it continued, and drops its rows."""
    init = S3Appender.__init__

    def begun(self: S3Appender, *arguments: Any, **more: Any) -> None:
        init(self, *arguments, **more)
        self._begun = True

    with mock.patch.object(S3Appender, "__init__", begun):
        yield


@contextmanager
def finished_object_written_again() -> Iterator[None]:
    """Bytes that come after an object was finished go under its own key."""
    key: ContextVar[str] = ContextVar("key")
    take_back = S3Appender._take_back

    async def under_its_key(self: S3Appender, offset: int) -> None:
        key.set(self.key)
        await take_back(self, offset)

    with (
        mock.patch.object(append, "secrets", SimpleNamespace(token_hex=lambda _: key.get())),
        mock.patch.object(S3Appender, "_take_back", under_its_key),
    ):
        yield


@contextmanager
def completion_not_recorded() -> Iterator[None]:
    """A continued multipart upload is completed before rows know what is to be put together."""
    keep = FencedRows.keep

    async def without_size(self: FencedRows, object_key: str, *, final_size: int | None = None, **more: Any) -> None:
        await keep(self, object_key, **more)

    with mock.patch.object(FencedRows, "keep", without_size):
        yield


MUTANTS: dict[str, Callable[[], Any]] = {
    made.__name__: made
    for made in (
        same_key_after_an_unsettled_lease,
        rows_without_a_fence_check,
        part_numbers_not_reserved,
        undo_of_a_continued_upload,
        finished_object_written_again,
        completion_not_recorded,
    )
}


def find(schedules: int, seeded: int) -> tuple[int, str | None]:
    """(how many schedules were run, what was wrong after the last one; None where nothing was)."""
    prepare()
    runs = 0

    @seed(seeded)
    @settings(
        max_examples=schedules,
        deadline=None,
        database=None,
        phases=(Phase.generate,),
        suppress_health_check=list(HealthCheck),
        report_multiple_bugs=False,
        verbosity=Verbosity.quiet,
    )
    @given(SCHEDULES)
    def run(schedule: Schedule) -> None:
        nonlocal runs
        runs += 1
        try:
            explore(*schedule)
        except Exception as error:
            raise _Found(f"{type(error).__name__}: {error}".splitlines()[0]) from None

    try:
        run()
    except _Found as found:
        return runs, str(found)
    return runs, None


class _Found(Exception):
    pass


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", choices=[[], *MUTANTS], help="all by default")
    parser.add_argument("--schedules", type=int, default=SCHEDULES_MOST)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    observe.configure_log("console", "error")
    if not options.names:
        runs, wrong = find(options.schedules, options.seed)
        sys.stdout.write(f"unchanged: {runs} schedules, {wrong or 'nothing wrong'}\n")
        if wrong is not None:
            return 1
    missed = 0
    for name in options.names or MUTANTS:
        began = time.perf_counter()
        with MUTANTS[name]():
            runs, wrong = find(options.schedules, options.seed)
        missed += wrong is None
        said = "not found in" if wrong is None else "found after"
        seconds = time.perf_counter() - began
        sys.stdout.write(f"{name}: {said} {runs} schedules ({seconds:.0f} s){': ' + wrong if wrong else ''}\n")
        sys.stdout.flush()
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
