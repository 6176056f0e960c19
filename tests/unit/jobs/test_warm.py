"""What the warming of a cache reads, names and counts; journeys run the command."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from proxy.jobs.progress import Progress
from proxy.jobs.warm import Reference, WarmReport, parse_reference, warm
from proxy.model.errors import Failure
from proxy.model.records import CreateOnPush
from proxy.registry.blobs import Blobs
from proxy.storage.cache.store import CachedStore
from support.metadata import ACCOUNT, REPOSITORY
from support.registry import digest_of, image_manifest
from support.upkeep_rows import House
from support.watched_store import WatchedStore

MIB = 2**20


@pytest.mark.parametrize(
    ("text", "reference"),
    [
        ("team/app", Reference("team/app", "")),
        ("team/app:v1", Reference("team/app", "v1")),
        (f"team/app@sha256:{'0' * 64}", Reference("team/app", f"sha256:{'0' * 64}")),
    ],
)
def test_a_reference_is_read_and_written_alike(text: str, reference: Reference) -> None:
    assert parse_reference(text) == reference
    assert str(reference) == text


@pytest.mark.parametrize(
    "text", ["", "Team/App", "team/app:", "team/app@sha256:12", "team/app:v1:v2", "127.0.0.1:5000/a"]
)
def test_what_is_no_reference_is_refused(text: str) -> None:
    with pytest.raises(Failure):
        parse_reference(text)


async def push_image(house: House, tag: str, *layers: bytes) -> None:
    config = b'{"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers"}}'
    for content in (config, *layers):
        await house.push(content)
    manifest = image_manifest(config, layers)
    await house.metadata.put_manifest(
        ACCOUNT,
        REPOSITORY,
        content=manifest,
        media_type=None,
        digest=digest_of(manifest),
        tags=[tag],
        create=CreateOnPush.YES,
    )


async def warmed(
    house: House, store: CachedStore, *references: str, kept: Callable[[str], Awaitable[int]] | None = None
) -> WarmReport:
    steps: list[Progress] = []
    blobs = Blobs(house.metadata, store, house.keys, house.pool)
    parsed = [parse_reference(text) for text in references]
    report = await warm(
        house.metadata, blobs, kept or store.kept, ACCOUNT, parsed, platform=None, progress=steps.append
    )
    assert all(step.done <= step.total for step in steps)
    return report


async def test_all_tags_are_read_once_and_what_is_kept_is_not_read_again(house: House, tmp_path: Path) -> None:
    """Layers of several tags are one; an empty layer has no byte to keep."""
    shared, own = os.urandom(3 * MIB), os.urandom(100)
    await push_image(house, "v1", shared, b"")
    await push_image(house, "v2", shared, own)
    watched = WatchedStore(house.store)
    store = await asyncio.to_thread(CachedStore, watched, tmp_path / "cache", 64 * MIB, reserve=0)
    report = await warmed(house, store, REPOSITORY)
    assert (report.status, report.images, report.failed.count) == (0, 2, 0)
    assert 3 * MIB <= watched.bytes_read <= 3 * MIB + 10_000
    watched.reads.clear()
    report = await warmed(house, store, f"{REPOSITORY}:v1", f"{REPOSITORY}:v2")
    assert (report.warmed, report.kept, watched.reads) == (0, 4, [])
    await store.filling.close()


async def test_what_did_not_stay_or_cannot_be_found_is_a_failure(house: House, tmp_path: Path) -> None:
    """A damaged layer too, by its digest; the rest is warmed all the same."""
    good, bad = os.urandom(MIB), os.urandom(MIB)
    await push_image(house, "v1", good, bad)
    damaged = await house.blob(digest_of(bad))
    house.flip(damaged.sealed.object_key, damaged.sealed.stored_size // 2)
    store = await asyncio.to_thread(CachedStore, house.store, tmp_path / "cache", 64 * MIB, reserve=0)
    report = await warmed(house, store, f"{REPOSITORY}:v1", f"{REPOSITORY}:v9", "un/known")
    assert report.status == 1
    assert report.warmed == 2
    named = [str(finding) for finding in report.failed.named]
    assert [any(part in line for line in named) for part in (digest_of(bad), f"{REPOSITORY}:v9", "un/known")] == [
        True
    ] * 3

    async def nothing(object_key: str) -> int:
        return 0

    report = await warmed(house, store, f"{REPOSITORY}:v1", kept=nothing)
    assert any("did not stay in the cache" in str(finding) for finding in report.failed.named)
    await store.filling.close()
