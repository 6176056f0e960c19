"""Objects that are whole when their first stretch pauses, and never written again: bytes that come after all, cuts,
cancellations, and late writers."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from proxy.model.errors import Code, Failure
from proxy.storage.base import ObjectMissing
from proxy.storage.s3.append import S3Appender
from proxy.storage.s3.store import S3Store
from support.fault_proxy import FaultProxy
from support.memory_open_objects import MemoryOpenObjects
from support.s3_objects import DATA, KEY, MIB, PART, Make, get, give, put

EARLIER, LATER = 2 * MIB, 3 * MIB  # where the first stretch ends, and the second
of_both_kinds = pytest.mark.parametrize("earlier", [EARLIER, 2 * PART + EARLIER], ids=["small", "in parts"])


def rows_of(store: S3Store) -> MemoryOpenObjects:
    assert isinstance(store._objects, MemoryOpenObjects)
    return store._objects


async def more(appender: S3Appender, start: int = EARLIER, stop: int = LATER) -> None:
    await appender.append(lambda: memoryview(DATA)[start:stop])


async def failure_of(work: Callable[[], Coroutine[Any, Any, object]]) -> Failure | None:
    try:
        await work()
    except Failure as failure:
        return failure
    return None


def made(line: FaultProxy) -> list[str]:
    found = [request.split()[0] for request in line.requests]
    line.requests.clear()
    return found


@pytest.mark.parametrize("size", [1, EARLIER, PART - 1, PART, PART + 1, 2 * PART, 2 * PART + EARLIER])
async def test_rows_never_see_an_object_that_its_first_stretch_put(make: Make, size: int) -> None:
    store = make()
    assert (await give(store, KEY, DATA, 0, size, whole=True)).whole
    assert await rows_of(store).open_object(KEY) is None
    assert await get(store, KEY) == DATA[:size]
    assert [stored.size async for stored in store.list()] == [size]
    assert store.buffers.held == 0


async def test_an_object_in_parts_is_put_together_once_and_closing_it_asks_where_it_is(
    make: Make, line: FaultProxy
) -> None:
    await give(make(), KEY, DATA, 0, 2 * PART + EARLIER, whole=True)
    assert made(line) == ["HEAD", "POST", "PUT", "PUT", "PUT", "POST"]  # at first whether something lies there
    await (await make().resume(KEY, 2 * PART + EARLIER)).finish()
    assert made(line) == ["HEAD"]


async def test_what_is_not_all_or_too_large_goes_into_rows(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """A small object all the same is put at once: it costs no more."""
    for whole, size, early in ((False, PART, False), (True, PART, False), (False, EARLIER, True)):
        store, key = make(), f"{size + whole:032x}"
        monkeypatch.setattr("proxy.storage.s3.append.EARLY_MOST", PART - 1)
        assert (await give(store, key, DATA, 0, size, whole=whole)).whole is early
        assert (await rows_of(store).open_object(key) is None) is early


async def test_what_rows_know_already_stays_theirs(make: Make) -> None:
    """A client that stalled in the middle: its bytes went there."""
    store = make(stall_seconds=0.05)
    appender = await store.begin(KEY)
    await more(appender, 0, PART)
    await more(appender, PART, PART + EARLIER)
    async with asyncio.timeout(10):
        while await rows_of(store).open_object(KEY) is None:  # noqa: ASYNC110 - nothing tells of it
            await asyncio.sleep(0.01)
    assert not await appender.pause(whole=True)
    await put(make(), KEY, DATA, start=PART + EARLIER)
    assert await get(make(), KEY) == DATA


@pytest.mark.parametrize("stop", [PART, PART + 1, 2 * PART, 2 * PART + EARLIER])
async def test_bytes_that_come_after_all_make_parts_of_a_large_object_again_once(
    make: Make, line: FaultProxy, stop: int
) -> None:
    await give(make(), KEY, DATA, 0, stop, whole=True)
    line.requests.clear()
    key = (await give(make(), KEY, DATA, stop, stop + MIB, whole=True)).key
    assert made(line) == ["HEAD", "GET", "POST", *["PUT"] * (stop // PART)]
    await give(make(), key, DATA, stop + MIB, stop + 2 * MIB)
    assert made(line) == []
    await put(make(), key, DATA, start=stop + 2 * MIB)
    assert await get(make(), key) == DATA
    store = make()
    assert sorted([stored.size async for stored in store.list()]) == [stop, len(DATA)]


@pytest.mark.parametrize("lost", [False, True], ids=["never done", "done, answer lost"])
async def test_an_object_that_could_not_be_put_together_leaves_nothing_and_begins_anew(
    make: Make, line: FaultProxy, lost: bool
) -> None:
    first = await make(retry_seconds=0.5).begin(KEY)
    await more(first, 0, PART + EARLIER)
    if lost:
        line.lose_answers, line.lose_to = 1000, b"POST /"
    else:
        line.false_answers, line.false_to, line.false_pass = 1000, b"POST /", False
        line.false_answer = (b"500 Internal Server Error", b"InternalError")
    with pytest.raises(Failure) as failed:
        await first.pause(whole=True)
    assert failed.value.code is Code.STORE_UNAVAILABLE
    line.lose_answers = line.false_answers = 0
    store = make()
    assert [stored async for stored in store.list()] == []
    await put(store, KEY, DATA)
    assert await get(store, KEY) == DATA


async def test_bytes_that_come_after_all_go_on_under_a_new_key_once(make: Make, line: FaultProxy) -> None:
    await give(make(), KEY, DATA, 0, EARLIER)
    line.requests.clear()
    key = (await give(make(), KEY, DATA, EARLIER, LATER)).key
    assert made(line) == ["HEAD", "GET"]
    assert (await give(make(), key, DATA, LATER, LATER + MIB)).key == key != KEY
    assert made(line) == []
    await (await make().resume(key, LATER + MIB)).finish()
    assert made(line) == ["PUT"]
    assert await get(make(), key) == DATA[: LATER + MIB]
    assert await get(make(), KEY) == DATA[:EARLIER]


async def test_a_closing_stretch_with_bytes_ends_in_one_object_of_all(make: Make) -> None:
    """Below a part, and beyond one."""
    for key, size in ((KEY, LATER), ("cd" * 16, len(DATA))):
        await give(make(), key, DATA, 0, EARLIER)
        store = make()
        assert await get(store, await put(store, key, DATA[:size], start=EARLIER)) == DATA[:size]
        assert store.buffers.held == 0


async def test_a_full_part_is_not_put_early(make: Make, line: FaultProxy) -> None:
    await give(make(), KEY, DATA, 0, PART)
    assert "POST" in made(line)
    await (await make().resume(KEY, PART)).finish()
    assert await get(make(), KEY) == DATA[:PART]


@pytest.mark.parametrize(
    ("stop", "size"), [(EARLIER, LATER), (EARLIER, len(DATA)), (PART, len(DATA)), (2 * PART + EARLIER, len(DATA))]
)
async def test_a_finished_object_is_cut_inside(make: Make, stop: int, size: int) -> None:
    """An append that was put and never recorded: its row stands before its end."""
    await give(make(), KEY, DATA, 0, size, whole=True)
    store = make()
    key = await put(store, KEY, DATA[:stop] + b"other", start=stop)
    assert await get(store, key) == DATA[:stop] + b"other"
    assert store.buffers.held == 0


@pytest.mark.parametrize("lost", [False, True], ids=["never done", "done, answer lost"])
async def test_a_pause_that_meets_an_outage_keeps_its_bytes_in_rows_and_is_not_settled(
    make: Make, line: FaultProxy, lost: bool
) -> None:
    """Whether or not the object was put. The session's rows move to a new key then, so that it is in nobody's way."""
    first = await make(retry_seconds=0.5).begin(KEY)
    await more(first, 0, EARLIER)
    if lost:
        line.lose_answers, line.lose_to = 1000, b"PUT /"
    else:
        line.mode = "refuse"
    assert not await first.pause()
    assert not first.settled
    line.mode, line.lose_answers = "open", 0
    kept = await rows_of(make()).open_object(KEY)
    assert kept is not None
    assert (kept.stored_size, kept.upload_id) == (EARLIER, "")


@pytest.mark.parametrize(
    ("earlier", "request_line"),
    [
        *((EARLIER, verb) for verb in (b"HEAD /", b"GET /")),
        *((2 * PART + EARLIER, verb) for verb in (b"HEAD /", b"GET /", b"POST /", b"PUT /")),
    ],
)
@pytest.mark.parametrize("done", [False, True], ids=["never done", "done, answer lost"])
async def test_a_worker_that_dies_reading_an_object_back_leaves_it_to_the_next(
    make: Make, line: FaultProxy, earlier: int, request_line: bytes, done: bool
) -> None:
    """At each of its requests to the store: it never comes to the next one."""
    await give(make(), KEY, DATA, 0, earlier, whole=True)
    if done:
        line.lose_answers, line.lose_to = 1000, request_line
    else:
        line.false_answers, line.false_to, line.false_pass = 1000, request_line, False
        line.false_answer = (b"403 Forbidden", b"AccessDenied")
    store = make(retry_seconds=0.3)
    with pytest.raises(Failure) as failed:
        await more(await store.resume(KEY, earlier), earlier, earlier + MIB)
    assert failed.value.code is Code.STORE_UNAVAILABLE
    line.lose_answers = line.false_answers = 0
    key = await put(make(), KEY, DATA[: earlier + MIB], start=earlier)
    assert await get(make(), key) == DATA[: earlier + MIB]


@pytest.mark.parametrize(("earlier", "call"), [(EARLIER + kind, call) for kind in (0, 2 * PART) for call in range(3)])
async def test_rows_that_fail_while_an_object_goes_on_elsewhere_leave_it_to_the_next(
    make: Make, monkeypatch: pytest.MonkeyPatch, earlier: int, call: int
) -> None:
    """At each of the writes to them; what the failed stretch held is free again."""
    await give(make(), KEY, DATA, 0, earlier, whole=True)
    store = make()
    keep, calls = MemoryOpenObjects.keep_open_object, 0

    async def fails(self: MemoryOpenObjects, *of: object, **what: object) -> None:
        nonlocal calls
        calls += 1
        if calls > call:
            raise Failure(Code.METADATA_UNAVAILABLE, "on purpose")
        await keep(self, *of, **what)  # type: ignore[arg-type]  # passed through

    appender = await store.resume(KEY, earlier)
    with monkeypatch.context() as broken:
        broken.setattr(MemoryOpenObjects, "keep_open_object", fails)
        works = (lambda: more(appender, earlier, earlier + MIB), appender.pause)
        failures = [await failure_of(work) for work in works]
    assert calls > call
    assert Failure in map(type, failures)
    assert store.buffers.held == 0
    key = await put(make(), KEY, DATA[: earlier + MIB], start=earlier)
    assert await get(make(), key) == DATA[: earlier + MIB]


@pytest.mark.parametrize("seconds", [0.0, 0.002, 0.005, 0.01, 0.02, 0.04])
@pytest.mark.parametrize("verb", ["pause", "append", "cut"])
@of_both_kinds
async def test_a_cancelled_stretch_holds_nothing_and_the_next_goes_on(
    make: Make, verb: str, seconds: float, earlier: int
) -> None:
    store = make()
    appender: S3Appender | None = await store.begin(KEY)
    assert appender is not None
    await more(appender, 0, earlier)
    if verb != "pause":
        await appender.pause(whole=True)
        appender = None if verb == "cut" else await store.resume(KEY, earlier)
    works: dict[str, Callable[[], Coroutine[Any, Any, Any]]] = {
        "pause": lambda: appender.pause(whole=True),  # type: ignore[union-attr]  # it is there then
        "append": lambda: more(appender, earlier, earlier + MIB),  # type: ignore[arg-type]  # as above
        "cut": lambda: store.resume(KEY, earlier - MIB),
    }
    task = asyncio.ensure_future(works[verb]())
    await asyncio.sleep(seconds)
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        found = await task
        appender = found if verb == "cut" else appender
    if appender is not None:
        await appender.pause()
    assert store.buffers.held == 0
    start = earlier - MIB if verb == "cut" else earlier
    key = await put(make(), KEY, DATA[: earlier + MIB], start=start)
    assert await get(make(), key) == DATA[: earlier + MIB]


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


async def test_the_key_of_a_finished_object_is_never_begun_again(make: Make) -> None:
    await give(make(), KEY, DATA, 0, EARLIER)
    with pytest.raises(Failure, match="already"):
        await make().begin(KEY)


@pytest.mark.parametrize("size", [EARLIER, 2 * PART + EARLIER], ids=["small", "in parts"])
async def test_a_stretch_that_goes_on_elsewhere_and_is_abandoned_takes_what_it_made_with_it(
    make: Make, size: int
) -> None:
    await give(make(), KEY, DATA, 0, size, whole=True)
    store = make()
    appender = await store.resume(KEY, size)
    await more(appender, size, size + MIB)
    await appender.abandon()
    assert appender.key != KEY
    assert [(stored.key, stored.size) async for stored in store.list()] == [(KEY, size)]
    assert await get(store, KEY) == DATA[:size]
