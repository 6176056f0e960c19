"""Two threads that hash at once do it together, and each digest is what it would have been alone."""

from __future__ import annotations

import hashlib
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

native = pytest.importorskip("_speedups.native", reason="needs _speedups.native", exc_type=ModuleNotFoundError)

FROM = 64 * 1024  # bytes of one update from which on threads meet
AFTER = 2 * 2**20  # bytes of a message from which on they do
BEGUN = random.Random(0).randbytes(AFTER - FROM)  # whole blocks, so that a piece is hashed at once
LONG = 60.0  # seconds: who waits so long for nobody fails its test by its time


@pytest.fixture(autouse=True)
def as_it_is_by_itself() -> Iterator[None]:
    if not native.together_gain():
        pytest.skip("no instructions for two messages at once on this CPU")
    yield
    native.set_waiting(False)


def hashed_at_once(messages: Sequence[Sequence[bytes]]) -> list[bytes]:
    """The digest of BEGUN and each message, given piece by piece by a thread of its own."""
    hashers = [long_one() for _ in messages]
    begin = threading.Barrier(len(messages))

    def work(number: int) -> None:
        begin.wait()
        for piece in messages[number]:
            hashers[number].update(piece)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(len(messages))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [hasher.digest() for hasher in hashers]


def long_one() -> Any:
    hasher = native.sha256()
    hasher.update(BEGUN)
    return hasher


def digests(messages: Sequence[Sequence[bytes]]) -> list[bytes]:
    return [hashlib.sha256(b"".join([BEGUN, *message])).digest() for message in messages]


def pieces_of(seed: int, count: int) -> list[bytes]:
    """Of many lengths, on both sides of what makes threads meet, and of no whole number of blocks."""
    chosen = random.Random(seed)
    return [chosen.randbytes(chosen.choice([1, 63, 64, FROM - 1, FROM, FROM + 1, 3 * FROM + 17])) for _ in range(count)]


def test_each_of_two_gets_its_own_digest_and_they_do_meet() -> None:
    native.set_waiting(True, LONG)
    before = native.meetings()
    messages = [[random.Random(seed).randbytes(4 * FROM)] for seed in range(2)]
    assert hashed_at_once(messages) == digests(messages)
    assert native.meetings() == before + 1


@pytest.mark.parametrize("threads", [2, 3, 5])
def test_messages_of_any_lengths_met_or_not_have_their_digests(threads: int) -> None:
    """Where one has hashed its shorter piece the other goes on alone."""
    native.set_waiting(True, 0.0005)
    messages = [pieces_of(seed, 60) for seed in range(threads)]
    assert hashed_at_once(messages) == digests(messages)


def test_whoever_waits_in_vain_hashes_alone() -> None:
    native.set_waiting(True, 0.02)
    before, began = native.meetings(), time.monotonic()
    messages = [[bytes(FROM)]]
    assert hashed_at_once(messages) == digests(messages)
    assert time.monotonic() - began >= 0.02
    assert native.meetings() == before


def test_one_that_is_alone_never_waits() -> None:
    """Whichever threads it goes through. Did it wait, the time of this test would be over."""
    native.set_waiting(False, LONG)
    hasher, piece = long_one(), bytes(FROM)
    for _ in range(8):
        thread = threading.Thread(target=hasher.update, args=(piece,))
        thread.start()
        thread.join()
    assert hasher.digest() == hashlib.sha256(BEGUN + piece * 8).digest()


def test_one_thread_with_many_messages_never_waits() -> None:
    native.set_waiting(False, LONG)
    messages = [[bytes([number]) * FROM] for number in range(20)]
    found = []
    for message in messages:
        hasher = long_one()
        hasher.update(message[0])
        found.append(hasher.digest())
    assert found == digests(messages)


def test_those_for_whom_nobody_comes_wait_less_and_less() -> None:
    """A stream beside one that comes too late each time."""
    native.set_waiting(False, 0.05)
    hasher, other, piece = long_one(), long_one(), bytes(FROM)
    began = time.monotonic()
    for _ in range(200):
        thread = threading.Thread(target=other.update, args=(piece,))
        thread.start()
        thread.join()
        hasher.update(piece)
    assert time.monotonic() - began < 200 * 0.05
    assert hasher.digest() == other.digest() == hashlib.sha256(BEGUN + piece * 200).digest()


def test_cores_are_short_while_a_thread_that_hashes_is_driven_off_its_own() -> None:
    """By a process that wants the same one; and no longer once nobody hashes. Also on a CPU that gains too little by
    two at once to do it by itself."""
    native.set_waiting(True, 0.0)
    core, hasher, piece = min(os.sched_getaffinity(0)), long_one(), bytes(2**20)
    allowed = os.sched_getaffinity(0)
    spinning = subprocess.Popen(
        [sys.executable, "-c", f"import os; os.sched_setaffinity(0, {{{core}}})\nwhile True: pass"]
    )
    try:
        os.sched_setaffinity(0, {core})
        until = time.monotonic() + LONG / 2
        while not native.crowded() and time.monotonic() < until:
            hasher.update(piece)
        assert native.crowded()
    finally:
        os.sched_setaffinity(0, allowed)
        spinning.kill()
        spinning.wait()
    while native.crowded():
        assert time.monotonic() < until
        time.sleep(0.01)


def test_short_pieces_and_short_messages_are_hashed_at_once() -> None:
    native.set_waiting(True, LONG)
    hasher, short, piece = long_one(), native.sha256(), bytes(FROM - 1)
    hasher.update(piece)
    assert hasher.digest() == hashlib.sha256(BEGUN + piece).digest()
    short.update(BEGUN)
    assert short.digest() == hashlib.sha256(BEGUN).digest()


def test_an_exported_state_goes_on_together() -> None:
    native.set_waiting(True, LONG)
    halves = [random.Random(seed).randbytes(FROM) for seed in range(2)]
    first = long_one()
    hashers = [native.resume(first.export()) for _ in halves]
    threads = [
        threading.Thread(target=hasher.update, args=(half,)) for hasher, half in zip(hashers, halves, strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [hasher.digest() for hasher in hashers] == [hashlib.sha256(BEGUN + half).digest() for half in halves]


@pytest.mark.parametrize("kind", ["Sha256", "Sha512"])
def test_a_hasher_is_made_by_its_function_alone(kind: str) -> None:
    """Made otherwise it would have no state, and end the process when it hashes."""
    with pytest.raises(TypeError, match=r"sha\d+\(\) and resume\(\)"):
        getattr(native, kind)()
