"""A job of the durable queue, as its runner and the commands see it. Pure."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Job:
    """Work that some node is to do. `key` names it within its kind: what is enqueued under it again coalesces with it.

    `fence` is of the lease (0: nobody works on it); `revision` counts what was enqueued under the key. Times are epoch
    seconds; `error` is what the last attempt failed with. `dead`: nobody tries again until an operator says so."""

    job_id: int
    kind: str
    account: str
    key: str
    subject: str  # JSON, the kind's own
    share: str  # beside the account: whom the kind is fair between, such as targets of events
    attempts: int  # that failed, in a row
    due_at: float
    created_at: float
    fence: int = 0
    revision: int = 0
    dead: bool = False
    error: str = ""


@dataclass(frozen=True, slots=True)
class JobCount:
    """What of one kind waits (those that are being done among them), or is dead."""

    kind: str
    dead: bool
    jobs: int
    oldest: float  # created_at of the oldest, epoch seconds
