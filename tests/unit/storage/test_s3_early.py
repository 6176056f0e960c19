"""Small objects that are put when their first stretch pauses: gone on with, cut, cancelled, and met by late writers."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from fakes.memory_open_objects import MemoryOpenObjects

from harness.faultline import FaultLine
from harness.s3stores import DATA, KEY, MIB, PART, Make, get, give, put
from proxy.model.errors import Code, Failure
from proxy.storage.base import ObjectMissing, Strays
from proxy.storage.s3 import S3Store
from proxy.storage.s3append import S3Appender
from proxy.storage.s3early import EARLY

EARLIER, LATER = 2 * MIB, 3 * MIB  # where the first stretch ends, and the second


def rows_of(store: S3Store) -> MemoryOpenObjects:
    assert isinstance(store._objects, MemoryOpenObjects)
    return store._objects


async def more(appender: S3Appender, start: int = EARLIER, stop: int = LATER) -> None:
    await appender.append(lambda: memoryview(DATA)[start:stop])


async def failure_of(work: Callable[[], Coroutine[Any, Any, None]]) -> Failure | None:
    try:
        await work()
    except Failure as failure:
        return failure
    return None


def made(line: FaultLine) -> list[str]:
    found = [request.split()[0] for request in line.requests]
    line.requests.clear()
    return found


async def test_rows_never_see_an_object_that_its_first_stretch_put(make: Make) -> None:
    store = make()
    await give(store, KEY, DATA, 0, EARLIER)
    assert await rows_of(store).open_object(KEY) is None
    assert await get(store, KEY) == DATA[:EARLIER]
    assert store.buffers.held == 0


async def test_bytes_that_come_after_all_take_the_object_back_once(make: Make, line: FaultLine) -> None:
    await give(make(), KEY, DATA, 0, EARLIER)
    line.requests.clear()
    await give(make(), KEY, DATA, EARLIER, LATER)
    assert made(line) == ["HEAD", "GET", "DELETE"]
    await give(make(), KEY, DATA, LATER, LATER + MIB)
    assert made(line) == []
    await (await make().resume(KEY, LATER + MIB)).finish()
    assert made(line) == ["PUT"]
    assert await get(make(), KEY) == DATA[: LATER + MIB]


async def test_a_closing_stretch_with_bytes_ends_in_one_object_of_all(make: Make) -> None:
    """Below a part, and beyond one."""
    for key, size in ((KEY, LATER), ("cd" * 16, len(DATA))):
        await give(make(), key, DATA, 0, EARLIER)
        store = make()
        await put(store, key, DATA[:size], start=EARLIER)
        assert await get(store, key) == DATA[:size]
        assert [stored.size async for stored in store.list()] == [LATER, len(DATA)][: 1 if key == KEY else 2]
        assert store.buffers.held == 0


async def test_a_full_part_is_not_put_early(make: Make, line: FaultLine) -> None:
    await give(make(), KEY, DATA, 0, PART)
    assert "POST" in made(line)
    await (await make().resume(KEY, PART)).finish()
    assert await get(make(), KEY) == DATA[:PART]


async def test_an_early_object_is_cut_inside(make: Make) -> None:
    """An append that was put and never recorded: its row stands before its end."""
    await give(make(), KEY, DATA, 0, LATER)
    store = make()
    await put(store, KEY, DATA[:EARLIER] + b"other", start=EARLIER)
    assert await get(store, KEY) == DATA[:EARLIER] + b"other"
    assert store.buffers.held == 0


@pytest.mark.parametrize("lost", [False, True], ids=["never done", "done, answer lost"])
async def test_a_pause_that_meets_an_outage_keeps_its_bytes_in_rows(make: Make, line: FaultLine, lost: bool) -> None:
    """Whether or not an object lies in the way, the next stretch goes on."""
    first = await make(patience=0.5).begin(KEY)
    await more(first, 0, EARLIER)
    if lost:
        line.lose_answers, line.lose_to = 1000, b"PUT /"
    else:
        line.mode = "refuse"
    await first.pause()
    line.mode, line.lose_answers = "open", 0
    await put(make(), KEY, DATA[:LATER], start=EARLIER)
    assert await get(make(), KEY) == DATA[:LATER]


@pytest.mark.parametrize("request_line", [b"HEAD /", b"GET /", b"DELETE /"])
@pytest.mark.parametrize("done", [False, True], ids=["never done", "done, answer lost"])
async def test_a_worker_that_dies_taking_an_object_back_leaves_it_to_the_next(
    make: Make, line: FaultLine, request_line: bytes, done: bool
) -> None:
    """At each of its requests to the store: it never comes to the next one."""
    await give(make(), KEY, DATA, 0, EARLIER)
    if done:
        line.lose_answers, line.lose_to = 1000, request_line
    else:
        line.false_answers, line.false_to, line.false_pass = 1000, request_line, False
        line.false_answer = (b"403 Forbidden", b"AccessDenied")
    store = make(patience=0.3)
    with pytest.raises(Failure) as failed:
        await more(await store.resume(KEY, EARLIER))
    assert failed.value.code is Code.STORE_UNAVAILABLE
    line.lose_answers = line.false_answers = 0
    await put(make(), KEY, DATA[:LATER], start=EARLIER)
    assert await get(make(), KEY) == DATA[:LATER]


@pytest.mark.parametrize("call", range(4))
async def test_rows_that_fail_while_an_object_is_taken_back_leave_it_to_the_next(
    make: Make, monkeypatch: pytest.MonkeyPatch, call: int
) -> None:
    """At each of the writes to them; what the failed stretch held is free again."""
    await give(make(), KEY, DATA, 0, EARLIER)
    store = make()
    keep, calls = MemoryOpenObjects.keep_open_object, 0

    async def fails(self: MemoryOpenObjects, *of: object, **what: object) -> None:
        nonlocal calls
        calls += 1
        if calls > call:
            raise Failure(Code.METADATA_UNAVAILABLE, "on purpose")
        await keep(self, *of, **what)  # type: ignore[arg-type]  # passed through

    appender = await store.resume(KEY, EARLIER)
    with monkeypatch.context() as broken:
        broken.setattr(MemoryOpenObjects, "keep_open_object", fails)
        failures = [await failure_of(work) for work in (lambda: more(appender), appender.pause)]
    assert calls > call
    assert Failure in map(type, failures)
    assert store.buffers.held == 0
    await put(make(), KEY, DATA[:LATER], start=EARLIER)
    assert await get(make(), KEY) == DATA[:LATER]


@pytest.mark.parametrize("seconds", [0.0, 0.002, 0.005, 0.01, 0.02, 0.04])
@pytest.mark.parametrize("verb", ["pause", "append", "cut"])
async def test_a_cancelled_stretch_holds_nothing_and_the_next_goes_on(make: Make, verb: str, seconds: float) -> None:
    store = make()
    appender: S3Appender | None = await store.begin(KEY)
    assert appender is not None
    await more(appender, 0, EARLIER)
    if verb != "pause":
        await appender.pause()
        appender = None if verb == "cut" else await store.resume(KEY, EARLIER)
    works: dict[str, Callable[[], Coroutine[Any, Any, S3Appender | None]]] = {
        "pause": lambda: appender.pause(),  # type: ignore[union-attr]  # it is there then, and gives nothing
        "append": lambda: more(appender),  # type: ignore[arg-type]  # as above
        "cut": lambda: store.resume(KEY, MIB),
    }
    task = asyncio.ensure_future(works[verb]())
    await asyncio.sleep(seconds)
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        appender = await task or appender
    if appender is not None:
        await appender.pause()
    assert store.buffers.held == 0
    start = MIB if verb == "cut" else EARLIER
    await put(make(), KEY, DATA[:LATER], start=start)
    assert await get(make(), KEY) == DATA[:LATER]


async def test_a_late_early_put_never_replaces_its_successors(make: Make) -> None:
    """Both began before either had put; a successor that was late itself is told to begin again."""
    one, other = await make().begin(KEY), await make().begin(KEY)
    await more(one, 0, EARLIER)
    await more(other, MIB, LATER)
    await one.pause()
    with pytest.raises(ObjectMissing):
        await other.pause()
    await other.abandon()
    assert await get(make(), KEY) == DATA[:EARLIER]


async def test_a_session_that_never_counted_the_early_object_begins_anew(make: Make) -> None:
    await give(make(), KEY, DATA, 0, EARLIER)
    with pytest.raises(Failure, match="already"):
        await make().begin(KEY)
    again = await make().resume(KEY, 0)
    await more(again, MIB, LATER)
    await again.finish()
    assert await get(make(), KEY) == DATA[MIB:LATER]


async def test_rows_of_an_early_object_are_no_strays_and_go_with_it(make: Make, line: FaultLine) -> None:
    """They hold what the object in their way does not."""
    first = await make(patience=0.3).begin(KEY)
    await more(first, 0, EARLIER)
    line.lose_answers, line.lose_to = 1000, b"PUT /"
    await first.pause()
    line.lose_answers = 0
    store = make()
    [kept] = await rows_of(store).open_objects("", 9)
    assert (kept.upload_id, kept.stored_size) == (EARLY, EARLIER)
    assert await store.remove_strays(time.time() + 60) == Strays()
    assert await store.delete(KEY)
    assert [stored async for stored in store.list()] == []
