"""Whole objects put into a filesystem store and read back."""

from __future__ import annotations

from proxy.storage.filesystem.store import FilesystemStore

KEY = "abcdef0123456789abcdef0123456789"
OTHER = "0123456789abcdef0123456789abcdef"


async def put(store: FilesystemStore, key: str, content: bytes) -> None:
    appender = await store.begin(key)
    await appender.append(lambda: memoryview(content))
    await appender.finish()


async def get(store: FilesystemStore, key: str) -> bytes:
    async with await store.open(key) as reader:
        content = bytearray(reader.size)
        assert await reader.read_into(memoryview(content), 0) == reader.size
    return bytes(content)
