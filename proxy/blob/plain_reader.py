"""Checks the frames of an object that is not sealed against the hashes in its rows. Called by `objects`.

The last page of hashes is cached (32 KiB), so that a stream fetches one for 1,024 frames. A frame without a hash is
corrupt. Must not know where the pages come from.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial

from _speedups import BadFrame
from proxy.blob.buffers import BufferPool
from proxy.blob.format import Layout
from proxy.blob.plain import hash_frames, layout_of, page_offset
from proxy.blob.reader import BlobReader, OpenRun, Run, SegmentSource, open_reader
from proxy.model.records import FRAME_HASH, FRAME_PAGE, SealedObject, Segment
from proxy.storage.base import ObjectStore

HashSource = Callable[[int, bool], Awaitable[bytes]]
"""(plain offset of a page's first frame, whether to ask past every cache) → the page, empty when there is none."""


class PlainFrames:
    """An `Opener`."""

    in_place = True

    def __init__(self, frame_length: int, hashes: HashSource) -> None:
        self._frame_length = frame_length
        self._hashes = hashes
        self._at = -1  # the plain offset of the page at hand
        self._page = b""

    def layout(self, segment: Segment) -> Layout:
        return layout_of(segment, self._frame_length)

    async def prepare(self, run: Run, *, fresh: bool) -> OpenRun:
        expected, wanted = b"", -(-run.stored_length // self._frame_length) * FRAME_HASH
        while len(expected) < wanted:
            frame = run.first + len(expected) // FRAME_HASH
            page, index = divmod(frame, FRAME_PAGE)
            hashes = await self._page_at(page_offset(run.segment, page, self._frame_length), fresh=fresh)
            at = index * FRAME_HASH
            found = hashes[at : at + wanted - len(expected)]
            if not found or len(found) % FRAME_HASH:
                raise BadFrame(frame + 1)
            expected += found
        return partial(_check_run, run, expected)

    async def _page_at(self, plain_offset: int, *, fresh: bool) -> bytes:
        if plain_offset != self._at or fresh:
            self._page = await self._hashes(plain_offset, fresh)
            self._at = plain_offset
        return self._page


async def open_plain(
    store: ObjectStore, sealed: SealedObject, *, segments: SegmentSource, hashes: HashSource, pool: BufferPool
) -> BlobReader:
    """Open an object that is not sealed. `segments` is called only if the row does not have them all.

    Failure(BLOB_CORRUPT) when the object is gone, or is not of the size that its row and segments add up to.
    """
    opener = PlainFrames(sealed.frame_length, hashes)
    return await open_reader(store, sealed, opener, widest=sealed.frame_length, segments=segments, pool=pool)


def _check_run(run: Run, expected: bytes, stored: memoryview, plain: memoryview) -> int:
    """`plain` is the buffer that `stored` is of."""
    found = hash_frames(stored, run.layout.frame_length)
    if found != expected:
        bad = next(
            at for at in range(0, len(expected), FRAME_HASH) if found[at:][:FRAME_HASH] != expected[at:][:FRAME_HASH]
        )
        raise BadFrame(run.first + bad // FRAME_HASH + 1)
    return len(stored)
