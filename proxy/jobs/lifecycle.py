"""Applies lifecycle policies: at intervals to all repositories, or at once to one.

A repository is evaluated from pages of its images, outside of any transaction; marked images are removed a few at a
time: other writes wait for one batch at most, and have half of the time. The transaction that removes an image checks
it again (`metadata.operations.lifecycle_images`). Each removal is written to the audit log, as `PolicyExecutionEvent`,
before the next batch begins. It can be interrupted anywhere; the next run does the rest. Memory is some 300 bytes an
image that a rule selects. Called by `app.worker` and `admin.lifecycle`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass

from proxy import observe
from proxy.audit.events import job_event
from proxy.audit.trail import Trail
from proxy.jobs.schedule import Task
from proxy.jobs.sweep import PAUSE_MAX, next_limit
from proxy.metadata.contract import Metadata
from proxy.model.errors import Failure
from proxy.model.lifecycle.evaluation import Image, LifecycleEvaluation, Mark
from proxy.model.lifecycle.policy import read_policy
from proxy.model.lifecycle.records import LifecycleDue, LifecycleOutcome

PAGE = 1000  # images a request
DUE = 20  # repositories a request
BATCH_FIRST = 5  # images removed in the first transaction of a run; its duration sets the size of the next one
WITHIN = 0.75  # of the interval: a turn has ended before another node may take the next one
WITHIN_MIN = 60.0  # seconds


@dataclass(frozen=True, slots=True)
class LifecycleRun:
    """What a run of policies needs. `region` is the registry's, for ARNs; the flags are settings of `[lifecycle]`."""

    metadata: Metadata
    trail: Trail
    region: str
    clock: Callable[[], float]  # epoch seconds
    expire_unpulled: bool = False
    index_aware: bool = False

    async def marks(self, account: str, repository: str, policy: str) -> Sequence[Mark]:
        """What the policy would do now. InvalidParameter for a stored policy that is no longer valid."""
        rules = read_policy(policy, expire_unpulled=self.expire_unpulled)
        evaluation = LifecycleEvaluation(rules, now=self.metadata.now(), index_aware=self.index_aware)
        async for page in pages(self.metadata, account, repository):
            await asyncio.to_thread(evaluation.add_all, page)
        return await asyncio.to_thread(evaluation.marks)

    async def run(self, account: str, repository: str, policy: str) -> AsyncGenerator[LifecycleOutcome, None]:
        """Evaluate and apply the policy; yields the outcome of each marked image."""
        marks = await self.marks(account, repository, policy)
        clock = asyncio.get_running_loop().time
        done, limit = 0, BATCH_FIRST
        while done < len(marks):
            await self.trail.require()
            began = clock()
            outcomes = await self.metadata.apply_lifecycle(
                account, repository, policy=policy, marks=marks[done : done + limit], index_aware=self.index_aware
            )
            took = clock() - began
            done += limit
            limit = next_limit(limit, took, least=1)
            for outcome in outcomes:
                if not outcome.kept_for:
                    observe.metrics.lifecycle_images.labels(str(outcome.action)).inc()
                    await self._record(account, repository, outcome)
                yield outcome
            if done < len(marks):
                await asyncio.sleep(min(took, PAUSE_MAX))
        await self.metadata.lifecycle_evaluated(account, repository, policy=policy)

    async def run_due(self, every: float) -> None:
        """Apply all policies that were not evaluated for about `every` seconds."""
        while await self.metadata.expire_previews(limit=500):
            pass
        failed: set[tuple[str, str]] = set()
        while True:
            found = await self.metadata.lifecycle_due(older_than_seconds=every * WITHIN, limit=DUE + len(failed))
            due = [each for each in found if (each.account, each.repository) not in failed]
            for each in due:
                if not await self._run_one(each):
                    failed.add((each.account, each.repository))
            if not due:
                return

    async def _run_one(self, due: LifecycleDue) -> bool:
        """False if it failed: the next turn retries."""
        acted = kept = 0
        try:
            async for outcome in self.run(due.account, due.repository, due.policy):
                if outcome.kept_for:
                    kept += 1
                else:
                    acted += 1
        except Failure as failure:
            observe.log.warning(
                "a lifecycle policy could not be carried out",
                account=due.account,
                repository=due.repository,
                reason=str(failure),
            )
            return False
        finally:
            if acted or kept:
                observe.log.info(
                    "a lifecycle policy was carried out",
                    account=due.account,
                    repository=due.repository,
                    images=acted,
                    kept=kept,
                )
        return True

    async def _record(self, account: str, repository: str, outcome: LifecycleOutcome) -> None:
        parameters = {
            "imageDigest": outcome.digest,
            "imageTags": list(outcome.tags),
            "rulePriority": outcome.priority,
            "action": str(outcome.action),
        }
        where = {"account": account, "region": self.region, "repository": repository}
        event = job_event("lifecycle policy", "PolicyExecutionEvent", parameters, moment=self.clock(), **where)
        await self.trail.record(event)


def lifecycle_tasks(run: LifecycleRun, every: float) -> tuple[Task, ...]:
    """The tasks for `schedule`; `every` is seconds."""
    return (Task("lifecycle", every, max(every * WITHIN, WITHIN_MIN), lambda: run.run_due(every)),)


async def pages(metadata: Metadata, account: str, repository: str) -> AsyncGenerator[Sequence[Image], None]:
    """All images of a repository."""
    after, more = "", True
    while more:
        page, more = await metadata.lifecycle_page(account, repository, after=after, limit=PAGE)
        if page:
            yield page
            after = page[-1].digest
