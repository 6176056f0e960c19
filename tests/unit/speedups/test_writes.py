"""Writes behind, of every twin: what is written, what is told, and what happens to buffers."""

from __future__ import annotations

import errno
import gc
import os
import random
import select
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from _speedups import pure, writes

native = pytest.importorskip("_speedups.native", reason="needs _speedups.native", exc_type=ModuleNotFoundError)

PART = st.tuples(st.binary(max_size=300), st.integers(0, 400))  # bytes, and their offset
TWINS: dict[str, Any] = {"native": native.Writes, "pure": pure.Writes}


@pytest.fixture
def bell() -> Iterator[int]:
    fd = os.eventfd(0, os.EFD_NONBLOCK)
    yield fd
    os.close(fd)


@pytest.fixture
def file(tmp_path: Path) -> Iterator[int]:
    fd = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    yield fd
    os.close(fd)


@pytest.fixture(params=TWINS)
def made(request: pytest.FixtureRequest, bell: int) -> Iterator[Any]:
    found = TWINS[request.param](2, bell)
    yield found
    found.close()


def wait(bell: int) -> int:
    """How often it was rung."""
    assert select.select([bell], [], [], 10)[0], "the bell was not rung"
    return os.eventfd_read(bell)


def all_of(made: Any, bell: int, count: int) -> list[tuple[Any, int]]:
    found: list[tuple[Any, int]] = []
    while len(found) < count:
        ended = made.ended(tell=True)
        if not ended:
            wait(bell)
        found += ended
    return found


@pytest.mark.parametrize("twin", TWINS)
@given(
    pieces=st.lists(
        st.lists(st.tuples(st.binary(max_size=300), st.integers(0, 400)), min_size=1, max_size=4), max_size=8
    )
)
def test_a_file_holds_what_pwrite_would_have_put_there(twin: str, pieces: list[list[tuple[bytes, int]]]) -> None:
    """One after the other, by one thread: later parts lie over earlier ones."""
    with tempfile.TemporaryFile() as ours, tempfile.TemporaryFile() as theirs:
        bell = os.eventfd(0)
        made = TWINS[twin](1, bell)
        for number, parts in enumerate(pieces):
            made.give(number, ours.fileno(), parts)
            for data, at in parts:
                os.pwrite(theirs.fileno(), data, at)
        assert made.close() == [(number, 0) for number in range(len(pieces))]
        os.close(bell)
        assert os.pread(ours.fileno(), 10_000, 0) == os.pread(theirs.fileno(), 10_000, 0)


def test_what_has_ended_is_told_once_each_with_its_tag(made: Any, bell: int, file: int) -> None:
    """Many at once, in more threads than one, out of large buffers of any kind."""
    data = random.Random(1).randbytes(4_000_000)
    kinds = (bytes, bytearray, memoryview)
    for number in range(40):
        piece = data[number * 100_000 : number * 100_000 + 100_000]
        made.give(number, file, ((kinds[number % 3](piece), number * 100_000),))
    assert sorted(all_of(made, bell, 40)) == [(number, 0) for number in range(40)]
    assert os.pread(file, len(data) + 1, 0) == data
    assert made.ended() == []


def test_nothing_rings_for_who_did_not_ask(made: Any, bell: int, file: int) -> None:
    made.give("a", file, ((b"x", 0),))
    found: list[tuple[Any, int]] = []
    while not found:
        found = made.ended()
    assert found == [("a", 0)]
    with pytest.raises(BlockingIOError):
        os.eventfd_read(bell)


def test_the_bell_rings_once_for_the_next_that_ends(made: Any, bell: int) -> None:
    """Not for the one after it, until it is asked for again."""
    reading, writing = os.pipe()
    os.close(reading)
    assert made.ended(tell=True) == []
    made.give("a", writing, ((b"x", 0),))  # pwrite into a pipe: ESPIPE
    assert wait(bell) == 1
    made.give("b", writing, ((b"x", 0),))
    found: list[tuple[Any, int]] = []
    while len(found) < 2:
        found += made.ended()
    assert found == [("a", errno.ESPIPE), ("b", errno.ESPIPE)]
    with pytest.raises(BlockingIOError):
        os.eventfd_read(bell)
    os.close(writing)


def test_a_part_after_one_that_failed_is_not_begun(made: Any, bell: int, file: int) -> None:
    made.give("bad", file, ((b"first", 0), (b"no offset", -1), (b"never", 100)))
    assert all_of(made, bell, 1) == [("bad", errno.EINVAL)]
    assert os.pread(file, 200, 0) == b"first"


def test_a_full_disk_is_told_with_its_number(made: Any, bell: int) -> None:
    with open("/dev/full", "wb", buffering=0) as full:
        made.give(1, full.fileno(), ((b"x", 0),))
        assert all_of(made, bell, 1) == [(1, errno.ENOSPC)]


def test_buffers_are_held_until_it_is_told_and_then_let_go(made: Any, bell: int, file: int) -> None:
    buffer, tag = bytearray(100_000), object()
    before = sys.getrefcount(tag)
    made.give(tag, file, ((memoryview(buffer)[7:], 0), (b"y", 200_000)))
    with pytest.raises(BufferError):
        buffer.clear()
    assert all_of(made, bell, 1) == [(tag, 0)]
    buffer.clear()
    gc.collect()
    assert sys.getrefcount(tag) == before


@pytest.mark.parametrize("parts", [(), tuple((b"x", at) for at in range(writes.WRITE_PARTS + 1))], ids=len)
def test_too_few_parts_and_too_many_are_refused(made: Any, file: int, parts: tuple[tuple[bytes, int], ...]) -> None:
    with pytest.raises(ValueError, match="1 to 4 parts"):
        made.give(1, file, parts)


def test_what_is_no_buffer_is_refused_and_the_others_let_go(made: Any, file: int) -> None:
    buffer = bytearray(10)
    with pytest.raises(TypeError):
        made.give(1, file, ((buffer, 0), ("text", 0)))
    buffer.clear()
    assert made.ended() == []


def test_closing_waits_and_nothing_is_taken_after_it(made: Any, file: int) -> None:
    for number in range(20):
        made.give(number, file, ((bytes(300_000), 0),))
    assert sorted(made.close()) == [(number, 0) for number in range(20)]
    assert made.close() == []
    with pytest.raises(RuntimeError):
        made.give(1, file, ((b"x", 0),))


@pytest.mark.parametrize("twin", TWINS)
def test_no_threads_are_none(twin: str, bell: int) -> None:
    with pytest.raises(ValueError, match="at least one"):
        TWINS[twin](0, bell)


def test_a_native_one_that_nobody_closed_ends_with_its_last_reference(bell: int, file: int) -> None:
    """With what was given, and with its threads."""
    made = native.Writes(2, bell)
    before = len(os.listdir("/proc/self/task"))
    buffer = bytearray(b"kept")
    made.give(1, file, ((buffer, 0),))
    assert len(os.listdir("/proc/self/task")) == before + 1
    del made
    assert os.pread(file, 9, 0) == b"kept"
    assert len(os.listdir("/proc/self/task")) == before
    buffer.clear()
