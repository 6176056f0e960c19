"""The jobs of pull-through cache rules: they fetch images with their layers, and limit the rules' sizes.

    import of an index under a rule with `platforms`     a job, in the import's own transaction
    an image that `prefetch` of a rule names             a job at intervals, before its tag is due
    a rule with a size                                   a job at intervals: `cache_size`

A job checks its tag at the upstream, then fetches what is missing. After a 429 it waits for as long as the upstream
says. Made by `app.mirror`. Must not know how an upstream is called.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Iterator
from typing import Protocol

from proxy import observe
from proxy.jobs.image_fetch import ImageFetch
from proxy.jobs.queue import GivenUp, JobKind, Postponed
from proxy.jobs.schedule import Task
from proxy.jobs.warm import Reference
from proxy.metadata.contract import Metadata
from proxy.model.errors import Code, Failure
from proxy.model.jobs import Job
from proxy.model.mirror import FETCH_KIND, SIZE_KIND
from proxy.model.pull_through import PullThroughRule, local_repository

AHEAD = 1.5  # intervals; a tag is checked this long before it is due, so that a pull finds it fresh
WITHIN_MIN = 60.0  # seconds of a round, at least

_FINAL = frozenset({Code.IMAGE_NOT_FOUND, Code.REPOSITORY_NOT_FOUND, Code.PULL_THROUGH_RULE_NOT_FOUND})


class RuleSettings(Protocol):
    """The part of `config.pull_through_settings.RuleSetting` that is used here."""

    @property
    def refresh_seconds(self) -> float: ...
    @property
    def platforms(self) -> tuple[str, ...]: ...
    @property
    def prefetch(self) -> tuple[str, ...]: ...
    @property
    def bytes(self) -> int: ...
    @property
    def unused_days(self) -> float: ...


class PullThroughUpkeep:
    """`settings` returns those of a rule's prefix; `every` is the seconds between two rounds."""

    def __init__(
        self,
        metadata: Metadata,
        images: ImageFetch,
        trim: Callable[[Job], Awaitable[None]],
        settings: Callable[[str], RuleSettings],
        *,
        every: float,
    ) -> None:
        self._metadata = metadata
        self._images = images
        self._trim = trim
        self._settings = settings
        self._every = every

    def tasks(self) -> tuple[Task, ...]:
        """The tasks for `schedule`."""
        return (Task("pull-through", self._every, max(self._every, WITHIN_MIN), self.run_due),)

    def kinds(self) -> tuple[JobKind, ...]:
        """The kinds of jobs for `queue`."""
        return (
            JobKind(FETCH_KIND, self.fetch, at_once=4, attempts=8, first_pause=5.0),
            JobKind(SIZE_KIND, self._trim, at_once=1, attempts=3, first_pause=60.0),
        )

    async def run_due(self) -> None:
        """Enqueue a job for everything that is due."""
        for account in await self._metadata.accounts():
            for rule in await self._metadata.pull_through_rules(account.account):
                setting = self._settings(rule.prefix)
                if setting.bytes or setting.unused_days:
                    await self._metadata.request_trim(rule.account, prefix=rule.prefix)
                for reference in _prefetched(rule, setting.prefetch):
                    if await self._is_due(rule.account, reference, setting.refresh_seconds):
                        await self._metadata.request_image(
                            rule.account,
                            reference.repository,
                            reference=reference.name,
                            platforms=setting.platforms,
                            share=rule.prefix,
                        )

    async def fetch(self, job: Job) -> None:
        """Run one job of `FETCH_KIND`."""
        subject = json.loads(job.subject)
        reference = Reference(subject["repository"], subject["reference"])
        try:
            if subject["is_here"]:
                if not await self._is_here(job.account, reference):
                    return
            elif await self._images.refresh(job.account, reference) is None:
                return  # the tag was set by a push here
            await self._images.fetch(job.account, reference, subject["platforms"])
        except* Failure as failures:
            raise _judged(next(_leaves(failures))) from failures

    async def _is_here(self, account: str, reference: Reference) -> bool:
        try:
            await self._metadata.manifest(account, reference.repository, reference.name)
        except Failure as failure:
            if failure.code not in _FINAL:
                raise
            return False
        return True

    async def _is_due(self, account: str, reference: Reference, refresh_seconds: float) -> bool:
        mark = await self._metadata.mirrored_tag(account, reference.repository, reference.name)
        return mark is None or mark.checked_at + refresh_seconds - AHEAD * self._every <= self._metadata.now()


def _prefetched(rule: PullThroughRule, names: tuple[str, ...]) -> Iterator[Reference]:
    for name in names:
        repository, _, tag = name.partition(":")
        here = local_repository(rule, repository)
        if here is None:
            observe.log.warning("prefetch of a rule names what it does not cover", rule=rule.prefix, image=name)
        else:
            yield Reference(here, tag or "latest")


def _judged(failure: Failure) -> Exception:
    """The exception by which the queue postpones, gives up or retries."""
    if failure.code is Code.UPSTREAM_TOO_MANY_REQUESTS:
        return Postponed(float(str(failure.fields.get("seconds", 60.0))))
    if failure.code in _FINAL:
        return GivenUp(failure.message)
    return failure


def _leaves(failures: BaseExceptionGroup[Failure]) -> Iterator[Failure]:
    for each in failures.exceptions:
        if isinstance(each, BaseExceptionGroup):
            yield from _leaves(each)
        else:
            yield each
