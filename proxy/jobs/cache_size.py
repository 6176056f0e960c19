"""The job that evicts images of a pull-through cache rule by its settings `bytes` and `unused_days`.

    unused_days    evict images that were not pulled for this long
    bytes          while the rule's repositories have more, evict the least recently pulled images

Never evicted are images that were pushed, tagged or signed here, that were fetched or pulled a moment ago, or that an
index which stays lists. A round reads pages and keeps the `BATCH` oldest; it removes a few images at a time, each with
a line of the audit log. It can be interrupted anywhere; the next round does the rest. The sweep frees the disk after
the layers' grace. Called by `app.mirror`. Must not know settings.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import json
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass
from operator import attrgetter

from proxy import observe
from proxy.audit.events import job_event
from proxy.audit.trail import Trail
from proxy.jobs.sweep import PAUSE_MAX, next_limit
from proxy.metadata.contract import Metadata
from proxy.model.jobs import Job
from proxy.model.mirror import CachedImage, EvictedImage
from proxy.model.pull_through import choose
from proxy.model.records import PULL_EVERY_SECONDS

PAGE = 1000  # rows a request
BATCH = 1000  # images to remove that one pass selects
FIRST = 5  # images removed in the first transaction; its duration sets the size of the next one
YOUNG_SECONDS = 900.0  # since an image was fetched or pulled: its puller may still need its layers
DAY = 86_400.0


@dataclass(frozen=True, slots=True)
class CacheSize:
    """`limits` returns (bytes, unused_days) of a rule's prefix, 0 for no limit; `region` is for ARNs."""

    metadata: Metadata
    trail: Trail
    region: str
    clock: Callable[[], float]  # epoch seconds
    limits: Callable[[str], tuple[int, float]]

    async def run(self, job: Job) -> None:
        """One rule's round; the job's subject names it."""
        await self.trim(job.account, json.loads(job.subject)["prefix"])

    async def trim(self, account: str, prefix: str) -> None:
        most, days = self.limits(prefix)
        repositories = [(name, size) async for name, size in self._repositories(account, prefix)]
        names, now = [name for name, _ in repositories], self.metadata.now()
        if days:
            # Pull times are recorded only that often: an image's may be this much too old.
            await self._remove_all(account, names, "unused", now - days * DAY - PULL_EVERY_SECONDS)
        if most and sum(size for _, size in repositories) > most:
            over = sum([await self._held(account, name) for name in names]) - most
            if over > 0:
                await self._remove_all(account, names, "size", now - YOUNG_SECONDS, over)

    async def _remove_all(
        self, account: str, repositories: Sequence[str], reason: str, unused_since: float, over: int | None = None
    ) -> None:
        """Remove images, the least recently pulled first, until `over` bytes are freed, or none is left."""
        while over is None or over > 0:
            oldest = await self._oldest(account, repositories, unused_since)
            removed = 0
            async for image in self._remove(account, oldest, reason, unused_since):
                removed += 1
                if over is not None:
                    over -= image.freed
                    if over <= 0:
                        return
            if not removed:
                if over:
                    observe.log.info("a pull-through cache is over its size, and nothing of it may go", over=over)
                return

    async def _remove(
        self, account: str, images: Sequence[CachedImage], reason: str, unused_since: float
    ) -> AsyncGenerator[EvictedImage, None]:
        """Remove these images. One that an index lists is retried, before younger ones, once an index is removed."""
        clock, limit = asyncio.get_running_loop().time, FIRST
        rest, listed = list(images), list[CachedImage]()
        while rest:
            repository, alike = next(itertools.groupby(rest[:limit], key=attrgetter("repository")))
            batch = list(alike)
            del rest[: len(batch)]
            await self.trail.require()
            began = clock()
            outcomes = await self.metadata.evict_images(
                account, repository, digests=[image.digest for image in batch], unused_since=unused_since
            )
            took = clock() - began
            limit = next_limit(limit, took, least=1)
            waiting = {outcome.digest for outcome in outcomes if outcome.kept_for == "index"}
            listed += [image for image in batch if image.digest in waiting]
            for outcome in outcomes:
                if not outcome.kept_for:
                    observe.metrics.mirror_evicted.labels(reason).inc()
                    await self._record(account, repository, reason, outcome)
                    yield outcome
            if any(outcome.is_index and not outcome.kept_for for outcome in outcomes):
                rest, listed = listed + rest, []
            await asyncio.sleep(min(took, PAUSE_MAX))

    # ---- reading -----------------------------------------------------------------------------------------------------
    async def _repositories(self, account: str, prefix: str) -> AsyncGenerator[tuple[str, int], None]:
        """Name and size of the repositories whose rule is this one, the rule with the longest matching prefix."""
        rules, after = await self.metadata.pull_through_rules(account), ""
        while page := await self.metadata.repository_sizes(account, after=after, limit=PAGE):
            for name, size in page:
                rule = choose(rules, name)
                if rule is not None and rule.prefix == prefix:
                    yield name, size
            after = page[-1][0]

    async def _held(self, account: str, repository: str) -> int:
        total, after = 0, 0
        while True:
            size, after = await self.metadata.held_bytes(account, repository, after=after, limit=PAGE)
            total += size
            if not after:
                return total

    async def _oldest(self, account: str, repositories: Sequence[str], unused_since: float) -> list[CachedImage]:
        found: list[CachedImage] = []
        for repository in repositories:
            after, more = "", True
            while more:
                page, after = await self.metadata.cached_images(account, repository, after=after, limit=PAGE)
                more = bool(after)
                found += [image for image in page if image.used_at <= unused_since]
                if len(found) > 2 * BATCH:
                    found = heapq.nsmallest(BATCH, found, key=attrgetter("used_at"))
        return heapq.nsmallest(BATCH, found, key=attrgetter("used_at"))

    async def _record(self, account: str, repository: str, reason: str, image: EvictedImage) -> None:
        parameters = {"imageDigest": image.digest, "imageTags": list(image.tags), "reason": reason}
        where = {"account": account, "region": self.region, "repository": repository}
        event = job_event("pull through cache", "PullThroughCacheEviction", parameters, moment=self.clock(), **where)
        await self.trail.record(event)
