"""S3 stores whose requests go over a line that fails on command, a cache, and a small disk."""

from __future__ import annotations

import dataclasses
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from proxy.storage.s3.bucket import Bucket
from proxy.storage.s3.conditions import ALL
from proxy.storage.s3.store import S3Store
from support.caches import behind, cache, disk, written  # noqa: F401  # fixtures of what tests the cache
from support.disks import mounted
from support.fault_proxy import FaultProxy, fault_proxy
from support.memory_open_objects import MemoryOpenObjects
from support.s3_objects import PART, Make
from support.seaweed import Seaweed


@pytest.fixture
async def line(seaweed: Seaweed) -> AsyncIterator[FaultProxy]:
    async with fault_proxy(seaweed.port) as opened:
        yield opened


@pytest.fixture
async def make(seaweed: Seaweed, line: FaultProxy) -> AsyncIterator[Make]:
    """Stores whose requests go over `line`; all with one prefix and one set of rows, as nodes have."""
    rows, prefix, made = MemoryOpenObjects(time.time), f"{uuid.uuid4().hex}/", []

    def store(*, retry_seconds: float = 15.0, answer_seconds: float = 5.0, **more: object) -> S3Store:
        place = dataclasses.replace(seaweed.place(), endpoint=line.url)
        bucket = Bucket(place, conditions=ALL, retry_seconds=retry_seconds, answer_seconds=answer_seconds)
        made.append(S3Store(bucket, rows, prefix=prefix, part_size=PART, **more))  # type: ignore[arg-type]  # passed through
        return made[-1]

    yield store
    line.mode, line.cut_after = "open", None
    for each in made:
        await each.close()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 4 MiB, which is a tmpfs."""
    with mounted(tmp_path / "disk", 4) as where:
        yield where
