"""Secrets of access keys at rest: sealed for one purpose, each bound to its access key id.

SigV4 is symmetric, so a secret must come back in the clear to check a signature; it never lies unsealed in a row, and
a row moved to another access key id does not open. Whoever makes a key and whoever checks a signature use the same
`PURPOSE` to derive the sealer's keys. Must not know where rows are kept.
"""

from __future__ import annotations

from proxy.auth.envelope import SmallSealer

PURPOSE = "access-key-secret"


def seal_secret(sealer: SmallSealer, access_key_id: str, secret: str) -> bytes:
    """What a row holds of a secret access key. `sealer` is one for `PURPOSE`."""
    return sealer.seal(secret.encode(), access_key_id.encode())


def open_secret(sealer: SmallSealer, access_key_id: str, sealed: bytes) -> str:
    """The secret access key; ValueError when the row is not this key's, or no master key here opens it."""
    return sealer.open(sealed, access_key_id.encode()).decode()
