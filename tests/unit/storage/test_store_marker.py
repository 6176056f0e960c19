"""Which store this is: objects are missing only in the right one, and it is named only where no row needs another."""

from __future__ import annotations

import asyncio
import shutil
import stat
from pathlib import Path

import pytest

from proxy.model.errors import Code, Failure
from proxy.storage import marker
from proxy.storage.base import ObjectMissing
from proxy.storage.filesystem.store import FilesystemStore

KEY = "abcdef0123456789abcdef0123456789"
OTHER = "0123456789abcdef0123456789abcdef"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "objects"


@pytest.fixture
def known(tmp_path: Path) -> Path:
    return tmp_path / "store-id"


async def claimed(root: Path, known: Path) -> str:
    return await asyncio.to_thread(lambda: marker.claim(root, known, first=lambda: True))


async def made(root: Path, store_id: str) -> FilesystemStore:
    """A store that holds the object KEY."""
    store = FilesystemStore(root, store_id=store_id, check_lasts=0)
    appender = await store.begin(KEY)
    await appender.append(lambda: memoryview(b"sealed"))
    await appender.finish()
    return store


def test_the_first_start_names_the_store_and_later_ones_know_it(root: Path, known: Path) -> None:
    """The id is random, private, in both places, and stays."""
    store_id = marker.claim(root, known, first=lambda: True)
    assert len(store_id) == 32
    assert (root / marker.NAME).read_text() == known.read_text() == f"{store_id}\n"
    assert [stat.S_IMODE(path.stat().st_mode) for path in (root / marker.NAME, known)] == [0o600, 0o600]
    assert marker.claim(root, known, first=lambda: False) == store_id
    assert sorted(path.name for path in root.iterdir()) == [marker.NAME]


def test_a_second_data_directory_takes_the_name_that_a_store_has(root: Path, known: Path) -> None:
    """Proxies that share a store agree on what it is; so does a start that was cut between the two files."""
    store_id = marker.claim(root, known, first=lambda: True)
    elsewhere = known.with_name("elsewhere")
    assert marker.claim(root, elsewhere, first=lambda: True) == store_id
    assert elsewhere.read_text() == f"{store_id}\n"


@pytest.mark.parametrize("first", [True, False])
def test_a_known_store_that_is_not_there_is_refused(root: Path, known: Path, first: bool) -> None:
    """An unmounted disk is never taken for a new store, and nothing is written to what lies under its mount point."""
    marker.claim(root, known, first=lambda: True)
    shutil.rmtree(root)
    root.mkdir()
    with pytest.raises(Failure, match="is it mounted at") as refused:
        marker.claim(root, known, first=lambda: first)
    assert refused.value.code is Code.STORE_UNAVAILABLE
    assert list(root.iterdir()) == []


def test_rows_without_a_named_store_are_refused(root: Path, known: Path) -> None:
    """Where rows may be about objects, a folder without an id is not made their store."""
    root.mkdir()
    with pytest.raises(Failure, match="not the one"):
        marker.claim(root, known, first=lambda: False)
    assert not known.exists()


def test_another_store_is_refused(root: Path, known: Path, tmp_path: Path) -> None:
    """Two disks that changed places are told apart."""
    marker.claim(root, known, first=lambda: True)
    marker.claim(tmp_path / "other", tmp_path / "other-id", first=lambda: True)
    with pytest.raises(Failure, match="names another"):
        marker.claim(tmp_path / "other", known, first=lambda: False)


@pytest.mark.parametrize("content", [None, OTHER, ""], ids=["none", "another", "empty"])
async def test_without_its_own_name_a_store_calls_nothing_missing_and_takes_nothing(
    root: Path, known: Path, content: str | None
) -> None:
    """Reads, resumes, new objects, listings and the readiness check all say that the store is not the right one."""
    store = await made(root, await claimed(root, known))

    def replace_name() -> None:
        (root / marker.NAME).unlink()
        if content is not None:
            (root / marker.NAME).write_text(content)

    await asyncio.to_thread(replace_name)

    async def listed() -> None:
        async for _ in store.list():
            pass

    for act in (
        lambda: store.open(OTHER),
        lambda: store.resume(OTHER, 0),
        lambda: store.begin(OTHER),
        listed,
        store.check,
    ):
        with pytest.raises(Failure, match="not the one") as refused:
            await act()
        assert refused.value.code is Code.STORE_UNAVAILABLE
    async with await store.open(KEY) as reader:
        assert reader.size == 6  # what is there is what its key says: keys are random
    await store.close()


async def test_in_the_right_store_a_missing_object_is_missing(root: Path, known: Path) -> None:
    """The id is no object: it is not listed, and says nothing about what is there."""
    store = await made(root, await claimed(root, known))
    with pytest.raises(ObjectMissing):
        await store.open(OTHER)
    assert [stored.key async for stored in store.list()] == [KEY]
    await store.check()
    await store.close()


async def test_a_store_with_a_name_is_never_made_by_its_first_use(root: Path) -> None:
    """A mount point that is gone altogether stays gone."""
    store = FilesystemStore(root, store_id=OTHER)
    with pytest.raises(Failure, match="not the one"):
        await store.begin(KEY)
    assert not await asyncio.to_thread(root.exists)
    await store.close()


async def test_a_copy_takes_the_name_over_and_nothing_else_gives_its_place_away(tmp_path: Path) -> None:
    """Once more is fine; another's store is not, nor one that has objects and no name."""
    root = tmp_path / "copy"

    def adopt(place: Path, store_id: str) -> None:
        marker.adopt(place, store_id)

    await asyncio.to_thread(adopt, root, OTHER)
    await asyncio.to_thread(adopt, root, OTHER)
    store = await made(root, OTHER)
    await asyncio.to_thread(adopt, root, OTHER)
    with pytest.raises(Failure, match="holds another registry's store"):
        await asyncio.to_thread(adopt, root, KEY)
    await asyncio.to_thread((root / marker.NAME).unlink)
    with pytest.raises(Failure, match="has objects and no wharfage-store"):
        await asyncio.to_thread(adopt, root, OTHER)
    await store.close()
