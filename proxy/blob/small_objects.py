"""Caches the stored bytes of small sealed objects, which are decrypted at each read.

Configs and small layers are read more often than anything else, and opening a file and a stream for one costs ten times
what its bytes do. What is cached is ciphertext; each read authenticates it and needs the object's data key, which
`keys` may refuse at any time. An object is written once under its key, so an entry is never out of date; whether the
blob may still be read is its row's to say, before this is called. `registry.blobs` makes one for a worker. What is not
as it should be here is for `reader` to judge, past this cache.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict

from _speedups import BadFrame
from proxy.blob.format import FormatError, layout_of
from proxy.blob.keys import DataKeys
from proxy.blob.reader import Run
from proxy.blob.sealed_reader import message_key, open_run
from proxy.model.records import SealedObject, Sealing, Segment
from proxy.storage.base import ObjectMissing, ObjectStore

PLAIN_MAX = 64 * 1024
"""Bytes of plaintext. Opening them takes 10 µs with the CPU's AES instructions and 1 ms without; a slow client holds
as many of a streamed blob."""
CACHE_BYTES = 16 * 1024 * 1024
READ_SECONDS = 5.0  # in which the store gives one; past it, `reader` tries as long as it does


class SmallObjects:
    """One worker's cache."""

    def __init__(self, store: ObjectStore, keys: DataKeys, cache_bytes: int = CACHE_BYTES) -> None:
        self._store = store
        self._keys = keys
        self._free = cache_bytes
        self._stored: OrderedDict[str, tuple[Run, bytes]] = OrderedDict()
        """By object key: the frames, without the header, and how they are laid out."""

    async def read(self, sealed: SealedObject) -> bytearray | None:
        """The whole plaintext, authenticated now; the caller's own. None where the object is not small, not sealed, of
        several messages, or where its bytes cannot be had or do not authenticate. Failure(KMS) without its data key."""
        if (
            sealed.plain_size > PLAIN_MAX
            or sealed.segment_count != 1
            or len(sealed.segments) != 1
            or sealed.sealing is not Sealing.AES_GCM
        ):
            return None
        data_key = await self._keys.unwrap(sealed.data_key, sealed.sealed_for)
        [segment] = sealed.segments
        cached = found = self._stored.get(sealed.object_key)
        try:
            key = message_key(segment, sealed, data_key)
            if cached is not None and cached[0].segment == segment:
                self._stored.move_to_end(sealed.object_key)
            else:
                cached, found = None, await self._fetch(sealed, segment)
            if found is None:
                return None
            run, stored = found
            plain = bytearray(sealed.plain_size)
            open_run(key, run, memoryview(stored), memoryview(plain))
        except (FormatError, BadFrame):
            self._drop(sealed.object_key)
            return None
        if cached is None:
            self._keep(sealed.object_key, found)
        return plain

    async def _fetch(self, sealed: SealedObject, segment: Segment) -> tuple[Run, bytes] | None:
        layout = layout_of(segment, sealed.frame_length)
        run = Run(segment, layout, 0, layout.regular, True)
        if run.stored_at + run.stored_length != sealed.stored_size or layout.plain_length != sealed.plain_size:
            return None
        stored = bytearray(run.stored_length)
        known = None if sealed.archived else sealed.stored_size  # as `reader` has it
        try:
            async with (
                asyncio.timeout(READ_SECONDS),
                await self._store.open(sealed.object_key, size=known) as opened,
            ):
                filled = 0
                while filled < len(stored):
                    got = await opened.read_into(memoryview(stored)[filled:], run.stored_at + filled)
                    if not got or opened.size != sealed.stored_size:
                        return None
                    filled += got
        except (ObjectMissing, TimeoutError):
            return None
        return run, bytes(stored)

    def _keep(self, key: str, found: tuple[Run, bytes]) -> None:
        self._drop(key)  # two may have fetched it
        self._stored[key] = found
        self._free -= len(found[1])
        while self._free < 0:
            self._drop(next(iter(self._stored)))

    def _drop(self, key: str) -> None:
        if (found := self._stored.pop(key, None)) is not None:
            self._free += len(found[1])
