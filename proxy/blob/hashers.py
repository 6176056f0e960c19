"""Hashers for the rooms above, which must not know `_speedups`: by a digest's algorithm, or from an exported state.

And `crc32`, zlib's but quicker, for stores that are told what they take.
"""

from __future__ import annotations

from _speedups import Hasher, crc32, resume, sha256, sha512

__all__ = ["Hasher", "crc32", "new_hasher", "resume_hasher"]

_FACTORIES = {"sha256": sha256, "sha512": sha512}


def new_hasher(algorithm: str) -> Hasher:
    """A hasher that has seen nothing. `algorithm` is one of `model/names.DIGEST_HEX`; KeyError for another."""
    return _FACTORIES[algorithm]()


def resume_hasher(state: bytes) -> Hasher:
    """The hasher whose `export` made `state`, in whichever process and twin. ValueError when it is no state."""
    return resume(state)
