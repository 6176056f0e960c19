"""Replication to another account of this installation: rows, and layers that are linked.

`auth.replication` decides what the destination must allow. A layer whose two repositories have the same key is one
object with a row in each account; otherwise it is decrypted and encrypted again. Made by `app.replication`, called by
`replication`.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Sequence

from proxy.auth.policy.context import RequestInfo
from proxy.auth.replication import ReplicationAccess
from proxy.jobs.replication import ReplicationSource
from proxy.metadata.contract import Metadata
from proxy.model.errors import Failure
from proxy.model.names import Digest, parse_digest
from proxy.model.records import CreateOnPush
from proxy.model.replication import RemovedTag, ReplicaManifest
from proxy.registry.blobs import Blobs
from proxy.registry.uploads import Uploads

REPLICATOR = "replication"  # opens the upload sessions of layers that are encrypted again
USER_AGENT = "replication.ecr.amazonaws.com"


class HereTarget:
    """The target for registries of this region."""

    def __init__(
        self,
        rows: Metadata,
        access: ReplicationAccess,
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
        linked = await self._rows.link_replica(
            source.destination.registry,
            source.repository,
            source_account=source.account,
            source_repository=source.repository,
            digests=digests,
            create=create,
        )
        return linked.missing

    async def _allowed(self, source: ReplicationSource) -> CreateOnPush:
        """How the repository may be created. AccessDenied."""
        info = RequestInfo(self._clock(), "", True, USER_AGENT, self._region)
        return await self._access.require(source.account, source.destination.registry, source.repository, info)

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
