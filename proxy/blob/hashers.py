"""Hashers for the packages above, which do not import `_speedups`: by a digest's algorithm, or from an exported state.

Called by `registry` for uploads and by `jobs` for checks; `implementation`, `measure` and `reason` by start-up and
`wharfage version`, which show how bytes are hashed here.
"""

from __future__ import annotations

from _speedups import Hasher, implementation, measure, reason, resume, sha256, sha512

__all__ = ["Hasher", "implementation", "measure", "new_hasher", "reason", "resume_hasher"]

_FACTORIES = {"sha256": sha256, "sha512": sha512}


def new_hasher(algorithm: str) -> Hasher:
    """A new hasher. `algorithm` is one of `model.names.DIGEST_HEX`; KeyError for another."""
    return _FACTORIES[algorithm]()


def resume_hasher(state: bytes) -> Hasher:
    """The hasher whose `export` made `state`, in any process and either implementation.

    ValueError when it is not a state.
    """
    return resume(state)
