"""Answers again, without asking, what the epoch page proves unchanged.

Wraps any `contract.Metadata` and is one itself. Kept are blob rows, tags and image rows, principals, roles and access
keys, records of master keys, and what repositories and registries say about access, each with the epoch taken *before*
it was asked for, and used only while that epoch stands; manifest bytes are kept apart, by digest, in a cache bounded in
bytes, and are checked against their digest as they come in; hashes of frames in another, by object. Absence is never
kept, nor what belongs to an upload. Without an epoch page nothing is kept at all but these two, which cannot change.
"""

from __future__ import annotations

import hashlib
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable, Sequence
from dataclasses import replace
from typing import Generic, TypeVar

from proxy import observe
from proxy.metadata.client.epochs import Epochs
from proxy.metadata.contract import Metadata
from proxy.model.errors import Code, Failure
from proxy.model.identity import AccessKey, AttachedPolicy, Principal, RegistryAccess, RepositoryAccess, Role
from proxy.model.records import Blob, KeyRecord, StoredManifest

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")

ENTRIES = 20_000  # of each kind; a blob row is about 1 KiB
MANIFEST_BYTES = 32 * 1024 * 1024
PAGE_BYTES = 8 * 1024 * 1024  # pages of frame hashes: those of 64 GiB of layers
POLICIES = 4096  # of which principals share one copy
KEEP_SECONDS = 1800.0  # below the hour after which the service renews a blob's grace: it has to be asked to do so


