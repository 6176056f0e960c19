"""Secrets that sign events for webhooks: one an account, sealed at rest, and the headers of a signature.

    X-Wharfage-Timestamp: 1796200000
    X-Wharfage-Signature: v1=HEX                HMAC-SHA256(secret, timestamp "." body)

During a rotation the header has a signature by each secret, separated by a comma. The receiver accepts any that is
right, and refuses a timestamp that is more than five minutes off. Used by `jobs.event_delivery` and `admin`.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Sequence

from proxy.auth.envelope import SmallSealer

PURPOSE = "event-secret"
TIMESTAMP = "X-Wharfage-Timestamp"
SIGNATURE = "X-Wharfage-Signature"


def new_secret() -> str:
    """43 characters of 256 random bits."""
    return secrets.token_urlsafe(32)


def seal_event_secret(sealer: SmallSealer, account: str, secret: str) -> bytes:
    """The sealed value for a row. `sealer` is one for `PURPOSE`."""
    return sealer.seal(secret.encode(), account.encode())


def open_event_secret(sealer: SmallSealer, account: str, sealed: bytes) -> str:
    """The secret; ValueError if the row is another account's, or no master key here opens it."""
    return sealer.open(sealed, account.encode()).decode()


def signature_headers(keys: Sequence[str], timestamp: int, body: bytes) -> dict[str, str]:
    """`timestamp` in Unix seconds; `keys` are the secrets in force."""
    signed = f"{timestamp}.".encode() + body
    made = ",".join("v1=" + hmac.new(key.encode(), signed, hashlib.sha256).hexdigest() for key in keys)
    return {TIMESTAMP: str(timestamp), SIGNATURE: made}
