"""The few requests that most tests of the OCI door begin with, over an aiohttp session of the registry."""

from __future__ import annotations

import hashlib
import io
import json
from typing import Any

import aiohttp

OCI_IMAGE = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
EMPTY_CONFIG = b"{}"


def digest_of(content: bytes, algorithm: str = "sha256") -> str:
    return f"{algorithm}:{hashlib.new(algorithm, content).hexdigest()}"


def body(content: bytes) -> io.BytesIO:
    """A body with a Content-Length, as aiohttp wants large ones."""
    return io.BytesIO(content)


async def push_blob(http: aiohttp.ClientSession, repository: str, content: bytes) -> str:
    """One monolithic POST; returns the digest."""
    digest = digest_of(content)
    async with http.post(f"/v2/{repository}/blobs/uploads/", params={"digest": digest}, data=body(content)) as answer:
        assert answer.status == 201, await answer.text()
    return digest


async def begin_upload(http: aiohttp.ClientSession, repository: str, **query: str) -> str:
    """POST; returns the Location."""
    async with http.post(f"/v2/{repository}/blobs/uploads/", params=query) as answer:
        assert answer.status == 202, await answer.text()
        return answer.headers["Location"]


async def patch(http: aiohttp.ClientSession, location: str, content: bytes, start: int | None = None) -> str:
    """The Location to go on at."""
    place = {} if start is None else {"Content-Range": f"{start}-{start + len(content) - 1}"}
    async with http.patch(location, data=body(content), headers=place) as answer:
        assert answer.status == 202, await answer.text()
        return answer.headers["Location"]


async def close(http: aiohttp.ClientSession, location: str, digest: str, content: bytes = b"") -> int:
    async with http.put(location, params={"digest": digest}, data=body(content)) as answer:
        return answer.status


async def range_of(http: aiohttp.ClientSession, location: str) -> str:
    """What the status of an upload says."""
    async with http.get(location) as answer:
        assert answer.status == 204, await answer.text()
        return answer.headers["Range"]


def image(layers: list[bytes], **extra: Any) -> bytes:
    """A manifest over the config `{}` and these layers."""
    described = [
        {"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": digest_of(layer), "size": len(layer)}
        for layer in layers
    ]
    config = {
        "mediaType": "application/vnd.oci.image.config.v1+json",
        "digest": digest_of(EMPTY_CONFIG),
        "size": len(EMPTY_CONFIG),
    }
    document = {"schemaVersion": 2, "mediaType": OCI_IMAGE, "config": config, "layers": described, **extra}
    return json.dumps(document).encode()


async def push_image(
    http: aiohttp.ClientSession, repository: str, reference: str | None, layers: list[bytes], **extra: Any
) -> str:
    """Blobs, then the manifest, by tag or (None) by digest; returns its digest."""
    for content in (EMPTY_CONFIG, *layers):
        await push_blob(http, repository, content)
    manifest = image(layers, **extra)
    where = f"/v2/{repository}/manifests/{reference or digest_of(manifest)}"
    async with http.put(where, data=manifest, headers={"Content-Type": OCI_IMAGE}) as answer:
        assert answer.status == 201, await answer.text()
        return answer.headers["Docker-Content-Digest"]


async def code_of(answer: aiohttp.ClientResponse) -> str:
    """The code of an OCI error body."""
    code: str = (await answer.json(content_type=None))["errors"][0]["code"]
    return code
