"""The format of an object that is not sealed: the blob's own bytes, and beside it, in rows, a hash of each frame.

    object     segment, segment, …          an append each, nothing before, between or after them
    segment    F bytes, F bytes, …, rest    frames, counted from 0 in each segment; the last one has 1 to F bytes
    rows       page, page, …                of each segment: BLAKE3 (32 bytes) of FRAME_PAGE frames, the last page
                                            of the rest; a page is stored at the plain offset of its first frame

So the plain offset of a byte is its stored offset, and any reader of the store can read the blob. The hash has no key:
it detects changes by a disk or a network, but not by an attacker who can write both the store and the rows.

Used by `plain_reader`, `plain_writer` and `registry.unrecorded`. Must not know stores, or how rows are fetched.
"""

from __future__ import annotations

from blake3 import blake3

from proxy.blob.format import FormatError, Layout
from proxy.model.records import FRAME_HASH, FRAME_PAGE, Segment

PAGE_BYTES = FRAME_PAGE * FRAME_HASH


def hash_frames(frames: memoryview, frame_length: int) -> bytes:
    """The hashes of the frames that follow each other in `frames`, of which the last may be short."""
    return b"".join(
        blake3(frames[start : start + frame_length]).digest() for start in range(0, len(frames), frame_length)
    )


def layout_of(segment: Segment, frame_length: int) -> Layout:
    """FormatError when its row is not one of this format. A final frame of no bytes has no hash."""
    if segment.stored_length != segment.plain_length or segment.header:
        raise FormatError(f"{segment.stored_length} stored bytes for {segment.plain_length} that are not sealed")
    return Layout(0, frame_length, *divmod(segment.plain_length, frame_length), frame_overhead=0, final_overhead=0)


def last_page_offset(segment: Segment, frame_length: int) -> int:
    """The plain offset of an append's last page. The segment is not empty."""
    return page_offset(segment, (segment.plain_length - 1) // frame_length // FRAME_PAGE, frame_length)


def page_offset(segment: Segment, page: int, frame_length: int) -> int:
    """The plain offset of a segment's page with that index (from 0)."""
    return segment.plain_offset + page * FRAME_PAGE * frame_length
