"""A registry's rows and objects with an archive beside its store, for tests of `jobs.archive`.

As a program, `python -m support.archive_house FOLDER CALL NUMBER`, it does the jobs of the images in FOLDER and kills
itself (SIGKILL) at the call of that number of that name: `before:move_object`, `after:appender.finish`…
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import secrets
import signal
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from proxy.jobs.archive import Archiving
from proxy.model.archive import KIND
from proxy.model.jobs import Job
from proxy.registry.blobs import Blobs
from proxy.storage.filesystem.store import FilesystemStore
from proxy.storage.tiered import TieredStore
from support.faulty import Faults
from support.metadata import ACCOUNT, REPOSITORY, digest, image_manifest
from support.upkeep_rows import House, open_house

DONE = 7  # the exit status of a run that came to its end


@dataclass
class ArchiveHouse:
    house: House
    store: TieredStore
    faults: Faults

    @property
    def archiving(self) -> Archiving:
        wrapped = TieredStore(self.faults.wrap(self.store.standard), self.faults.wrap(self.store.archive))
        rows: Any = self.faults.wrap(self.house.metadata)
        return Archiving(rows, wrapped, new_key=lambda: secrets.token_hex(16), linger=0.0)

    async def image(self, *layers: bytes, tag: str = "v1", repository: str = REPOSITORY) -> str:
        """An image of layers with these contents; its digest."""
        for content in layers:
            await self.house.push(content, repository=repository)
        manifest = image_manifest(layers[0].decode(), [layer.decode() for layer in layers[1:]])
        pushed = await self.house.metadata.put_manifest(
            ACCOUNT,
            repository,
            content=manifest,
            media_type=None,
            digest=digest(manifest),
            tags=[tag],
            create="yes",  # type: ignore[arg-type]  # as on the wire
        )
        return pushed.digest

    async def move(self, image: str, storage_class: str, repository: str = REPOSITORY) -> str:
        """UpdateImageStorageClass; the status of the image."""
        asked = {
            "repositoryName": repository,
            "imageId": {"imageDigest": image},
            "targetStorageClass": storage_class,
        }
        answer = await self.house.metadata.call(ACCOUNT, "UpdateImageStorageClass", asked)
        return str(answer["imageStatus"])

    async def status(self, image: str, repository: str = REPOSITORY) -> str:
        asked = {"repositoryName": repository, "imageIds": [{"imageDigest": image}]}
        [found] = (await self.house.metadata.call(ACCOUNT, "DescribeImages", asked))["imageDetails"]
        return str(found["imageStatus"])

    async def do(self, image: str, repository: str = REPOSITORY) -> None:
        """What the queue does for the image."""
        subject = f'{{"repository":"{repository}","digest":"{image}"}}'
        await self.archiving.run(Job(1, KIND, ACCOUNT, image, subject, "1", 0, 0.0, 0.0))

    async def read(self, content: bytes, repository: str = REPOSITORY) -> bytes:
        """The layer, through rows and stores."""
        house = self.house
        blobs = Blobs(house.metadata, self.store, house.keys, house.pool)
        found = bytearray()
        async with (
            blobs.open(await blobs.find(ACCOUNT, repository, digest(content))) as opened,
            contextlib.aclosing(opened.runs(0, len(content))) as runs,
        ):
            async for run in runs:
                found += run
        return bytes(found)

    async def archived(self, content: bytes, repository: str = REPOSITORY) -> bool:
        """Whether its row says that it lies in the archive; the object is there, and nowhere else."""
        sealed = (await self.house.metadata.blob(ACCOUNT, repository, digest(content))).sealed
        here, there = await keys(self.store.standard), await keys(self.store.archive)
        assert (sealed.object_key in here, sealed.object_key in there) == (not sealed.archived, sealed.archived)
        return sealed.archived


async def keys(store: Any) -> set[str]:
    return {stored.key async for stored in store.list()}


@contextlib.asynccontextmanager
async def open_archive_house(folder: Path) -> AsyncIterator[ArchiveHouse]:
    async with open_house(folder) as house:
        archive = FilesystemStore(folder / "archive", drafts=True)
        try:
            yield ArchiveHouse(house, TieredStore(house.store, archive), Faults())
        finally:
            await archive.close()


async def _main(folder: Path, call: str, number: int) -> int:
    async with open_archive_house(folder) as own:
        when, _, name = call.partition(":")
        count = itertools.count(1)

        async def fault() -> None:
            if next(count) == number:
                os.kill(os.getpid(), signal.SIGKILL)

        getattr(own.faults, when)[name] = fault
        images = (await own.house.metadata.archive_backlog(after=0, limit=10))[0]
        await own.house.metadata.enqueue_archive(images)
        for job in await own.house.metadata.list_jobs(after=0, limit=10, kind=KIND):
            await own.archiving.run(job)
    return DONE


if __name__ == "__main__":
    raise SystemExit(asyncio.run(_main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))))
