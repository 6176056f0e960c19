"""A question to whichever metadata service answers: a unix socket on one machine, TCP with the shared secret beyond.

A service that restarts in the middle of a push is waited for, and where there are several the next is asked: each
request carries an id, by which a service knows a write that was done already, and gives the answer that was lost. After
`patience` seconds, or when every service refuses, the caller gets `MetadataUnavailable`. Must not know any operation.
"""

from __future__ import annotations

import asyncio
import io
import secrets
import time
from collections.abc import Mapping, Sequence
from typing import Any

import aiohttp

from proxy.metadata import deadlines, wire
from proxy.metadata.addresses import Address, connect, parse
from proxy.metadata.clock import RemoteClock, elapsed
from proxy.metadata.unixline import UnixLines
from proxy.model.errors import Code, Failure

CONNECTIONS = 32  # one proxy's at once; the service runs few things in parallel, the rest waits here
ATTEMPT_SECONDS = 5.0  # where another service can be asked instead; its own patience with the database is 4
PATIENCE_SECONDS = 8.0  # a metadata process is back within this after a crash
_BEGIN_WITHIN = 0.9  # of an attempt's time
_CORRECTIONS = 3  # of what a call takes for the time; more would be a service whose clock runs wild
_LARGE = 2**20  # bytes of a body from which on aiohttp wants a file; a manifest may have 4 MiB
_FIRST_PAUSE, _LONGEST_PAUSE = 0.02, 0.5


class Services:
    """The services of an installation. `current` is the place of the one that is asked until it fails, first `first`.

    `addresses` as `client.MetadataClient` takes them. Make it inside a running loop."""

    def __init__(
        self,
        addresses: str | Sequence[Address],
        *,
        secret: str | None,
        connections: int,
        timeout: float,
        patience: float,
        first: int,
    ) -> None:
        found = parse(addresses) if isinstance(addresses, str) else addresses
        attempt = timeout if len(found) == 1 else min(timeout, ATTEMPT_SECONDS)
        # What a service does not begin in time it leaves: another one may have done it by then, and more that came
        # after it.
        self._within = attempt * _BEGIN_WITHIN
        self._time = RemoteClock()
        self._lines: list[UnixLines | _Session] = [
            UnixLines(each.socket, secret, connections=connections, timeout=attempt)
            if each.socket
            else _Session(each, secret, connections=connections, timeout=attempt)
            for each in found
        ]
        self.current = first % len(found)
        self._patience = patience

    async def ask(self, operation: str, wanted: Any, **parameters: Any) -> Any:
        """What `operation` answers, decoded as `wanted` says. Its Failure, or MetadataUnavailable."""
        body = wire.dump(parameters)
        request, made = secrets.token_hex(16), elapsed()
        deadline = time.monotonic() + self._patience
        pause = _FIRST_PAUSE
        attempts = refusals = corrections = 0
        while True:
            number = self.current
            try:
                sent, stamped = elapsed(), self._time.at(made)
                headers = {wire.REQUEST_HEADER: request, **deadlines.stamp(stamped, sent - made + self._within)}
                status, content, told = await self._lines[number].post(operation, body, headers)
                deadlines.learn(self._time, told, sent, elapsed())
                if status == 200:
                    return wire.read(wanted, content)
                failure = _failure(wire.load(content))
                was_late = self._time.at(made) - stamped > deadlines.WRONG_SECONDS
                if was_late and failure.fields.get(deadlines.EXPIRED) and corrections < _CORRECTIONS:
                    corrections += 1
                    continue  # it was refused for what we took for the time: nothing was done
                refusals += 1
                if failure.code is not Code.METADATA_UNAVAILABLE or refusals >= len(self._lines):
                    raise failure
                reason: Exception = failure  # it has been patient itself
            except (aiohttp.ClientError, OSError, ValueError) as error:  # a time-out is an OSError
                reason = error
            if self.current == number:
                self.current = (number + 1) % len(self._lines)
            if time.monotonic() + pause > deadline:
                raise _unavailable(reason) from reason
            attempts += 1
            if attempts % len(self._lines) == 0:
                await asyncio.sleep(pause)
                pause = min(pause * 2, _LONGEST_PAUSE)

    def now(self) -> float:
        """The database's time as the answers told it; 0.0 before the first."""
        return self._time.now()

    async def close(self) -> None:
        for line in self._lines:
            await line.close()


class _Session:
    """`unixline.UnixLines` over TCP."""

    def __init__(self, address: Address, secret: str | None, *, connections: int, timeout: float) -> None:
        self._base = address.base
        self._session = connect(address, secret, connections=connections, timeout=timeout)

    async def post(self, operation: str, body: bytes, headers: Mapping[str, str]) -> tuple[int, bytes, str | None]:
        data = body if len(body) < _LARGE else io.BytesIO(body)
        async with self._session.post(self._base + operation, data=data, headers=headers) as response:
            return response.status, await response.read(), response.headers.get(wire.TIME_HEADER)

    async def close(self) -> None:
        await self._session.close()


def _unavailable(reason: Exception) -> Failure:
    return Failure(
        Code.METADATA_UNAVAILABLE,
        f"the metadata service does not answer ({type(reason).__name__})",
        hint="it may be restarting: try again; see its log if this lasts",
    )


def _failure(answer: Any) -> Failure:
    fields = dict(answer)
    code, message, hint = fields.pop("__type"), fields.pop("message"), fields.pop("hint", "")
    return Failure(Code(code), message, hint=hint, **fields)
