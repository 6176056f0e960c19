"""When this door's answers may be given again without asking: what an answer hung on, and what each one leaves behind.

Those are of reads by tag or digest, answered with 200 or 304. Such an answer hangs on the bytes of its request and its
peer, which are the same by the time this is asked (`process.again`), and on

    what metadata said of caller, registry, repository, image       the epochs of those, taken before the first question
    the password                                                    until it ends
    the clock, where a policy reads it; a rate; a KMS key            then the answer is not given again at all

Nothing of that is asked of anybody here, and nothing is given that `metadata.cache` would not use again itself. What a
pull leaves behind it leaves each time: its event in the audit trail, and when the image was pulled.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from proxy.audit.events import Happened
from proxy.audit.trail import Trail
from proxy.http.response_cache import Again
from proxy.metadata.contract import Look

SECONDS = 300.0
"""For so long at most: with the half hour for which `metadata.cache` keeps a row, still below the hour in which the
service has to hear that a blob is asked for."""

_OWN = Happened._fields.index("moment")


@dataclass(slots=True)
class Standing:
    """One answer while it is made. `until` is epoch seconds, and `most` what the answer itself says of that; `pulled`
    is called when it is given once more."""

    look: Look
    until: float = 0.0
    most: float = math.inf
    pulled: Callable[[], None] | None = None


def again(standing: Standing, trail: Trail, happened: Happened | None, clock: Callable[[], float]) -> Again:
    """`happened` is what the trail was told of the first one; `clock` tells epoch seconds."""
    return _Given(standing, trail, happened, clock)


class _Given:
    __slots__ = ("_alike", "_clock", "_end", "_look", "_pulled", "_trail", "_until")

    def __init__(self, standing: Standing, trail: Trail, happened: Happened | None, clock: Callable[[], float]) -> None:
        self._look = standing.look
        self._until = standing.until
        self._pulled = standing.pulled
        self._trail = trail
        self._clock = clock
        self._alike = happened[:_OWN] if happened is not None else None
        self._end = happened[_OWN + 2 :] if happened is not None else ()

    def give(self, request_id: str) -> bool:
        now = self._clock()
        if now >= self._until or not self._look.stands():
            return False
        if self._alike is not None:
            happened = Happened._make((*self._alike, now, request_id, *self._end))
            if not self._trail.note_at_once(happened):
                return False
        if self._pulled is not None:
            self._pulled()
        return True
