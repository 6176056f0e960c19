"""Rows, objects and keys of one registry with a clock of its own, for the tests of upkeep; all rooms are real."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import secrets
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from proxy.auth.envelope import SmallSealer
from proxy.blob.buffers import BufferPool
from proxy.blob.format import FRAME_LENGTH
from proxy.blob.keys import Provider, Providers
from proxy.blob.local_keys import LocalKeys
from proxy.blob.master_file import MasterKeys
from proxy.metadata.client.client import MetadataClient
from proxy.metadata.service.service import Service, start_service
from proxy.model.names import parse_digest
from proxy.model.records import Blob, Sealing, Upload
from proxy.registry.uploads import Uploads
from proxy.storage.filesystem.store import FilesystemStore
from support.metadata import ACCOUNT, REPOSITORY, Clock

HOUR = 3600.0
DAY = 24 * HOUR


@dataclass
class House:
    folder: Path
    metadata: MetadataClient
    store: FilesystemStore
    masters: MasterKeys
    keys: Providers
    pool: BufferPool
    uploads: Uploads
    plain_uploads: Uploads  # of blobs that are not sealed
    clock: Clock
    service: Service

    async def bootstrap(self, access_key_id: str, sealed_secret: bytes) -> None:
        """An administrator with that key."""
        await self.service.bootstrap(ACCOUNT, access_key_id=access_key_id, sealed_secret=sealed_secret)

    async def push(
        self, *pieces: bytes, repository: str = REPOSITORY, algorithm: str = "sha256", plain: bool = False
    ) -> Blob:
        """A blob pushed in so many appends, and so sealed in as many messages, or not sealed."""
        uploads = self.plain_uploads if plain else self.uploads
        upload = await uploads.begin(ACCOUNT, repository, algorithm=algorithm)
        for piece in pieces[:-1]:
            upload = await self.append(upload, piece, plain=plain)
        digest = f"{algorithm}:{hashlib.new(algorithm, b''.join(pieces)).hexdigest()}"
        async with await uploads.append(
            ACCOUNT, repository, upload.upload_id, length=len(pieces[-1]), closing=parse_digest(digest)
        ) as last:
            await last.write(pieces[-1])
            blob = await last.commit_blob(parse_digest(digest))
        assert not plain or blob.sealed.sealing is Sealing.NONE  # the reverse may be: one is kept of two
        return blob

    async def append(self, upload: Upload, piece: bytes, *, plain: bool = False) -> Upload:
        uploads = self.plain_uploads if plain else self.uploads
        async with await uploads.append(ACCOUNT, upload.repository, upload.upload_id, length=len(piece)) as part:
            await part.write(piece)
            return await part.keep()

    async def blob(self, digest: str) -> Blob:
        """The row as it is now."""
        return await self.metadata.blob(ACCOUNT, REPOSITORY, digest)

    async def objects(self) -> list[str]:
        return [stored.key async for stored in self.store.list()]

    async def orphan(self, *, age: float) -> str:
        """An object that no row owns, last written `age` seconds ago."""
        key = secrets.token_hex(16)
        appender = await self.store.begin(key)
        await appender.append(lambda: memoryview(b"nobody's"))
        await appender.finish()
        self.age(key, age)
        return key

    def age(self, key: str, age: float) -> None:
        os.utime(self.file(key), (self.clock.now - age,) * 2)

    def file(self, key: str) -> Path:
        return self.folder / "store" / key[:3] / key

    def flip(self, key: str, at: int) -> None:
        """Turn one stored bit over, as a disk does."""
        with self.file(key).open("r+b") as file:
            file.seek(at)
            byte = file.read(1)
            file.seek(-1, os.SEEK_CUR)
            file.write(bytes([byte[0] ^ 1]))

    async def relink(self) -> None:
        """The process that runs upkeep beside a server: keys of its own, from the same file."""
        self.masters = await asyncio.to_thread(MasterKeys.load_or_create, self.folder / "master.json")
        local = LocalKeys(self.masters)
        self.keys = Providers(local, local=local, kms=None)


@contextlib.asynccontextmanager
async def open_house(folder: Path, kms: Provider | None = None) -> AsyncIterator[House]:
    clock = Clock()
    service = await start_service(database=folder / "m.db", listen=f"unix:{folder}/m.sock", clock=clock)
    metadata = MetadataClient.connect(f"unix:{folder}/m.sock", patience=2.0)
    store = FilesystemStore(folder / "store")
    masters = await asyncio.to_thread(MasterKeys.load_or_create, folder / "master.json")
    local = LocalKeys(masters)
    keys = Providers(local, local=local, kms=kms)
    pool = BufferPool()
    sealer = SmallSealer(masters.derive("upload state"), "upload state")
    uploads, plain_uploads = (
        Uploads(
            metadata,
            store,
            keys,
            sealer,
            region="us-east-1",
            frame_length=FRAME_LENGTH,
            create_on_push=True,
            pool=pool,
            sealing=sealing,
            clock=clock,
        )
        for sealing in (Sealing.AES_GCM, Sealing.NONE)
    )
    try:
        yield House(folder, metadata, store, masters, keys, pool, uploads, plain_uploads, clock, service)
    finally:
        await metadata.close()
        await store.close()
        await service.close()
    assert pool.in_use == 0
