"""push: one image as docker pushes it, but that its layers come from nowhere and are hashed while they leave.

A layer is POST, PATCH with the stream, PUT with the digest that the stream had (distribution-spec "pushing a blob in
chunks"). A layer of the base image, once its digest is known, is asked for first: HEAD, then a mount from a repository
that has it, then the upload that a mount turns into. The configuration goes with its PUT, the manifest last.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Coroutine, Sequence
from typing import Any, TypeVar

from yarl import URL

from proxy.rig import content, plan
from proxy.rig.client import Client, Response
from proxy.rig.plan import ImageShape, Layer
from proxy.upstream.errors import RequestFailed

T = TypeVar("T")
_STREAM = {"Content-Type": "application/octet-stream"}


class Pusher:
    """Pushes images of a shape, `parallel` layers of one at a time; `chunked` sends layers without their length."""

    def __init__(self, client: Client, shape: ImageShape, *, parallel: int, chunked: bool) -> None:
        self._client = client
        self._shape = shape
        self._parallel = parallel
        self._chunked = chunked
        self._base: dict[bytes, tuple[str, str]] = {}  # a shared layer's key: its digest, a repository that has it

    async def push(self, image: int) -> tuple[bytes, int]:
        """Push image `image`; returns its manifest, and how many bytes were sent."""
        target = self._shape.target(image)
        layers = [self._shape.layer(image, number) for number in range(self._shape.layers)]
        done = await at_once(self._parallel, [self._layer(target.repository, layer) for layer in layers])
        config = self._shape.config(image, [digest for digest, _ in done])
        digest = f"sha256:{hashlib.sha256(config).hexdigest()}"
        await self._small(target.repository, config, digest)
        named = [(found, layer.size) for (found, _), layer in zip(done, layers, strict=True)]
        manifest = plan.manifest((digest, len(config)), named)
        await put_manifest(self._client, target.repository, target.tag, manifest)
        return manifest, sum(sent for _, sent in done) + len(config) + len(manifest)

    async def _layer(self, repository: str, layer: Layer) -> tuple[str, int]:
        """(digest, bytes sent) of a layer that the repository has afterwards."""
        known = self._base.get(layer.key) if layer.shared else None
        if known is None:
            digest = await self._stream(await self._begin(repository), repository, layer)
            if layer.shared:
                self._base[layer.key] = (digest, repository)
            return digest, layer.size
        digest, source = known
        if await self._has(repository, digest):
            return digest, 0
        opened = await self._mount(repository, digest, source)
        if opened is None:
            return digest, 0
        await self._stream(opened, repository, layer)
        return digest, layer.size

    async def _has(self, repository: str, digest: str) -> bool:
        answer = await self._client.ask(
            "head-blob",
            "HEAD",
            f"/v2/{repository}/blobs/{digest}",
            scopes=writing(repository),
            expect=frozenset({200, 307, 404}),  # a redirect is as good as a yes
        )
        return answer.status != 404

    async def _mount(self, repository: str, digest: str, source: str) -> URL | None:
        """None when the repository has the layer now, else the upload that was opened instead."""
        answer = await self._client.ask(
            "mount",
            "POST",
            f"/v2/{repository}/blobs/uploads/?mount={digest}&from={source}",
            scopes=(*writing(repository), *reading(source)),
            expect=frozenset({201, 202}),
        )
        return None if answer.status == 201 else self._next(answer)

    async def _begin(self, repository: str) -> URL:
        path = f"/v2/{repository}/blobs/uploads/"
        answer = await self._client.ask(
            "post-upload", "POST", path, scopes=writing(repository), expect=frozenset({202})
        )
        return self._next(answer)

    async def _stream(self, opened: URL, repository: str, layer: Layer) -> str:
        """PATCH the layer and close the upload; returns the digest of what was sent."""
        hasher = hashlib.sha256()

        async def body() -> AsyncIterator[bytes]:
            nonlocal hasher
            hasher = hashlib.sha256()  # a stream that is asked for again begins anew
            for piece in content.pieces(layer.key, layer.size):
                hasher.update(piece)
                yield piece

        answer = await self._client.ask(
            "patch-upload",
            "PATCH",
            opened,
            scopes=writing(repository),
            expect=frozenset({202, 204}),
            headers=_STREAM if self._chunked else {**_STREAM, "Content-Length": str(layer.size)},
            body=body,
        )
        digest = f"sha256:{hasher.hexdigest()}"
        await self._close(self._next(answer), repository, digest, b"")
        return digest

    async def _small(self, repository: str, body: bytes, digest: str) -> None:
        """A blob that is held anyway: POST, PUT."""
        await self._close(await self._begin(repository), repository, digest, body)

    async def _close(self, opened: URL, repository: str, digest: str, body: bytes) -> None:
        text = str(opened)
        await self._client.ask(
            "put-upload",
            "PUT",
            URL(f"{text}{'&' if '?' in text else '?'}digest={digest}", encoded=True),
            scopes=writing(repository),
            expect=frozenset({201}),
            headers=_STREAM,
            body=body,
        )

    def _next(self, answer: Response) -> URL:
        location = answer.headers.get("Location", "")
        if not location:
            raise RequestFailed("no-location", "an upload was answered without saying where it goes on")
        return self._client.reach.upload(location, answer.url)


async def put_manifest(client: Client, repository: str, tag: str, manifest: bytes) -> None:
    await client.ask(
        "put-manifest",
        "PUT",
        f"/v2/{repository}/manifests/{tag}",
        scopes=writing(repository),
        expect=frozenset({201}),
        headers={"Content-Type": plan.IMAGE_TYPE},
        body=manifest,
    )


async def at_once(most: int, jobs: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
    """The results of all, at most so many running; the first failure ends the others and is raised."""
    room = asyncio.Semaphore(most)

    async def one(job: Coroutine[Any, Any, T]) -> T:
        async with room:
            return await job

    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one(job)) for job in jobs]
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None
    finally:
        for job in jobs:
            job.close()  # of those that never began: avoids "never awaited" warnings
    return [task.result() for task in tasks]


def reading(repository: str) -> tuple[str, ...]:
    return (f"repository:{repository}:pull",)


def writing(repository: str) -> tuple[str, ...]:
    return (f"repository:{repository}:pull,push",)
