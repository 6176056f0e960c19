"""The job that replicates an image, or its deletion, to one destination.

Promises: the images of an index are sent before the index, a subject before its referrer; if the destination refuses,
the status is FAILED with a code at once, and the job is dead; one that does not answer is retried for ever, with pauses
of five minutes at most. What is sent is read from the rows when the job runs, so a job that waited sends the current
state. May run more than once: what the destination has is not sent again. Called by `app.replication`. Must not know
how a destination is reached: a `ReplicationTarget` does.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from proxy import observe
from proxy.jobs.queue import COUNT_SECONDS, GivenUp, JobKind, Postponed
from proxy.metadata.contract import Metadata
from proxy.model.errors import Code, Failure
from proxy.model.jobs import Job
from proxy.model.replication import (
    FAILURE_CODES,
    KIND,
    FailureCode,
    RemovedTag,
    ReplicaManifest,
    ReplicationDestination,
    ReplicationStatus,
)

LONGEST_PAUSE = 300.0
REFERENCED_SECONDS = 5.0  # an image whose index has to be deleted first, or whose tag moves with another job
SENDING_SECONDS = 1.0  # a tag's deletion waits for images of its repository that are being sent
SENDING_MOST = 600.0  # since the deletion, so that a busy repository does not delay it for ever
REFERENCED_ATTEMPTS = 10  # after which the image stays: its index was pushed again there


class Refused(Exception):
    """The destination refuses the image, and would again."""

    def __init__(self, code: FailureCode, why: str) -> None:
        super().__init__(f"{code}: {why}")
        self.code = code


@dataclass(frozen=True, slots=True)
class ReplicationSource:
    """An image's repository here, and its destination."""

    account: str
    repository: str
    origin: str  # REGION/ACCOUNT
    destination: ReplicationDestination


class ReplicationTarget(Protocol):
    """Reaches the registries of one region. Raises Refused; other exceptions are temporary, or Failures."""

    async def put(self, source: ReplicationSource, manifest: ReplicaManifest) -> None:
        """Send layers, then the manifest, then its tags."""

    async def remove(self, source: ReplicationSource, digest: str, origin: str, tags: Sequence[RemovedTag]) -> bool:
        """As `remove_replica` of the rows."""


