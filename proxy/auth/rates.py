"""Request rates: how often an account may ask for an operation, whichever worker of whichever node it asks.

The bucket is a row of the metadata service, one an account and operation. A worker leases tokens from it, as many as
are asked for at the moment and, once a lease was used up, up to a tenth of a second's worth ahead: a request costs a
call to the service only now and then, and of slow rates (PutImage: 10 a second) every token is leased for the request
that needs it. A lease ends after `LEASE_SECONDS`, used or not.

What that promises, for any number of workers and nodes: in a window of T seconds an account is let through at most
`burst + per_second * (T + LEASE_SECONDS)` requests of an operation, for each of them used a token that the bucket gave
in that window or in the second before. What is leased ahead and then not used is lost, which is at most as much as
its worker had used just before, and at most a tenth of a second's worth.

Without the metadata service nobody is stopped who would not be anyway: each worker then lets through the rate by
itself, so that N workers let through N times the rate at most. Must not know any door's error.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import Protocol

from proxy import observe
from proxy.model.errors import Code, Failure
from proxy.model.identity import Caller
from proxy.model.lru import Lru
from proxy.model.quotas import Rate

LEASE_SECONDS = 1.0
AHEAD_SECONDS = 0.1  # of the rate: what a lease may hold beyond the requests at hand
PAUSE_SECONDS = 0.05  # an empty bucket is left alone for so long, that a flood of requests be none of calls
TIMEOUT_SECONDS = 1.0  # with the metadata service; a request waits no longer for its token
FALLBACK_SECONDS = 5.0  # after that it is not asked again for so long
BUCKETS_MAX = 4096  # some 1 KiB each; one that is dropped loses its lease


class TokenBucket(Protocol):
    """The part of `metadata.contract.Metadata` that keeps the tokens."""

    async def take_tokens(
        self, account: str, name: str, *, per_second: float, burst: float, most: int
    ) -> tuple[int, float]: ...


class RateLimiter:
    """One worker's leases. `rates` by operation: what is not in it has no limit."""

    def __init__(
        self, rates: Mapping[str, Rate], bucket: TokenBucket, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._rates = rates
        self._bucket = bucket
        self._clock = clock
        self._leases = Lru[tuple[str, str], _Lease](BUCKETS_MAX)

    def limits(self, operation: str) -> bool:
        return operation in self._rates

    async def require(self, caller: Caller, operation: str) -> None:
        """Failure Throttling, `seconds` until it is worth while to ask again, unless the caller's account may now.

        It is the caller's account as at AWS, whoever's registry it asks: nobody can use up another's rate."""
        rate = self._rates.get(operation)
        if rate is None:
            return
        name = caller.account, operation
        lease = self._leases.get(name)
        if lease is None:
            lease = self._leases[name] = _Lease(*name, rate, self._bucket, self._clock)
        seconds = await lease.spend()
        if seconds is not None:
            observe.metrics.throttled.labels(operation).inc()
            raise Failure(Code.THROTTLING, "Rate exceeded", seconds=seconds)


class _Lease:
    """What one worker holds of one bucket."""

    def __init__(
        self, account: str, operation: str, rate: Rate, bucket: TokenBucket, clock: Callable[[], float]
    ) -> None:
        self._account = account
        self._operation = operation
        self._rate = rate
        self._bucket = bucket
        self._clock = clock
        self._most_ahead = max(1, int(rate.per_second * AHEAD_SECONDS))
        self._pause = min(PAUSE_SECONDS, rate.burst / rate.per_second / 2)  # in which the bucket does not run over
        self._tokens = 0
        self._leased = 0  # tokens that the lease began with
        self._ends = 0.0
        self._refused_until = 0.0
        self._fallback_until = 0.0
        self._ahead = 1
        self._renewing = asyncio.Lock()
        self._waiting = 0

    async def spend(self) -> float | None:
        """None: a token was there, or came. Otherwise the seconds until there may be one."""
        if self._spent():
            return None
        self._waiting += 1
        try:
            async with self._renewing:  # one asks for all that wait
                while not self._spent():
                    seconds = self._refused_until - self._clock()
                    if seconds > 0:
                        return seconds
                    await self._renew()
        finally:
            self._waiting -= 1
        return None

    def _spent(self) -> bool:
        if self._tokens == 0 or self._clock() >= self._ends:
            return False
        self._tokens -= 1
        return True

    async def _renew(self) -> None:
        now = self._clock()
        if now < self._fallback_until:
            return self._grant_locally(now)
        if self._leased:
            used_up = self._tokens == 0 and now < self._ends
            self._ahead = min(self._most_ahead, 2 * self._ahead if used_up else max(1, self._leased - self._tokens))
        most = max(self._ahead, self._waiting)
        self._tokens = 0
        try:
            async with asyncio.timeout(TIMEOUT_SECONDS):
                granted, seconds = await self._bucket.take_tokens(
                    self._account,
                    self._operation,
                    per_second=self._rate.per_second,
                    burst=self._rate.burst,
                    most=most,
                )
        except (Failure, TimeoutError) as error:
            observe.log.warning("a request rate is this worker's alone", operation=self._operation, why=repr(error))
            self._ends, self._fallback_until = 0.0, self._clock() + FALLBACK_SECONDS
            return self._grant_locally(self._clock())
        self._tokens = self._leased = granted
        self._ends = now + LEASE_SECONDS  # from before it was asked for
        if granted < most:  # there are no more
            self._refused_until = self._clock() + max(seconds, self._pause)

    def _grant_locally(self, now: float) -> None:
        """The rate, a second at a time, or a token at a time where that takes longer."""
        if now < self._ends:
            self._refused_until = self._ends
            return
        span = max(1.0, 1.0 / self._rate.per_second)
        self._tokens = self._leased = int(self._rate.per_second * span + 1e-9)
        self._ends = now + span
