"""How old a request is, and until when it may be begun: both ends' part of it.

A request may be read long after it was sent: by a service that stood still (SIGSTOP, a paused machine), or over a line
that held it. Its client has gone on meanwhile, perhaps at another service, and what it did since must not be undone. So
a request says when it was made, and one that is older than `AGE_MAX_SECONDS`, or than its sender waits for, is refused
before its body is read. That is far less than the time for which answers are stored (`answers.KEEP_SECONDS`): a write
is never delivered so late that its first answer is forgotten and it would be done again.

**By which clock.** Wall clocks of two machines differ. What all services share is the database's time (`clock`), and
each answer carries it (`wire.TIME_HEADER`), written at the moment of the answer; a client so knows it within the time
that its quickest answer took to come, and stamps its requests with it (`wire.MADE_HEADER`), whichever service they go
to. A repeated request keeps its id and the moment at which it was made; the stamp is that moment by what the client
knows now. A client that knows nothing yet stamps 0: it is refused, learns the time from the refusal, and asks again at
once; so does one whose knowledge a step of the clock has outdated. A request without a stamp, an earlier release's,
counts from its receipt.

A write that waited in a queue is looked at again before its transaction begins, so that an overload costs nothing for
clients that have left, and in it, when no other writes: by the monotonic clock, which a standstill of the process does
not stop, and by the transaction's own time, which a standstill of the whole machine does not stop either.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass

from proxy.metadata import wire
from proxy.metadata.service.clock import RemoteClock
from proxy.model.errors import Code, Failure

AGE_MAX_SECONDS = 60.0
EXPIRED = "expired"  # a field of the refusal: nothing was done, and the answer's time says why
WRONG_SECONDS = 0.5
"""Refused for its age, a request whose stamp is found to have been late by more is made again at once, not given up."""
_MADE, _WITHIN = wire.MADE_HEADER.lower(), wire.WITHIN_HEADER.lower()


@dataclass(frozen=True, slots=True)
class Deadline:
    """`monotonic` of `time.monotonic`, `database` of the database's time."""

    monotonic: float = math.inf
    database: float = math.inf

    def check(self, now: float) -> None:
        """Failure when it is over at `now` of the database's time."""
        if time.monotonic() > self.monotonic or now > self.database:
            raise _expired("its client has given it up while it waited")


NEVER = Deadline()


def read_deadline(headers: Mapping[str, str], now: float) -> Deadline:
    """Of a request's headers (names in any case, or in lower case), read at `now` of the database's time. Failure for
    one that comes too late, and for headers of another form."""
    within, made = _number(headers, _WITHIN), _number(headers, _MADE)
    if made is None:
        left = math.inf if within is None else within
    else:
        age = max(0.0, now - made)  # below 0: its sender is a little ahead, or the database's clock was set back
        left = min(AGE_MAX_SECONDS, math.inf if within is None else within) - age
        if left <= 0:
            raise _expired("it was sent too long ago")
    return Deadline(time.monotonic() + left, now + left)


def stamp(made: float, within: float) -> dict[str, str]:
    """The headers of a request that was made then, by the database's time as its sender knows it, and that is of use
    for so many seconds since."""
    return {wire.MADE_HEADER: f"{made:.3f}", wire.WITHIN_HEADER: f"{within:.3f}"}


def learn(clock: RemoteClock, told: str | None, sent: float, received: float) -> None:
    """Take in an answer's time, of a request between `sent` and `received`. ValueError for what is none."""
    if told is not None:
        clock.observe(float(told), sent, received)


def _number(headers: Mapping[str, str], name: str) -> float | None:
    text = headers.get(name)
    if text is None:
        return None
    try:
        found = float(text)
    except ValueError:
        found = math.nan
    if math.isnan(found):
        raise Failure(Code.INVALID_PARAMETER, f"{name} is a number of seconds")
    return found


def _expired(why: str) -> Failure:
    return Failure(Code.METADATA_UNAVAILABLE, f"the request is left: {why}; try again", expired=True)
