"""The client of AWS KMS, or of a service with its API: signs, retries, and translates errors. Used by `kms_keys`.

Promises: after a connection error, a time-out or throttling a request is retried after a pause with jitter, and no try
begins later than RETRY_SECONDS after the first; then it is `Failure(KMS)` with the field `unavailable`. While KMS is
unreachable the breaker fails in milliseconds. A refusal is not retried: `Failure(KMS)` with KMS's error name in the
field `kmsError` and a hint that distinguishes a missing permission, a disabled key and a wrong name. No text of KMS is
passed on (it names principals), and no secret is in ours. Loads aiobotocore: import it only if KMS is used."""

from __future__ import annotations

import asyncio
import functools
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from aiobotocore.config import AioConfig
from botocore.exceptions import ClientError

from proxy import observe
from proxy.model.errors import Code, Failure
from proxy.storage.s3.circuit_breaker import Breaker
from proxy.storage.s3.retries import NO_CREDENTIALS, Busy, LazyClient, Retries, describe_error, make_session

RETRY_SECONDS = 6.0  # after the first try, within which a request may be retried
CONNECT_SECONDS = 2.0
ANSWER_SECONDS = 3.0
LONGEST_PAUSE = 1.0  # seconds between two tries
CONNECTIONS = 32

_BUSY = {
    "ThrottlingException", "Throttling", "LimitExceededException", "KMSInternalException", "InternalFailure",
    "DependencyTimeoutException", "KeyUnavailableException", "ServiceUnavailable", "ServiceUnavailableException",
    "RequestTimeout", "RequestTimeoutException",
}  # fmt: skip
"""Errors after which a retry may succeed."""
_CREDENTIALS = "see [keys] kms_access_key_id and kms_secret_access_key, or AWS's usual chain on this machine"
_HINTS = {
    "AccessDeniedException": "the key's policy must allow these credentials kms:GenerateDataKey and kms:Decrypt, and "
    "kms:Encrypt for `wharfage rewrap`",
    "DisabledException": "enable the key; what it wrapped cannot be opened until then",
    "NotFoundException": "there is no such key in this region: see [keys] key_id and region",
    "KMSInvalidStateException": "the key waits for its deletion or its material: cancel the deletion, or import it",
    "InvalidKeyUsageException": "[keys] key_id must name a symmetric key for encryption",
    "IncorrectKeyException": "the row names another key than the one that wrapped it; restore the rows from a backup",
    "InvalidCiphertextException": "the wrapped key is damaged, or belongs to another repository; push the image again",
    "UnrecognizedClientException": _CREDENTIALS,
    "InvalidClientTokenId": _CREDENTIALS,
    "IncompleteSignature": _CREDENTIALS,
    "InvalidSignatureException": _CREDENTIALS,
    "SignatureDoesNotMatch": _CREDENTIALS,
    "ExpiredTokenException": _CREDENTIALS,
    "RequestExpired": "set this machine's clock",
}
_WORDS = {
    "AccessDeniedException": "access is denied",
    "DisabledException": "the key is disabled",
    "NotFoundException": "the key does not exist",
    "KMSInvalidStateException": "the key is not in a state to be used",
    "InvalidCiphertextException": "the wrapped key does not authenticate",
}


@dataclass(frozen=True, slots=True)
class KmsEndpoint:
    """The key, and how KMS is reached; `endpoint` and credentials may be empty: AWS, and its default chain."""

    key_id: str
    region: str
    endpoint: str = ""
    access_key_id: str = ""
    secret_access_key: str = ""


@functools.cache
def load() -> Any:
    """As `make_session`, with KMS's model."""
    return make_session("kms", ("service-2", "endpoint-rule-set-1", "paginators-1"))


class Kms:
    """The client of one KMS. Connections are opened on demand; `close` ends them."""

    def __init__(
        self,
        endpoint: KmsEndpoint,
        *,
        clock: Callable[[], float] = time.monotonic,
        jitter: Callable[[], float] = random.random,
        retry_seconds: float = RETRY_SECONDS,
        answer_seconds: float = ANSWER_SECONDS,
    ) -> None:
        self.endpoint = endpoint
        self.breaker = Breaker(clock)
        self._retries = Retries(self.breaker, retry_seconds, LONGEST_PAUSE, clock, jitter)
        self._answer_seconds = answer_seconds
        self._client = LazyClient(self._make)

    async def ask(self, operation: str, **parameters: Any) -> dict[str, Any]:
        """Call botocore's `operation`, with retries. `Failure(KMS)`."""

        def silent(error: Exception | None) -> Failure:
            return _unavailable("does not answer" + (f" ({describe_error(error)})" if error is not None else ""))

        try:
            return await self._retries.until_answered(
                lambda: self._once(operation, parameters), answers=(Failure,), silent=silent
            )
        except NO_CREDENTIALS as error:
            raise Failure(Code.KMS, "there are no credentials for KMS", hint=_CREDENTIALS) from error

    async def close(self) -> None:
        await self._client.close()

    async def _once(self, operation: str, parameters: dict[str, Any]) -> dict[str, Any]:
        began = time.perf_counter()
        outcome = "failed"
        try:
            client = await self._client.get()
            async with asyncio.timeout(CONNECT_SECONDS + self._answer_seconds):
                answer: dict[str, Any] = await getattr(client, operation)(**parameters)
            outcome = "ok"
            return answer
        except ClientError as error:
            name = str(error.response.get("Error", {}).get("Code", ""))[:64]
            status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
            if name in _BUSY or status == 429 or status >= 500:
                raise Busy(name or str(status)) from None
            outcome = "refused"
            raise _refused(name or f"status {status}") from None  # its text names principals and keys
        finally:
            observe.metrics.kms_requests.labels(operation, outcome).inc()
            observe.metrics.kms_request_seconds.labels(operation).observe(time.perf_counter() - began)

    def _make(self) -> Any:
        endpoint = self.endpoint
        return load().create_client(
            "kms",
            region_name=endpoint.region,
            endpoint_url=endpoint.endpoint or None,
            aws_access_key_id=endpoint.access_key_id or None,
            aws_secret_access_key=endpoint.secret_access_key or None,
            config=AioConfig(
                retries={"total_max_attempts": 1, "mode": "standard"},
                connect_timeout=CONNECT_SECONDS,
                read_timeout=self._answer_seconds,
                max_pool_connections=CONNECTIONS,
                ignore_configured_endpoint_urls=True,  # AWS_ENDPOINT_URL of a shell is for commands, and may be http://
                connector_args={"keepalive_timeout": 30.0},
            ),
        )


def _unavailable(words: str) -> Failure:
    return Failure(
        Code.KMS,
        f"the key management service {words}",
        hint="try again; keys in memory go on; it is asked again every second, and used as soon as it answers",
        unavailable=1,
    )


def _refused(name: str) -> Failure:
    return Failure(
        Code.KMS,
        f"the key management service refused: {_WORDS.get(name, name)}",
        hint=_HINTS.get(name, "see [keys] in the configuration, and the key's policy"),
        kmsError=name,
    )
