"""SHA-256 and SHA-512 in plain Python: the last resort, about 1 MB/s, where there is neither compiler nor libcrypto.

Straight from FIPS 180-4 section 6; `tests/unit/speedups` hold it to hashlib. Nothing faster is tried on purpose.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from _speedups.state import SHA256, SHA512, Algorithm, StateParts, pack, unpack

if TYPE_CHECKING:
    from typing_extensions import Buffer


def _primes(count: int) -> list[int]:
    found: list[int] = []
    candidate = 2
    while len(found) < count:
        if all(candidate % prime for prime in found):
            found.append(candidate)
        candidate += 1
    return found


def _cube_root_fraction(prime: int, bits: int) -> int:
    """The first `bits` bits of the fraction of a prime's cube root (FIPS 180-4 section 4.2)."""
    scaled = prime << (3 * bits)
    low, high = 0, 1 << (bits + 4)
    while low < high - 1:
        middle = (low + high) // 2
        low, high = (middle, high) if middle**3 <= scaled else (low, middle)
    return low & ((1 << bits) - 1)


@dataclass(frozen=True, slots=True)
class _Rounds:
    """What the two compressions differ in: rotations of the big and small sigmas, word size, constants."""

    bits: int
    big0: tuple[int, int, int]
    big1: tuple[int, int, int]
    small0: tuple[int, int, int]  # the third is a shift
    small1: tuple[int, int, int]
    constants: tuple[int, ...]


_PRIMES = _primes(80)
_ROUNDS = {
    SHA256.code: _Rounds(
        32,
        (2, 13, 22),
        (6, 11, 25),
        (7, 18, 3),
        (17, 19, 10),
        tuple(_cube_root_fraction(prime, 32) for prime in _PRIMES[:64]),
    ),
    SHA512.code: _Rounds(
        64,
        (28, 34, 39),
        (14, 18, 41),
        (1, 8, 7),
        (19, 61, 6),
        tuple(_cube_root_fraction(prime, 64) for prime in _PRIMES),
    ),
}


def _compress(rounds: _Rounds, state: Sequence[int], block: Sequence[int]) -> tuple[int, ...]:
    bits, mask = rounds.bits, (1 << rounds.bits) - 1

    def rotate(value: int, by: int) -> int:
        return (value >> by | value << (bits - by)) & mask

    def small(value: int, by: tuple[int, int, int]) -> int:
        return rotate(value, by[0]) ^ rotate(value, by[1]) ^ (value >> by[2])

    def big(value: int, by: tuple[int, int, int]) -> int:
        return rotate(value, by[0]) ^ rotate(value, by[1]) ^ rotate(value, by[2])

    words = list(block)
    for i in range(16, len(rounds.constants)):
        words.append(
            words[i - 16] + small(words[i - 15], rounds.small0) + words[i - 7] + small(words[i - 2], rounds.small1)
            & mask
        )
    a, b, c, d, e, f, g, h = state
    for constant, word in zip(rounds.constants, words, strict=True):
        first = h + big(e, rounds.big1) + (e & f ^ ~e & mask & g) + constant + word
        second = big(a, rounds.big0) + (a & b ^ a & c ^ b & c)
        a, b, c, d, e, f, g, h = first + second & mask, a, b, c, d + first & mask, e, f, g
    return tuple(old + new & mask for old, new in zip(state, (a, b, c, d, e, f, g, h), strict=True))


class Sha2:
    """A hash in progress, either algorithm."""

    __slots__ = ("_algorithm", "_pending", "_total", "_words")

    def __init__(self, parts: StateParts) -> None:
        self._algorithm: Algorithm = parts.algorithm
        self._words = parts.words
        self._pending = parts.pending
        self._total = parts.total

    @property
    def name(self) -> str:
        return self._algorithm.name

    def update(self, data: Buffer, /) -> None:
        view = memoryview(data).cast("B")
        self._total += len(view)
        whole = self._pending + bytes(view)
        end = len(whole) - len(whole) % self._algorithm.block
        self._words = self._over(self._words, whole[:end])
        self._pending = whole[end:]

    def digest(self) -> bytes:
        block = self._algorithm.block
        length_field = block // 8
        zeros = (block - length_field - 1 - len(self._pending)) % block
        tail = self._pending + b"\x80" + bytes(zeros) + (self._total * 8).to_bytes(length_field, "big")
        return struct.pack(f">8{self._algorithm.word}", *self._over(self._words, tail))

    def export(self) -> bytes:
        return pack(StateParts(self._algorithm, self._total, self._words, self._pending))

    def _over(self, words: tuple[int, ...], blocks: bytes) -> tuple[int, ...]:
        rounds = _ROUNDS[self._algorithm.code]
        for block in struct.iter_unpack(f">16{self._algorithm.word}", blocks):
            words = _compress(rounds, words, block)
        return words


def sha256() -> Sha2:
    return Sha2(SHA256.start)


def sha512() -> Sha2:
    return Sha2(SHA512.start)


def resume(state: bytes) -> Sha2:
    """Go on from an exported state. ValueError when it is not one."""
    return Sha2(unpack(state))
