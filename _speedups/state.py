"""The exported state of a hash: the bytes that let another process, and the other twin, go on.

    offset  length  field
    0       1       version, 1
    1       1       algorithm: 1 SHA-256, 2 SHA-512
    2       8       bytes hashed so far, big endian
    10      32|64   the eight chaining words, big endian (FIPS 180-4, H(i))
    …       n       the bytes of the block not yet full: n = bytes hashed mod 64 | 128

It holds up to 127 bytes of plaintext, so whoever keeps it seals it. Both twins read and write it here, and only here.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

VERSION = 1


@dataclass(frozen=True, slots=True)
class Algorithm:
    """What the two algorithms differ in. `initial` is FIPS 180-4 section 5.3."""

    code: int
    name: str
    block: int  # bytes
    word: str  # struct code of one chaining word
    initial: tuple[int, ...]

    @property
    def start(self) -> StateParts:
        return StateParts(self, 0, self.initial, b"")


@dataclass(frozen=True, slots=True)
class StateParts:
    algorithm: Algorithm
    total: int  # bytes hashed so far
    words: tuple[int, ...]
    pending: bytes


# fmt: off
SHA256 = Algorithm(1, "sha256", 64, "I", (
    0x6A09E667, 0xBB67AE85, 0x3C6EF372, 0xA54FF53A, 0x510E527F, 0x9B05688C, 0x1F83D9AB, 0x5BE0CD19,
))
SHA512 = Algorithm(2, "sha512", 128, "Q", (
    0x6A09E667F3BCC908, 0xBB67AE8584CAA73B, 0x3C6EF372FE94F82B, 0xA54FF53A5F1D36F1,
    0x510E527FADE682D1, 0x9B05688C2B3E6C1F, 0x1F83D9ABFB41BD6B, 0x5BE0CD19137E2179,
))
# fmt: on
_ALGORITHMS = {algorithm.code: algorithm for algorithm in (SHA256, SHA512)}
_TOTAL_LIMIT = 1 << 61  # SHA-256 counts bits in 64 bits


def pack(parts: StateParts) -> bytes:
    algorithm = parts.algorithm
    return struct.pack(f">BBQ8{algorithm.word}", VERSION, algorithm.code, parts.total, *parts.words) + parts.pending


def unpack(state: bytes) -> StateParts:
    """Read an exported state; ValueError says what is wrong with it."""
    if len(state) < 2:
        raise ValueError("a hash state has at least 42 bytes")
    if state[0] != VERSION:
        raise ValueError(f"hash state version {state[0]} is not known; this build reads {VERSION}")
    algorithm = _ALGORITHMS.get(state[1])
    if algorithm is None:
        raise ValueError(f"hash state algorithm {state[1]} is not known")
    layout = struct.Struct(f">BBQ8{algorithm.word}")
    if len(state) < layout.size:
        raise ValueError(f"a {algorithm.name} state has at least {layout.size} bytes")
    _, _, total, *words = layout.unpack_from(state)
    if total >= _TOTAL_LIMIT or len(state) != layout.size + total % algorithm.block:
        raise ValueError(f"a {algorithm.name} state of {len(state)} bytes can't belong to {total} bytes hashed")
    return StateParts(algorithm, total, tuple(words), bytes(state[layout.size :]))