class CachedMetadata:
    """One worker's view of the metadata service. `close` leaves the page open: it is whose it was."""

    def __init__(
        self,
        inner: Metadata,
        epochs: Epochs | None,
        *,
        clock: Callable[[], float] = time.monotonic,
        entries: int = ENTRIES,
        manifest_bytes: int = MANIFEST_BYTES,
    ) -> None:
        self._inner = inner
        self._epochs = epochs
        self._clock = clock
        self._blobs: _Recent[tuple[str, str, str], Blob] = _Recent(entries, clock)
        self._images: _Recent[tuple[str, str, str], tuple[str, str]] = _Recent(entries, clock)
        self._principals: _Recent[str, Principal] = _Recent(entries, clock)
        self._access_keys: _Recent[str, AccessKey] = _Recent(entries, clock)
        self._documents: _Recent[tuple[str, tuple[str, ...]], Sequence[AttachedPolicy]] = _Recent(entries, clock)
        self._roles: _Recent[tuple[str, str], Role] = _Recent(entries, clock)
        self._repositories: _Recent[tuple[str, str], RepositoryAccess] = _Recent(entries, clock)
        self._registries: _Recent[str, RegistryAccess] = _Recent(entries, clock)
        self._key_records: _Recent[None, Sequence[KeyRecord]] = _Recent(1, clock)
        self._shared = _Shared(POLICIES)
        self._contents = _Contents(manifest_bytes)
        self._pages = _Contents(PAGE_BYTES)
        self._hit = observe.metrics.metadata_cache.labels("hit").inc  # to find it takes as long as to count, each time
        self._missed = observe.metrics.metadata_cache.labels("miss").inc

        # What is never kept goes straight on.
        self.call = inner.call
        self.iam = inner.iam
        self.iam_resource = inner.iam_resource
        self.oidc_provider = inner.oidc_provider
        self.create_access_key = inner.create_access_key
        self.note_key_use = inner.note_key_use
        self.note_role_use = inner.note_role_use
        self.create_account = inner.create_account
        self.accounts = inner.accounts
        self.close_account = inner.close_account
        self.credentials = inner.credentials
        self.revoke = inner.revoke
        self.segments = inner.segments
        self.bind_repository_policy = inner.bind_repository_policy
        self.blob_holders = inner.blob_holders
        self.mount_blob = inner.mount_blob
        self.keep_frame_hashes = inner.keep_frame_hashes
        self.unlink_blob = inner.unlink_blob
        self.quarantine = inner.quarantine
        self.begin_upload = inner.begin_upload
        self.upload = inner.upload
        self.lease_upload = inner.lease_upload
        self.renew_upload = inner.renew_upload
        self.advance_upload = inner.advance_upload
        self.finish_upload = inner.finish_upload
        self.close_upload = inner.close_upload
        self.release_upload = inner.release_upload
        self.commit_upload = inner.commit_upload
        self.cancel_upload = inner.cancel_upload
        self.put_manifest = inner.put_manifest
        self.note_pulls = inner.note_pulls
        self.delete_tag = inner.delete_tag
        self.delete_manifest = inner.delete_manifest
        self.tags = inner.tags
        self.repositories = inner.repositories
        self.referrers = inner.referrers
        self.take_turn = inner.take_turn
        self.hold_blobs = inner.hold_blobs
        self.expire_uploads = inner.expire_uploads
        self.collect_blobs = inner.collect_blobs
        self.remove_deleted = inner.remove_deleted
        self.lifecycle_due = inner.lifecycle_due
        self.lifecycle_policy = inner.lifecycle_policy
        self.lifecycle_evaluated = inner.lifecycle_evaluated
        self.lifecycle_page = inner.lifecycle_page
        self.apply_lifecycle = inner.apply_lifecycle
        self.lease_preview = inner.lease_preview
        self.keep_preview = inner.keep_preview
        self.finish_preview = inner.finish_preview
        self.trim_preview = inner.trim_preview
        self.expire_previews = inner.expire_previews
        self.known_objects = inner.known_objects
        self.reserve_object = inner.reserve_object
        self.release_object = inner.release_object
        self.any_reserved = inner.any_reserved
        self.objects = inner.objects
        self.replace_data_key = inner.replace_data_key
        self.replace_object = inner.replace_object
        self.record_key = inner.record_key
        self.sealed_secrets = inner.sealed_secrets
        self.replace_sealed_secret = inner.replace_sealed_secret
        self.open_uploads = inner.open_uploads
        self.miscounts = inner.miscounts
        self.recount = inner.recount
        self.take_tokens = inner.take_tokens
        self.ping = inner.ping
        self.warnings = inner.warnings
        self.now = inner.now

    async def access_key(self, access_key_id: str) -> AccessKey | None:
        async def ask() -> AccessKey | None:
            found = await self._inner.access_key(access_key_id)
            return found and replace(found, principal=self._shared.in_place(found.principal))

        return await self._of_identity(self._access_keys, access_key_id, ask)

    async def principal(self, principal_id: str) -> Principal | None:
        async def ask() -> Principal | None:
            found = await self._inner.principal(principal_id)
            return found and self._shared.in_place(found)

        return await self._of_identity(self._principals, principal_id, ask)

    async def policy_documents(self, account: str, arns: Sequence[str]) -> Sequence[AttachedPolicy]:
        found = await self._of_identity(
            self._documents, (account, tuple(arns)), lambda: self._inner.policy_documents(account, arns)
        )
        return found or ()

    async def role(self, account: str, name: str) -> Role | None:
        return await self._of_identity(self._roles, (account, name), lambda: self._inner.role(account, name))

    async def key_records(self) -> Sequence[KeyRecord]:
        async def ask() -> Sequence[KeyRecord] | None:
            return await self._inner.key_records() or None

        return await self._of_identity(self._key_records, None, ask) or ()

    async def repository_access(self, account: str, repository: str) -> RepositoryAccess:
        epoch = self._epoch(account, repository)
        found = self._counted(self._repositories.get((account, repository), epoch))
        if found is None:
            found = await self._inner.repository_access(account, repository)
            self._repositories.put((account, repository), epoch, found if found.exists else None)
        return found

    async def repositories_access(self, account: str, names: Sequence[str]) -> Sequence[RepositoryAccess]:
        epochs = {name: self._epoch(account, name) for name in names}
        kept = {name: self._counted(self._repositories.get((account, name), epochs[name])) for name in epochs}
        found = {name: access for name, access in kept.items() if access is not None}
        if missing := [name for name in kept if name not in found]:
            for access in await self._inner.repositories_access(account, missing):
                found[access.name] = access
                self._repositories.put((account, access.name), epochs[access.name], access if access.exists else None)
        return tuple(found[name] for name in names)

    async def registry_access(self, account: str) -> RegistryAccess:
        epoch = self._epoch(account, "")
        found = self._counted(self._registries.get(account, epoch))
        if found is None:
            found = await self._inner.registry_access(account)
            self._registries.put(account, epoch, found if found.exists else None)
        return found

    async def blob(self, account: str, repository: str, digest: str) -> Blob:
        epoch = self._epoch(account, repository)
        found = self._counted(self._blobs.get((account, repository, digest), epoch))
        if found is None:
            found = await self._inner.blob(account, repository, digest)
            self._blobs.put((account, repository, digest), epoch, found)
        return found

    async def frame_hashes(self, object_key: str, plain_offset: int, *, fresh: bool = False) -> bytes:
        name = f"{object_key} {plain_offset}"
        found = None if fresh else self._counted(self._pages.get(name))
        if found is None:
            found = await self._inner.frame_hashes(object_key, plain_offset, fresh=fresh)
            if found:
                self._pages.put(name, found)
        return found

    async def manifest(self, account: str, repository: str, reference: str) -> StoredManifest:
        epoch = self._epoch(account, repository)
        image = self._images.get((account, repository, reference), epoch)
        content = self._contents.get(image[0]) if image else None
        if self._counted(content) is not None and image is not None and content is not None:
            return StoredManifest(image[0], image[1], content)
        found = await self._inner.manifest(account, repository, reference)
        if self._contents.get(found.digest) != found.content:
            _check(found)
            self._contents.put(found.digest, found.content)
        self._images.put((account, repository, reference), epoch, (found.digest, found.media_type))
        return found

    async def close(self) -> None:
        await self._inner.close()

    async def _of_identity(
        self, kept: _Recent[Key, Value], key: Key, ask: Callable[[], Awaitable[Value | None]]
    ) -> Value | None:
        epoch = self._epochs.identity() if self._epochs and self._epochs.speaks() else None
        found = self._counted(kept.get(key, epoch))
        if found is None:
            found = await ask()
            kept.put(key, epoch, found)
        return found

    def _epoch(self, account: str, repository: str) -> int | None:
        """None while the page proves nothing: nothing is kept or used again."""
        return self._epochs.repository(account, repository) if self._epochs and self._epochs.speaks() else None

    def _counted(self, found: Value | None) -> Value | None:
        (self._missed if found is None else self._hit)()
        if found is not None and self._epochs is not None and self._epochs.in_grace():
            observe.metrics.grace_answers.inc()
        return found


