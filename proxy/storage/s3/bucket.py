"""One S3 bucket: sends the store's requests, signed and retried behind a circuit breaker, and translates errors.

Promises: after a connection error, a time-out or a busy store a request is retried after a pause with jitter; no try
begins later than `RETRY_SECONDS` after the first, then it is `Failure(STORE_UNAVAILABLE)`. While the store is dead the
breaker fails calls in milliseconds. A request that the store refused (a missing object, a wrong signature) is not
retried. No text holds a secret. Only this module, `session` and `requests` know aiobotocore; loaded when the store is
on S3.
"""

from __future__ import annotations

import asyncio
import functools
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from aiobotocore.config import AioConfig
from botocore.exceptions import ClientError
from botocore.handlers import add_expect_header

from proxy import observe
from proxy.model.errors import Code, Failure
from proxy.storage.base import ObjectMissing
from proxy.storage.s3.circuit_breaker import Breaker
from proxy.storage.s3.conditions import Conditions
from proxy.storage.s3.connection import Body as Body  # what it sends, for those who ask it
from proxy.storage.s3.requests import Direct
from proxy.storage.s3.retries import (
    CONNECTION_ERRORS,
    NO_CREDENTIALS,
    LazyClient,
    Retries,
    describe_error,
    make_session,
)
from proxy.storage.s3.retries import Busy as Busy  # what a try of those who ask may raise
from proxy.storage.s3.session import DirectSession

T = TypeVar("T")

RETRY_SECONDS = 15.0  # seconds after its first try in which a request may be tried again
CONNECT_SECONDS = 3.0
ANSWER_SECONDS = 5.0  # for an answer's first byte, and between two of its bytes
SLOWEST = 2**20  # bytes a second at which a body must at least be taken
LONGEST_PAUSE = 2.0  # seconds between two tries
_BUSY = {
    "SlowDown", "RequestTimeout", "ServiceUnavailable", "InternalError", "Throttling", "OperationAborted",
    "ConditionalRequestConflict", "BadDigest", "XAmzContentChecksumMismatch",
}  # fmt: skip
"""Errors worth a retry; a checksum mismatch is a transmission error."""
_MAKING = {"put_object", "create_multipart_upload"}
_MISSING = {"NoSuchKey", "NoSuchUpload", "404"}
_HINTS = {
    "NoSuchBucket": "make the bucket, or name another in [storage] bucket",
    "AccessDenied": "these credentials need Get, Put, Delete, List and the multipart actions on the bucket",
    "InvalidAccessKeyId": "see [storage] access_key_id",
    "SignatureDoesNotMatch": "see [storage] secret_access_key and region",
    "RequestTimeTooSkewed": "set this machine's clock",
}


@dataclass(frozen=True, slots=True)
class S3Location:
    """The bucket's address and credentials. Empty `endpoint`: AWS; empty keys: AWS's credential chain."""

    bucket: str
    endpoint: str = ""
    region: str = "us-east-1"
    access_key_id: str = ""
    secret_access_key: str = ""
    addressing: str = "path"  # path or virtual
    ca_bundle: str = ""


class S3Refused(Exception):
    """The store refused the request. `code` is S3's error code."""

    def __init__(self, code: str, status: int) -> None:
        super().__init__(code, status)
        self.code = code
        self.status = status


@functools.cache
def load() -> Any:
    """As `make_session`, with S3's model."""
    return make_session("s3", ("service-2", "endpoint-rule-set-1", "paginators-1", "waiters-2"))


