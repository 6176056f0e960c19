"""Reads blobs: find, open, link, mount, delete; quarantines one whose bytes do not authenticate.

A byte is returned only after its frame was decrypted, or checked against its hash, in this request (but the store
serves links itself). A frame that fails twice quarantines its blob: it counts as missing from then on, so that the next
push of the same digest stores it again. Called by `oci`, `ecr.downloads`, `jobs` and `registry.mirror`. Must not know
HTTP.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Sequence

from proxy import observe
from proxy.blob.buffers import BufferPool
from proxy.blob.keys import DataKeys
from proxy.blob.objects import open_object
from proxy.blob.reader import BlobReader
from proxy.blob.small_objects import SmallObjects
from proxy.metadata.contract import Metadata
from proxy.model.errors import Code, Failure
from proxy.model.records import Blob, CreateOnPush, Mounted, Sealing, create_on_push
from proxy.model.replication import LinkedLayers
from proxy.storage.base import ObjectStore, SignedLinks
from proxy.storage.off_loop import run_to_completion

HOLDERS_MAX = 20  # repositories whose policies are checked when a mount names none


class Blobs:
    def __init__(
        self,
        metadata: Metadata,
        store: ObjectStore,
        keys: DataKeys,
        pool: BufferPool,
        links: SignedLinks | None = None,
        *,
        create_on_push: bool = False,
    ) -> None:
        """With `links`, clients fetch blobs that are not sealed from the store itself; `create_on_push` as in
        `Images`, for mounts."""
        self._metadata = metadata
        self._store = store
        self._keys = keys
        self._pool = pool
        self._links = links
        self._create_on_push = create_on_push
        self._small = SmallObjects(store, keys)

    async def find(self, account: str, repository: str, digest: str) -> Blob:
        """RepositoryNotFound, LayersNotFound (also while quarantined)."""
        return await self._metadata.blob(account, repository, digest)

    async def link(self, blob: Blob) -> str | None:
        """A URL that serves the blob's bytes to any holder for a short time; None if they have to be read here.

        Only the client checks what the URL serves."""
        if self._links is None or blob.sealed.sealing is not Sealing.NONE or blob.sealed.archived:
            return None
        url = await self._links.link(blob.sealed.object_key)
        observe.metrics.blob_redirects.inc()
        return url

    async def content(self, blob: Blob) -> bytearray | None:
        """The bytes of a small sealed blob, authenticated now; None if it has to be read through `open`, which also
        reports what is wrong with it."""
        return await self._small.read(blob.sealed)

    @contextlib.asynccontextmanager
    async def open(self, blob: Blob) -> AsyncIterator[OpenBlob]:
        """The blob, open for reading. BlobCorrupt, and quarantined, when its object is missing or of a wrong size."""
        try:
            reader = await open_object(
                self._store, blob.sealed, keys=self._keys, tables=self._metadata, pool=self._pool
            )
        except Failure as failure:
            await self._judge(blob, failure)
            raise
        async with reader:
            yield OpenBlob(self, blob, reader)

    async def may_be_mounted(self, account: str) -> bool:
        """Whether the account has its setting BLOB_MOUNTING on."""
        return (await self._metadata.registry_access(account)).blob_mounting

    async def holders(self, account: str, repository: str, digest: str) -> Sequence[str]:
        """At most `HOLDERS_MAX` repositories of the account from which `repository` could mount the blob."""
        encryption = (await self._metadata.repository_access(account, repository)).encryption
        return await self._metadata.blob_holders(account, digest, limit=HOLDERS_MAX, encryption=encryption)

    async def mount(self, account: str, repository: str, digest: str, source: str, *, may_create: bool) -> Mounted:
        """Link a blob of `source`, another repository of the account. `NO`: it has to be uploaded."""
        create = create_on_push(allowed=may_create, by_default=self._create_on_push)
        return await self._metadata.mount_blob(account, repository, digest, source, create=create)

    async def link_replica(self, account: str, repository: str, digest: str, *, create: CreateOnPush) -> LinkedLayers:
        """Link a blob that the account has under the repository's encryption key."""
        return await self._metadata.link_replica(
            account,
            repository,
            source_account=account,
            source_repository=repository,
            digests=[digest],
            create=create,
        )

    async def delete(self, account: str, repository: str, digest: str) -> None:
        """Unlink the blob from this repository. RepositoryNotFound, LayersNotFound, LayerInUse."""
        await self._metadata.unlink_blob(account, repository, digest)

    async def _judge(self, blob: Blob, failure: Failure) -> None:
        if failure.code is Code.BLOB_CORRUPT:
            await run_to_completion(self._quarantine(blob, failure))

    async def _quarantine(self, blob: Blob, failure: Failure) -> None:
        observe.metrics.blobs_quarantined.inc()
        observe.log.error(
            "a blob does not authenticate and is quarantined; push it again to heal it",
            digest=blob.digest,
            object_key=blob.sealed.object_key,
            error=str(failure),
        )
        try:
            await self._metadata.quarantine(blob.sealed.object_key, failure.message)
        except Failure as unwritten:
            # The bytes are refused anyway; the next read tries to record it again.
            observe.log.error("the quarantine could not be written down", digest=blob.digest, error=str(unwritten))


class OpenBlob:
    """An open blob. `runs` may be called any number of times, one after the other."""

    def __init__(self, blobs: Blobs, blob: Blob, reader: BlobReader) -> None:
        self.blob = blob
        self._blobs = blobs
        self._reader = reader

    async def runs(self, start: int, stop: int) -> AsyncGenerator[memoryview, None]:
        """The plaintext of [start, stop) in order, every byte authenticated. A view is valid until the next step.

        BlobCorrupt, after the blob was quarantined.
        """
        try:
            async with contextlib.aclosing(self._reader.runs(start, stop)) as runs:
                async for run in runs:
                    yield run
        except Failure as failure:
            await self._blobs._judge(self.blob, failure)
            raise

    def release_buffers(self, untaken: int) -> None:
        """As `BlobReader` has it."""
        self._reader.release_buffers(untaken)

    def suspend(self) -> None:
        """As `BlobReader` has it."""
        self._reader.suspend()

    def is_scarce(self) -> bool:
        """As `BlobReader` has it."""
        return self._reader.is_scarce()
