"""Referrers of an image under a pull-through rule: the upstream's, imported beside the stored ones.

    looked for less than `EVERY_SECONDS` ago     the stored ones
    due                                          the upstream's list; what is missing here is imported by its digest
    due, and the upstream fails                  the stored ones, as stale; the failure if this is the first look
    no permission to import, or no such image    the stored ones

Imported referrers are ordinary images: they are listed, pulled and removed as such, and stay when the upstream no
longer lists them. Called by `mirror`. Must not know HTTP. Source: ECR User Guide, on referrers through pull-through
caches (2026-04).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass

from proxy import observe
from proxy.metadata.contract import Metadata
from proxy.model.errors import Code, Failure
from proxy.model.lru import Lru
from proxy.model.names import parse_digest
from proxy.model.pull_through import PullThroughRule
from proxy.registry.images import Images
from proxy.registry.mirror.manifests import IMPORT, STALE_PAUSE_SECONDS, May
from proxy.registry.mirror.upstreams import NEGATIVES, Upstreams, told, upstream_name
from proxy.upstream.errors import UpstreamFailed
from proxy.upstream.referrers import referrers_of

EVERY_SECONDS = 6 * 3600.0
AT_ONCE = 4  # manifests imported at a time

Bring = Callable[[PullThroughRule, str, str, str], Awaitable[object]]
"""Import a digest into a repository of an account: `MirrorManifests.bring`."""


@dataclass(frozen=True, slots=True)
class ReferrersLooked:
    """`good_until`: epoch seconds until which the upstream need not be called."""

    is_stale: bool = False
    good_until: float = float("inf")


class MirrorReferrers:
    """One worker's look-ups. `now` returns epoch seconds."""

    def __init__(
        self, metadata: Metadata, images: Images, upstreams: Upstreams, bring: Bring, now: Callable[[], float]
    ) -> None:
        self._metadata = metadata
        self._images = images
        self._upstreams = upstreams
        self._bring = bring
        self._now = now
        self._running: dict[Hashable, asyncio.Task[None]] = {}
        self._paused = Lru[Hashable, float](NEGATIVES)  # subjects of which a look failed

    async def look(
        self, rule: PullThroughRule, account: str, repository: str, digest: str, may: May
    ) -> ReferrersLooked:
        """Import the upstream's referrers, if a look is due. The failures of `upstreams.told` at a first look."""
        try:
            await self._images.resolve(account, repository, digest)
        except Failure as failure:
            if failure.code not in (Code.IMAGE_NOT_FOUND, Code.REPOSITORY_NOT_FOUND):
                raise
            return ReferrersLooked(good_until=0.0)
        checked = await self._metadata.referrers_checked(account, repository, digest)
        if checked is not None and self._now() < checked + EVERY_SECONDS:
            return ReferrersLooked(good_until=checked + EVERY_SECONDS)
        if not await may(IMPORT):
            return ReferrersLooked(good_until=0.0)
        name = (account, repository, digest)
        if checked is not None and self._paused.get(name, 0.0) > self._now():
            return ReferrersLooked(is_stale=True, good_until=0.0)
        try:
            await self._once(name, rule)
        except Failure as failure:
            observe.log.warning(
                "referrers could not be looked for", repository=repository, digest=digest, why=str(failure)
            )
            if checked is None:
                raise
            self._paused[name] = self._now() + STALE_PAUSE_SECONDS
            return ReferrersLooked(is_stale=True, good_until=0.0)
        return ReferrersLooked(good_until=self._now() + EVERY_SECONDS)

    async def _once(self, name: tuple[str, str, str], rule: PullThroughRule) -> None:
        """Run one look of a subject at a time. A client that disconnects does not cancel it for others."""
        task = self._running.get(name)
        if task is None:
            task = self._running[name] = asyncio.create_task(self._import(rule, *name), name="referrers")
            task.add_done_callback(lambda ended: self._ended(name, ended))
        await asyncio.shield(task)

    def _ended(self, name: Hashable, task: asyncio.Task[None]) -> None:
        self._running.pop(name, None)
        if not task.cancelled():
            task.exception()

    async def _import(self, rule: PullThroughRule, account: str, repository: str, digest: str) -> None:
        try:
            client = await self._upstreams.client(rule)
            found = await referrers_of(client, upstream_name(rule, repository), parse_digest(digest))
        except UpstreamFailed as failed:
            missing = Failure(Code.IMAGE_NOT_FOUND, "Requested image not found")
            raise told(rule, failed, missing=missing) from failed
        turns = asyncio.Semaphore(AT_ONCE)

        async def bring(each: str) -> None:
            async with turns:
                try:
                    await self._images.resolve(account, repository, each)
                except Failure as failure:
                    if failure.code is not Code.IMAGE_NOT_FOUND:
                        raise
                    await self._bring(rule, account, repository, each)

        outcomes = await asyncio.gather(*map(bring, found), return_exceptions=True)
        for outcome in outcomes:
            # A referrer that is gone, or is no valid manifest, does not fail the others.
            if isinstance(outcome, Failure) and (outcome.code is Code.IMAGE_NOT_FOUND or outcome.fields.get("refused")):
                continue
            if isinstance(outcome, BaseException):
                raise outcome
        await self._metadata.note_referrers_checked(account, repository, digest)
