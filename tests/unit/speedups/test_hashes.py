"""Every way we hash, held to hashlib and to each other. Ids name the twin."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import _speedups
from _speedups import Hasher, pure
from _speedups.state import SHA256, SHA512, StateParts, pack, unpack

native = pytest.importorskip("_speedups.native", reason="needs _speedups.native", exc_type=ModuleNotFoundError)
ROOT = Path(__file__).parents[3]


@dataclass(frozen=True)
class Twin:
    start: dict[str, Callable[[], Hasher]]
    resume: Callable[[bytes], Hasher]


TWINS = {
    "native": Twin({"sha256": native.sha256, "sha512": native.sha512}, native.resume),
    "native-portable": Twin(
        {"sha256": lambda: native.sha256(portable=True), "sha512": native.sha512},
        lambda state: native.resume(state, portable=True),
    ),
    "pure": Twin({"sha256": pure.sha256, "sha512": pure.sha512}, pure.resume),
}
ALGORITHMS = ["sha256", "sha512"]
PAST_32_BITS = {
    "sha256": "ceed6789c0beb542a16d818a90524ac1134ade65e53cb7f41c1e039b135ef8b4",
    "sha512": "0fe365a617d385630e4536a1cf6409c804f66d4ad7cc7448645335819c610aba"
    "031d752eb8abb9b14bcc26333eb5fc5d4ba0e5271154124676352a42642a54f4",
}

every_twin = pytest.mark.parametrize("twin", list(TWINS))
every_algorithm = pytest.mark.parametrize("algorithm", ALGORITHMS)

# Enough for several blocks of either algorithm, and for both sides of each padding border.
pieces = st.lists(st.binary(max_size=300), max_size=6)


@every_twin
@every_algorithm
@given(pieces=pieces)
def test_hashes_what_hashlib_hashes_however_it_is_split(twin: str, algorithm: str, pieces: list[bytes]) -> None:
    hasher = TWINS[twin].start[algorithm]()
    for piece in pieces:
        hasher.update(piece)
    assert hasher.digest() == hashlib.new(algorithm, b"".join(pieces)).digest()


@every_twin
@every_algorithm
def test_every_length_around_two_blocks_is_padded_right(twin: str, algorithm: str) -> None:
    for length in range(300):
        hasher = TWINS[twin].start[algorithm]()
        hasher.update(bytes(length))
        assert hasher.digest() == hashlib.new(algorithm, bytes(length)).digest(), length


@every_twin
@every_algorithm
def test_a_digest_in_the_middle_changes_nothing(twin: str, algorithm: str) -> None:
    hasher = TWINS[twin].start[algorithm]()
    hasher.update(b"one")
    assert hasher.digest() == hashlib.new(algorithm, b"one").digest()
    hasher.update(b"two")
    assert hasher.digest() == hashlib.new(algorithm, b"onetwo").digest()


@pytest.mark.parametrize("after", list(TWINS))
@pytest.mark.parametrize("before", list(TWINS))
@every_algorithm
@given(first=pieces, second=pieces)
def test_a_state_resumes_in_any_twin(
    before: str, after: str, algorithm: str, first: list[bytes], second: list[bytes]
) -> None:
    hasher = TWINS[before].start[algorithm]()
    for piece in first:
        hasher.update(piece)
    state = hasher.export()
    resumed = TWINS[after].resume(state)
    assert resumed.name == algorithm
    assert resumed.export() == state
    for piece in second:
        resumed.update(piece)
    assert resumed.digest() == hashlib.new(algorithm, b"".join(first + second)).digest()


@pytest.mark.parametrize("choice", ["native", "pure"])
@every_algorithm
def test_a_state_resumes_in_another_process(choice: str, algorithm: str) -> None:
    hasher = getattr(_speedups, algorithm)()
    hasher.update(b"a" * 1000)
    program = (
        "import sys, _speedups; h = _speedups.resume(bytes.fromhex(sys.argv[1])); h.update(b'b' * 1000); "
        "print(_speedups.implementation, h.digest().hex())"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, hasher.export().hex()],
        env={"WHARFAGE_PURE": "1" if choice == "pure" else "0", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == [choice, hashlib.new(algorithm, b"a" * 1000 + b"b" * 1000).hexdigest()]


@every_twin
@every_algorithm
def test_takes_any_contiguous_memory(twin: str, algorithm: str) -> None:
    content = bytes(range(256)) * 20
    expected = hashlib.new(algorithm, content).digest()
    for kind in (content, bytearray(content), memoryview(content), memoryview(bytearray(content)).toreadonly()):
        hasher = TWINS[twin].start[algorithm]()
        hasher.update(kind)
        assert hasher.digest() == expected
    view = memoryview(bytearray(b"??" + content))[2:]
    hasher = TWINS[twin].start[algorithm]()
    hasher.update(view)
    assert hasher.digest() == expected


@every_twin
@every_algorithm
def test_a_count_past_32_bits_of_length_is_carried(twin: str, algorithm: str) -> None:
    """From a state that says 2^40 bytes were hashed, the digest is the one that FIPS 180-4 gives for that length.

    The digests were computed once by a plain transcription of its section 6.
    """
    rules = {"sha256": SHA256, "sha512": SHA512}[algorithm]
    hasher = TWINS[twin].resume(pack(StateParts(rules, 1 << 40, rules.initial, b"")))
    hasher.update(b"end")
    assert hasher.digest().hex() == PAST_32_BITS[algorithm]
    assert hasher.export() == pack(StateParts(rules, (1 << 40) + 3, rules.initial, b"end"))


@every_twin
@given(state=st.binary(max_size=200))
def test_what_is_not_a_state_is_refused(twin: str, state: bytes) -> None:
    try:
        unpack(state)
    except ValueError:
        with pytest.raises(ValueError, match="state"):
            TWINS[twin].resume(state)
    else:
        assert TWINS[twin].resume(state).export() == state


@every_twin
@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda state: state[:-1], "bytes hashed"),
        (lambda state: state + b"x", "bytes hashed"),
        (lambda state: b"\x02" + state[1:], "version 2"),
        (lambda state: state[:1] + b"\x07" + state[2:], "algorithm 7"),
        (lambda state: state[:2] + b"\xff" * 8 + state[10:], "bytes hashed"),
        (lambda state: state[:20], "at least"),
        (lambda state: b"", "at least"),
    ],
    ids=["short", "long", "version", "algorithm", "count", "cut", "empty"],
)
def test_a_damaged_state_is_refused_by_what_is_wrong(twin: str, change: Callable[[bytes], bytes], says: str) -> None:
    hasher = TWINS[twin].start["sha256"]()
    hasher.update(b"some bytes")
    with pytest.raises(ValueError, match=says):
        TWINS[twin].resume(change(hasher.export()))


@every_twin
@every_algorithm
def test_the_exported_bytes_are_those_that_are_drawn(twin: str, algorithm: str) -> None:
    """The state of three bytes hashed is: version, algorithm, count, FIPS 180-4's initial words, the three bytes."""
    rules = {"sha256": SHA256, "sha512": SHA512}[algorithm]
    size = {"sha256": 4, "sha512": 8}[algorithm]
    hasher = TWINS[twin].start[algorithm]()
    hasher.update(b"abc")
    drawn = bytes([1, ALGORITHMS.index(algorithm) + 1]) + (3).to_bytes(8, "big")
    drawn += b"".join(word.to_bytes(size, "big") for word in rules.initial) + b"abc"
    assert hasher.export() == drawn


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_native_lets_other_threads_run_and_refuses_a_second_one_inside(algorithm: str) -> None:
    """While a thread hashes 64 MiB, this one runs, and is refused by the same hasher."""
    hasher = getattr(native, algorithm)()
    began = threading.Event()
    content = bytearray(64 * 2**20)

    def hash_it() -> None:
        began.set()
        hasher.update(content)

    thread = threading.Thread(target=hash_it)
    thread.start()
    began.wait()
    refused = 0
    while thread.is_alive():
        try:
            hasher.digest()
        except RuntimeError:
            refused += 1
    thread.join()
    assert refused
    assert hasher.digest() == hashlib.new(algorithm, content).digest()


def test_without_native_and_libcrypto_the_start_ends_with_what_to_install() -> None:
    """An import error that names OpenSSL and the compiler; never a server that hashes at 1 MB/s."""
    program = "import ctypes\nctypes.CDLL = lambda name: (_ for _ in ()).throw(OSError(name))\nimport _speedups\n"
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={"WHARFAGE_PURE": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode
    assert "Install a C compiler and Python's headers and install wharfage again, or install OpenSSL" in done.stderr


def test_pure_takes_no_library_whose_layout_is_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pure, "_candidates", lambda: iter(["libc.so.6", "no-such-library.so"]))
    assert pure.load_libcrypto() is None
