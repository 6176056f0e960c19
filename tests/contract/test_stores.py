"""What every object store must do, said once. A store joins by one factory in `STORES`.

A factory gets an empty folder for its own use, and the test's request for whatever server it needs, and returns a
store.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
import threading
import time
import uuid
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest

from proxy.storage.base import Into, ObjectMissing, ObjectStore, Production, Strays
from proxy.storage.cache.store import CachedStore
from proxy.storage.filesystem.store import FilesystemStore
from proxy.storage.s3.bucket import Bucket
from proxy.storage.s3.conditions import ALL
from proxy.storage.s3.store import S3Store
from support.append_inputs import both
from support.memory_open_objects import MemoryOpenObjects
from support.memory_store import MemoryStore
from support.seaweed import Seaweed


def s3_store(folder: Path, request: pytest.FixtureRequest) -> ObjectStore:
    seaweed: Seaweed = request.getfixturevalue("seaweed")
    return S3Store(Bucket(seaweed.place(), conditions=ALL), MemoryOpenObjects(time.time), prefix=f"{uuid.uuid4().hex}/")


def cached(folder: Path, inner: ObjectStore) -> ObjectStore:
    """Extents of a page, so that small objects have several."""
    return CachedStore(inner, folder / "store" / "cache", 64 * 2**20, extent=4096)


STORES: dict[str, Callable[[Path, pytest.FixtureRequest], ObjectStore]] = {
    "filesystem": lambda folder, request: FilesystemStore(folder / "store"),
    "memory": lambda folder, request: MemoryStore(),  # the fake of other rooms' tests is held to the same
    "s3": s3_store,
    "cached filesystem": lambda folder, request: cached(folder, FilesystemStore(folder / "store")),
    "cached memory": lambda folder, request: cached(folder, MemoryStore()),
    "cached s3": lambda folder, request: cached(folder, s3_store(folder, request)),
}


def key(number: int = 1) -> str:
    """Keys spread over the key space, in an order that is not that of their numbers."""
    return hashlib.sha256(str(number).encode()).hexdigest()[:32]


@pytest.fixture(params=list(STORES))
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[ObjectStore]:
    opened = STORES[request.param](tmp_path, request)
    yield opened
    await opened.close()


@pytest.fixture(autouse=True)
def no_descriptor_left() -> Iterator[None]:
    """Every test ends with as many open files as it began with."""
    before = set(os.listdir("/proc/self/fd"))
    yield
    left = {fd: where for fd in set(os.listdir("/proc/self/fd")) - before if (where := _target(fd))}
    assert not {where for where in left.values() if "/store/" in where}


def _target(fd: str) -> str:
    try:
        return os.readlink(f"/proc/self/fd/{fd}")
    except FileNotFoundError:
        return ""


def gives(content: bytes) -> Callable[[], memoryview]:
    return lambda: memoryview(content)


async def put(store: ObjectStore, name: str, *pieces: bytes) -> None:
    appender = await store.begin(name)
    for piece in pieces:
        await appender.append(gives(piece))
    await appender.finish()


async def get(store: ObjectStore, name: str, *, fresh: bool = False) -> bytes:
    async with await store.open(name, fresh=fresh) as reader:
        content = bytearray(reader.size + 1)
        length = await reader.read_into(memoryview(content), 0)
    return bytes(content[:length])


async def names(store: ObjectStore, after: str = "") -> list[str]:
    return [stored.key async for stored in store.list(after)]


async def test_what_was_appended_is_read_back(store: ObjectStore) -> None:
    """Appends are stored one after the other, and `offset` counts them."""
    appender = await store.begin(key())
    assert appender.offset == 0
    assert await appender.append(gives(b"abc")) == 3
    assert await appender.append(gives(b"")) == 0
    assert await appender.append(gives(b"defg")) == 4
    assert appender.offset == 7
    await appender.finish()
    assert await get(store, key()) == b"abcdefg"
    assert await get(store, key(), fresh=True) == b"abcdefg"


async def test_either_way_to_produce_brings_the_same_bytes(store: ObjectStore) -> None:
    """One of the two is run, once; a store that gathers may give its own buffer, of just the stated size."""
    ways: list[str] = []

    def produce() -> memoryview:
        ways.append("given")
        return memoryview(b"abc")

    def produce_into(room: memoryview, made: Callable[[memoryview], None]) -> None:
        ways.append("into")
        assert len(room) == 3
        room[:] = b"abc"
        made(room[:1])
        made(room[1:])

    appender = await store.begin(key())
    for _ in range(3):
        assert await appender.append(produce, Into(3, produce_into)) == 3
    await appender.finish()
    assert len(ways) == 3
    assert await get(store, key()) == b"abcabcabc"


async def test_what_is_appended_in_one_hop_lies_there_piece_by_piece(store: ObjectStore) -> None:
    """Each piece is stored before the next is asked for, in the same buffer."""
    appender = await store.begin(key())
    await appender.append(gives(b"first, "))
    buffer, threads = bytearray(5), list[int]()
    pieces = iter([b"12345", b"67", b"", b"89abc"])

    def following() -> Production | None:
        threads.append(threading.get_ident())
        piece = next(pieces, None)
        if piece is None:
            return None
        buffer[: len(piece)] = piece
        return both(memoryview(buffer)[: len(piece)])

    assert await appender.append_each(following) == 12
    assert await appender.append_each(lambda: None) == 0
    await appender.append(gives(b", last"))
    assert appender.offset == 25
    await appender.finish()
    assert await get(store, key()) == b"first, 123456789abc, last"
    assert len({*threads, threading.get_ident()}) == 2


async def test_a_hop_that_fails_in_its_middle_leaves_the_appender_broken(store: ObjectStore) -> None:
    """What it had stored by then is cut off by `pause`."""
    appender = await store.begin(key())
    await appender.append(gives(b"kept"))
    pieces = [b"gone"]

    def following() -> Production:
        if not pieces:
            raise ZeroDivisionError("on purpose")
        return both(memoryview(pieces.pop()))

    with pytest.raises(ZeroDivisionError):
        await appender.append_each(following)
    await appender.pause()
    appender = await store.resume(key(), 4)
    await appender.finish()
    assert await get(store, key()) == b"kept"


async def test_an_empty_object_exists(store: ObjectStore) -> None:
    await put(store, key())
    assert await get(store, key()) == b""


async def test_produce_runs_off_the_event_loop(store: ObjectStore) -> None:
    threads: list[int] = []

    def produce() -> memoryview:
        threads.append(threading.get_ident())
        return memoryview(b"x")

    appender = await store.begin(key())
    await appender.append(produce)
    await appender.abandon()
    assert threads
    assert threads[0] != threading.get_ident()


async def test_what_produce_raises_reaches_the_caller(store: ObjectStore) -> None:
    """It comes as it is, and the object can still be given up."""

    def produce() -> memoryview:
        raise ZeroDivisionError("on purpose")

    appender = await store.begin(key())
    with pytest.raises(ZeroDivisionError, match="on purpose"):
        await appender.append(produce)
    await appender.abandon()
    with pytest.raises(ObjectMissing):
        await store.open(key())


async def test_the_buffer_is_the_callers_after_append(store: ObjectStore) -> None:
    """A buffer overwritten as soon as `append` returns does not change what was stored."""
    buffer = bytearray(300_000)
    appender = await store.begin(key())
    for fill in (1, 2, 3):
        buffer[:] = bytes([fill]) * len(buffer)
        await appender.append(lambda: memoryview(buffer))
    buffer[:] = bytes(len(buffer))
    await appender.finish()
    assert await get(store, key()) == b"\1" * 300_000 + b"\2" * 300_000 + b"\3" * 300_000


@pytest.mark.parametrize(
    ("offset", "length", "expected"),
    [
        (0, 10, b"0123456789"),
        (3, 4, b"3456"),
        (8, 4, b"89"),
        (10, 4, b""),
        (99, 4, b""),
        (4, 0, b""),
    ],
    ids=["whole", "middle", "over the end", "at the end", "beyond the end", "nothing"],
)
async def test_a_range_is_read(store: ObjectStore, offset: int, length: int, expected: bytes) -> None:
    """Reads are short only at the object's end, and touch no byte of the view beyond what they return."""
    await put(store, key(), b"0123456789")
    async with await store.open(key()) as reader:
        assert reader.size == 10
        view = bytearray(b"." * length)
        assert await reader.read_into(memoryview(view), offset) == len(expected)
        assert bytes(view) == expected.ljust(length, b".")


