"""Renews the lease of an upload session while an append runs, and inserts the row of a session that has none yet.

    new ──────> leased <──> leased         renewed every third of `LEASE_SECONDS`
     │ record     │
     └────────────┴──> lost                it may have expired: `check` refuses from then on

A new session (`NewUpload`) is known to this process only: no other can lease it, so its first `LEASE_SECONDS` need no
row. The row is inserted after a third of them, or earlier when something has to be stored under its fence. Made and
ended by `append`. Must not know bytes.
"""

from __future__ import annotations

import asyncio

from proxy.metadata.contract import Metadata
from proxy.model.errors import Code, Failure
from proxy.model.records import Fence, NewUpload, Upload
from proxy.storage.base import WriteLease

LEASE_SECONDS = 10.0
"""How long a dead worker's session stays leased, without the grace; renewed after each third."""

STORE_GRACE_SECONDS = 5.0
"""Added for others, so that a write sent to the store during the lease ends before another process takes it."""


class UploadLease:
    """`new` is None once the session has a row. `bytes_left` as in `Upload`."""

    def __init__(self, metadata: Metadata, upload: Upload, leased_at: float, new: NewUpload | None) -> None:
        """`leased_at` is the loop's time just before the lease was requested; with `new`, when the append began."""
        self.new = new
        self.bytes_left = upload.bytes_left
        self.has_row = new is None  # or may have
        self._metadata = metadata
        self._upload = upload
        self._clock = asyncio.get_running_loop().time  # stored: `get_running_loop` is a system call in Python 3.11
        self._until = leased_at + LEASE_SECONDS
        is_over = upload.committed is not None
        self._renewing = None if is_over else asyncio.create_task(self._renew(), name="renew upload lease")

    def for_store(self) -> WriteLease:
        return WriteLease(Fence(self._upload.upload_id, self._upload.fence), self.check, self.record)

    def check(self) -> None:
        """UploadConflict if the lease may have expired."""
        if self._clock() > self._until:
            offset = self._upload.sealed.plain_size
            raise Failure(Code.UPLOAD_CONFLICT, "the lease on this upload was lost", offset=offset)

    async def record(self) -> None:
        """Insert the session's row if it has none. Failures of `Metadata.record_upload`."""
        if (new := self.new) is None:
            return
        self.check()
        asked_at, self.has_row = self._clock(), True
        recorded = await self._metadata.record_upload(new, seconds=LEASE_SECONDS + STORE_GRACE_SECONDS)
        if self.new is not None:  # else another task has recorded it
            self.new, self.bytes_left, self._until = None, recorded.bytes_left, asked_at + LEASE_SECONDS

    async def end(self) -> None:
        """Stop renewing and recording: the rest of the lease is for the caller's last request. Safe to call twice."""
        if self._renewing is not None:
            self._renewing.cancel()
            await asyncio.wait((self._renewing,))

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(LEASE_SECONDS / 3)
            asked_at = self._clock()
            try:
                if self.new is not None:
                    await self.record()
                else:
                    await self._metadata.renew_upload(
                        self._upload.upload_id, self._upload.fence, seconds=LEASE_SECONDS + STORE_GRACE_SECONDS
                    )
            except Failure as failure:
                if failure.code is not Code.METADATA_UNAVAILABLE:
                    self._until = float("-inf")
                    return
                continue  # the rest of the lease is still valid
            self._until = asked_at + LEASE_SECONDS