class Bucket:
    """Requests to one bucket. Connections are made when needed; `close` ends them."""

    def __init__(
        self,
        location: S3Location,
        *,
        conditions: Conditions = Conditions(),  # noqa: B008 - frozen
        session: Any = None,
        clock: Callable[[], float] = time.monotonic,
        jitter: Callable[[], float] = random.random,
        retry_seconds: float = RETRY_SECONDS,
        answer_seconds: float = ANSWER_SECONDS,
        storage_class: str = "",
    ) -> None:
        """`storage_class` is S3's, of the objects that are made; empty: none is named."""
        self.location = location
        self.conditions = conditions
        self.breaker = Breaker(clock)
        self._session = session
        self._retries = Retries(self.breaker, retry_seconds, LONGEST_PAUSE, clock, jitter)
        self.answer_seconds = answer_seconds
        self._client = LazyClient(self._make)
        self._direct: Direct | None = None
        self._making = {"StorageClass": storage_class} if storage_class else {}

    async def ask(self, operation: str, *, missing: bool = False, **parameters: Any) -> dict[str, Any]:
        """Run botocore's `operation` on this bucket, with retries. ObjectMissing, Failure(STORE_UNAVAILABLE). With
        `missing` any 404 is ObjectMissing: the answer to a HEAD has no code."""
        return await self.until_answered(operation, lambda: self.once(operation, missing=missing, **parameters))

    async def once(self, operation: str, *, missing: bool = False, **parameters: Any) -> dict[str, Any]:
        """One try. Raises connection errors, Busy, S3Refused, ObjectMissing."""
        client = await self._client.get()
        if operation in _MAKING:
            parameters |= self._making
        body = parameters.get("Body")
        seconds = CONNECT_SECONDS + self.answer_seconds + (len(body) / SLOWEST if body is not None else 0.0)
        if operation == "complete_multipart_upload":
            seconds += 60.0  # the store joins thousands of parts
        began = time.perf_counter()
        outcome = "failed"
        try:
            async with asyncio.timeout(seconds):
                if self._direct is None:
                    self._direct = await Direct.find(client, self.location.bucket)
                answer = await self._direct.ask(operation, parameters)
                if answer is None:
                    answer = await getattr(client, operation)(Bucket=self.location.bucket, **parameters)
            outcome = "ok"
            return answer
        except ClientError as error:
            code = str(error.response.get("Error", {}).get("Code", ""))
            status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
            if code in _MISSING or (status == 404 and missing):
                outcome = "ok"
                raise ObjectMissing(parameters.get("Key", "")) from None
            if code in _BUSY or status in (429, 500, 502, 503, 504):
                raise Busy(code or str(status)) from None
            outcome = "ok" if status == 412 else "refused"  # a condition that does not hold is an answer
            raise S3Refused(code or str(status), status) from None
        finally:
            observe.metrics.s3_requests.labels(operation, outcome).inc()
            observe.metrics.s3_request_seconds.labels(operation).observe(time.perf_counter() - began)

    async def until_answered(self, what: str, once: Callable[[], Awaitable[T]]) -> T:
        """Run `once`, with retries. Connection errors and a busy store become `Failure`; other errors pass."""

        def silent(error: Exception | None) -> Failure:
            return unavailable(error, what) if error is not None else _dead()

        try:
            return await self._retries.until_answered(once, answers=(ObjectMissing, S3Refused), silent=silent)
        except S3Refused as error:
            raise refused(error) from error
        except NO_CREDENTIALS as error:
            raise Failure(
                Code.STORE_UNAVAILABLE,
                "there are no credentials for the object store",
                hint="see [storage] access_key_id",
            ) from error

    def read_timeout(self) -> asyncio.Timeout:
        """Bounds one read of an answer's body: TimeoutError when no byte comes."""
        return asyncio.timeout(self.answer_seconds)

    async def signed_url(self, operation: str, seconds: int, **parameters: Any) -> str:
        """A presigned URL that is valid for `seconds`. Sends no request to the store, but may fetch credentials.
        Failure(STORE_UNAVAILABLE)."""
        client = await self._client.get()
        try:
            async with asyncio.timeout(CONNECT_SECONDS + self.answer_seconds):
                url: str = await client.generate_presigned_url(
                    operation, Params={"Bucket": self.location.bucket, **parameters}, ExpiresIn=seconds
                )
        except (*NO_CREDENTIALS, *CONNECTION_ERRORS) as error:
            raise Failure(
                Code.STORE_UNAVAILABLE,
                "there are no credentials to sign a link to the object store",
                hint="see [storage] access_key_id",
            ) from error
        return url

    async def close(self) -> None:
        await self._client.close()
        self._direct = None

    def _make(self) -> Any:
        location = self.location
        session = self._session or load()
        # Waiting for "100 Continue" costs a round trip for every part, and parts are seldom refused.
        session.unregister("before-call.s3", add_expect_header)
        return session.create_client(
            "s3",
            region_name=location.region,
            endpoint_url=location.endpoint or None,
            aws_access_key_id=location.access_key_id or None,
            aws_secret_access_key=location.secret_access_key or None,
            verify=location.ca_bundle or None,
            config=AioConfig(
                signature_version="s3v4",  # also for presigned URLs, whose default is an older version
                s3={"addressing_style": location.addressing, "payload_signing_enabled": False},
                retries={"total_max_attempts": 1, "mode": "standard"},
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
                connect_timeout=CONNECT_SECONDS,
                ignore_configured_endpoint_urls=True,  # AWS_ENDPOINT_URL of a shell is for commands, and may be http://
                read_timeout=3600.0,  # `once` and `read_timeout` bound the time: they know how long a body is
                max_pool_connections=0,  # no bound: slow readers must not block writers
                connector_args={"keepalive_timeout": 30.0},
                http_session_cls=DirectSession,
            ),
        )


def unavailable(error: Exception, what: str) -> Failure:
    return Failure(
        Code.STORE_UNAVAILABLE,
        f"the object store does not do {what} ({describe_error(error)})",
        hint="try again; see whether the store is up and not overloaded",
    )


def _dead() -> Failure:
    return Failure(
        Code.STORE_UNAVAILABLE,
        "the object store does not answer",
        hint="it is asked again every second, and used as soon as it answers",
    )


def refused(error: S3Refused) -> Failure:
    return Failure(
        Code.STORE_UNAVAILABLE,
        f"the object store refused: {error.code} (status {error.status})",
        hint=_HINTS.get(error.code, "see [storage] in the configuration, and the store's own log"),
    )
