"""Upload sessions: begin, append, status, cancel, in any worker; and layers that come in parts.

A session has a row from its first append on (before that only an id, see `upload_ids`); an append's bytes are recorded
there before the request is answered. A closing append may be repeated.
`append` has the append itself. A session belongs to one protocol: one begun through OCI accepts no parts of the ECR API
and the other way round, since each has rules of its own; both may read its status, and cancel it. Called by `oci`,
`ecr.layers`, `jobs.replication_here` and `registry.mirror`.
Sources: OCI Distribution 1.1.1 "Pushing blobs"; UploadLayerPart and CompleteLayerUpload of botocore's `ecr` model.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Callable

from proxy import observe
from proxy.auth.envelope import SmallSealer
from proxy.blob.buffers import BufferPool
from proxy.blob.hashers import Hasher, new_hasher
from proxy.blob.keys import DataKeys
from proxy.metadata.contract import Metadata
from proxy.model.errors import Code, Failure, repository_not_found, upload_not_found
from proxy.model.names import DIGEST_HEX, Digest, is_upload_id, repository_arn
from proxy.model.quotas import require_bytes
from proxy.model.records import (
    NEW_ALGORITHM,
    NO_DATA_KEY,
    CreateOnPush,
    EncryptedDataKey,
    LayerParts,
    NewUpload,
    Sealing,
    Upload,
    create_on_push,
    first_append_of,
    upload_without_row,
)
from proxy.registry.append import Append, AppendContext, delete_object
from proxy.registry.hash_state import open_state
from proxy.registry.upload_ids import UploadIds, in_first_location, name_in
from proxy.registry.upload_lease import LEASE_SECONDS, STORE_GRACE_SECONDS
from proxy.storage.base import ObjectStore


def _random_key() -> str:
    return secrets.token_hex(16)


class Uploads:
    """The upload sessions of one region, over any metadata and store."""

    def __init__(
        self,
        metadata: Metadata,
        store: ObjectStore,
        keys: DataKeys,
        state_sealer: SmallSealer,
        *,
        region: str,
        frame_length: int,
        create_on_push: bool,
        pool: BufferPool,
        sealing: Sealing = Sealing.AES_GCM,
        new_key: Callable[[], str] = _random_key,
        counts_bytes: bool = False,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`new_key` makes object keys (32 hex digits, never the same twice); `state_sealer` seals hash states and tags
        upload ids; `sealing` is that of new uploads; `create_on_push` as in `Images`. `counts_bytes`: there are quotas
        of bytes, so a session needs its row before its first byte. `clock` returns epoch seconds."""
        self._context = AppendContext(metadata, store, keys, state_sealer, pool)
        self._region = region
        self._frame_length = frame_length
        self._create_on_push = create_on_push
        self._sealing = sealing
        self._new_key = new_key
        self._counts_bytes = counts_bytes
        self._clock = clock
        self._ids = UploadIds(state_sealer, clock)

    async def begin(
        self,
        account: str,
        repository: str,
        *,
        algorithm: str = "sha256",
        may_create: bool = True,
        in_parts: bool = False,
        opened_by: str = "",
        replica: bool = False,
    ) -> Upload:
        """Open a session. RepositoryNotFound when it may not be created, DigestInvalid for an unknown algorithm, Kms;
        LimitExceeded if the principal with the id `opened_by` has too many open.

        In an existing repository it has no row before its first append. Its data key is made under the repository's own
        KMS key if there is one; then it is always sealed.
        `replica`: for an image that is replicated, which decides how its repository is created."""
        if algorithm not in DIGEST_HEX:
            raise Failure(
                Code.DIGEST_INVALID,
                f"digest algorithm {algorithm[:32]!r} is not supported",
                hint="use sha256 or sha512",
            )
        access = await self._context.metadata.repository_access(account, repository)
        if access.exists and not in_parts and algorithm == NEW_ALGORITHM:
            return upload_without_row(account, repository, self._ids.new(account, repository))
        create = create_on_push(allowed=may_create, by_default=self._create_on_push, replica=replica)
        try:
            return await self._begin(account, repository, algorithm, create, in_parts, opened_by, access.encryption)
        except Failure as failure:
            if failure.code is not Code.ENCRYPTION_DIFFERS:
                raise
            own = str(failure.fields["encryption"])  # the repository was created a moment ago
        return await self._begin(account, repository, algorithm, create, in_parts, opened_by, own)

    async def _begin(
        self,
        account: str,
        repository: str,
        algorithm: str,
        create: CreateOnPush,
        in_parts: bool,
        opened_by: str,
        encryption: str,
    ) -> Upload:
        sealed_for, sealing, data_key = await self._data_key(account, repository, encryption)
        return await self._context.metadata.begin_upload(
            account,
            repository,
            algorithm=algorithm,
            object_key=self._new_key(),
            data_key=data_key,
            sealed_for=sealed_for,
            frame_length=self._frame_length,
            create=create,
            sealing=sealing,
            in_parts=in_parts,
            encryption=encryption,
            opened_by=opened_by,
        )

    async def _data_key(self, account: str, repository: str, encryption: str) -> tuple[str, Sealing, EncryptedDataKey]:
        sealed_for = repository_arn(self._region, account, repository)
        sealing = Sealing.AES_GCM if encryption else self._sealing
        if sealing is Sealing.NONE:
            return sealed_for, sealing, NO_DATA_KEY
        return sealed_for, sealing, (await self._context.keys.generate(sealed_for, encryption)).encrypted

    async def begin_parts(self, account: str, repository: str, *, opened_by: str = "") -> tuple[str, int]:
        """Open a session for the API's parts. Returns its id and the size of a part. RepositoryNotFound: as at AWS,
        only a push through OCI may create one."""
        upload = await self.begin(account, repository, may_create=False, in_parts=True, opened_by=opened_by)
        return upload.upload_id, _parts(upload).size

    async def status(self, account: str, repository: str, upload_id: str) -> Upload:
        upload_id, is_first = _named(account, repository, upload_id)
        try:
            return await self._context.metadata.upload(account, repository, upload_id)
        except Failure as failure:
            self._require_new(account, repository, upload_id, failure, is_first=is_first)
            return upload_without_row(account, repository, in_first_location(upload_id))

    async def append(
        self,
        account: str,
        repository: str,
        upload_id: str,
        *,
        start: int | None = None,
        length: int | None = None,
        closing: Digest | None = None,
        in_parts: bool = False,
        opened_by: str = "",
    ) -> Append:
        """Lease the session for one request's bytes, `length` of them if that is known.

        With an id of a first Location (`upload_ids`) and without a `start`, no row is looked up; if there is one, the
        append ends with InvalidLayerPart. `opened_by` is the principal that a session without a row counts for.

        `start` is the client's offset; InvalidLayerPart with the true end if it differs. `closing` is the digest that
        the request will commit, None when it only appends. UploadInUse while another request writes; UploadNotFound,
        also for a session that was committed as another blob or one that is deleted, or that is of another protocol.
        """
        upload_id, is_first = _named(account, repository, upload_id)
        if is_first and start is None and not in_parts and self._ids.is_new(upload_id, account, repository):
            return await self._append_first(account, repository, upload_id, length, closing, opened_by)
        leased_at = asyncio.get_running_loop().time()
        try:
            upload = await self._context.metadata.lease_upload(
                account, repository, upload_id, seconds=LEASE_SECONDS + STORE_GRACE_SECONDS
            )
        except Failure as failure:
            self._require_new(account, repository, upload_id, failure, is_first=is_first)
            if in_parts:
                raise
            if start:
                raise _elsewhere(start, 0) from failure
            return await self._append_first(account, repository, upload_id, length, closing, opened_by)
        return await self._append(upload, leased_at, start, length, closing, in_parts)

    async def _append_first(
        self, account: str, repository: str, upload_id: str, length: int | None, closing: Digest | None, opened_by: str
    ) -> Append:
        """Begin the first append of a session without a row. RepositoryNotFound, Kms."""
        metadata, leased_at, began_at = self._context.metadata, asyncio.get_running_loop().time(), self._clock()
        access = await metadata.repository_access(account, repository)
        if not access.exists:
            raise repository_not_found(repository, account)
        sealed_for, sealing, data_key = await self._data_key(account, repository, access.encryption)
        new = NewUpload(
            upload_id=upload_id,
            account=account,
            repository=repository,
            algorithm=NEW_ALGORITHM,
            object_key=self._new_key(),
            data_key=data_key,
            sealed_for=sealed_for,
            frame_length=self._frame_length,
            sealing=sealing,
            encryption=access.encryption,
            opened_by=opened_by,
            began_at=began_at,
        )
        append = Append(self._context, first_append_of(new), leased_at, length=length, closing=closing, new=new)
        if self._counts_bytes:
            try:
                await append.record(length)
            except BaseException as error:
                await append.fail(error)
                raise
        return append

    async def close(
        self, account: str, repository: str, upload_id: str, digest: Digest, *, opened_by: str = ""
    ) -> None:
        """As `append` and `commit_blob` without bytes, by rows only if an append was kept `whole`."""
        upload_id, is_first = _named(account, repository, upload_id)
        leased_at = asyncio.get_running_loop().time()
        try:
            upload, leftover = await self._context.metadata.close_upload(
                account, repository, upload_id, str(digest), seconds=LEASE_SECONDS + STORE_GRACE_SECONDS
            )
        except Failure as failure:
            self._require_new(account, repository, upload_id, failure, is_first=is_first)
            append = await self._append_first(account, repository, upload_id, 0, digest, opened_by)
            async with append:
                await append.commit_blob(digest)
            return
        if upload is not None:
            async with await self._append(upload, leased_at, None, 0, digest, False) as append:
                await append.commit_blob(digest)
            return
        observe.metrics.uploads.labels("committed").inc()
        if leftover is not None:
            await delete_object(self._context.store, leftover)

    async def _append(
        self,
        upload: Upload,
        leased_at: float,
        start: int | None,
        length: int | None,
        closing: Digest | None,
        in_parts: bool,
    ) -> Append:
        account, repository, upload_id = upload.account, upload.repository, upload.upload_id
        if upload.committed is not None:
            if closing is None or upload.committed != str(closing):
                raise _not_found(account, repository, upload_id)
            if not await self._is_there(account, repository, closing):  # deleted since, perhaps with its repository
                raise _not_found(account, repository, upload_id)
        append = Append(self._context, upload, leased_at, length=length, closing=closing)
        if (upload.parts is not None) is not in_parts:
            await append.abandon()
            raise _not_found(account, repository, upload_id)
        if start is not None and start != upload.sealed.plain_size and upload.committed is None:
            await append.abandon()
            raise _elsewhere(start, upload.sealed.plain_size)
        if length is not None and not in_parts:
            try:
                require_bytes(upload.bytes_left, length)
            except Failure as failure:
                await append.fail(failure)
                raise
        return append

    async def add_part(
        self, account: str, repository: str, upload_id: str, *, first: int, length: int, content: AsyncIterator[bytes]
    ) -> Upload:
        """Append a part of `length` bytes that begins at byte `first`. Returns the session after it.

        The last part sent again, as after a lost response, changes nothing. InvalidLayerPart for any other offset than
        the session's end, with the last stored byte; LimitExceeded, UploadNotFound, UploadInUse, UploadConflict.
        """
        append = await self.append(account, repository, upload_id, length=length, in_parts=True)
        async with append:
            upload, parts = append.upload, _parts(append.upload)
            end = upload.sealed.plain_size
            if parts.count and first == parts.last_at and first + length == end:
                if await self._is_last(upload, parts, content):
                    return upload
            elif first == end and length:
                require_bytes(upload.bytes_left, length)
                async for piece in content:
                    await append.write(piece)
                if append.received != length:
                    raise Failure(Code.SIZE_INVALID, f"{append.received} bytes of a part of {length} came")
                return await append.keep()
            raise invalid_part(upload, f"the part does not begin at byte {end}, where this upload ends")

    async def complete(self, account: str, repository: str, upload_id: str, digest: Digest) -> bool:
        """Make the session's parts the repository's blob `digest`. False if it has that blob already.

        A repeated call after success returns True. EmptyUpload, LayerPartTooSmall, InvalidLayer, UploadNotFound; after
        each the session is unchanged.
        """
        append = await self.append(account, repository, upload_id, closing=digest, in_parts=True)
        async with append:
            parts = _parts(append.upload)
            if append.upload.committed is not None:
                return True
            if not parts.count:
                raise Failure(Code.EMPTY_UPLOAD, f"The upload with id '{upload_id}' does not contain any layer parts")
            if parts.small:
                raise Failure(
                    Code.LAYER_PART_TOO_SMALL,
                    f"The upload with id '{upload_id}' has layer parts, other than the last one, that are too small",
                )
            is_new = not await self._is_there(account, repository, digest)
            await append.commit_blob(digest)
        return is_new

    async def cancel(self, account: str, repository: str, upload_id: str) -> None:
        """End a session and remove what it stored. UploadNotFound."""
        upload_id, is_first = _named(account, repository, upload_id)
        try:
            key = await self._context.metadata.cancel_upload(account, repository, upload_id)
        except Failure as failure:
            self._require_new(account, repository, upload_id, failure, is_first=is_first)
            async with await self._append_first(account, repository, upload_id, None, None, "") as append:
                await append.record()  # a row, to remember that it was cancelled
            key = await self._context.metadata.cancel_upload(account, repository, upload_id)
        observe.metrics.uploads.labels("cancelled").inc()
        await delete_object(self._context.store, key)

    def _require_new(self, account: str, repository: str, upload_id: str, failure: Failure, *, is_first: bool) -> None:
        """`failure`, unless it says that a session has no row which nothing was appended to."""
        is_new = is_first and self._ids.is_new(upload_id, account, repository)
        if failure.code is not Code.UPLOAD_NOT_FOUND or not is_new:
            raise failure

    async def _is_there(self, account: str, repository: str, digest: Digest) -> bool:
        try:
            await self._context.metadata.blob(account, repository, str(digest))
        except Failure as failure:
            if failure.code is not Code.LAYERS_NOT_FOUND:
                raise
            return False
        return True

    async def _is_last(self, upload: Upload, parts: LayerParts, content: AsyncIterator[bytes]) -> bool:
        """Whether the last part had these bytes: hashed from the state before it they give the same digest."""
        hasher = self._state(upload, parts.state_before) if parts.last_at else new_hasher(upload.algorithm)
        async for piece in content:
            hasher.update(piece)
        return hasher.digest() == self._state(upload, upload.hash_state).digest()

    def _state(self, upload: Upload, state: bytes) -> Hasher:
        return open_state(self._context.state_sealer, upload.upload_id, state)


