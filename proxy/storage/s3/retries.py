"""What requests to S3 and KMS share: a botocore client made at first use, retries, and a circuit breaker.

Promises: after a connection error, a time-out or a busy service a request is retried after a pause with jitter; no try
begins later than `seconds` after the first; while the service is dead the breaker fails calls in milliseconds. Used by
`bucket` and `blob.kms`. Must not know any operation, nor the codes of its failures. Loads aiobotocore.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import aiohttp
from aiobotocore.session import get_session
from botocore.exceptions import ConnectionError as NoConnection
from botocore.exceptions import (
    CredentialRetrievalError,
    HTTPClientError,
    IncompleteReadError,
    NoCredentialsError,
    PartialCredentialsError,
)
from botocore.parsers import ResponseParserError

from proxy.model.errors import Failure
from proxy.storage.s3.circuit_breaker import Breaker

T = TypeVar("T")

FIRST_PAUSE = 0.1  # seconds between two tries, doubled each time, times 0.5 to 1.0
CONNECTION_ERRORS = (
    aiohttp.ClientError,
    HTTPClientError,
    IncompleteReadError,
    NoConnection,
    ResponseParserError,
    OSError,
    TimeoutError,
)
"""Raised by a failed connection, and for an answer that is not the service's."""
NO_CREDENTIALS = (NoCredentialsError, PartialCredentialsError, CredentialRetrievalError)


class Busy(Exception):
    """The service asks for a later retry."""


def describe_error(error: Exception) -> str:
    """A description of a failed try without the library's text, which may hold addresses and names."""
    return str(error.args[0]) if isinstance(error, Busy) else type(error).__name__


@dataclass(frozen=True, slots=True)
class Retries:
    """`seconds` and `longest_pause` bound the tries; `clock` is monotonic, `jitter` gives 0 to 1."""

    breaker: Breaker
    seconds: float
    longest_pause: float
    clock: Callable[[], float]
    jitter: Callable[[], float]

    async def until_answered(
        self,
        once: Callable[[], Awaitable[T]],
        *,
        answers: tuple[type[Exception], ...],
        silent: Callable[[Exception | None], Failure],
    ) -> T:
        """Run `once`, with retries. Exceptions of the types in `answers` count as an answer and are raised. `silent`
        makes the failure when no try was answered: from the last try's error, or None while the breaker is open."""
        deadline = self.clock() + self.seconds
        pause = FIRST_PAUSE
        while True:
            if not self.breaker.may_ask():
                raise silent(None)
            trying_out = self.breaker.is_open
            try:
                answer = await once()
            except answers:
                self.breaker.succeeded()
                raise
            except (Busy, *CONNECTION_ERRORS) as error:
                self.breaker.failed()
                wait = pause * (0.5 + self.jitter() / 2)
                if trying_out or self.breaker.is_open or self.clock() + wait > deadline:
                    raise silent(error) from error
            else:
                self.breaker.succeeded()
                return answer
            await asyncio.sleep(wait)
            pause = min(pause * 2, self.longest_pause)


class LazyClient:
    """A botocore client that `make` creates at its first use. After `close` the next use makes another one.

    It is made in a thread with an event loop of its own, because botocore reads files. Connections are made later, by
    the loop of the first request.
    """

    def __init__(self, make: Callable[[], Any]) -> None:
        """`make` returns what aiobotocore's `create_client` returns."""
        self._make = make
        self._life = contextlib.AsyncExitStack()
        self._made: Any = None
        self._making = asyncio.Lock()

    async def get(self) -> Any:
        if self._made is not None:
            return self._made
        async with self._making:
            if self._made is None:
                client = await asyncio.to_thread(self._enter)
                self._life.push_async_exit(client)
                self._made = client
        return self._made

    async def close(self) -> None:
        await self._life.aclose()
        self._made = None

    def _enter(self) -> Any:
        making = self._make()

        async def enter() -> Any:
            return await making.__aenter__()

        return asyncio.run(enter())


def make_session(service: str, kinds: Sequence[str]) -> Any:
    """An aiobotocore session with the service's model read from the disk, which takes 0.1 s: before a fork, or in a
    thread."""
    session = get_session()
    loader = session.get_component("data_loader")
    for kind in kinds:
        loader.load_service_model(service, kind)
    for name in ("endpoints", "partitions", "sdk-default-configuration", "_retry"):
        loader.load_data(name)
    return session
