"""Data keys, the contract of their providers, and the choice of the provider. Used by `registry`, `jobs` and `ecr`.

Each blob has a data key of its own; a row keeps it wrapped, with the id of the provider that wrapped it: AWS KMS
(`kms_keys`), or a master key of the key file (`local_keys`). New keys are made by the active provider; an existing one
is unwrapped by the provider that its row names, so that a registry can move from one to the other and back.

Unwrapped keys are cached for CACHE_SECONDS unless the caller sets another time, at most CACHE_KEYS of them. Must not
know rows, stores or repositories (an ARN is an opaque string here).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from proxy.blob.format import MessageKey
from proxy.model.errors import Code, Failure
from proxy.model.lru import Lru
from proxy.model.records import EncryptedDataKey

KMS_PROVIDER = "aws-kms"  # the AWS Encryption SDK's own name for it
CACHE_SECONDS = 300.0
CACHE_KEYS = 1024


@dataclass(frozen=True, slots=True, repr=False)
class DataKey:
    """A new data key, in plaintext and wrapped. It has no repr: a key must not get into a log."""

    plaintext: bytes
    encrypted: EncryptedDataKey


class UnwrappedKey(bytes):
    """A data key in memory, with the key of the message that was opened with it last: the name that `sealed_reader`
    gives that message, and its `MessageKey`. Both are forgotten together."""

    message: tuple[object, MessageKey] | None = None


class DataKeys(Protocol):
    """Makes and unwraps data keys. `sealed_for` is bound to the key and must be the same for both.

    `kms_key` is the ARN of a KMS key that wraps instead of the active one: a repository's own, which does not change
    with the server's."""

    async def generate(self, sealed_for: str, kms_key: str = "") -> DataKey: ...

    async def unwrap(self, encrypted: EncryptedDataKey, sealed_for: str) -> bytes:
        """The data key, from the cache if it was unwrapped recently. `Failure(KMS)` if it cannot be unwrapped."""

    async def rewrap(self, encrypted: EncryptedDataKey, sealed_for: str, kms_key: str = "") -> EncryptedDataKey:
        """The same data key under the active master key; unchanged if it is under that already."""

    async def arn_of(self, name: str, sealed_for: str) -> str:
        """The ARN of the KMS key of that id, ARN or alias (empty: the server's own), which was found to wrap and to
        unwrap. `Failure(KMS)`; with the field `absent` where no KMS is configured."""

    async def require(self, kms_key: str, sealed_for: str) -> None:
        """`Failure(KMS)` where KMS refuses that key, as of a while ago; nothing while it does not answer, or for the
        server's own (empty). A manifest, which is not sealed itself, is given out as long as its layers could be."""

    async def check(self) -> None:
        """Raise `Failure` unless a key can be made now (for /readyz)."""


class Provider(DataKeys, Protocol):
    """One way to wrap data keys."""

    async def wrap(self, plaintext: bytes, sealed_for: str, kms_key: str = "") -> EncryptedDataKey:
        """That data key under this provider's active master key."""

    async def is_current(self, encrypted: EncryptedDataKey) -> bool:
        """Whether it is under this provider's active master key."""


class Providers:
    """`DataKeys` of a registry that may have keys of both kinds; `in_force` is the one that wraps."""

    def __init__(self, in_force: Provider, *, local: Provider | None, kms: Provider | None) -> None:
        self._in_force = in_force
        self._local = local
        self._kms = kms

    async def generate(self, sealed_for: str, kms_key: str = "") -> DataKey:
        return await (self._need_kms() if kms_key else self._in_force).generate(sealed_for, kms_key)

    async def unwrap(self, encrypted: EncryptedDataKey, sealed_for: str) -> bytes:
        return await self._of(encrypted).unwrap(encrypted, sealed_for)

    async def rewrap(self, encrypted: EncryptedDataKey, sealed_for: str, kms_key: str = "") -> EncryptedDataKey:
        if kms_key:
            if is_under(encrypted, kms_key):
                return encrypted
            return await self._need_kms().wrap(await self.unwrap(encrypted, sealed_for), sealed_for, kms_key)
        if await self._in_force.is_current(encrypted):
            return encrypted
        return await self._in_force.wrap(await self.unwrap(encrypted, sealed_for), sealed_for)

    async def arn_of(self, name: str, sealed_for: str) -> str:
        return await self._need_kms().arn_of(name, sealed_for)

    async def check(self) -> None:
        await self._in_force.check()

    async def require(self, kms_key: str, sealed_for: str) -> None:
        if kms_key:
            await self._need_kms().require(kms_key, sealed_for)

    def _of(self, encrypted: EncryptedDataKey) -> Provider:
        if encrypted.provider_id == KMS_PROVIDER:
            return self._need_kms()
        if self._local is None:
            raise Failure(
                Code.KMS,
                "a data key is wrapped by a master key of a file, and there is no key file here",
                hint="put the key file back ([keys] file) until `wharfage rewrap` has moved every data key",
            )
        return self._local

    def _need_kms(self) -> Provider:
        if self._kms is None:
            raise no_kms()
        return self._kms


def is_under(encrypted: EncryptedDataKey, kms_key: str) -> bool:
    """Whether the KMS key with that ARN wrapped it."""
    return encrypted.provider_id == KMS_PROVIDER and encrypted.provider_info == kms_key.encode()


def no_kms() -> Failure:
    return Failure(
        Code.KMS,
        "this needs a key of AWS KMS, and no KMS is configured in this registry",
        hint="give [keys] key_id and region, beside whatever provider is in force",
        absent=True,
    )


class Unwrapped:
    """Data keys unwrapped less than `seconds` ago, at most CACHE_KEYS, the least recently made dropped first."""

    def __init__(self, clock: Callable[[], float], seconds: float = CACHE_SECONDS) -> None:
        self._clock = clock
        self.seconds = seconds
        self._kept = Lru[tuple[EncryptedDataKey, str], tuple[float, UnwrappedKey]](CACHE_KEYS)

    def get(self, key: tuple[EncryptedDataKey, str]) -> UnwrappedKey | None:
        found = self._kept.peek(key)
        if found is None:
            return None
        if found[0] <= self._clock():
            del self._kept[key]
            return None
        return found[1]

    def put(self, key: tuple[EncryptedDataKey, str], plaintext: bytes) -> None:
        self._kept[key] = (self._clock() + self.seconds, UnwrappedKey(plaintext))
        while self._kept and next(iter(self._kept.values()))[0] <= self._clock():
            self._kept.popitem()
