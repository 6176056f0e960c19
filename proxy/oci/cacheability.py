"""When a response may be repeated without asking metadata: what it depends on, and what each use of it records.

Reads by tag or digest that are answered with 200 or 304 are cacheable. Such a response depends on its request's bytes
and peer, which `http.response_cache` compares, and on

    metadata of caller, registry, repository, image      valid while epochs read before the first look-up are current
    the password                                         valid until it expires
    the clock in a policy, a request rate, a KMS key     never repeated

This module looks nothing up, and repeats nothing that `metadata.client.cache` would not use itself. Each use records
the pull: its audit event, and the image's pull time. `routes` attaches the result of `revalidator` to a response.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from proxy.audit.events import PER_REQUEST, AuditEvent
from proxy.audit.trail import Trail
from proxy.http.response_cache import Revalidator
from proxy.metadata.contract import EpochSnapshot

SECONDS = 300.0
"""How long a response may be repeated at most. With the half hour for which `metadata.client.cache` caches a row, this
stays below the hour within which the metadata service must see that a blob is used."""


@dataclass(slots=True)
class CacheValidity:
    """How long one response stays valid, set while it is made. `until` is epoch seconds; `most` is the upper bound that
    the route function sets; `pulled` is called at each further use."""

    snapshot: EpochSnapshot
    until: float = 0.0
    most: float = math.inf
    pulled: Callable[[], None] | None = None


def revalidator(
    validity: CacheValidity, trail: Trail, event: AuditEvent | None, clock: Callable[[], float]
) -> Revalidator:
    """`event` is the first response's audit event; `clock` returns epoch seconds."""
    return _EventRevalidator(validity, trail, event, clock)


class _EventRevalidator:
    __slots__ = ("_clock", "_look", "_prefix", "_pulled", "_suffix", "_trail", "_until")

    def __init__(
        self, validity: CacheValidity, trail: Trail, event: AuditEvent | None, clock: Callable[[], float]
    ) -> None:
        self._look = validity.snapshot
        self._until = validity.until
        self._pulled = validity.pulled
        self._trail = trail
        self._clock = clock
        self._prefix = event[:PER_REQUEST] if event is not None else None
        self._suffix = event[PER_REQUEST + 2 :] if event is not None else ()

    def revalidate(self, request_id: str) -> bool:
        now = self._clock()
        if now >= self._until or not self._look.is_current():
            return False
        if self._prefix is not None:
            event = AuditEvent._make((*self._prefix, now, request_id, *self._suffix))
            if not self._trail.try_enqueue(event):
                return False
        if self._pulled is not None:
            self._pulled()
        return True
