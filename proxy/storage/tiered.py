"""Two object stores seen as one: that of `[storage]`, where all new objects go, and that of `[archive]`.

A key is of one of them for ever: `jobs.archive` copies an object under a new key, points its row there, and deletes
the old one. Which store has a key is found by asking `standard` first, so that readers need not know; who does know
uses the two by their names. An archive that cannot be had fails what is about its objects, and nothing else.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, AsyncIterator

from proxy.storage.base import (
    UNSHARED,
    Appender,
    ObjectMissing,
    ObjectReader,
    ObjectStore,
    StoredObject,
    Strays,
    WriteLease,
)


class TieredStore:
    """An `ObjectStore`. `close` closes both."""

    def __init__(self, standard: ObjectStore, archive: ObjectStore) -> None:
        self.standard = standard
        self.archive = archive

    async def begin(
        self, key: str, expected_size: int | None = None, *, unused: bool = False, lease: WriteLease = UNSHARED
    ) -> Appender:
        return await self.standard.begin(key, expected_size, unused=unused, lease=lease)

    async def resume(self, key: str, offset: int, *, lease: WriteLease = UNSHARED) -> Appender:
        return await self.standard.resume(key, offset, lease=lease)

    async def open(self, key: str, *, fresh: bool = False, size: int | None = None) -> ObjectReader:
        """With a `size`, a store that takes it for the truth is not asked whether it has the object: who does not know
        that it lies in `standard` gives none."""
        try:
            return await self.standard.open(key, fresh=fresh, size=size)
        except ObjectMissing:
            return await self.archive.open(key, fresh=fresh, size=size)

    async def delete(self, key: str, *, etag: str = "") -> bool:
        return await self.standard.delete(key, etag=etag) or await self.archive.delete(key, etag=etag)

    async def list(self, after: str = "") -> AsyncIterator[StoredObject]:
        listings = [self.standard.list(after), self.archive.list(after)]
        try:
            heads = [await anext(listing, None) for listing in listings]
            while there := [head for head in heads if head is not None]:
                first = min(there, key=lambda stored: stored.key)
                yield first
                for number, head in enumerate(heads):
                    if head is first:
                        heads[number] = await anext(listings[number], None)
        finally:
            for listing in listings:
                if isinstance(listing, AsyncGenerator):
                    with contextlib.suppress(Exception):
                        await listing.aclose()

    async def remove_strays(self, before: float) -> Strays:
        here, there = await self.standard.remove_strays(before), await self.archive.remove_strays(before)
        return Strays(here.uploads + there.uploads, here.rows + there.rows)

    async def check(self) -> None:
        """The archive is not asked: pushes and pulls go on without it."""
        await self.standard.check()

    async def close(self) -> None:
        try:
            await self.standard.close()
        finally:
            await self.archive.close()


def tier(store: ObjectStore, *, archived: bool) -> ObjectStore:
    """The store of one class; where there is one store alone, that."""
    if not isinstance(store, TieredStore):
        return store
    return store.archive if archived else store.standard
