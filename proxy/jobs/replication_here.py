"""Replication to another account of this installation: rows, and layers that are linked.

The destination's registry policy must allow `ecr:ReplicateImage` to the source account's root, and
`ecr:CreateRepository` where the repository is not there; the one evaluator decides, as for any request. A layer whose
two repositories have the same key is one object with a row in each account; one of other keys is read, and sealed anew.
ReplicationSource: ECR User Guide, "Private image replication", "Registry permissions".
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Sequence

from proxy.auth.access import Access
from proxy.auth.policy.context import RequestInfo
from proxy.jobs.replication import Refused, ReplicationSource
from proxy.metadata.contract import Metadata
from proxy.model.errors import Failure
from proxy.model.identity import Caller, Principal, PrincipalKind
from proxy.model.names import Digest, parse_digest, repository_arn
from proxy.model.records import CreateOnPush, create_on_push
from proxy.model.replication import FailureCode, RemovedTag, ReplicaManifest
from proxy.registry.blobs import Blobs
from proxy.registry.uploads import Uploads

REPLICATOR = "replication"  # who opens the sessions of layers that are sealed anew
USER_AGENT = "replication.ecr.amazonaws.com"


def root_of(account: str) -> Caller:
    """An account's root, here or at another installation: as which replication asks."""
    return Caller(Principal(account, account, f"arn:aws:iam::{account}:root", "", PrincipalKind.ROOT))


class HereTarget:
    """Registries of this region."""

    def __init__(
        self,
        rows: Metadata,
        access: Access,
        blobs: Blobs,
        uploads: Uploads,
        *,
        region: str,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._rows = rows
        self._access = access
        self._blobs = blobs
        self._uploads = uploads
        self._region = region
        self._clock = clock
        self._roots: dict[str, Caller] = {}  # one object each: decisions are cached by it

    async def put(self, source: ReplicationSource, manifest: ReplicaManifest) -> None:
        create = await self._allowed(source)
        stored = await self._rows.manifest(source.account, source.repository, manifest.digest)
        digests = [digest for digest, _ in manifest.blobs]
        for digest in await self._link(source, digests, create) if digests else ():
            await self._seal_anew(source, parse_digest(digest), create)
        await self._rows.put_replica(
            source.destination.registry,
            source.repository,
            content=stored.content,
            media_type=stored.media_type,
            digest=manifest.digest,
            tags=manifest.tags,
            origin=source.origin,
            create=create,
        )

    async def remove(self, source: ReplicationSource, digest: str, origin: str, tags: Sequence[RemovedTag]) -> bool:
        await self._allowed(source)
        return await self._rows.remove_replica(
            source.destination.registry, source.repository, digest=digest, origin=origin, tags=tags
        )

    async def _link(self, source: ReplicationSource, digests: Sequence[str], create: CreateOnPush) -> Sequence[str]:
        return await self._rows.link_replica(
            source.destination.registry,
            source.repository,
            source_account=source.account,
            source_repository=source.repository,
            digests=digests,
            create=create,
        )

    async def _allowed(self, source: ReplicationSource) -> CreateOnPush:
        """How the repository may be made. Refused."""
        root = self._roots.setdefault(source.account, root_of(source.account))
        info = RequestInfo(self._clock(), "", True, USER_AGENT, self._region)
        arn = repository_arn(self._region, source.destination.registry, source.repository)
        decision = await self._access.decide(root, "ecr:ReplicateImage", arn, info)
        if not decision.allowed:
            raise Refused(FailureCode.ACCESS_DENIED, decision.message)
        may_create = (await self._access.decide(root, "ecr:CreateRepository", arn, info)).allowed
        return create_on_push(allowed=may_create, by_default=True, replica=True)

    async def _seal_anew(self, source: ReplicationSource, digest: Digest, create: CreateOnPush) -> None:
        blob = await self._blobs.find(source.account, source.repository, str(digest))
        account, repository = source.destination.registry, source.repository
        upload = await self._uploads.begin(
            account,
            repository,
            algorithm=digest.algorithm,
            may_create=create is not CreateOnPush.NO,
            replica=True,
            opened_by=REPLICATOR,
        )
        try:
            append = await self._uploads.append(account, repository, upload.upload_id, length=blob.size, closing=digest)
            async with append, self._blobs.open(blob) as opened:
                async with contextlib.aclosing(opened.runs(0, blob.size)) as runs:
                    async for run in runs:
                        await append.write(run)
                await append.commit_blob(digest)
        except BaseException:
            with contextlib.suppress(Failure):
                await asyncio.shield(self._uploads.cancel(account, repository, upload.upload_id))
            raise
