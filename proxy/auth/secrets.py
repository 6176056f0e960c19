"""Seals secrets at rest: those of access keys, and the values of secrets. Each is sealed for one purpose and bound to
its key id or version.

SigV4 is symmetric, so an access key's secret must be opened to check a signature, and a secret's value to return it or
to log in with it. No row has either unsealed, and a row that is moved to another access key id, secret or version does
not open. Used by `admin`, `app`, `ecr` and `pull_through`. Must not know where rows are stored.
"""

from __future__ import annotations

from dataclasses import dataclass

from proxy.auth.envelope import SmallSealer

PURPOSE = "access-key-secret"
VALUE_PURPOSE = "secret-value"
_TEXT, _BYTES = b"t", b"b"


@dataclass(frozen=True, slots=True)
class SecretValue:
    """Text or bytes as given; the other is None."""

    text: str | None = None
    binary: bytes | None = None

    def __repr__(self) -> str:  # a log line or a failed assertion must not show it
        return "SecretValue(...)"


def seal_secret(sealer: SmallSealer, access_key_id: str, secret: str) -> bytes:
    """Seal a secret access key for its row. `sealer` is one for `PURPOSE`."""
    return sealer.seal(secret.encode(), access_key_id.encode())


def open_secret(sealer: SmallSealer, access_key_id: str, sealed: bytes) -> str:
    """The secret access key; ValueError if the row is another key's, or no master key here opens it."""
    return sealer.open(sealed, access_key_id.encode()).decode()


def seal_value(sealer: SmallSealer, arn: str, version_id: str, value: SecretValue) -> bytes:
    """Seal a secret's value for its version's row. `sealer` is one for `VALUE_PURPOSE`."""
    plain = _TEXT + value.text.encode() if value.text is not None else _BYTES + (value.binary or b"")
    return sealer.seal(plain, _bound_to(arn, version_id))


def open_value(sealer: SmallSealer, arn: str, version_id: str, sealed: bytes) -> SecretValue:
    """The value; ValueError if the row is another version's, or no master key here opens it."""
    plain = sealer.open(sealed, _bound_to(arn, version_id))
    return SecretValue(text=plain[1:].decode()) if plain[:1] == _TEXT else SecretValue(binary=plain[1:])


def _bound_to(arn: str, version_id: str) -> bytes:
    """No ARN has a space."""
    return f"{arn} {version_id}".encode()
