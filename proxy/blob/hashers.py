"""Hashers for the rooms above, which must not know `_speedups`: by a digest's algorithm, or from an exported state."""

from __future__ import annotations

from _speedups import Hasher, resume, sha256, sha512

__all__ = ["Hasher", "new_hasher", "resume_hasher"]

_FACTORIES = {"sha256": sha256, "sha512": sha512}


def new_hasher(algorithm: str) -> Hasher:
    """A hasher that has seen nothing. `algorithm` is one of `model/names.DIGEST_HEX`; KeyError for another."""
    return _FACTORIES[algorithm]()


def resume_hasher(state: bytes) -> Hasher:
    """The hasher whose `export` made `state`, in whichever process and twin. ValueError when it is no state."""
    return resume(state)
