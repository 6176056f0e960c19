"""The metadata service's operations as calls, over HTTP (`asking`). Holds no cache."""

# mypy: disable-error-code="no-any-return"
# (`wire.read` returns what the annotation passed to it says; the type system has no way to write that down.)

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from typing import Any

from proxy.metadata.client.addresses import Address
from proxy.metadata.client.endpoints import CONNECTIONS, PATIENCE_SECONDS, Services
from proxy.metadata.client.lifecycle import LifecycleRows
from proxy.metadata.client.open_objects import OpenObjectRows
from proxy.model.errors import Code, Failure
from proxy.model.identity import (
    AccessKey,
    Account,
    AttachedPolicy,
    BoundPolicy,
    Credential,
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
    Removed,
    SealedObject,
    Sealing,
    Segment,
    StoredManifest,
    Upload,
)


class MetadataClient:
    """`contract.Metadata` and `storage.base.OpenObjects`.

    `addresses` is `unix:<path>` or `http(s)://host:port`, or several separated by commas, of which the one at `first`
    is asked until it fails. Make it inside a running loop."""

    def __init__(
        self,
        addresses: str | Sequence[Address],
        *,
        secret: str | None = None,
        connections: int = CONNECTIONS,
        timeout: float = 30.0,
        patience: float = PATIENCE_SECONDS,
        first: int = 0,
    ) -> None:
        self._services = Services(
            addresses, secret=secret, connections=connections, timeout=timeout, patience=patience, first=first
        )
        self._ask = self._services.ask
        self.now = self._services.now
        self.follow = self._services.follow
        self.close = self._services.close
        rows = OpenObjectRows(self._services)
        self.open_object = rows.open_object
        self.keep_open_object = rows.keep_open_object
        self.cut_open_object = rows.cut_open_object
        self.reserve_part_numbers = rows.reserve_part_numbers
        self.open_object_parts = rows.open_object_parts
        self.open_object_tail = rows.open_object_tail
        self.drop_open_object = rows.drop_open_object
        self.open_objects = rows.open_objects
        lifecycle = LifecycleRows(self._services)
        self.lifecycle_due = lifecycle.lifecycle_due
        self.lifecycle_policy = lifecycle.lifecycle_policy
        self.lifecycle_evaluated = lifecycle.lifecycle_evaluated
        self.lifecycle_page = lifecycle.lifecycle_page
        self.apply_lifecycle = lifecycle.apply_lifecycle
        self.lease_preview = lifecycle.lease_preview
        self.keep_preview = lifecycle.keep_preview
        self.finish_preview = lifecycle.finish_preview
        self.trim_preview = lifecycle.trim_preview
        self.expire_previews = lifecycle.expire_previews

    async def access_key(self, access_key_id: str) -> AccessKey | None:
        return await self._ask("access_key", AccessKey | None, access_key_id=access_key_id)

    async def principal(self, principal_id: str) -> Principal | None:
        return await self._ask("principal", Principal | None, principal_id=principal_id)

    async def policy_documents(self, account: str, arns: Sequence[str]) -> Sequence[AttachedPolicy]:
        return await self._ask("policy_documents", Sequence[AttachedPolicy], account=account, arns=arns)

    async def repository_access(self, account: str, repository: str) -> RepositoryAccess:
        return await self._ask("repository_access", RepositoryAccess, account=account, repository=repository)

    async def repositories_access(self, account: str, names: Sequence[str]) -> Sequence[RepositoryAccess]:
        return await self._ask("repositories_access", Sequence[RepositoryAccess], account=account, names=names)

    async def registry_access(self, account: str) -> RegistryAccess:
        return await self._ask("registry_access", RegistryAccess, account=account)

    async def bind_repository_policy(self, account: str, text: str) -> BoundPolicy:
        return await self._ask("bind_repository_policy", BoundPolicy, account=account, text=text)

    async def role(self, account: str, name: str) -> Role | None:
        return await self._ask("role", Role | None, account=account, name=name)

    async def oidc_provider(self, account: str, url: str) -> OidcProvider | None:
        return await self._ask("oidc_provider", OidcProvider | None, account=account, url=url)

    async def iam_resource(self, account: str, kind: str, name: str) -> IamResource | None:
        return await self._ask("iam_resource", IamResource | None, account=account, kind=kind, name=name)

    async def iam(self, account: str, operation: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
        _check_operation(operation)
        return await self._ask(f"iam.{operation}", dict[str, Any], account=account, parameters=parameters)

    async def create_access_key(
        self, account: str, user_name: str | None, access_key_id: str, sealed_secret: bytes
    ) -> dict[str, Any]:
        asked = {"account": account, "user_name": user_name, "access_key_id": access_key_id}
        return await self._ask("create_access_key", dict[str, Any], sealed_secret=sealed_secret, **asked)

    async def note_key_use(self, access_key_id: str, at: float, region: str, service: str) -> None:
        await self._ask("note_key_use", None, access_key_id=access_key_id, at=at, region=region, service=service)

    async def note_role_use(self, principal_id: str, at: float, region: str) -> None:
        await self._ask("note_role_use", None, principal_id=principal_id, at=at, region=region)

    async def create_account(
        self, account: str, access_key_id: str, sealed_secret: bytes, administrator: str
    ) -> Principal:
        asked = {"account": account, "access_key_id": access_key_id, "administrator": administrator}
        return await self._ask("create_account", Principal, sealed_secret=sealed_secret, **asked)

    async def accounts(self) -> Sequence[Account]:
        return await self._ask("accounts", Sequence[Account])

    async def close_account(self, account: str) -> Account:
        return await self._ask("close_account", Account, account=account)

    async def credentials(self, *, after: str, limit: int) -> Sequence[Credential]:
        return await self._ask("credentials", Sequence[Credential], after=after, limit=limit)

    async def revoke(self, arn: str) -> Revocation:
        return await self._ask("revoke", Revocation, arn=arn)

    async def call(self, account: str, operation: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
        _check_operation(operation)
        return await self._ask(operation, dict[str, Any], account=account, parameters=parameters)

    async def blob(self, account: str, repository: str, digest: str) -> Blob:
        return await self._ask("blob", Blob, account=account, repository=repository, digest=digest)

    async def segments(self, object_key: str, plain_offset: int, limit: int = 64) -> Sequence[Segment]:
        return await self._ask(
            "segments", Sequence[Segment], object_key=object_key, plain_offset=plain_offset, limit=limit
        )

    async def frame_hashes(self, object_key: str, plain_offset: int, *, fresh: bool = False) -> bytes:
        return await self._ask("frame_hashes", bytes, object_key=object_key, plain_offset=plain_offset)

    async def blob_holders(self, account: str, digest: str, *, limit: int, encryption: str = "") -> Sequence[str]:
        return await self._ask(
            "blob_holders", Sequence[str], account=account, digest=digest, limit=limit, encryption=encryption
        )

    async def mount_blob(
        self, account: str, repository: str, digest: str, source: str | None, *, create: CreateOnPush
    ) -> Mounted:
        return await self._ask(
            "mount_blob", Mounted, account=account, repository=repository, digest=digest, source=source, create=create
        )

    async def unlink_blob(self, account: str, repository: str, digest: str) -> None:
        await self._ask("unlink_blob", None, account=account, repository=repository, digest=digest)

    async def quarantine(self, object_key: str, reason: str) -> None:
        await self._ask("quarantine", None, object_key=object_key, reason=reason)

    async def begin_upload(
        self,
        account: str,
        repository: str,
        *,
        algorithm: str,
        object_key: str,
        data_key: EncryptedDataKey,
        sealed_for: str,
        frame_length: int,
        create: CreateOnPush,
        sealing: Sealing = Sealing.AES_GCM,
        in_parts: bool = False,
        encryption: str = "",
        opened_by: str = "",
    ) -> Upload:
        return await self._ask(
            "begin_upload",
            Upload,
            account=account,
            repository=repository,
            algorithm=algorithm,
            object_key=object_key,
            data_key=data_key,
            sealed_for=sealed_for,
            frame_length=frame_length,
            create=create,
            sealing=sealing,
            in_parts=in_parts,
            encryption=encryption,
            opened_by=opened_by,
        )

    async def upload(self, account: str, repository: str, upload_id: str) -> Upload:
        return await self._ask("upload", Upload, account=account, repository=repository, upload_id=upload_id)

    async def lease_upload(self, account: str, repository: str, upload_id: str, *, seconds: float) -> Upload:
        asked = {"account": account, "repository": repository, "upload_id": upload_id, "seconds": seconds}
        return await self._ask("lease_upload", Upload, holder=secrets.token_hex(16), **asked)

    async def renew_upload(self, upload_id: str, fence: int, *, seconds: float) -> None:
        await self._ask("renew_upload", None, upload_id=upload_id, fence=fence, seconds=seconds)

    async def keep_frame_hashes(self, upload_id: str, fence: int, *, plain_offset: int, hashes: bytes) -> None:
        await self._ask(
            "keep_frame_hashes", None, upload_id=upload_id, fence=fence, plain_offset=plain_offset, hashes=hashes
        )

    async def advance_upload(
        self,
        upload_id: str,
        fence: int,
        *,
        segment: Segment,
        hash_state: bytes,
        frame_hashes: bytes = b"",
        object_key: str = "",
        settled: bool = True,
    ) -> Upload:
        facts = {"segment": segment, "hash_state": hash_state, "frame_hashes": frame_hashes}
        facts |= {"object_key": object_key, "settled": settled}
        return await self._ask("advance_upload", Upload, upload_id=upload_id, fence=fence, **facts)

    async def finish_upload(
        self, upload_id: str, fence: int, *, segment: Segment, hash_state: bytes, frame_hashes: bytes, digest: str
    ) -> Upload:
        facts = {"segment": segment, "hash_state": hash_state, "frame_hashes": frame_hashes, "digest": digest}
        return await self._ask("finish_upload", Upload, upload_id=upload_id, fence=fence, **facts)

    async def close_upload(
        self, account: str, repository: str, upload_id: str, digest: str, *, seconds: float
    ) -> tuple[Upload | None, str | None]:
        asked = {"account": account, "repository": repository, "upload_id": upload_id, "digest": digest}
        wanted = tuple[Upload | None, str | None]
        return await self._ask("close_upload", wanted, seconds=seconds, holder=secrets.token_hex(16), **asked)

    async def release_upload(self, upload_id: str, fence: int, *, settled: bool = False) -> None:
        await self._ask("release_upload", None, upload_id=upload_id, fence=fence, settled=settled)

    async def commit_upload(
        self,
        upload_id: str,
        fence: int,
        *,
        digest: str,
        segment: Segment | None,
        hash_state: bytes,
        frame_hashes: bytes = b"",
        object_key: str = "",
    ) -> tuple[Blob, str | None]:
        return await self._ask(
            "commit_upload",
            tuple[Blob, str | None],
            upload_id=upload_id,
            fence=fence,
            digest=digest,
            segment=segment,
            hash_state=hash_state,
            frame_hashes=frame_hashes,
            object_key=object_key,
        )

    async def cancel_upload(self, account: str, repository: str, upload_id: str, *, fence: int | None = None) -> str:
        asked = {"account": account, "repository": repository, "upload_id": upload_id, "fence": fence}
        return await self._ask("cancel_upload", str, **asked)

    async def manifest(self, account: str, repository: str, reference: str) -> StoredManifest:
        return await self._ask("manifest", StoredManifest, account=account, repository=repository, reference=reference)

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
        return await self._ask(
            "put_manifest",
            PushedManifest,
            account=account,
            repository=repository,
            content=content,
            media_type=media_type,
            digest=digest,
            tags=tags,
            create=create,
        )

    async def note_pulls(self, pulls: Sequence[Pull]) -> None:
        await self._ask("note_pulls", None, pulls=pulls)

    async def delete_tag(self, account: str, repository: str, tag: str) -> None:
        await self._ask("delete_tag", None, account=account, repository=repository, tag=tag)

    async def delete_manifest(self, account: str, repository: str, digest: str) -> None:
        await self._ask("delete_manifest", None, account=account, repository=repository, digest=digest)

    async def tags(self, account: str, repository: str, *, last: str, limit: int) -> Page:
        return await self._ask("tags", Page, account=account, repository=repository, last=last, limit=limit)

    async def repositories(self, account: str, *, last: str, limit: int) -> Page:
        return await self._ask("repositories", Page, account=account, last=last, limit=limit)

    async def referrers(
        self, account: str, repository: str, digest: str, *, artifact_type: str | None, last: str, limit: int
    ) -> tuple[Sequence[Referrer], bool]:
        asked = {"account": account, "repository": repository, "digest": digest, "artifact_type": artifact_type}
        wanted = tuple[Sequence[Referrer], bool]
        return await self._ask("referrers", wanted, last=last, limit=limit, **asked)

    async def take_turn(self, task: str, *, seconds: float) -> bool:
        return await self._ask("take_turn", bool, task=task, seconds=seconds)

    async def hold_blobs(self, *, seconds: float) -> None:
        await self._ask("hold_blobs", None, seconds=seconds)

    async def expire_uploads(self, *, idle_seconds: float, limit: int) -> Removed:
        return await self._ask("expire_uploads", Removed, idle_seconds=idle_seconds, limit=limit)

    async def collect_blobs(self, *, grace_seconds: float, limit: int) -> Removed:
        return await self._ask("collect_blobs", Removed, grace_seconds=grace_seconds, limit=limit)

    async def remove_deleted(self, *, limit: int) -> int:
        return await self._ask("remove_deleted", int, limit=limit)

    async def known_objects(self, keys: Sequence[str]) -> Sequence[str]:
        return await self._ask("known_objects", Sequence[str], keys=keys)

    async def reserve_object(self, object_key: str, *, seconds: float) -> None:
        await self._ask("reserve_object", None, object_key=object_key, seconds=seconds)

    async def release_object(self, object_key: str) -> None:
        await self._ask("release_object", None, object_key=object_key)

    async def any_reserved(self) -> bool:
        return await self._ask("any_reserved", bool)

    async def objects(self, *, after: str, limit: int) -> Sequence[tuple[Blob, bool]]:
        return await self._ask("objects", Sequence[tuple[Blob, bool]], after=after, limit=limit)

    async def replace_data_key(self, object_key: str, old: EncryptedDataKey, new: EncryptedDataKey) -> bool:
        return await self._ask("replace_data_key", bool, object_key=object_key, old=old, new=new)

    async def replace_object(self, object_key: str, blob: Blob) -> bool:
        return await self._ask("replace_object", bool, object_key=object_key, blob=blob)

    async def key_records(self) -> Sequence[KeyRecord]:
        return await self._ask("key_records", Sequence[KeyRecord])

    async def record_key(self, record: KeyRecord, *, replaces: str | None) -> Sequence[KeyRecord]:
        return await self._ask("record_key", Sequence[KeyRecord], record=record, replaces=replaces)

    async def sealed_secrets(self, *, after: str, limit: int) -> Sequence[tuple[str, bytes]]:
        return await self._ask("sealed_secrets", Sequence[tuple[str, bytes]], after=after, limit=limit)

    async def replace_sealed_secret(self, access_key_id: str, old: bytes, new: bytes) -> bool:
        return await self._ask("replace_sealed_secret", bool, access_key_id=access_key_id, old=old, new=new)

    async def open_uploads(self, *, after: str, limit: int) -> Sequence[SealedObject]:
        return await self._ask("open_uploads", Sequence[SealedObject], after=after, limit=limit)

    async def miscounts(self, noun: str, *, after: str, limit: int) -> tuple[Sequence[Miscount], str | None]:
        wanted = tuple[Sequence[Miscount], str | None]
        return await self._ask("miscounts", wanted, noun=noun, after=after, limit=limit)

    async def recount(self, noun: str, key: str) -> None:
        await self._ask("recount", None, noun=noun, key=key)

    async def take_tokens(
        self, account: str, name: str, *, per_second: float, burst: float, most: int
    ) -> tuple[int, float]:
        bucket = {"account": account, "name": name, "per_second": per_second, "burst": burst}
        return await self._ask("take_tokens", tuple[int, float], most=most, **bucket)

    async def ping(self) -> None:
        await self._ask("ping", None)

    async def warnings(self) -> Sequence[str]:
        return await self._ask("warnings", Sequence[str])


def _check_operation(name: str) -> None:
    """It becomes part of a path."""
    if not name.isascii() or not name.isalnum() or not name[0].isupper():
        raise Failure(Code.UNKNOWN_OPERATION, f"Operation {name[:128]!r} is not supported by this registry")
