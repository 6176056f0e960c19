"""The hash of an upload between two appends: its exported state, sealed, as it holds up to 127 bytes of plaintext.

Bound to its upload's id. Used by `append` and `uploads`. Must not know rows or stores.
"""

from __future__ import annotations

from proxy.auth.envelope import SmallSealer
from proxy.blob.hashers import Hasher, resume_hasher
from proxy.model.errors import Code, Failure


def seal_state(sealer: SmallSealer, upload_id: str, hasher: Hasher) -> bytes:
    return sealer.seal(hasher.export(), upload_id.encode())


def open_state(sealer: SmallSealer, upload_id: str, state: bytes) -> Hasher:
    """The hasher that `seal_state` stored. ServerException when no key here opens it."""
    try:
        return resume_hasher(sealer.open(state, upload_id.encode()))
    except ValueError as error:
        raise Failure(
            Code.SERVER,
            "the state of this upload cannot be read",
            hint="was the master key replaced? begin the upload again",
        ) from error
