"""The job of a replication backfill: lists images, queues replication jobs some at a time, and records how they end.

Each step is a transaction of its own (`advance_backfill`), so a job that was interrupted continues where it was, on any
node. Called by the queue; `app.worker` adds the kind. Must not know how an image is replicated: `replication` does.
"""

from __future__ import annotations

from proxy.jobs.queue import JobKind, Postponed
from proxy.metadata.contract import Metadata
from proxy.model.backfill import KIND
from proxy.model.jobs import Job

AT_ONCE = 4
LONGEST_PAUSE = 60.0  # after failures of the database


class Backfilling:
    def __init__(self, rows: Metadata) -> None:
        self._rows = rows

    def kind(self) -> JobKind:
        """Retried for ever: an unfinished backfill would keep others from its destination's region."""
        return JobKind(KIND, self.run, at_once=AT_ONCE, share_limit=AT_ONCE, attempts=None, longest_pause=LONGEST_PAUSE)

    async def run(self, job: Job) -> None:
        while (seconds := await self._rows.advance_backfill(job.account, backfill=job.key)) is not None:
            if seconds:
                raise Postponed(seconds)
