"""The metadata services of an installation; chooses the one that a call goes to, with retries.

A call waits for a service that restarts, and tries the next one where there are several. Each request has an id, so
that a service recognises a write that was done already and repeats its answer. After `patience` seconds, or when every
service refuses, the caller gets `MetadataUnavailable`. The patience bounds all attempts together, waits for a free
connection included. With a single service, a request that was sent within the patience may take `timeout`.

Calls go to the service that grants the node's leases (`follow`). When the node changes to another one, within half a
second after a service stops answering (`cluster.subscriber`), running calls are cancelled and repeated there. Used by
`client`. Must not know any operation.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import msgspec

from proxy.metadata import deadlines, wire
from proxy.metadata.client.addresses import CONNECT_SECONDS, Address, parse
from proxy.metadata.client.connections import Connections
from proxy.metadata.service.clock import RemoteClock, elapsed
from proxy.model.errors import Code, Failure

CONNECTIONS = 32  # of one proxy; the service runs few requests in parallel, so the others wait here
ATTEMPT_SECONDS = 5.0  # of one attempt where there are several services; a service waits 4 s for its database
PATIENCE_SECONDS = 8.0  # a metadata process restarts within this after a crash
_BEGIN_WITHIN = 0.9  # of an attempt's time
_CORRECTIONS = 3  # of the time that a call knows; more would mean that the service's clock is erratic
_RETURN_SECONDS = 5.0  # after a failed call, before calls go to the attached service again
_CHECK_SECONDS = 0.05  # between two checks, while calls run, which service the node is attached to
_FIRST_PAUSE, _LONGEST_PAUSE = 0.02, 0.5


class EndpointPool:
    """The services of an installation. `current` is the index of the one that is called until it fails, at first
    `first`.

    `addresses` is as in `client.MetadataClient`. Make it inside a running loop."""

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
        self._services = [Connections(each, secret, connections=connections) for each in found]
        self.current = first % len(found)
        self._patience = patience
        self._attached: Callable[[], int | None] | None = None
        self._follows: int | None = None  # the attached service that `current` was last set to
        self._return_at = 0.0
        self._running: dict[asyncio.Timeout, int] = {}  # calls under way, and the service that each is at
        self._check_timer: asyncio.TimerHandle | None = None

    def follow(self, attached: Callable[[], int | None]) -> None:
        """From now on call the service that grants this node's leases: `attached` returns its index, None while none
        does."""
        if not self._is_one:
            self._attached = attached

    async def call(self, operation: str, wanted: Any, parameters: Mapping[str, Any]) -> Any:
        """Call `operation`; its answer, decoded by the annotation `wanted`. Its Failure, or MetadataUnavailable."""
        packed = _packed(parameters)
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
                # A service must not begin a request late: another one may have done it, and later ones, by then.
                sent = elapsed() if attempts or corrections else made
                stamped = self._time.at(made)
                within_made = sent - made + within * _BEGIN_WITHIN
                own = self._services[number].exchange
                exchange = own if self._attached is None else partial(self._exchange, number)
                answer = await exchange(
                    _framed(wire.OperationRequest(request, stamped, within_made, operation, packed)),
                    connect_within=left if attempts else max(left, CONNECT_SECONDS),
                    within=within,
                )
                self._time.observe(answer.time, sent, elapsed())
                if answer.ok:
                    return wire.unpack(wanted, answer.body)
                failure = _failure(wire.unpack(dict[str, Any], answer.body))
                was_late = self._time.at(made) - stamped > deadlines.WRONG_SECONDS
                if was_late and failure.fields.get(deadlines.EXPIRED) and corrections < _CORRECTIONS:
                    corrections += 1
                    continue  # refused as too old because our stamp was wrong: nothing was done
                refusals += 1
                if failure.code is not Code.METADATA_UNAVAILABLE or refusals >= len(self._services):
                    raise failure
                reason: Exception = failure  # the service has retried already
            except (OSError, ValueError) as error:  # a time-out is an OSError
                reason = error
            if self.current == number:
                self.current = (number + 1) % len(self._services)
                self._return_at = time.monotonic() + _RETURN_SECONDS
            if time.monotonic() + pause > deadline:
                raise _unavailable(reason) from reason
            attempts += 1
            if attempts % len(self._services) == 0:
                await asyncio.sleep(pause)
                pause = min(pause * 2, _LONGEST_PAUSE)

    def now(self) -> float:
        """The database's time by the answers; 0.0 before the first."""
        return self._time.now()

    async def close(self) -> None:
        if self._check_timer is not None:
            self._check_timer.cancel()
        for each in self._services:
            await each.close()

    async def _exchange(
        self, number: int, request: bytearray, *, connect_within: float, within: float
    ) -> wire.OperationAnswer:
        """`Connections.exchange` with that service. TimeoutError also when the node leaves it meanwhile."""
        if self._check_timer is None:
            self._check_timer = asyncio.get_running_loop().call_later(_CHECK_SECONDS, self._check_attached)
        async with asyncio.timeout(None) as leaving:
            self._running[leaving] = number
            try:
                return await self._services[number].exchange(request, connect_within=connect_within, within=within)
            finally:
                del self._running[leaving]

    def _follow(self) -> None:
        """Make the attached service current if it has changed (running calls at others time out), or if the last
        failure there is long ago."""
        attached = self._attached() if self._attached is not None else None
        if attached is None or attached >= len(self._services):
            return
        if attached != self._follows:
            self._follows = self.current = attached
            for leaving, number in self._running.items():
                if number != attached and not leaving.expired():
                    leaving.reschedule(0.0)
        elif time.monotonic() >= self._return_at:
            self.current = attached

    def _check_attached(self) -> None:
        """While calls run: whether the node has left the service that they are at."""
        self._follow()
        self._check_timer = (
            asyncio.get_running_loop().call_later(_CHECK_SECONDS, self._check_attached) if self._running else None
        )


def _packed(parameters: Mapping[str, Any]) -> msgspec.Raw:
    """The parameters, encoded. Failure for a value without a wire form."""
    try:
        return wire.pack(parameters)
    except UnicodeEncodeError as error:
        raise Failure(Code.INVALID_PARAMETER, "a text in the request is not valid Unicode") from error
    except OverflowError as error:
        raise Failure(Code.INVALID_PARAMETER, "a number in the request is out of range") from error
    except RecursionError as error:
        raise Failure(Code.INVALID_PARAMETER, "the request is nested too deeply") from error


def _framed(request: wire.OperationRequest) -> bytearray:
    """The request as a frame. Failure for one that the service would refuse."""
    framed = wire.frame(request)
    if len(framed) > wire.REQUEST_MAX:
        raise Failure(Code.INVALID_PARAMETER, f"a request has at most {wire.REQUEST_MAX} bytes")
    return framed


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
