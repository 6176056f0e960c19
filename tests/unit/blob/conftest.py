"""What tests of sealed blobs share: a store that ends empty-handed, keys, slots that little data fills."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from proxy.blob.buffers import BufferPool
from proxy.blob.keys import DataKey
from proxy.blob.local_keys import LocalKeys
from proxy.blob.master_file import MasterKeys
from proxy.storage.base import ObjectStore
from proxy.storage.filesystem.store import FilesystemStore
from support.memory_store import MemoryStore

ARN = "arn:aws:ecr:us-east-1:123456789012:repository/team/app"


@pytest.fixture
def masters(tmp_path: Path) -> MasterKeys:
    return MasterKeys.load_or_create(tmp_path / "master-keys.json")


@pytest.fixture
async def data_key(masters: MasterKeys) -> DataKey:
    return await LocalKeys(masters).generate(ARN)


@pytest.fixture
def pool() -> Iterator[BufferPool]:
    """DoubleBuffer of 4 KiB: three frames of 1,024 bytes, or thirteen of 256. None is lent when the test ends."""
    small = BufferPool(slot_bytes=4096, keep=4)
    yield small
    assert small.in_use == 0


@pytest.fixture
async def memory() -> AsyncIterator[MemoryStore]:
    """No appender, no reader and no thread is left when the test ends."""
    store = MemoryStore()
    yield store
    if store.faults.append_gate is not None:
        store.faults.append_gate.set()  # a test that failed must not leave a thread waiting
    assert (store.open_appenders, store.open_readers, store.threads) == (0, 0, 0)
    await store.close()


@pytest.fixture(params=["memory", "memory that gathers", "filesystem"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[ObjectStore]:
    made: ObjectStore
    if request.param == "filesystem":
        made = await asyncio.to_thread(FilesystemStore, tmp_path / "store")
    else:
        made = MemoryStore(gathers=request.param != "memory")
    yield made
    await made.close()
