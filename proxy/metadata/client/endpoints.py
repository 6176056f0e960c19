"""A question to whichever metadata service answers: a unix socket on one machine, TCP with the shared secret beyond.

A service that restarts in the middle of a push is waited for, and where there are several the next is asked: each
request carries an id, by which a service knows a write that was done already, and gives the answer that was lost. After
`patience` seconds, or when every service refuses, the caller gets `MetadataUnavailable`; the patience bounds the waits
for a free connection and for a service's answer together, over all attempts. Where there is one service only, what it
has been asked in time may take `timeout`.

Calls go where the node's leases come from (`attached`). When those come from another service, which happens within half
a second of a service's falling silent (`watch`), calls that run at any other one are given up and made again there.
Must not know any operation.
"""

from __future__ import annotations

import asyncio
import io
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import aiohttp

from proxy.metadata import deadlines, wire
from proxy.metadata.client.addresses import CONNECT_SECONDS, Address, connect, parse
from proxy.metadata.client.unix import UnixLines
from proxy.metadata.service.clock import RemoteClock, elapsed
from proxy.model.errors import Code, Failure

CONNECTIONS = 32  # one proxy's at once; the service runs few things in parallel, the rest waits here
ATTEMPT_SECONDS = 5.0  # where another service can be asked instead; its own patience with the database is 4
PATIENCE_SECONDS = 8.0  # a metadata process is back within this after a crash
_BEGIN_WITHIN = 0.9  # of an attempt's time
_CORRECTIONS = 3  # of what a call takes for the time; more would be a service whose clock runs wild
_RETURN_SECONDS = 5.0  # after which calls go to the attached service again, though one of them failed there
_LOOK_SECONDS = 0.05  # between two looks, while calls run, at which service the node is attached to
_LARGE = 2**20  # bytes of a body from which on aiohttp wants a file; a manifest may have 4 MiB
_FIRST_PAUSE, _LONGEST_PAUSE = 0.02, 0.5


class EndpointPool:
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
        self._time = RemoteClock()
        self._is_one = len(found) == 1
        self._attempt = timeout if self._is_one else min(timeout, ATTEMPT_SECONDS)
        self._lines: list[UnixLines | _Session] = [
            UnixLines(each.socket, secret, connections=connections)
            if each.socket
            else _Session(each, secret, connections=connections)
            for each in found
        ]
        self.current = first % len(found)
        self._patience = patience
        self._attached: Callable[[], int | None] | None = None
        self._follows: int | None = None  # the service that was attached when `current` was set by it
        self._return_at = 0.0
        self._running: dict[asyncio.Timeout, int] = {}  # calls under way, and the service that each is at
        self._looking: asyncio.TimerHandle | None = None

    def follow(self, attached: Callable[[], int | None]) -> None:
        """Ask the service that grants this node's leases from now on: `attached` gives its place, None while none
        does."""
        if not self._is_one:
            self._attached = attached

    async def ask(self, operation: str, wanted: Any, parameters: Mapping[str, Any]) -> Any:
        """What `operation` answers, decoded as `wanted` says. Its Failure, or MetadataUnavailable."""
        body = wire.dump(parameters)
        request, made = secrets.token_hex(16), elapsed()
        deadline = time.monotonic() + self._patience
        pause = _FIRST_PAUSE
        attempts = refusals = corrections = 0
        while True:
            if self._attached is not None:
                self._follow()
            number = self.current
            left = deadline - time.monotonic()
            within = min(self._attempt, left) if attempts and not self._is_one else self._attempt
            try:
                # What a service does not begin in time it leaves: another one may have done it by then, and more that
                # came after it.
                sent = elapsed() if attempts or corrections else made
                stamped = self._time.at(made)
                within_made = sent - made + within * _BEGIN_WITHIN
                post = self._lines[number].post if self._attached is None else partial(self._post, number)
                status, content, answered_at = await post(
                    operation,
                    body,
                    {wire.REQUEST_HEADER: request, **deadlines.stamp(stamped, within_made)},
                    connect_within=left if attempts else max(left, CONNECT_SECONDS),
                    within=within,
                )
                deadlines.learn(self._time, answered_at, sent, elapsed())
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
                self._return_at = time.monotonic() + _RETURN_SECONDS
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
        if self._looking is not None:
            self._looking.cancel()
        for line in self._lines:
            await line.close()

    async def _post(
        self,
        number: int,
        operation: str,
        body: bytes,
        headers: Mapping[str, str],
        *,
        connect_within: float,
        within: float,
    ) -> tuple[int, bytes, str | None]:
        """As `UnixLines.post` at that service. TimeoutError also when the node leaves it meanwhile."""
        post = self._lines[number].post
        if self._looking is None:
            self._looking = asyncio.get_running_loop().call_later(_LOOK_SECONDS, self._look)
        async with asyncio.timeout(None) as leaving:
            self._running[leaving] = number
            try:
                return await post(operation, body, headers, connect_within=connect_within, within=within)
            finally:
                del self._running[leaving]

    def _follow(self) -> None:
        """Let calls go to the attached service, when that is another one than before (those that run at others leave
        them), or when a failure there is some time ago."""
        attached = self._attached() if self._attached is not None else None
        if attached is None or attached >= len(self._lines):
            return
        if attached != self._follows:
            self._follows = self.current = attached
            for leaving, number in self._running.items():
                if number != attached and not leaving.expired():
                    leaving.reschedule(0.0)
        elif time.monotonic() >= self._return_at:
            self.current = attached

    def _look(self) -> None:
        """While calls run: whether the node has left the service that they are at."""
        self._follow()
        self._looking = asyncio.get_running_loop().call_later(_LOOK_SECONDS, self._look) if self._running else None


class _Session:
    """`unixline.UnixLines` over TCP."""

    def __init__(self, address: Address, secret: str | None, *, connections: int) -> None:
        self._base = address.base
        self._session = connect(address, secret, connections=connections)

    async def post(
        self, operation: str, body: bytes, headers: Mapping[str, str], *, connect_within: float, within: float
    ) -> tuple[int, bytes, str | None]:
        data = body if len(body) < _LARGE else io.BytesIO(body)
        timeout = aiohttp.ClientTimeout(total=within, connect=min(connect_within, within), sock_connect=CONNECT_SECONDS)
        async with self._session.post(self._base + operation, data=data, headers=headers, timeout=timeout) as response:
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
