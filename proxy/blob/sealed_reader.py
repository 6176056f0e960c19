"""Opening the frames of a sealed object: `reader` reads them, the key of each message opens them.

A message's key is derived once for a segment, from the unwrapped data key, and authenticates the header in the row.
Must not know where keys come from.
"""

from __future__ import annotations

from functools import partial

from _speedups import FINAL_OVERHEAD, FRAME_OVERHEAD, open_final, open_frames
from proxy.blob.buffers import BufferPool
from proxy.blob.format import Layout, MessageKey, layout_of, open_header
from proxy.blob.reader import BlobReader, OpenRun, Run, SegmentSource, open_reader
from proxy.model.records import SealedObject, Segment
from proxy.storage.base import ObjectStore


class SealedFrames:
    """An `Opener`."""

    in_place = False

    def __init__(self, sealed: SealedObject, data_key: bytes) -> None:
        self._sealed = sealed
        self._data_key = data_key
        self._key: tuple[Segment, MessageKey] | None = None

    def layout(self, segment: Segment) -> Layout:
        return layout_of(segment, self._sealed.frame_length)

    async def prepare(self, run: Run, *, fresh: bool) -> OpenRun:
        return partial(_open_run, self._message_key(run.segment), run)

    def _message_key(self, segment: Segment) -> MessageKey:
        if self._key is None or self._key[0] is not segment:
            key = open_header(segment.header, self._data_key, self._sealed.sealed_for, self._sealed.frame_length)
            self._key = segment, key
        return self._key[1]


async def open_sealed(
    store: ObjectStore, sealed: SealedObject, *, data_key: bytes, segments: SegmentSource, pool: BufferPool
) -> BlobReader:
    """Open a sealed object for reading. `segments` is asked only when the row does not carry them all.

    Failure(BLOB_CORRUPT) when the object is gone, or is not of the size that its row and segments add up to.
    """
    widest = sealed.frame_length + FRAME_OVERHEAD + FINAL_OVERHEAD
    return await open_reader(store, sealed, SealedFrames(sealed, data_key), widest=widest, segments=segments, pool=pool)


def _open_run(key: MessageKey, run: Run, stored: memoryview, plain: memoryview) -> int:
    length = open_frames(
        key.cipher,
        key.message_id,
        stored,
        plain,
        first=run.first + 1,
        count=run.count,
        frame_length=run.layout.frame_length,
    )
    if run.final:
        at = run.count * (run.layout.frame_length + FRAME_OVERHEAD)
        length += open_final(
            key.cipher,
            key.message_id,
            stored[at:],
            plain[length:],
            sequence=run.first + run.count + 1,
            length=run.layout.final,
        )
    return length
