"""The operations of the metadata service as a proxy calls them: one Protocol, a port, for each noun.

Implemented by `client.client.MetadataClient`; `client.cache.CachedMetadata` wraps one. A method has the parameters and
the answer of the function registered under its name (`operations.operation`); a test compares them.
Every call is one transaction. When a write returns it is durable, and every worker sees it. One exception: with the
service and all clients on one machine, a write that only begins, leases or releases an upload may be lost when that
machine fails; a repository that it creates and what it records about bytes may not. Failures are `Failure`; each
method names its codes, and any may raise `MetadataUnavailable`. `account` is the registry's 12 digits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from proxy.metadata.archive_contract import ArchivePort as ArchivePort
from proxy.metadata.event_contract import EventPort as EventPort
from proxy.metadata.job_contract import JobPort as JobPort
from proxy.metadata.lifecycle_contract import LifecyclePort as LifecyclePort
from proxy.metadata.mirror_contract import MirrorPort as MirrorPort
from proxy.metadata.replication_contract import ReplicationPort as ReplicationPort
from proxy.metadata.secrets_contract import SecretPort as SecretPort
from proxy.metadata.upload_contract import UploadPort as UploadPort
from proxy.model.identity import (
    AccessKey,
    Account,
    AttachedPolicy,
    BoundPolicy,
    CredentialReportEntry,
    IamResource,
    OidcProvider,
    Principal,
    RegistryAccess,
    RepositoryAccess,
    Revocation,
    Role,
)
from proxy.model.records import (
    Blob,
    CreateOnPush,
    EncryptedDataKey,
    KeyRecord,
    Miscount,
    Mounted,
    Page,
    Pull,
    PushedManifest,
    Referrer,
    SealedObject,
    Segment,
    StoredManifest,
    SweepBatch,
)


class EpochSnapshot(Protocol):
    """The epochs before a look-up. What was looked up since stays valid for as long as this is current."""

    def include(self, account: str, repository: str) -> None:
        """Add the epochs of a registry and a repository. Call it before either is looked up."""

    def is_current(self) -> bool:
        """Whether no epoch has changed since. False also while the epoch page has no valid lease."""


class EpochSource(Protocol):
    """Proves without a request that an earlier answer is still valid (`client.epochs`)."""

    def snapshot(self) -> EpochSnapshot | None:
        """The epoch of identities, before one is looked up; None while the page proves nothing."""


class IdentityPort(Protocol):
    """Principals, and the policies and settings of users, repositories and registries that decide about access."""

    async def access_key(self, access_key_id: str) -> AccessKey | None: ...

    async def principal(self, principal_id: str) -> Principal | None:
        """None once the principal is deleted or disabled: its tokens are then invalid."""

    async def policy_documents(self, account: str, arns: Sequence[str]) -> Sequence[AttachedPolicy]:
        """Default versions of managed policies, AWS's and the account's own; missing ones are left out."""

    async def repository_access(self, account: str, repository: str) -> RepositoryAccess:
        """The repository's policy, tags and settings; `exists` False when there is no such repository."""

    async def repositories_access(self, account: str, names: Sequence[str]) -> Sequence[RepositoryAccess]:
        """The same of 1 to 100 repositories at once, in that order."""

    async def registry_access(self, account: str) -> RegistryAccess:
        """The registry's policy and settings; `exists` False when the account has none here."""

    async def bind_repository_policy(self, account: str, text: str) -> BoundPolicy:
        """Validate a text as a policy of the account's repositories and bind it; not stored. InvalidParameter."""

    async def role(self, account: str, name: str) -> Role | None: ...

    async def oidc_provider(self, account: str, url: str) -> OidcProvider | None:
        """`url` without its scheme."""

    async def iam_resource(self, account: str, kind: str, name: str) -> IamResource | None:
        """An IAM entity of the account, as decisions about it need it; see `operations.iam.resources` for `kind`."""


