"""The lease of an upload session, kept while an append runs; and the row of a session that has none yet.

    new ──────> leased <──> leased         renewed every third of `LEASE_SECONDS`
     │ record     │
     └────────────┴──> lost                it may be over: `check` refuses, for good

A new session (`NewUpload`) is known to this process alone: nobody can take it, so its first `LEASE_SECONDS` need no
row. It is recorded when they are a third over, or before that when something is to be kept under its fence. Made and
ended by `append`. Must not know bytes.
"""

from __future__ import annotations

import asyncio

from proxy.metadata.contract import Metadata
from proxy.model.errors import Code, Failure
from proxy.model.records import Fence, NewUpload, Upload
from proxy.storage.base import WriteLease

LEASE_SECONDS = 10.0
"""How long a dead worker's session stays closed to others, less the grace; renewed three times in it."""

STORE_GRACE_SECONDS = 5.0
"""A write that was sent to the store while the lease lived is over before another may take it."""


class UploadLease:
    """`new` is None once a row has the session. `bytes_left` as of `Upload`."""

    def __init__(self, metadata: Metadata, upload: Upload, leased_at: float, new: NewUpload | None) -> None:
        """`leased_at` is the loop's time just before the lease was asked for; with `new`, when the append began."""
        self.new = new
        self.bytes_left = upload.bytes_left
        self.has_row = new is None  # or may have
        self._metadata = metadata
        self._upload = upload
        self._clock = asyncio.get_running_loop().time  # kept: to ask for the loop is a system call in Python 3.11
        self._until = leased_at + LEASE_SECONDS
        is_over = upload.committed is not None
        self._renewing = None if is_over else asyncio.create_task(self._renew(), name="renew upload lease")

    def for_store(self) -> WriteLease:
        return WriteLease(Fence(self._upload.upload_id, self._upload.fence), self.check, self.record)

    def check(self) -> None:
        """UploadConflict."""
        if self._clock() > self._until:
            offset = self._upload.sealed.plain_size
            raise Failure(Code.UPLOAD_CONFLICT, "the lease on this upload was lost", offset=offset)

    async def record(self) -> None:
        """See to it that a row has the session. As `Metadata.record_upload`."""
        if (new := self.new) is None:
            return
        self.check()
        asked_at, self.has_row = self._clock(), True
        recorded = await self._metadata.record_upload(new, seconds=LEASE_SECONDS + STORE_GRACE_SECONDS)
        if self.new is not None:  # else another task was quicker
            self.new, self.bytes_left, self._until = None, recorded.bytes_left, asked_at + LEASE_SECONDS

    async def end(self) -> None:
        """Renew no longer, nor record: the rest of the lease is for the caller's last request. Safe to call twice."""
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
                continue  # what is left of the lease still counts
            self._until = asked_at + LEASE_SECONDS
