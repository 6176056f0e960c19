"""The interface to images under pull-through rules: a manifest, and a blob that is not stored yet.

Without a rule for the repository, manifests come from `images`, and no blob is fetched. Made by `app.mirror`; called by
`oci`, `ecr` and `jobs.image_fetch`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from proxy.metadata.contract import Metadata
from proxy.model.errors import Code, Failure
from proxy.model.pull_through import PullThroughRule
from proxy.model.records import StoredManifest
from proxy.registry.images import Images
from proxy.registry.mirror.blobs import ComingBlob, MirrorBlobs
from proxy.registry.mirror.manifests import May, MirrorManifests, Pulled
from proxy.registry.mirror.peers import Handler
from proxy.registry.mirror.referrers import MirrorReferrers, ReferrersLooked
from proxy.registry.mirror.upstreams import Upstreams

Rules = Callable[[str, str], Awaitable[PullThroughRule | None]]
"""The rule of an account's repository, if any."""


class Mirror:
    """One worker's mirror."""

    def __init__(
        self,
        metadata: Metadata,
        images: Images,
        rules: Rules,
        manifests: MirrorManifests,
        layers: MirrorBlobs,
        referrers: MirrorReferrers,
        upstreams: Upstreams,
    ) -> None:
        self._metadata = metadata
        self._images = images
        self._rules = rules
        self._manifests = manifests
        self._layers = layers
        self._referrers = referrers
        self.probe = upstreams.probe

    def for_peers(self) -> Handler | None:
        """As `MirrorBlobs.for_peers`."""
        return self._layers.for_peers()

    async def resolve(self, account: str, repository: str, reference: str, may: May) -> Pulled:
        """As `MirrorManifests.resolve`; `may` decides the caller's permissions on the repository."""
        rule = await self._rules(account, repository)
        if rule is None:
            return Pulled(await self._images.resolve(account, repository, reference))
        return await self._manifests.resolve(rule, account, repository, reference, may)

    async def look_for_referrers(self, account: str, repository: str, digest: str, may: May) -> ReferrersLooked:
        """As `MirrorReferrers.look`: afterwards the rows have the referrers."""
        rule = await self._rules(account, repository)
        if rule is None:
            return ReferrersLooked()
        return await self._referrers.look(rule, account, repository, digest, may)

    async def covers(self, account: str, repository: str) -> bool:
        """Whether a rule covers the repository."""
        return await self._rules(account, repository) is not None

    async def refresh(self, account: str, repository: str, tag: str, *, spares: bool = False) -> StoredManifest | None:
        """As `MirrorManifests.refresh`. PullThroughCacheRuleNotFound if no rule covers the repository."""
        rule = await self._rules(account, repository)
        if rule is None:
            raise Failure(
                Code.PULL_THROUGH_RULE_NOT_FOUND, f"No pull through cache rule covers the repository '{repository}'"
            )
        return await self._manifests.refresh(rule, account, repository, tag, spares=spares)

    async def coming(self, account: str, repository: str, digest: str) -> ComingBlob | None:
        """A missing blob that a manifest of the repository names, to be fetched under its rule; else None."""
        rule = await self._rules(account, repository)
        absent = await self._metadata.absent_blob(account, repository, digest) if rule is not None else None
        if rule is None or absent is None:
            return None
        return self._layers.open(rule, account, repository, absent)