def _elsewhere(start: int, end: int) -> Failure:
    return Failure(
        Code.INVALID_LAYER_PART,
        f"the chunk begins at byte {start}, the upload ends at {end}",
        lastValidByteReceived=end - 1,
    )


def _parts(upload: Upload) -> LayerParts:
    if upload.parts is None:
        raise _not_found(upload.account, upload.repository, upload.upload_id)
    return upload.parts


def invalid_part(upload: Upload, why: str) -> Failure:
    """InvalidLayerPart, with the upload's last stored byte."""
    return Failure(
        Code.INVALID_LAYER_PART,
        f"The layer part is not valid for the upload with id '{upload.upload_id}': {why}",
        lastValidByteReceived=upload.sealed.plain_size - 1,
        registryId=upload.account,
        repositoryName=upload.repository,
        uploadId=upload.upload_id,
    )


def _named(account: str, repository: str, upload_id: str) -> tuple[str, bool]:
    """As `upload_ids.name_in`. UploadNotFound for text that is no upload id, without a look-up."""
    if not is_upload_id(upload_id):
        raise _not_found(account, repository, upload_id[:80])
    return name_in(upload_id)


def _not_found(account: str, repository: str, upload_id: str) -> Failure:
    return upload_not_found(upload_id, repository, account)
