"""Data keys wrapped by AWS KMS, as the AWS Encryption SDK's KMS keyring wraps them, so that the SDK opens any object.

    provider id            "aws-kms"
    provider information   ARN of the KMS key
    ciphertext             KMS's own blob; its encryption context is the message's: `aws:ecr:arn`, as ECR's grants
                           have it, the ARN of the repository that the object was first sealed for

GenerateDataKey once a blob, Decrypt once a blob, process and `cache_seconds`: callers of one wrapped key share one
request, which goes on if one of them is cancelled. Made by `app.keys`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from proxy.blob.format import DATA_KEY_LENGTH, context_of
from proxy.blob.keys import CACHE_KEYS, CACHE_SECONDS, KMS_PROVIDER, DataKey, Unwrapped, is_under
from proxy.blob.kms import Kms
from proxy.model.errors import Code, Failure
from proxy.model.lru import Lru
from proxy.model.records import EncryptedDataKey

CHECK_SECONDS = 5.0  # /readyz makes a data key at most this often
ARN_SECONDS = 60.0  # an alias may be moved to another key; `rewrap` notices after this
CIPHERTEXT_MAX = 3072  # bytes: a header has 4096 for it and the rest; KMS's have about 200


class KmsKeys:
    """`Provider` of one KMS key (new data keys), of repositories' own, and of every key that a row names (old ones).

    KMS is called with the server's credentials for every caller: ECR uses those of the creator of a repository, and a
    grant later. `ecr.key_rights` decides which of the server's keys a caller may name."""

    def __init__(
        self, kms: Kms, probe: str, *, clock: Callable[[], float] = time.monotonic, cache_seconds: float = CACHE_SECONDS
    ) -> None:
        """`probe` is the ARN for which /readyz makes an unused key."""
        self._kms = kms
        self._probe = probe
        self._clock = clock
        self._cache = Unwrapped(clock, cache_seconds)
        self._flights: dict[tuple[EncryptedDataKey, str], asyncio.Task[bytes]] = {}
        self._found = Lru[str, asyncio.Task[tuple[float, Failure | None]]](CACHE_KEYS)
        self._checked: tuple[float, Failure | None] | None = None
        self._checking = asyncio.Lock()
        self._arn: tuple[float, bytes] | None = None  # when it was learnt

    async def generate(self, sealed_for: str, kms_key: str = "") -> DataKey:
        made = await self._generate(sealed_for, kms_key)
        if kms_key and not is_under(made.encrypted, kms_key):
            raise _another_key()
        self._cache.put((made.encrypted, sealed_for), made.plaintext)
        return made

    async def unwrap(self, encrypted: EncryptedDataKey, sealed_for: str) -> bytes:
        wanted = (encrypted, sealed_for)
        cached = self._cache.get(wanted)
        if cached is not None:
            return cached
        flight = self._flights.get(wanted)
        if flight is None:
            flight = asyncio.create_task(self._decrypt(encrypted, sealed_for), name="kms decrypt")
            self._flights[wanted] = flight
            flight.add_done_callback(lambda done: self._land(wanted, done))
        return await asyncio.shield(flight)

    async def rewrap(self, encrypted: EncryptedDataKey, sealed_for: str, kms_key: str = "") -> EncryptedDataKey:
        if is_under(encrypted, kms_key) if kms_key else await self.is_current(encrypted):
            return encrypted
        return await self.wrap(await self.unwrap(encrypted, sealed_for), sealed_for, kms_key)

    async def arn_of(self, name: str, sealed_for: str) -> str:
        """Needs only the permissions that serving needs, and checks that the server has them."""
        made = await self._generate(sealed_for, name)
        await self._decrypt(made.encrypted, sealed_for)
        return made.encrypted.provider_info.decode()

    async def require(self, kms_key: str, sealed_for: str) -> None:
        """Callers of one key share one check, which is valid for as long as an unwrapped key is cached; a refusal for
        CHECK_SECONDS, so that a key that is enabled again is soon usable."""
        look = self._found.get(kms_key)
        if look is None or (look.done() and look.result()[0] <= self._clock()):
            look = asyncio.create_task(self._look(kms_key, sealed_for), name="kms look")
            look.add_done_callback(lambda done: self._forget(kms_key, done))
            self._found[kms_key] = look
        _, refused = await asyncio.shield(look)
        if refused is not None:
            raise refused.with_traceback(None)

    def _forget(self, kms_key: str, done: asyncio.Task[tuple[float, Failure | None]]) -> None:
        """Do not cache a check that was cancelled or failed."""
        if (done.cancelled() or done.exception() is not None) and self._found.get(kms_key) is done:
            del self._found[kms_key]

    async def _look(self, kms_key: str, sealed_for: str) -> tuple[float, Failure | None]:
        """The time until which the result is valid, and KMS's refusal, if any."""
        try:
            await self._generate(sealed_for, kms_key)
        except Failure as failure:
            return self._clock() + CHECK_SECONDS, None if "unavailable" in failure.fields else failure
        return self._clock() + self._cache.seconds, None

    async def wrap(self, plaintext: bytes, sealed_for: str, kms_key: str = "") -> EncryptedDataKey:
        answer = await self._kms.ask(
            "encrypt",
            KeyId=kms_key or self._kms.endpoint.key_id,
            Plaintext=plaintext,
            EncryptionContext=context_of(sealed_for),
        )
        encrypted = self._encrypted(answer, is_ours=not kms_key)
        if kms_key and not is_under(encrypted, kms_key):
            raise _another_key()
        return encrypted

    async def is_current(self, encrypted: EncryptedDataKey) -> bool:
        if encrypted.provider_id != KMS_PROVIDER:
            return False
        if self._arn is None or self._clock() - self._arn[0] >= ARN_SECONDS:
            await self._generate(self._probe)  # which needs no right beyond those that serving needs
        return self._arn is not None and encrypted.provider_info == self._arn[1]

    async def check(self) -> None:
        async with self._checking:
            if self._checked is None or self._clock() - self._checked[0] >= CHECK_SECONDS:
                found = None
                try:
                    await self._generate(self._probe)
                except Failure as failure:
                    found = failure
                self._checked = self._clock(), found
        if self._checked[1] is not None:
            raise self._checked[1].with_traceback(None)

    async def close(self) -> None:
        under_way = [*self._flights.values(), *self._found.values()]
        for flight in under_way:
            flight.cancel()
        await asyncio.gather(*under_way, return_exceptions=True)
        await self._kms.close()

    async def _generate(self, sealed_for: str, kms_key: str = "") -> DataKey:
        answer = await self._kms.ask(
            "generate_data_key",
            KeyId=kms_key or self._kms.endpoint.key_id,
            KeySpec="AES_256",
            EncryptionContext=context_of(sealed_for),
        )
        return DataKey(_plaintext(answer), self._encrypted(answer, is_ours=not kms_key))

    async def _decrypt(self, encrypted: EncryptedDataKey, sealed_for: str) -> bytes:
        arn = encrypted.provider_info.decode(errors="replace")
        answer = await self._kms.ask(
            "decrypt", KeyId=arn, CiphertextBlob=encrypted.ciphertext, EncryptionContext=context_of(sealed_for)
        )
        if answer.get("KeyId") != arn:
            raise _another_key()
        plaintext = _plaintext(answer)
        self._cache.put((encrypted, sealed_for), plaintext)
        return plaintext

    def _land(self, wanted: tuple[EncryptedDataKey, str], done: asyncio.Task[bytes]) -> None:
        self._flights.pop(wanted, None)
        if not done.cancelled():
            done.exception()  # seen, also when every caller has gone

    def _encrypted(self, answer: dict[str, object], *, is_ours: bool) -> EncryptedDataKey:
        arn, ciphertext = answer.get("KeyId"), answer.get("CiphertextBlob")
        if not isinstance(arn, str) or not isinstance(ciphertext, bytes) or not 0 < len(ciphertext) <= CIPHERTEXT_MAX:
            raise Failure(Code.KMS, "the key management service's answer is not one")
        if is_ours:
            self._arn = self._clock(), arn.encode()
        return EncryptedDataKey(KMS_PROVIDER, arn.encode(), ciphertext)


def _another_key() -> Failure:
    return Failure(Code.KMS, "the key management service answered with another key than was asked for")


def _plaintext(answer: dict[str, object]) -> bytes:
    found = answer.get("Plaintext")
    if not isinstance(found, bytes) or len(found) != DATA_KEY_LENGTH:
        raise Failure(Code.KMS, "the key management service gave a data key of a wrong length")
    return found