class AccountPort(Protocol):
    """Accounts, and the keys of those in them."""

    async def create_access_key(
        self, account: str, user_name: str | None, access_key_id: str, sealed_secret: bytes
    ) -> dict[str, Any]:
        """The answer of IAM's CreateAccessKey, without the secret; `user_name` None is the account's root.

        NoSuchEntity, LimitExceeded, EntityAlreadyExists."""

    async def note_key_use(self, access_key_id: str, at: float, region: str, service: str) -> None:
        """For GetAccessKeyLastUsed; `at` in epoch seconds. Invalidates no cache."""

    async def note_role_use(self, principal_id: str, at: float, region: str) -> None:
        """For RoleLastUsed."""

    async def create_account(
        self, account: str, access_key_id: str, sealed_secret: bytes, administrator: str
    ) -> Principal:
        """A new account, whose administrator is a user of this name with this key. EntityAlreadyExists."""

    async def accounts(self) -> Sequence[Account]:
        """All of them, closed ones too, in order."""

    async def close_account(self, account: str) -> Account:
        """Close the account for good: from the next request on nothing of it is served. NoSuchEntity,
        UnmodifiableEntity."""

    async def credentials(self, *, after: str, limit: int) -> Sequence[CredentialReportEntry]:
        """Long-lived keys of all accounts by id, in order, beyond `after`."""

    async def revoke(self, arn: str) -> Revocation:
        """Revoke the credentials of a user, a role, a role's session or an account's root, from the next request on:
        its keys are inactive, its temporary credentials refused. InvalidInput, NoSuchEntity, LimitExceeded."""


class BlobPort(Protocol):
    """Layers, as seen by a repository."""

    async def blob(self, account: str, repository: str, digest: str) -> Blob:
        """RepositoryNotFound, LayersNotFound (also when quarantined). Renews an unused blob's grace, once an hour."""

    async def segments(self, object_key: str, plain_offset: int, limit: int = 64) -> Sequence[Segment]:
        """Segments from the one that holds `plain_offset` on, in order."""

    async def frame_hashes(self, object_key: str, plain_offset: int, *, fresh: bool = False) -> bytes:
        """The page of frame hashes of a plain object whose first frame is at that offset; empty when there is none. A
        recorded page never changes. `fresh` bypasses every cache."""

    async def blob_holders(self, account: str, digest: str, *, limit: int, encryption: str = "") -> Sequence[str]:
        """Some repositories of the account that hold the blob under that KMS key (or none of their own), `limit` at
        most, in no order."""

    async def mount_blob(
        self, account: str, repository: str, digest: str, source: str | None, *, create: CreateOnPush
    ) -> Mounted:
        """Link a blob that some (or the named) repository of the account holds. `NO`: there is none, upload it.
        LimitExceeded if the repository would exceed its bytes."""

    async def unlink_blob(self, account: str, repository: str, digest: str) -> None:
        """RepositoryNotFound, LayersNotFound, LayerInUse."""

    async def quarantine(self, object_key: str, reason: str) -> None:
        """Hide the blob stored under this key until a push of its digest replaces it. Idempotent."""


class ManifestPort(Protocol):
    """Images, their tags, and lists of them."""

    async def manifest(self, account: str, repository: str, reference: str) -> StoredManifest:
        """By tag or digest. RepositoryNotFound, ImageNotFound."""

    async def put_manifest(
        self,
        account: str,
        repository: str,
        *,
        content: bytes,
        media_type: str | None,
        digest: str,
        tags: Sequence[str],
        create: CreateOnPush,
    ) -> PushedManifest:
        """Store a manifest whose bytes hash to `digest`, and move `tags` to it (none: pushed by digest).

        ManifestInvalid, LayersNotFound, ReferencedImagesNotFound, ImageTagAlreadyExists (an immutable tag exists, for
        any image), LimitExceeded (images, tags), RepositoryNotFound. Repeating a push with a mutable tag succeeds. The
        subject may be absent.
        """

    async def note_pulls(self, pulls: Sequence[Pull]) -> None:
        """Record when images were last pulled, except by excluded principals."""

    async def delete_tag(self, account: str, repository: str, tag: str) -> None:
        """Remove only the tag, as OCI says; the image stays, untagged. RepositoryNotFound, ImageNotFound."""

    async def delete_manifest(self, account: str, repository: str, digest: str) -> None:
        """Remove an image and its tags. RepositoryNotFound, ImageNotFound, ImageReferencedByManifestList."""

    async def tags(self, account: str, repository: str, *, last: str, limit: int) -> Page: ...

    async def repositories(self, account: str, *, last: str, limit: int) -> Page: ...

    async def referrers(
        self, account: str, repository: str, digest: str, *, artifact_type: str | None, last: str, limit: int
    ) -> tuple[Sequence[Referrer], bool]:
        """Manifests whose subject is `digest`, by their digest in order, after `last`; whether more follow.

        An unknown repository has no referrers: an empty list, not an error (the spec's MUST)."""


