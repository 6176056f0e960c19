"""Layers without end that cost next to nothing to make: kept noise, with a stamp in every block.

A layer is known by a key (bytes) and a size. It is cut into blocks of 64 KiB; block n is 32 bytes of
blake2b(key, n), then the kept noise of 4 MiB from n × 64 KiB on, around and around. So each block of each layer is
another, a compressor that looks back less than 4 MiB finds nothing, and one block costs a hash of some bytes and a
copy. Pieces come as bytes of their own, never a buffer that is used again: a transport may still hold the last ones.

    layer:  | stamp 0 | noise ... 64 KiB | stamp 1 | noise ... | ... | stamp n | noise, cut at the size |
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from functools import cache

BLOCK = 64 << 10
STAMP = 32
PIECE = 256 << 10  # what is hashed and handed to the transport at once: 0.15 ms of the loop's time
_NOISE = 4 << 20


@cache
def _noise() -> memoryview:
    """The kept noise, the same everywhere and always."""
    return memoryview(hashlib.shake_128(b"wharfage rig").digest(_NOISE))


def pieces(key: bytes, size: int) -> Iterator[bytes]:
    """The layer's bytes in order, PIECE at a time, the last one shorter."""
    noise, short = _noise(), hashlib.sha256(key).digest()  # a key of blake2b has at most 64 bytes
    for start in range(0, size, PIECE):
        parts: list[bytes | memoryview] = []
        for at in range(start, min(start + PIECE, size), BLOCK):
            length = min(BLOCK, size - at)
            offset = at % _NOISE
            parts.append(_stamp(short, at // BLOCK)[:length])
            parts.append(noise[offset + STAMP : offset + max(STAMP, length)])
        yield b"".join(parts)


def digest_of(key: bytes, size: int) -> str:
    """The layer's SHA-256 as a digest, for those who have not sent it."""
    hasher = hashlib.sha256()
    for piece in pieces(key, size):
        hasher.update(piece)
    return f"sha256:{hasher.hexdigest()}"


def _stamp(key: bytes, number: int) -> bytes:
    return hashlib.blake2b(number.to_bytes(8, "big"), digest_size=STAMP, key=key).digest()
