"""Upload sessions: begin, append, status, cancel, whichever worker is asked.

A session is a row; what an append stored is counted there before anybody is told. A closing append may be asked twice.
The rest of an append's life is in `append`. Source: OCI Distribution 1.1.1 "Pushing blobs".
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable

from proxy import observe
from proxy.auth.envelope import SmallSealer
from proxy.blob.buffers import BufferPool
from proxy.blob.keys import DataKeys
from proxy.metadata.contract import Metadata
from proxy.model.errors import Code, Failure
from proxy.model.names import DIGEST_HEX, Digest, is_upload_id, repository_arn
from proxy.model.records import NO_DATA_KEY, Sealing, Upload
from proxy.registry.append import LEASE_SECONDS, STORE_GRACE_SECONDS, Append, Rooms, delete_object
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
    ) -> None:
        """`new_key` makes object keys (32 hex digits, never the same twice); `state_sealer` seals hash states;
        `sealing` is for uploads that begin from here on."""
        self._rooms = Rooms(metadata, store, keys, state_sealer, pool)
        self._region = region
        self._frame_length = frame_length
        self._create_on_push = create_on_push
        self._sealing = sealing
        self._new_key = new_key

    async def begin(
        self, account: str, repository: str, *, algorithm: str = "sha256", may_create: bool = True
    ) -> Upload:
        """Open a session. RepositoryNotFound when it may not be created, DigestInvalid for an unknown algorithm."""
        if algorithm not in DIGEST_HEX:
            raise Failure(
                Code.DIGEST_INVALID,
                f"digest algorithm {algorithm[:32]!r} is not supported",
                hint="use sha256 or sha512",
            )
        sealed_for = repository_arn(self._region, account, repository)
        plain = self._sealing is Sealing.NONE
        data_key = NO_DATA_KEY if plain else (await self._rooms.keys.generate(sealed_for)).encrypted
        return await self._rooms.metadata.begin_upload(
            account,
            repository,
            algorithm=algorithm,
            object_key=self._new_key(),
            data_key=data_key,
            sealed_for=sealed_for,
            frame_length=self._frame_length,
            create=self._create_on_push and may_create,
            sealing=self._sealing,
        )

    async def status(self, account: str, repository: str, upload_id: str) -> Upload:
        _check_id(repository, upload_id)
        return await self._rooms.metadata.upload(account, repository, upload_id)

    async def append(
        self,
        account: str,
        repository: str,
        upload_id: str,
        *,
        start: int | None = None,
        length: int | None = None,
        closing: Digest | None = None,
    ) -> Append:
        """Take the session for one request's bytes, of which there will be `length` if that is known.

        `start` is where the client believes the session stands; elsewhere is InvalidLayerPart with the true end.
        `closing` is the digest that the request will commit, None when it only appends. UploadConflict while another
        request writes; UploadNotFound, also for a session that was committed as something else.
        """
        _check_id(repository, upload_id)
        leased_at = asyncio.get_running_loop().time()
        upload = await self._rooms.metadata.lease_upload(
            account, repository, upload_id, seconds=LEASE_SECONDS + STORE_GRACE_SECONDS
        )
        if upload.committed is not None and (closing is None or upload.committed != str(closing)):
            raise _not_found(repository, upload_id)
        append = Append(self._rooms, upload, leased_at, length=length, closing=closing)
        if start is not None and start != upload.sealed.plain_size and upload.committed is None:
            await append.abandon()
            raise Failure(
                Code.INVALID_LAYER_PART,
                f"the chunk begins at byte {start}, the upload stands at {upload.sealed.plain_size}",
                lastValidByteReceived=upload.sealed.plain_size - 1,
            )
        return append

    async def cancel(self, account: str, repository: str, upload_id: str) -> None:
        """End a session and remove what it stored. UploadNotFound."""
        _check_id(repository, upload_id)
        key = await self._rooms.metadata.cancel_upload(account, repository, upload_id)
        observe.metrics.uploads.labels("cancelled").inc()
        await delete_object(self._rooms.store, key)


def _check_id(repository: str, upload_id: str) -> None:
    """What is no upload id never reaches a row."""
    if not is_upload_id(upload_id):
        raise _not_found(repository, upload_id[:80])


def _not_found(repository: str, upload_id: str) -> Failure:
    return Failure(
        Code.UPLOAD_NOT_FOUND,
        f"Upload with id '{upload_id}' could not be found for the repository with name '{repository}'",
        uploadId=upload_id,
        repositoryName=repository,
    )
