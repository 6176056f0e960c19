"""The age of a request, and the time until which it may be begun: what both ends do about it.

A request may be read long after it was sent: by a service that was suspended (SIGSTOP, a paused machine), or over a
connection that delayed it. Its client has gone on meanwhile, perhaps at another service, and what it did since must not
be undone. So a request says when it was made, and one that is older than `AGE_MAX_SECONDS`, or than its sender waits
for, is refused before its parameters are read. That is far less than the time for which answers are stored
(`service.idempotency.KEEP_SECONDS`): a write is never delivered so late that its first answer is forgotten and it would
be done again.

**Which clock.** Wall clocks of two machines differ. What all services share is the database's time (`service.clock`),
and each answer carries it, written at the moment of the answer. So a client knows it within the time that its quickest
answer took, and stamps its requests with it (`OperationRequest.made`), whichever service they go to. A repeated request
keeps its id and the moment at which it was made; the stamp is that moment by what the client knows now. A client that
knows nothing yet stamps 0: it is refused, learns the time from the refusal, and repeats the request at once. So does a
client whose knowledge a step of the clock has outdated. A request without a stamp counts from its receipt.

A write that waited in a queue is checked again before its transaction begins, so that an overload costs nothing for
clients that have left, and in the transaction, when no other process writes: by the monotonic clock, which goes on
while the process is suspended, and by the transaction's own time, which goes on while the whole machine is.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

from proxy.model.errors import Code, Failure

AGE_MAX_SECONDS = 60.0
EXPIRED = "expired"  # a field of the refusal: nothing was done, and the answer's time says why
WRONG_SECONDS = 0.5
"""A request that was refused for its age is made again at once where its stamp turns out to be wrong by more."""


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


def read_deadline(made: float | None, within: float | None, now: float) -> Deadline:
    """The deadline of an `OperationRequest` with these `made` and `within`, read at `now` of the database's time.

    Failure for a request that comes too late, and for what is no number."""
    if any(each is not None and math.isnan(each) for each in (made, within)):
        raise Failure(Code.INVALID_PARAMETER, "made and within are numbers of seconds")
    if made is None:
        left = math.inf if within is None else within
    else:
        age = max(0.0, now - made)  # below 0: its sender is a little ahead, or the database's clock was set back
        left = min(AGE_MAX_SECONDS, math.inf if within is None else within) - age
        if left <= 0:
            raise _expired("it was sent too long ago")
    return Deadline(time.monotonic() + left, now + left)


def _expired(why: str) -> Failure:
    return Failure(Code.METADATA_UNAVAILABLE, f"the request is left: {why}; try again", expired=True)
