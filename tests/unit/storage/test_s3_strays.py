"""What dead writers leave in a bucket and in rows: found, judged by age and by what rows name, and removed."""

from __future__ import annotations

import time

from proxy.model.records import Fence
from proxy.storage.base import Strays
from proxy.storage.s3.store import S3Store
from support.s3_objects import DATA, KEY, MIB, Make, get, give, put

OTHER, OPEN = "cd" * 16, "ef" * 16


def later() -> float:
    """A moment before which all of a test's things began."""
    return time.time() + 60


async def stray(store: S3Store, key: str) -> None:
    """A multipart upload that no row names: its maker died before it could write one."""
    await store._bucket.ask("create_multipart_upload", Key=store._prefix + key)


async def rows_of_a_finished_object(store: S3Store) -> None:
    await store._objects.keep_open_object(
        KEY, Fence("", 0), part_size=MIB, upload_id="", parts=(), tail_offset=0, tail=b"x", next_number=1
    )


async def uploads(store: S3Store) -> int:
    return len([found async for found in store._uploads(store._prefix)])


async def test_uploads_that_no_row_names_go_and_all_else_stays(make: Make) -> None:
    """Several under one key, one under a finished object's, one beside the upload that is in use."""
    store = make()
    await put(store, KEY, DATA)
    await give(store, OPEN, DATA, 0, 7 * MIB)
    for key in (KEY, OTHER, OTHER, OTHER, OPEN):
        await stray(store, key)
    assert await uploads(store) == 6
    assert await make().remove_strays(later()) == Strays(uploads=5)
    assert await uploads(store) == 1
    assert await make().remove_strays(later()) == Strays()
    await put(make(), OPEN, DATA, start=7 * MIB)
    assert await get(make(), OPEN) == DATA
    assert await get(make(), KEY) == DATA


async def test_young_strays_stay(make: Make) -> None:
    store = make()
    await stray(store, OTHER)
    await put(store, KEY, DATA[:MIB])
    await rows_of_a_finished_object(store)
    assert await store.remove_strays(time.time() - 3600) == Strays()
    assert await uploads(store) == 1


async def test_rows_of_a_finished_object_go_and_it_stays(make: Make) -> None:
    """Those of an unfinished one are all it has."""
    store = make()
    await put(store, KEY, DATA[:MIB])
    await rows_of_a_finished_object(store)
    await give(store, OPEN, DATA, 0, MIB)
    assert await store.remove_strays(later()) == Strays(rows=1)
    assert await store._objects.open_object(KEY) is None
    assert await get(store, KEY) == DATA[:MIB]
    await (await make().resume(OPEN, MIB)).finish()
    assert await get(store, OPEN) == DATA[:MIB]


async def test_deleting_an_object_that_only_strays_are_left_of_takes_them_all(make: Make) -> None:
    store = make()
    for _ in range(3):
        await stray(store, OTHER)
    assert [(stored.key, stored.finished) async for stored in store.list()] == [(OTHER, False)]
    assert await store.delete(OTHER)
    assert await uploads(store) == 0
