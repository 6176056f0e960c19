"""Images: push and resolve manifests, move and remove tags, list.

The digest is computed here over the manifest's bytes, which are stored unchanged. The metadata service validates a
manifest (`model.manifests`) in the transaction that stores it. Called by `oci` and `registry.mirror`. Must not know
HTTP.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence

from proxy.blob.keys import DataKeys
from proxy.metadata.contract import Metadata
from proxy.model.errors import Code, Failure
from proxy.model.names import Digest, repository_arn
from proxy.model.records import CreateOnPush, Page, PushedManifest, Referrer, StoredManifest, create_on_push
from proxy.model.replication import RemovedTag, ReplicaTag
from proxy.registry.pull_times import PullTimes

INLINE_MAX = 256 * 1024  # bytes that are hashed on the loop: 0.1 ms with the CPU's extensions, 0.5 ms without


class Images:
    def __init__(
        self,
        metadata: Metadata,
        keys: DataKeys,
        *,
        region: str,
        create_on_push: bool,
        pulls: PullTimes | None = None,
    ) -> None:
        """`create_on_push`: a push creates its repository also in accounts without creation templates. `pulls` records
        pull times."""
        self._metadata = metadata
        self._keys = keys
        self._region = region
        self._create_on_push = create_on_push
        self._pulls = pulls

    async def resolve(self, account: str, repository: str, reference: str) -> StoredManifest:
        """A manifest by tag or digest. RepositoryNotFound, ImageNotFound; Kms if the repository's key is unusable."""
        found = await self._metadata.manifest(account, repository, reference)
        await self._require_key(account, repository)
        return found

    async def pull(self, account: str, repository: str, reference: str, principal: str) -> StoredManifest:
        """As `resolve`, and record the pull by the user or role with the ARN `principal`."""
        found = await self.resolve(account, repository, reference)
        self.note_pull(account, repository, found.digest, principal)
        return found

    def note_pull(self, account: str, repository: str, digest: str, principal: str) -> None:
        """Record that the user or role got the manifest. Returns at once."""
        if self._pulls is not None:
            self._pulls.pulled(account, repository, digest, principal)

    async def has_own_key(self, account: str, repository: str) -> bool:
        """Whether the repository has a KMS key of its own, use of which may be refused at any time."""
        return bool((await self._metadata.repository_access(account, repository)).encryption)

    async def push(
        self,
        account: str,
        repository: str,
        *,
        content: bytes,
        media_type: str | None,
        digest: Digest | None,
        tags: Sequence[str],
        may_create: bool = True,
    ) -> PushedManifest:
        """Store a manifest and move `tags` to it. `digest` is the client's, None for a push by tag.

        ImageDigestDoesNotMatch, Kms, and the failures of `Metadata.put_manifest`.
        """
        algorithm = digest.algorithm if digest is not None else "sha256"
        found = Digest(algorithm, await _hash(algorithm, content))
        if digest is not None:
            _require_same(digest, found)
        await self._require_key(account, repository)
        return await self._metadata.put_manifest(
            account,
            repository,
            content=content,
            media_type=media_type,
            digest=str(found),
            tags=tags,
            create=create_on_push(allowed=may_create, by_default=self._create_on_push),
        )

    async def push_replica(
        self,
        account: str,
        repository: str,
        *,
        content: bytes,
        media_type: str | None,
        digest: Digest,
        tags: Sequence[ReplicaTag],
        origin: str,
        create: CreateOnPush,
    ) -> PushedManifest:
        """Store a manifest that the registry `origin` sends, and those of its `tags` that are newer there.

        ImageDigestDoesNotMatch, Kms, and the failures of `Metadata.put_replica`."""
        _require_same(digest, Digest(digest.algorithm, await _hash(digest.algorithm, content)))
        await self._require_key(account, repository)
        return await self._metadata.put_replica(
            account,
            repository,
            content=content,
            media_type=media_type,
            digest=str(digest),
            tags=tags,
            origin=origin,
            create=create,
        )

    async def delete_replica(
        self, account: str, repository: str, *, digest: str, origin: str, tags: Sequence[RemovedTag]
    ) -> None:
        """Remove tags and an image (`digest`, empty: none) that were deleted elsewhere and not pushed again here.
        ImageReferencedByManifestList."""
        if not await self._metadata.remove_replica(account, repository, digest=digest, origin=origin, tags=tags):
            raise Failure(Code.IMAGE_REFERENCED, f"an index or a tag of '{repository}' refers to {digest} still")

    async def delete_tag(self, account: str, repository: str, tag: str) -> None:
        await self._metadata.delete_tag(account, repository, tag)

    async def delete(self, account: str, repository: str, digest: str) -> None:
        await self._metadata.delete_manifest(account, repository, digest)

    async def tags(self, account: str, repository: str, *, last: str, limit: int) -> Page:
        return await self._metadata.tags(account, repository, last=last, limit=limit)

    async def repositories(self, account: str, *, last: str, limit: int) -> Page:
        return await self._metadata.repositories(account, last=last, limit=limit)

    async def referrers(
        self, account: str, repository: str, digest: str, *, artifact_type: str | None, last: str, limit: int
    ) -> tuple[Sequence[Referrer], bool]:
        return await self._metadata.referrers(
            account, repository, digest, artifact_type=artifact_type, last=last, limit=limit
        )

    async def _require_key(self, account: str, repository: str) -> None:
        """Manifests are not sealed: those of a repository with its own KMS key can be used only while that key can."""
        encryption = (await self._metadata.repository_access(account, repository)).encryption
        await self._keys.require(encryption, repository_arn(self._region, account, repository))


def _require_same(said: Digest, found: Digest) -> None:
    if said != found:
        raise Failure(
            Code.IMAGE_DIGEST_DOES_NOT_MATCH,
            f"The provided digest {said} does not match the manifest, whose digest is {found}",
        )


async def _hash(algorithm: str, content: bytes) -> str:
    hasher = hashlib.new(algorithm)
    if len(content) <= INLINE_MAX:
        hasher.update(content)
    else:
        await asyncio.to_thread(hasher.update, content)
    return hasher.hexdigest()