class UpkeepPort(Protocol):
    """For jobs: sweeps, checks, rewrapping, resealing."""

    async def take_turn(self, task: str, *, seconds: float) -> bool:
        """True for one caller at a time, which runs this upkeep task for the next `seconds`."""

    async def hold_blobs(self, *, seconds: float) -> None:
        """Until then `collect_blobs` finds nothing, so no blob is removed. A backup renews this while it copies."""

    async def expire_uploads(self, *, idle_seconds: float, limit: int) -> SweepBatch:
        """Remove sessions untouched for so long (committed ones after an hour), open ones first, and reservations that
        have ended. Rows of "open-upload", "closed-upload", "committed-upload" and "reservation"."""

    async def collect_blobs(self, *, grace_seconds: float, limit: int) -> SweepBatch:
        """Remove blobs that nothing links and whose grace is over. Rows of "blob-link" and "blob".

        A repository's link ends with the last manifest that used it, once its grace is over; never while an upload or
        a push that needs it may still come (the grace), so a blob that awaits its manifest stays. What an image needs
        stays whatever its counters say: they are corrected.
        """

    async def remove_deleted(self, *, limit: int) -> int:
        """Remove about so many rows of repositories that were deleted; returns how many, 0 when none are left."""

    async def known_objects(self, keys: Sequence[str]) -> Sequence[str]:
        """Those of `keys` that a blob row, an open session or a reservation owns; the rest are orphans (once old
        enough)."""

    async def reserve_object(self, object_key: str, *, seconds: float) -> None:
        """Make an object known to the sweep for so long, before it is written and has a row (reseal)."""

    async def release_object(self, object_key: str) -> None:
        """End a reservation. Idempotent."""

    async def any_reserved(self) -> bool:
        """Whether there is any reservation."""

    async def objects(self, *, after: str, limit: int) -> Sequence[tuple[Blob, bool]]:
        """Every blob by object key, in order, beyond `after`; whether it is quarantined (check, rewrap, reseal)."""

    async def replace_data_key(self, object_key: str, old: EncryptedDataKey, new: EncryptedDataKey) -> bool:
        """Rewrap: swap a blob's (or open session's) wrapped key. False when it was no longer `old`."""

    async def replace_object(self, object_key: str, blob: Blob) -> bool:
        """Reseal: point a blob's row at a new object with one message, and end that object's reservation. False, with
        nothing changed, when the blob was no longer at `object_key` or the reservation has ended."""

    async def open_uploads(self, *, after: str, limit: int) -> Sequence[SealedObject]:
        """The objects of open sessions by object key, in order, beyond `after`; without their segments."""

    async def miscounts(self, noun: str, *, after: str, limit: int) -> tuple[Sequence[Miscount], str | None]:
        """One page of the rows of a noun (`operations.counts.NOUNS`): those with a wrong counter, and `after` for the
        next page; None: this was the last."""

    async def recount(self, noun: str, key: str) -> None:
        """Correct that row's counter."""


class Keys(Protocol):
    """The keys that seal small values, and the values sealed with them."""

    async def key_records(self) -> Sequence[KeyRecord]:
        """The keys that seal small values: the active one first, then the newest, 100 at most."""

    async def record_key(self, record: KeyRecord, *, replaces: str | None) -> Sequence[KeyRecord]:
        """Store a record. An `active` one replaces the active key `replaces` (None: there must be none); if another key
        is active, it stays active. Returns all records.
        """

    async def sealed_secrets(self, *, after: str, limit: int) -> Sequence[tuple[str, bytes]]:
        """Access key ids with their sealed secrets, in order, beyond `after`."""

    async def replace_sealed_secret(self, access_key_id: str, old: bytes, new: bytes) -> bool:
        """False when it was no longer `old`."""


class Features(SecretPort, MirrorPort, JobPort, EventPort, LifecyclePort, ArchivePort, ReplicationPort, Protocol):
    """The ports that have modules of their own."""


class Metadata(IdentityPort, AccountPort, BlobPort, UploadPort, ManifestPort, UpkeepPort, Keys, Features, Protocol):
    """All ports, ECR's, IAM's and EventBridge's operations by name, and what belongs to no noun."""

    async def call(self, account: str, operation: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """Run an operation of botocore's `ecr` model. Input is validated against the model; times are epoch seconds."""

    async def iam(self, account: str, operation: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """Run an operation of botocore's `iam` model that the caller was allowed, with input that is valid under the
        model. Times are epoch seconds."""

    async def events(self, account: str, operation: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """Run an operation of botocore's `events` model that the caller was allowed, with input that is valid under the
        model."""

    async def take_tokens(
        self, account: str, name: str, *, per_second: float, burst: float, most: int
    ) -> tuple[int, float]:
        """Take up to `most` tokens from the bucket of an account's operation `name`; if there are none, the seconds
        until one."""

    async def ping(self) -> None: ...

    async def warnings(self) -> Sequence[str]:
        """Problems of the service that answers, which do not stop it; for /readyz."""

    def now(self) -> float:
        """The database's time in epoch seconds, by the services' answers; 0.0 before the first answer."""

    async def close(self) -> None: ...
