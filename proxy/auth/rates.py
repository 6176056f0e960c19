"""Request rates: how often an account may call an operation, over all workers and nodes.

The token bucket is a row of the metadata service, one for each account and operation. A worker leases tokens from it:
as many as requests wait, and once a lease was used up, up to a tenth of a second's worth ahead. So few requests cost a
call to the service, and at slow rates (PutImage: 10 a second) every token is leased for the request that needs it. A
lease ends after `LEASE_SECONDS`, used or not.

Promises, for any number of workers and nodes: in a window of T seconds at most `burst + per_second * (T +
LEASE_SECONDS)` requests of an account's operation pass, because each uses a token from that window or the second before
it. Tokens leased ahead and not used are lost: at most as many as the worker had used just before, and at most a tenth
of a second's worth.

Without the metadata service each worker applies the rate by itself, so N workers let through at most N times the rate.
Used by `oci` and `ecr`. Must not know any protocol's error.
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
AHEAD_SECONDS = 0.1  # of the rate: what a lease may hold beyond the waiting requests
PAUSE_SECONDS = 0.05  # before an empty bucket is asked again, so that a flood of requests is no flood of calls
TIMEOUT_SECONDS = 1.0  # of a call to the metadata service; a request waits no longer for its token
FALLBACK_SECONDS = 5.0  # without calls after a time-out
BUCKETS_MAX = 4096  # about 1 KiB each; an evicted one loses its lease


class TokenBucket(Protocol):
    """The part of `metadata.contract.Metadata` with the buckets."""

    async def take_tokens(
        self, account: str, name: str, *, per_second: float, burst: float, most: int
    ) -> tuple[int, float]: ...


class RateLimiter:
    """One worker's leases. `rates` by operation; others have no limit."""

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
        """Failure Throttling, with the `seconds` until a retry, unless the caller's account may call the operation now.

        As at AWS the caller's account counts, not the registry's: no account can use up another's rate."""
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
    """One worker's lease of one bucket."""

    def __init__(
        self, account: str, operation: str, rate: Rate, bucket: TokenBucket, clock: Callable[[], float]
    ) -> None:
        self._account = account
        self._operation = operation
        self._rate = rate
        self._bucket = bucket
        self._clock = clock
        self._most_ahead = max(1, int(rate.per_second * AHEAD_SECONDS))
        self._pause = min(
            PAUSE_SECONDS, rate.burst / rate.per_second / 2
        )  # short enough that the bucket does not overflow meanwhile
        self._tokens = 0
        self._leased = 0  # tokens that the lease began with
        self._ends = 0.0
        self._refused_until = 0.0
        self._fallback_until = 0.0
        self._ahead = 1
        self._renewing = asyncio.Lock()
        self._waiting = 0

    async def spend(self) -> float | None:
        """Take a token: None on success, otherwise the seconds until there may be one."""
        if self._spent():
            return None
        self._waiting += 1
        try:
            async with self._renewing:  # one call for all waiting requests
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
        """Grant the rate without the service: a second's worth at a time, or a single token if that takes longer."""
        if now < self._ends:
            self._refused_until = self._ends
            return
        span = max(1.0, 1.0 / self._rate.per_second)
        self._tokens = self._leased = int(self._rate.per_second * span + 1e-9)
        self._ends = now + span
