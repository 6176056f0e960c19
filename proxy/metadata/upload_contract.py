"""The part of `contract.Metadata` that upload sessions need. Implemented as the rest is."""

from __future__ import annotations

from typing import Protocol

from proxy.model.records import Blob, CreateOnPush, EncryptedDataKey, NewUpload, Sealing, Segment, Upload


class UploadPort(Protocol):
    """Upload sessions. An append needs the `fence` of a current lease; see `operations.uploads`."""

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
        """Open a session with a fresh UUID at offset 0. RepositoryNotFound if `create` makes none; LimitExceeded if the
        principal with the id `opened_by` has too many open.

        `in_parts`: a session of UploadLayerPart, in which each append is a part under the quotas. `encryption` is the
        KMS key that wraps the data key, empty for the server's own; EncryptionDiffers, with the repository's key, if
        they differ."""

    async def record_upload(self, new: NewUpload, *, seconds: float) -> Upload:
        """Give a session its row while its first append is under way, leased under `FIRST_FENCE`. RepositoryNotFound,
        LimitExceeded as `begin_upload`. InvalidLayerPart if another append came first, with where that left the
        session; UploadConflict if this one began so long ago that its object may be gone; UploadNotFound if the
        repository's encryption differs by now."""

    async def record_append(
        self,
        new: NewUpload,
        *,
        segment: Segment,
        hash_state: bytes,
        frame_hashes: bytes,
        digest: str | None,
    ) -> Upload:
        """`record_upload` of a session whose first append is over, every request to the store answered, and
        `finish_upload` of it; without a `digest` `advance_upload`."""

    async def record_blob(
        self, new: NewUpload, *, digest: str, segment: Segment, frame_hashes: bytes
    ) -> tuple[Blob, str | None]:
        """`record_upload` of a session that one request began and closes, and `commit_upload` of it."""

    async def upload(self, account: str, repository: str, upload_id: str) -> Upload:
        """UploadNotFound also when it belongs to another repository, or has been swept."""

    async def lease_upload(self, account: str, repository: str, upload_id: str, *, seconds: float) -> Upload:
        """Lease the session for one append: a new `fence`, and the object key to write under, a new one if the last
        writer may still write (`operations.handover`). UploadInUse while another lease is valid, UploadNotFound."""

    async def renew_upload(self, upload_id: str, fence: int, *, seconds: float) -> None:
        """Renew the lease during a long append. UploadConflict when it was lost."""

    async def keep_frame_hashes(self, upload_id: str, fence: int, *, plain_offset: int, hashes: bytes) -> None:
        """Store a full page of a long append's hashes; it counts once the append is recorded. UploadConflict."""

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
        """Record a finished append and release the lease. `segment` must begin at the row's offsets. UploadConflict;
        LimitExceeded for bytes, or a part, past the quotas.

        `object_key` is the object's key from now on, if it changed. Not `settled`: a request to the store may still
        arrive. `frame_hashes` is the last page of hashes of a plain object, full or not."""

    async def finish_upload(
        self, upload_id: str, fence: int, *, segment: Segment, hash_state: bytes, frame_hashes: bytes, digest: str
    ) -> Upload:
        """`advance_upload` for a session's first append whose object is already whole and durable and hashes to
        `digest`: `close_upload` may then close the session as that digest."""

    async def close_upload(
        self, account: str, repository: str, upload_id: str, digest: str, *, seconds: float
    ) -> tuple[Upload | None, str | None]:
        """For a closing request without bytes. If `finish_upload` left the session as `digest` and it was not leased
        since: commit as `commit_upload` does; None, and the key of an object to delete. Otherwise lease as
        `lease_upload` does; the session, and None."""

    async def release_upload(self, upload_id: str, fence: int, *, settled: bool = False) -> None:
        """Release the lease and record nothing. Idempotent, never fails on a lost lease. `settled`: no request went to
        the store."""

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
        """Make the session's object the repository's blob `digest`; `segment` is the last append, if it wrote any, and
        `object_key` as of `advance_upload`.

        Returns the blob, and the key of an object to delete: this upload's own when the digest was there already
        (the first stays), the old corrupt one when this push healed a quarantined blob. Committed sessions answer
        `upload` with `committed` set for an hour.
        """

    async def cancel_upload(self, account: str, repository: str, upload_id: str, *, fence: int | None = None) -> str:
        """End a session; the key of its object, to delete. UploadNotFound; UploadConflict if a `fence` is given and the
        session is not open under it."""