@pytest.mark.parametrize(
    "name",
    ["", "../../etc/passwd", "A" * 32, "a" * 31, "a" * 33, "a" * 31 + "\n", "a" * 32 + "\n", "a" * 31 + "/", "é" * 32],
)
async def test_anything_but_a_key_is_refused(store: ObjectStore, name: str) -> None:
    for ask in (store.begin(name), store.resume(name, 0), store.open(name), store.delete(name)):
        with pytest.raises(ValueError, match="not an object key"):
            await ask


async def test_an_existing_key_is_never_clobbered(store: ObjectStore) -> None:
    """`begin` on a key that exists fails, whether it is finished or not, and changes nothing."""
    await put(store, key(), b"first")
    with pytest.raises(Exception, match="already"):
        await store.begin(key())
    assert await get(store, key()) == b"first"


async def test_a_paused_object_goes_on_at_its_offset(store: ObjectStore) -> None:
    appender = await store.begin(key())
    await appender.append(gives(b"kept "))
    await appender.pause()
    appender = await store.resume(key(), 5)
    assert appender.offset == 5
    await appender.append(gives(b"and more"))
    await appender.finish()
    assert await get(store, appender.key) == b"kept and more"


@pytest.mark.parametrize("size", [5, 11_000_000])
async def test_what_may_be_all_is_gone_on_with_cut_and_finished_whether_it_is_whole_or_not(
    store: ObjectStore, size: int
) -> None:
    """Less than a part of S3, and more; whole, it is what a finish leaves."""
    content = random.Random(size).randbytes(size)
    for number, (kept, more) in enumerate([(size, b""), (size, b"and more"), (size // 2, b"other"), (1, b"")]):
        appender = await store.begin(key(number))
        for at in range(0, size, 1_000_000):
            await appender.append(gives(content[at : at + 1_000_000]))
        if await appender.pause(whole=True):
            assert await get(store, key(number)) == content
        appender = await store.resume(key(number), kept)
        if more:
            await appender.append(gives(more))
        await appender.finish()
        assert await get(store, appender.key) == content[:kept] + more


async def test_resume_drops_what_lies_past_the_offset(store: ObjectStore) -> None:
    """An append that its session never recorded leaves no byte behind."""
    appender = await store.begin(key())
    await appender.append(gives(b"recorded"))
    await appender.append(gives(b"never recorded, and longer than what follows"))
    await appender.pause()
    appender = await store.resume(key(), 8)
    await appender.append(gives(b"!"))
    await appender.finish()
    assert await get(store, appender.key) == b"recorded!"


async def test_resume_says_that_the_tail_is_lost(store: ObjectStore) -> None:
    """A session that recorded more than the store holds, or whose object is gone, gets ObjectMissing."""
    appender = await store.begin(key())
    await appender.append(gives(b"short"))
    await appender.pause()
    with pytest.raises(ObjectMissing):
        await store.resume(key(), 6)
    with pytest.raises(ObjectMissing):
        await store.resume(key(2), 0)


async def test_abandon_leaves_nothing(store: ObjectStore) -> None:
    """Also when it is called twice."""
    appender = await store.begin(key())
    await appender.append(gives(b"bytes"))
    await appender.abandon()
    await appender.abandon()
    assert await names(store) == []
    with pytest.raises(ObjectMissing):
        await store.open(key())
    assert not await store.delete(key())


async def test_abandoning_a_stretch_that_went_on_leaves_the_object_as_it_was(store: ObjectStore) -> None:
    """Whether it was finished before, or paused."""
    appender = await store.begin(key())
    await appender.append(gives(b"recorded"))
    await appender.pause()
    for _ in range(2):
        appender = await store.resume(key(), 8)
        await appender.append(gives(b", never recorded"))
        await appender.abandon()
        await appender.abandon()
    appender = await store.resume(key(), 8)
    await appender.append(gives(b"!"))
    await appender.finish()
    assert await get(store, appender.key) == b"recorded!"


async def test_abandon_after_finish_or_pause_keeps_the_object(store: ObjectStore) -> None:
    await put(store, key(1), b"finished")
    appender = await store.begin(key(2))
    await appender.append(gives(b"finished"))
    await appender.finish()
    await appender.abandon()
    assert await get(store, key(2)) == b"finished"
    appender = await store.begin(key(3))
    await appender.append(gives(b"paused"))
    await appender.pause()
    await appender.abandon()
    await (await store.resume(key(3), 6)).finish()
    assert await get(store, key(3)) == b"paused"


async def test_delete_takes_any_object_once(store: ObjectStore) -> None:
    """Finished or paused; it says whether there was one."""
    await put(store, key(1), b"finished")
    appender = await store.begin(key(2))
    await appender.append(gives(b"paused"))
    await appender.pause()
    for name in (key(1), key(2)):
        assert await store.delete(name)
        assert not await store.delete(name)
    assert await names(store) == []


async def test_an_open_reader_outlives_the_deletion_or_fails_clearly(store: ObjectStore) -> None:
    """What it reads is the object's bytes, never another's."""
    await put(store, key(), b"still here")
    async with await store.open(key()) as reader:
        await store.delete(key())
        view = bytearray(10)
        try:
            length = await reader.read_into(memoryview(view), 0)
        except ObjectMissing:
            return
        assert bytes(view[:length]) == b"still here"


async def test_list_is_in_key_order_and_can_go_on(store: ObjectStore) -> None:
    """Every page begins beyond the key it was given, which need not exist."""
    for number in range(60):
        await put(store, key(number), b"x" * number)
    expected = sorted(key(number) for number in range(60))
    assert await names(store) == expected
    for after in (expected[0], expected[30], expected[59], "8" * 32, "0" * 32, "f" * 32):
        assert await names(store, after) == [name for name in expected if name > after]
    sizes = {stored.key: stored.size async for stored in store.list()}
    assert sizes == {key(number): number for number in range(60)}


async def test_list_tells_ages(store: ObjectStore) -> None:
    """Two objects made one after the other have modification times in that order, near each other."""
    await put(store, key(1), b"a")
    await put(store, key(2), b"b")
    ages = {stored.key: stored.modified_at async for stored in store.list()}
    assert 0 <= ages[key(2)] - ages[key(1)] < 60


async def test_a_cancelled_append_lets_go_of_the_buffer(store: ObjectStore) -> None:
    """When `abandon` returns, the thread that produced has ended, however often it was cancelled."""
    started, go_on, ended = threading.Event(), threading.Event(), threading.Event()

    def produce() -> memoryview:
        started.set()
        go_on.wait(10)
        ended.set()
        return memoryview(b"late")

    appender = await store.begin(key())
    append = asyncio.ensure_future(appender.append(produce))
    await asyncio.to_thread(started.wait, 10)
    append.cancel()
    with pytest.raises(asyncio.CancelledError):
        await append
    abandon = asyncio.ensure_future(appender.abandon())
    await asyncio.sleep(0)
    abandon.cancel()
    done, _ = await asyncio.wait((abandon,), timeout=0.3)
    assert not done
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await abandon
    assert ended.is_set()
    assert await names(store) == []


async def test_a_paused_object_holds_nothing_of_a_cancelled_append(store: ObjectStore) -> None:
    """What a cancelled append wrote is not there for `resume`."""
    started, go_on = threading.Event(), threading.Event()

    def produce() -> memoryview:
        started.set()
        go_on.wait(10)
        return memoryview(b"late")

    appender = await store.begin(key())
    await appender.append(gives(b"in time"))
    append = asyncio.ensure_future(appender.append(produce))
    await asyncio.to_thread(started.wait, 10)
    append.cancel()
    with pytest.raises(asyncio.CancelledError):
        await append
    go_on.set()
    await appender.pause()
    assert appender.offset == 7
    with pytest.raises(ObjectMissing):
        await store.resume(key(), 8)
    await (await store.resume(key(), 7)).finish()
    assert await get(store, key()) == b"in time"


@pytest.mark.parametrize("yields", range(4))
@pytest.mark.parametrize("verb", ["begin", "resume", "open", "finish", "pause", "check"])
async def test_a_cancelled_call_leaves_no_open_file(store: ObjectStore, verb: str, yields: int) -> None:
    """Cancelled after any number of turns of the loop (the fixture counts descriptors); the store goes on."""
    if verb in ("resume", "open"):
        await put(store, key(), b"there")
    appender = await store.begin(key()) if verb in ("finish", "pause") else None
    calls: dict[str, Callable[[], Coroutine[Any, Any, Any]]] = {
        "begin": lambda: store.begin(key()),
        "resume": lambda: store.resume(key(), 2),
        "open": lambda: store.open(key()),
        "check": store.check,
    }
    if appender is not None:
        calls |= {"finish": appender.finish, "pause": appender.pause}
    task = asyncio.ensure_future(calls[verb]())
    for _ in range(yields):
        await asyncio.sleep(0)
    task.cancel()
    try:
        made = await task
    except asyncio.CancelledError:
        made = None
    if made is not None and appender is None:
        await (made.close() if verb == "open" else made.abandon())
    if appender is not None:
        await appender.abandon()
    await put(store, key(2), b"goes on")
    assert await get(store, key(2)) == b"goes on"


async def test_many_streams_at_once_do_not_mix(store: ObjectStore) -> None:
    """More writers and readers than the store has threads, each with its own bytes."""

    async def one(number: int) -> None:
        piece = bytes([number]) * 70_001
        await put(store, key(number), piece, piece)
        assert await get(store, key(number)) == piece * 2

    await asyncio.gather(*(one(number) for number in range(50)))


async def test_check_passes_and_leaves_nothing(store: ObjectStore) -> None:
    await store.check()
    assert await names(store) == []


async def test_no_stray_is_taken_of_what_is_whole_or_goes_on(store: ObjectStore) -> None:
    """However old they are."""
    await put(store, key(1), b"whole")
    appender = await store.begin(key(2))
    await appender.append(gives(b"going "))
    await appender.pause()
    assert await store.remove_strays(time.time() + 3600) == Strays()
    appender = await store.resume(key(2), 6)
    await appender.append(gives(b"on"))
    await appender.finish()
    assert await get(store, key(1)) == b"whole"
    assert await get(store, appender.key) == b"going on"
