"""Manifests under a pull-through rule: served from the rows, checked with the upstream, imported, or served stale.

    stored, by digest                     served
    stored, by a local tag                served: a push here has set the tag, so it is no longer the upstream's
    stored, by a tag checked recently     served
    stored, by a tag that is due          HEAD; the same digest: marked as checked; another: GET and import
                                          on failure: served as stale; without permission: served
    not stored                            GET and import; a failure is returned, and remembered for a while

A missing image is imported only for callers that may do so (`ecr:BatchImportUpstreamImage`, and `ecr:CreateRepository`
if the repository is missing); others get ECR's 404. A worker runs one import of a name at a time, for all that wait for
it, also if they disconnect. An import is one transaction (`metadata.operations.mirror`) that stores the image without
its layers; a worker that dies before it loses only the response. Called by `mirror`.
Source: ECR User Guide, "Sync an upstream registry", "IAM permissions".
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Coroutine, Hashable
from dataclasses import dataclass
from typing import Any

from proxy import observe
from proxy.metadata.contract import Metadata
from proxy.model.errors import Code, Failure, repository_not_found
from proxy.model.lru import Lru
from proxy.model.names import is_digest_like
from proxy.model.pull_through import PullThroughRule
from proxy.model.records import CreateOnPush, StoredManifest
from proxy.registry.images import Images
from proxy.registry.mirror.upstreams import NEGATIVE_SECONDS, NEGATIVES, Upstreams, told, upstream_name
from proxy.upstream.client import UpstreamClient, UpstreamManifest
from proxy.upstream.errors import UpstreamFailed, UpstreamReason

IMPORT, CREATE = "ecr:BatchImportUpstreamImage", "ecr:CreateRepository"
STALE_PAUSE_SECONDS = 10.0  # after a failed refresh, before this worker retries the tag

May = Callable[[str], Awaitable[bool]]
"""Whether the caller may do the action on the repository."""


@dataclass(frozen=True, slots=True)
class Policy:
    """One rule's settings: how old a tag may be before it is checked, how much older if the upstream cannot be reached
    (0: any age), the requests that a check must leave unused, and the platforms of an index that are fetched too."""

    refresh_seconds: float = 24 * 3600.0
    stale_max_seconds: float = 0.0
    budget_floor: int = 0
    platforms: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Pulled:
    """`good_until`: epoch seconds until which the tag need not be checked (digests: for ever). `imported`: this pull
    called the upstream; `created_repository`: this pull created the repository."""

    manifest: StoredManifest
    is_stale: bool = False
    good_until: float = float("inf")
    imported: bool = False
    created_repository: bool = False


class MirrorManifests:
    """One worker's imports. `now` returns epoch seconds, `policy` the settings of a rule's prefix."""

    def __init__(
        self,
        metadata: Metadata,
        images: Images,
        upstreams: Upstreams,
        policy: Callable[[str], Policy],
        now: Callable[[], float],
    ) -> None:
        self._metadata = metadata
        self._images = images
        self._upstreams = upstreams
        self._policy = policy
        self._now = now
        self._running: dict[Hashable, asyncio.Task[Any]] = {}
        self._created: set[tuple[str, str]] = set()  # repositories that an import created, until its pull reports it
        self._announced = Lru[Hashable, float](NEGATIVES)
        self._paused = Lru[Hashable, float](NEGATIVES)  # tags whose refresh failed

    async def resolve(self, rule: PullThroughRule, account: str, repository: str, reference: str, may: May) -> Pulled:
        """RepositoryNotFound, ImageNotFound, the failures of `upstreams.told`, and those of an import's transaction."""
        try:
            found = await self._images.resolve(account, repository, reference)
        except Failure as failure:
            if failure.code not in (Code.IMAGE_NOT_FOUND, Code.REPOSITORY_NOT_FOUND):
                raise
            return await self._miss(rule, account, repository, reference, may, failure)
        if is_digest_like(reference):
            return _counted("hit", Pulled(found))
        mark = await self._metadata.mirrored_tag(account, repository, reference)
        if mark is None or mark.digest != found.digest:
            return _counted("hit", Pulled(found))
        due = mark.checked_at + self._policy(rule.prefix).refresh_seconds
        if self._now() < due:
            return _counted("hit", Pulled(found, good_until=due))
        return await self._refresh(rule, account, repository, reference, may, found, mark.checked_at)

    async def refresh(
        self, rule: PullThroughRule, account: str, repository: str, tag: str, *, spares: bool = False
    ) -> StoredManifest | None:
        """Check the tag at the upstream now, and import its image if it is missing, without permission checks.

        None for a tag that was set by a push here. The failures of `resolve`, but not remembered ones; with `spares`,
        UpstreamTooManyRequests if the upstream has few requests left."""
        try:
            here = await self._images.resolve(account, repository, tag)
        except Failure as failure:
            if failure.code not in (Code.IMAGE_NOT_FOUND, Code.REPOSITORY_NOT_FOUND):
                raise
            create = failure.code is Code.REPOSITORY_NOT_FOUND
            return await self._once(
                (account, repository, tag), lambda: self._bring(rule, account, repository, tag, create=create)
            )
        mark = await self._metadata.mirrored_tag(account, repository, tag)
        if mark is None or mark.digest != here.digest:
            return None

        async def look() -> StoredManifest:
            try:
                client = await self._upstreams.client(rule)
                if spares and client.budget.is_below(self._policy(rule.prefix).budget_floor):
                    raise UpstreamFailed(UpstreamReason.LIMITED, "budget", "few requests are left", seconds=600.0)
                return await self._checked(client, rule, account, repository, tag, here)
            except UpstreamFailed as failed:
                raise told(rule, failed, missing=_not_found()) from failed

        return await self._once((account, repository, tag), look)

    async def bring(self, rule: PullThroughRule, account: str, repository: str, digest: str) -> StoredManifest:
        """Import an image into an existing repository, without permission checks. Upstream failures of `resolve`."""
        await self._upstreams.require(rule, repository, digest)
        return await self._once(
            (account, repository, digest), lambda: self._bring(rule, account, repository, digest, create=False)
        )

    async def _miss(
        self, rule: PullThroughRule, account: str, repository: str, reference: str, may: May, absent: Failure
    ) -> Pulled:
        create = absent.code is Code.REPOSITORY_NOT_FOUND
        if create and not await may(CREATE):
            raise repository_not_found(repository, account)
        if not await may(IMPORT):
            raise _not_found()
        await self._upstreams.require(rule, repository, reference)
        manifest = await self._once(
            (account, repository, reference), lambda: self._bring(rule, account, repository, reference, create=create)
        )
        created = (account, repository) in self._created
        self._created.discard((account, repository))
        return _counted("imported", Pulled(manifest, False, self._due(rule), imported=True, created_repository=created))

    async def _bring(
        self, rule: PullThroughRule, account: str, repository: str, reference: str, *, create: bool
    ) -> StoredManifest:
        try:
            client = await self._upstreams.client(rule)
            found = await client.manifest(upstream_name(rule, repository), reference)
        except UpstreamFailed as failed:
            failure = told(rule, failed, missing=_not_found())
            await self._failed(account, repository, reference, failure)
            raise self._upstreams.remember(rule, repository, reference, failed, failure) from failed
        return await self._import(rule, account, repository, reference, found, create=create)

    async def _refresh(
        self,
        rule: PullThroughRule,
        account: str,
        repository: str,
        tag: str,
        may: May,
        here: StoredManifest,
        checked_at: float,
    ) -> Pulled:
        name = (account, repository, tag)
        policy = self._policy(rule.prefix)
        if not await may(IMPORT):
            return _counted("hit", Pulled(here, good_until=0.0))
        if self._paused.get(name, 0.0) <= self._now():

            async def look() -> StoredManifest:
                client = await self._upstreams.client(rule)
                if client.budget.is_below(policy.budget_floor):
                    raise _BudgetSpent
                return await self._checked(client, rule, account, repository, tag, here)

            try:
                fresh = await self._once(name, look)
                return _counted("refreshed", Pulled(fresh, good_until=self._due(rule), imported=True))
            except (UpstreamFailed, Failure, _BudgetSpent) as failed:
                observe.log.warning("a tag could not be refreshed", repository=repository, tag=tag, why=repr(failed))
                self._pause(name)
                if isinstance(failed, UpstreamFailed):
                    await self._failed(account, repository, tag, told(rule, failed, missing=_not_found()))
        age = self._now() - checked_at
        if policy.stale_max_seconds and age > policy.refresh_seconds + policy.stale_max_seconds:
            raise Failure(
                Code.UPSTREAM_UNAVAILABLE,
                f"The upstream registry {rule.upstream_url} of the pull through cache rule '{rule.prefix}' cannot be"
                " asked, and what is here is too old",
                seconds=STALE_PAUSE_SECONDS,
            )
        return _counted("stale", Pulled(here, is_stale=True, good_until=0.0))

    async def _checked(
        self,
        client: UpstreamClient,
        rule: PullThroughRule,
        account: str,
        repository: str,
        tag: str,
        here: StoredManifest,
    ) -> StoredManifest:
        name = upstream_name(rule, repository)
        seen = await client.manifest(name, tag, look=True)
        if seen.digest != here.digest:  # or it sent no digest
            found = await client.manifest(name, tag)
            try:
                return await self._import(rule, account, repository, tag, found, create=False)
            except Failure as failure:
                if failure.code is not Code.IMAGE_TAG_ALREADY_EXISTS:
                    raise
        # The same digest, or the tag is immutable here and stays: either way the next check is not due soon.
        await self._metadata.note_tag_checked(account, repository, tag, digest=here.digest)
        return here

    async def _import(
        self,
        rule: PullThroughRule,
        account: str,
        repository: str,
        reference: str,
        found: UpstreamManifest,
        *,
        create: bool,
    ) -> StoredManifest:
        try:
            pushed = await self._metadata.import_manifest(
                account,
                repository,
                content=found.content,
                media_type=found.media_type or None,
                digest=found.digest,
                tags=[] if is_digest_like(reference) else [reference],
                create=CreateOnPush.YES if create else CreateOnPush.NO,
                platforms=self._policy(rule.prefix).platforms,
            )
        except Failure as failure:
            if failure.code in (Code.MANIFEST_INVALID, Code.UNSUPPORTED, Code.MANIFEST_TOO_LARGE):
                raise Failure(
                    Code.UPSTREAM_UNAVAILABLE,
                    f"The upstream's manifest is not taken: {failure.message}",
                    seconds=60.0,
                    refused="yes",
                ) from failure
            raise
        if pushed.created_repository:
            self._created.add((account, repository))
        return await self._images.resolve(account, repository, found.digest)

    async def _failed(self, account: str, repository: str, reference: str, failure: Failure) -> None:
        """Record the failure for events: at most once a minute for each name, however many clients want it."""
        now, name = self._now(), (account, repository, reference)
        if self._announced.get(name, 0.0) > now:
            return
        self._announced[name] = now + NEGATIVE_SECONDS
        with contextlib.suppress(Failure):
            await self._metadata.note_import_failed(
                account, repository, reference=reference, code=failure.code.value, reason=failure.message
            )

    async def _once(self, name: Hashable, bring: Callable[[], Coroutine[Any, Any, StoredManifest]]) -> StoredManifest:
        """Run one import of a name at a time. A client that disconnects does not cancel it for others."""
        task = self._running.get(name)
        if task is None:
            task = self._running[name] = asyncio.create_task(bring(), name="import")
            task.add_done_callback(lambda ended: self._ended(name, ended))
        found: StoredManifest = await asyncio.shield(task)
        return found

    def _ended(self, name: Hashable, task: asyncio.Task[Any]) -> None:
        self._running.pop(name, None)
        if not task.cancelled():
            task.exception()  # retrieved: all waiting clients may have left

    def _pause(self, name: Hashable) -> None:
        self._paused[name] = self._now() + STALE_PAUSE_SECONDS

    def _due(self, rule: PullThroughRule) -> float:
        return self._now() + self._policy(rule.prefix).refresh_seconds


class _BudgetSpent(Exception):
    """The upstream has few requests left: they are reserved for images that are not stored."""


def _not_found() -> Failure:
    return Failure(Code.IMAGE_NOT_FOUND, "Requested image not found")


def _counted(outcome: str, pulled: Pulled) -> Pulled:
    observe.metrics.mirror_pulls.labels(outcome).inc()
    return pulled
