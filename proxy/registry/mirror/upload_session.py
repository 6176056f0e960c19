"""The upload session that a fetch fills, recorded every `KEEP_BYTES` so that another worker can take the fetch over.

    begin / resume ──> write … write ──> commit
                         │  keep, every KEEP_BYTES: the bytes are recorded, and any worker of any node can resume
                         └──> abandon    recorded bytes stay for a while
                              cancel     nothing stays

A session is fenced by its own lease (`registry.append`): if two workers believe that they lead the fetch, only one
writes. Called by `blobs` and `fetch`. Must not know where bytes come from, nor the fetch's lease.
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable

from proxy.model.errors import Failure
from proxy.model.mirror import PULL_THROUGH, AbsentBlob
from proxy.model.names import parse_digest
from proxy.registry.append import Append
from proxy.registry.uploads import Uploads

KEEP_BYTES = 64 << 20


class UploadSession:
    """`kept` is called with the session's id when bytes of it are recorded for the first time."""

    def __init__(
        self,
        uploads: Uploads,
        account: str,
        repository: str,
        blob: AbsentBlob,
        kept: Callable[[str], Awaitable[None]],
    ) -> None:
        self.offset = 0
        self.upload_id = ""
        self.is_kept = False
        self._uploads = uploads
        self._name = account, repository
        self._blob = blob
        self._digest = parse_digest(blob.digest)
        self._kept = kept
        self._append: Append | None = None
        self._since = 0  # bytes since the last keep

    async def stored(self, upload_id: str) -> int:
        """How many bytes a session has that can be resumed. UploadNotFound."""
        upload = await self._uploads.status(*self._name, upload_id)
        return 0 if upload.committed is not None else upload.sealed.plain_size

    async def begin(self) -> None:
        upload = await self._uploads.begin(
            *self._name, algorithm=self._digest.algorithm, may_create=False, opened_by=PULL_THROUGH
        )
        self.upload_id, self.offset, self.is_kept = upload.upload_id, 0, False
        await self._open()

    async def resume(self, upload_id: str, offset: int) -> None:
        """UploadInUse while its former holder may still write; UploadNotFound, InvalidLayerPart."""
        self.upload_id, self.offset, self.is_kept = upload_id, offset, True
        await self._open()

    async def write(self, chunk: bytes | memoryview) -> None:
        """As `Append.write`, and UploadInUse, UploadConflict if another worker has leased the session."""
        append = self._append or await self._open()
        await append.write(chunk)
        self.offset += len(chunk)
        self._since += len(chunk)
        if self._since >= KEEP_BYTES and self.offset < self._blob.size:
            self.upload_id = (await append.keep()).upload_id
            self._append, self._since = None, 0
            if not self.is_kept:
                self.is_kept = True
                await self._kept(self.upload_id)

    async def commit(self) -> None:
        """As `Append.commit_blob`."""
        append = self._append or await self._open()
        await append.commit_blob(self._digest)

    async def abandon(self) -> None:
        """Undo what is not recorded. Safe to call twice, and after `commit`."""
        if self._append is not None:
            await self._append.abandon()

    async def cancel(self) -> None:
        await self.abandon()
        if self.upload_id:
            with contextlib.suppress(Failure):  # the sweep takes what stays
                await self._uploads.cancel(*self._name, self.upload_id)

    async def _open(self) -> Append:
        self._append = await self._uploads.append(
            *self._name,
            self.upload_id,
            start=self.offset or None,
            length=self._blob.size - self.offset,
            closing=self._digest,
            opened_by=PULL_THROUGH,
        )
        return self._append
