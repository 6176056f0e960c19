"""Data keys wrapped by the master keys of the key file: the default provider.

They are wrapped as the AWS Encryption SDK's raw AES keyring does it, so `key export` and the SDK open any object
without us:

    provider id            namespace
    provider information   key name, then tag length in bits (4), IV length in bytes (4), IV (12)
    ciphertext             AES-256-GCM of the data key under the master key, then its tag (16)
                           AAD = the serialized encryption context
"""

from __future__ import annotations

import asyncio
import secrets
import struct
import time
from collections.abc import Callable

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from proxy import observe
from proxy.blob.format import DATA_KEY_LENGTH, context_of, serialize_context
from proxy.blob.keys import CACHE_SECONDS, DataKey, Unwrapped, no_kms
from proxy.blob.master_file import LOOK_SECONDS, KeyFileError, MasterKey, MasterKeys
from proxy.model.errors import Code, Failure
from proxy.model.records import EncryptedDataKey

_IV = 12
_INFO_END = struct.pack(">II", 128, _IV)


class LocalKeys:
    """`Provider` of the key file.

    Calls take microseconds without waiting, except that the key file is checked in a thread every LOOK_SECONDS in which
    a key is made, and for each unknown key name: another process may have rotated.
    """

    def __init__(
        self, masters: MasterKeys, *, clock: Callable[[], float] = time.monotonic, cache_seconds: float = CACHE_SECONDS
    ) -> None:
        self._masters = masters
        self._cache = Unwrapped(clock, cache_seconds)
        self._clock = clock
        self._looked_at = clock()

    async def generate(self, sealed_for: str, kms_key: str = "") -> DataKey:
        if kms_key:
            raise no_kms()
        if self._clock() - self._looked_at >= LOOK_SECONDS:
            self._looked_at = self._clock()
            await asyncio.to_thread(self._look)
        plaintext = secrets.token_bytes(DATA_KEY_LENGTH)
        encrypted = await self.wrap(plaintext, sealed_for)
        self._cache.put((encrypted, sealed_for), plaintext)
        return DataKey(plaintext, encrypted)

    async def unwrap(self, encrypted: EncryptedDataKey, sealed_for: str) -> bytes:
        cached = self._cache.get((encrypted, sealed_for))
        if cached is not None:
            return cached
        namespace, name = encrypted.provider_id, _key_name(encrypted)
        master = self._masters.find(namespace, name)
        if master is None:
            await asyncio.to_thread(self._look)
            master = self._masters.find(namespace, name)
        if master is None:
            raise Failure(
                Code.KMS,
                f"no master key {namespace}/{name[:64]}",
                hint="put the retired key back into the key file; without it this object can't be opened",
            )
        plaintext = _unwrap(master, encrypted, sealed_for)
        self._cache.put((encrypted, sealed_for), plaintext)
        return plaintext

    async def rewrap(self, encrypted: EncryptedDataKey, sealed_for: str, kms_key: str = "") -> EncryptedDataKey:
        if await self.is_current(encrypted):
            return encrypted
        return await self.wrap(await self.unwrap(encrypted, sealed_for), sealed_for, kms_key)

    async def arn_of(self, name: str, sealed_for: str) -> str:
        raise no_kms()

    async def require(self, kms_key: str, sealed_for: str) -> None:
        if kms_key:
            raise no_kms()

    async def wrap(self, plaintext: bytes, sealed_for: str, kms_key: str = "") -> EncryptedDataKey:
        if kms_key:
            raise no_kms()
        return _wrap(self._masters.in_force, plaintext, sealed_for)

    async def is_current(self, encrypted: EncryptedDataKey) -> bool:
        in_force = self._masters.in_force
        return encrypted.provider_id == in_force.namespace and _key_name(encrypted) == in_force.name

    async def check(self) -> None:
        probe = secrets.token_bytes(DATA_KEY_LENGTH)
        master = self._masters.in_force
        if _unwrap(master, _wrap(master, probe, "probe"), "probe") != probe:
            raise Failure(Code.KMS, "the master key does not open what it wrapped")

    def _look(self) -> None:
        try:
            self._masters.reload()
        except KeyFileError as error:
            observe.log.error("the master key file cannot be read again; the keys in memory stay", error=str(error))


def _wrap(master: MasterKey, plaintext: bytes, sealed_for: str) -> EncryptedDataKey:
    iv = secrets.token_bytes(_IV)
    ciphertext = AESGCM(master.key).encrypt(iv, plaintext, serialize_context(context_of(sealed_for)))
    return EncryptedDataKey(master.namespace, master.name.encode() + _INFO_END + iv, ciphertext)


def _unwrap(master: MasterKey, encrypted: EncryptedDataKey, sealed_for: str) -> bytes:
    context = serialize_context(context_of(sealed_for))
    try:
        plaintext = AESGCM(master.key).decrypt(encrypted.provider_info[-_IV:], encrypted.ciphertext, context)
    except InvalidTag:
        raise Failure(Code.KMS, f"the data key wrapped by {master.name} does not authenticate") from None
    if len(plaintext) != DATA_KEY_LENGTH:
        raise Failure(Code.KMS, f"a data key of {len(plaintext)} bytes")
    return plaintext


def _key_name(encrypted: EncryptedDataKey) -> str:
    info = encrypted.provider_info
    name = info[: -len(_INFO_END) - _IV]
    if not name or info[len(name) : -_IV] != _INFO_END:
        raise Failure(Code.KMS, f"a data key of provider {encrypted.provider_id[:64]!r} is not wrapped by raw AES-GCM")
    return name.decode(errors="replace")