class Replicating:
    """`targets` returns the target of a region, None if there is none."""

    def __init__(
        self,
        rows: Metadata,
        targets: Callable[[str], ReplicationTarget | None],
        *,
        region: str,
        at_once: int = 16,
        regions: Collection[str] = (),
    ) -> None:
        """`regions` have gauges from the start."""
        self._rows = rows
        self._targets = targets
        self._region = region
        self._at_once = at_once
        self._counted = set(regions)  # whose gauges are set

    def kind(self) -> JobKind:
        """Retried for ever, as a network may be down for a week; a refusal ends it."""
        share = max(1, self._at_once // 2)
        return JobKind(
            KIND, self.run, at_once=self._at_once, share_limit=share, attempts=None, longest_pause=LONGEST_PAUSE
        )

    async def count(self) -> None:
        """Set the gauges: how many images wait for each region, and the age of the oldest."""
        found = {each.region: each for each in await self._rows.replication_backlog()}
        self._counted |= found.keys()
        for region in self._counted:
            each = found.get(region)
            age = max(0.0, self._rows.now() - each.oldest) if each else 0.0
            observe.metrics.replication_waiting.labels(region).set(each.waiting if each else 0)
            observe.metrics.replication_lag_seconds.labels(region).set(age)

    async def watch(self) -> None:
        """Runs `count` every `COUNT_SECONDS` until it is cancelled."""
        while True:
            with contextlib.suppress(Failure):
                await self.count()
            await asyncio.sleep(COUNT_SECONDS)

    async def run(self, job: Job) -> None:
        subject: Mapping[str, Any] = json.loads(job.subject)
        destination = ReplicationDestination(subject["region"], subject["registry"])
        source = ReplicationSource(job.account, subject["repository"], f"{self._region}/{job.account}", destination)
        removed = [RemovedTag(*tag) for tag in subject.get("tags", ())]
        if subject["digest"] and await self._send(job, source, subject["digest"]):
            return
        if subject["removed"]:
            await self._remove(job, source, subject["digest"], subject.get("origin", source.origin), removed)

    async def _send(self, job: Job, source: ReplicationSource, digest: str) -> bool:
        """Send the image. False if it no longer exists."""
        plan = await self._rows.replication_plan(
            source.account, source.repository, digest, destination=source.destination
        )
        if plan is None:
            return False
        done: list[str] = []
        try:
            if plan.archived:
                raise Refused(FailureCode.IMAGE_ARCHIVED, "it was archived before it was replicated")
            target = self._target(source)
            for manifest in plan.manifests:
                with _refusals():
                    await target.put(source, manifest)
                done.append(manifest.digest)
        except Refused as refused:
            await self._end(job, source, digest, done, refused.code, 0.0)
            raise GivenUp(str(refused)) from None
        await self._end(job, source, digest, done, None, plan.planned_at)
        return True

    async def _end(
        self,
        job: Job,
        source: ReplicationSource,
        digest: str,
        done: Sequence[str],
        code: FailureCode | None,
        synced_at: float,
    ) -> None:
        ended = ReplicationStatus.COMPLETE if code is None else ReplicationStatus.FAILED
        others = [each for each in done if each != digest]
        for digests, status, why in (
            (others, ReplicationStatus.COMPLETE, None),
            ([digest], ended, None if code is None else str(code)),
        ):
            if digests:
                await self._rows.end_replication(
                    source.account,
                    source.repository,
                    digests,
                    destination=source.destination,
                    status=status,
                    failure_code=why,
                    synced_at=synced_at if digests[-1] == digest else 0.0,
                    revision=job.revision if digests[-1] == digest else 0,
                )
        observe.metrics.replications.labels(source.destination.region, "done" if code is None else "refused").inc()

    async def _remove(
        self, job: Job, source: ReplicationSource, digest: str, origin: str, tags: Sequence[RemovedTag]
    ) -> None:
        if not digest and await self._may_arrive_late(job, source):
            raise Postponed(SENDING_SECONDS)
        try:
            with _refusals():
                gone = await self._target(source).remove(source, digest, origin, tags)
        except Refused as refused:
            raise GivenUp(str(refused)) from None
        if not gone and job.attempts < REFERENCED_ATTEMPTS:
            raise _Referenced
        observe.metrics.replications.labels(source.destination.region, "deleted").inc()

    async def _may_arrive_late(self, job: Job, source: ReplicationSource) -> bool:
        """Whether the tag may still be sent with an image that was planned before the tag was removed."""
        if self._rows.now() - job.created_at > SENDING_MOST:
            return False
        return await self._rows.replication_sending(source.account, source.repository, destination=source.destination)

    def _target(self, source: ReplicationSource) -> ReplicationTarget:
        found = self._targets(source.destination.region)
        if found is None:
            raise Refused(FailureCode.REGION_NOT_REACHED, f"nothing reaches region {source.destination.region}")
        return found


class _Referenced(Exception):
    """An index or a tag at the destination refers to the image; what removes or moves it may follow."""

    def __str__(self) -> str:
        return "an image index lists the image at the destination, or a tag has not moved from it yet"


@contextlib.contextmanager
def _refusals() -> Iterator[None]:
    """Turn permanent failures into Refused, and throttling into Postponed."""
    try:
        yield
    except Failure as failure:
        if failure.code in FAILURE_CODES:
            raise Refused(FAILURE_CODES[failure.code], failure.message) from None
        if failure.code is Code.THROTTLING:
            raise Postponed(float(str(failure.fields.get("seconds", 1.0)))) from None
        raise
