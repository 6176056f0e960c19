"""Decrypts the frames of a sealed object with the key of each message. Called by `objects`, `small_objects`, `reseal`.

A message's key is derived once for a segment, from the unwrapped data key, and authenticates the header in the row.
Must not know where keys come from.
"""

from __future__ import annotations

from functools import partial

from _speedups import FINAL_OVERHEAD, FRAME_OVERHEAD, open_final, open_frames
from proxy.blob.buffers import BufferPool
from proxy.blob.format import Layout, MessageKey, layout_of, open_header
from proxy.blob.keys import UnwrappedKey
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
        if self._key is None or self._key[0] is not run.segment:
            self._key = run.segment, message_key(run.segment, self._sealed, self._data_key)
        return partial(open_run, self._key[1], run)


async def open_sealed(
    store: ObjectStore, sealed: SealedObject, *, data_key: bytes, segments: SegmentSource, pool: BufferPool
) -> BlobReader:
    """Open a sealed object for reading. `segments` is called only if the row does not have them all.

    Failure(BLOB_CORRUPT) when the object is gone, or is not of the size that its row and segments add up to.
    """
    widest = sealed.frame_length + FRAME_OVERHEAD + FINAL_OVERHEAD
    return await open_reader(store, sealed, SealedFrames(sealed, data_key), widest=widest, segments=segments, pool=pool)


def message_key(segment: Segment, sealed: SealedObject, data_key: bytes) -> MessageKey:
    """Derived, and the header authenticated, once for as long as the unwrapped data key is in memory. FormatError."""
    if not isinstance(data_key, UnwrappedKey):
        return open_header(segment.header, data_key, sealed.sealed_for, sealed.frame_length)
    name = (segment.header, sealed.sealed_for, sealed.frame_length)
    if data_key.message is None or data_key.message[0] != name:
        data_key.message = name, open_header(segment.header, data_key, sealed.sealed_for, sealed.frame_length)
    return data_key.message[1]


def open_run(key: MessageKey, run: Run, stored: memoryview, plain: memoryview) -> int:
    """Open a run's frames into `plain`; the plaintext's length. BadFrame, and `plain` is not to be used."""
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