class _Recent(Generic[Key, Value]):
    """The last `entries` positive answers, each good for one epoch and `KEEP_SECONDS`."""

    def __init__(self, entries: int, clock: Callable[[], float]) -> None:
        self._entries = entries
        self._clock = clock
        self._held: OrderedDict[Key, tuple[int, float, Value]] = OrderedDict()

    def get(self, key: Key, epoch: int | None) -> Value | None:
        held = self._held.get(key)
        if held is None:
            return None
        at, until, value = held
        if at != epoch or until <= self._clock():
            del self._held[key]
            return None
        self._held.move_to_end(key)
        return value

    def put(self, key: Key, epoch: int | None, value: Value | None) -> None:
        """`epoch` is of before the question; None, where there is no page, keeps nothing."""
        if epoch is None or value is None:
            return
        self._held[key] = (epoch, self._clock() + KEEP_SECONDS, value)
        self._held.move_to_end(key)
        if len(self._held) > self._entries:
            self._held.popitem(last=False)


class _Shared:
    """One object for equal policies: those of a group are kept once, however many are in it, and compared at once."""

    def __init__(self, entries: int) -> None:
        self._entries = entries
        self._held: OrderedDict[AttachedPolicy, AttachedPolicy] = OrderedDict()

    def in_place(self, principal: Principal) -> Principal:
        """The principal with these objects for its policies."""
        boundary = principal.boundary and self._one(principal.boundary)
        return replace(principal, policies=tuple(map(self._one, principal.policies)), boundary=boundary)

    def _one(self, policy: AttachedPolicy) -> AttachedPolicy:
        found = self._held.setdefault(policy, policy)
        self._held.move_to_end(policy)
        if len(self._held) > self._entries:
            self._held.popitem(last=False)
        return found


class _Contents:
    """Bytes by name, checked by whoever puts them in; the least recently used go when `room` is exceeded."""

    def __init__(self, room: int) -> None:
        self._room = room
        self._held: OrderedDict[str, bytes] = OrderedDict()

    def get(self, digest: str) -> bytes | None:
        content = self._held.get(digest)
        if content is not None:
            self._held.move_to_end(digest)
        return content

    def put(self, digest: str, content: bytes) -> None:
        self._room += len(self._held.pop(digest, b"")) - len(content)
        self._held[digest] = content
        while self._room < 0:
            _, gone = self._held.popitem(last=False)
            self._room += len(gone)


def _check(manifest: StoredManifest) -> None:
    algorithm, _, encoded = manifest.digest.partition(":")
    if hashlib.new(algorithm, manifest.content).hexdigest() != encoded:
        raise Failure(
            Code.BLOB_CORRUPT,
            f"the stored manifest {manifest.digest} does not hash to its digest",
            hint="push it again after deleting it; check the database's disk",
        )
