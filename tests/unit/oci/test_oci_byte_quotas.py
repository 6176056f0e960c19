"""Quotas of bytes, by each way that a push takes through docker's door and the API's."""

from __future__ import annotations

import asyncio
import os
from base64 import b64encode
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from proxy.model.quotas import Quotas
from support.examples import REPOSITORY as EXAMPLE
from support.oci_requests import OCI_INDEX, begin_upload, body, close, code_of, digest_of, patch, push_blob
from support.raw_http import Raw
from support.registry_client import registry_client
from support.whole_registry import WholeRegistry, whole_registry

REPOSITORY = "team/app"
QUOTA = 1_000_000
SMALL, LARGE = os.urandom(400_000), os.urandom(QUOTA + 1)


@pytest.fixture
async def registry(tmp_path: Path) -> AsyncIterator[WholeRegistry]:
    async with whole_registry(tmp_path, quotas=Quotas(repository_bytes=QUOTA, open_uploads=4)) as found:
        yield found
    assert found.pool.in_use == 0


async def refused(answer: aiohttp.ClientResponse) -> None:
    assert (answer.status, await code_of(answer)) == (403, "DENIED")


def index_of(size: int) -> str:
    """A manifest of about so many bytes."""
    annotations = f'"annotations": {{"a": "{"x" * size}"}}'
    return f'{{"schemaVersion": 2, "mediaType": "{OCI_INDEX}", "manifests": [], {annotations}}}'


async def objects(registry: WholeRegistry) -> int:
    await registry.quiet()
    return len([each async for each in registry.store.list()])


@pytest.mark.parametrize("way", ["POST", "PATCH", "PUT", "chunked PATCH"])
async def test_an_upload_past_the_quota_is_denied_and_leaves_nothing(
    http: aiohttp.ClientSession, registry: WholeRegistry, way: str
) -> None:
    """What fits still does afterwards."""
    query = {"digest": digest_of(LARGE)}
    if way == "POST":
        async with http.post(f"/v2/{REPOSITORY}/blobs/uploads/", params=query, data=body(LARGE)) as answer:
            await refused(answer)
    else:
        location = await begin_upload(http, REPOSITORY)
        await patch(http, location, SMALL)
        if way == "PUT":
            async with http.put(location, params=query, data=body(LARGE)) as answer:
                await refused(answer)
        else:

            async def pieces() -> AsyncIterator[bytes]:
                for start in range(0, len(LARGE), 100_000):
                    yield LARGE[start : start + 100_000]

            async with http.patch(location, data=pieces() if "chunked" in way else body(LARGE)) as answer:
                await refused(answer)
        async with http.get(location) as answer:
            assert answer.status == 404
    assert await objects(registry) == 0
    await push_blob(http, REPOSITORY, LARGE[:QUOTA])


async def test_a_body_that_says_it_is_too_long_is_not_asked_for(
    http: aiohttp.ClientSession, registry: WholeRegistry
) -> None:
    location = await begin_upload(http, REPOSITORY)
    async with Raw(registry) as line:
        await line.request("PATCH", location, {"Content-Length": str(QUOTA + 1), "Expect": "100-continue"})
        assert (await line.head()).startswith("HTTP/1.1 403")


async def test_a_chunk_that_never_ends_is_cut_at_its_first_byte_too_many(
    http: aiohttp.ClientSession, registry: WholeRegistry
) -> None:
    """Nobody has said how long it is: the answer comes while the client still sends."""
    location = await begin_upload(http, REPOSITORY)
    async with Raw(registry) as line:
        await line.request("PATCH", location, {"Transfer-Encoding": "chunked"})
        await line.send(f"{QUOTA:x}\r\n".encode() + LARGE[:QUOTA] + b"\r\n")
        await line.send(b"1\r\nx\r\n")
        assert (await line.head()).startswith("HTTP/1.1 403")
    async with http.get(location) as answer:
        assert answer.status == 404


async def test_a_mount_and_a_manifest_past_the_quota_are_denied(http: aiohttp.ClientSession) -> None:
    half = LARGE[: QUOTA // 2 + 1]
    await push_blob(http, "team/other", half)
    await push_blob(http, REPOSITORY, SMALL + SMALL[:200_000])
    mount = {"mount": digest_of(half), "from": "team/other"}
    async with http.post(f"/v2/{REPOSITORY}/blobs/uploads/", params=mount) as answer:
        await refused(answer)
    index = index_of(400_000)
    headers = {"Content-Type": OCI_INDEX}
    async with http.put(f"/v2/{REPOSITORY}/manifests/v1", data=index.encode(), headers=headers) as answer:
        await refused(answer)
    async with http.put("/v2/team/other/manifests/v1", data=index.encode(), headers=headers) as answer:
        assert answer.status == 201


async def test_of_two_who_share_what_is_left_one_is_denied(
    http: aiohttp.ClientSession, registry: WholeRegistry
) -> None:
    """Neither was too long when it began."""
    locations = [await begin_upload(http, REPOSITORY) for _ in range(2)]
    content = LARGE[: QUOTA // 2 + 1]

    async def send(location: str) -> int:
        async with http.patch(location, data=body(content)) as answer:
            return answer.status

    assert sorted(await asyncio.gather(*map(send, locations))) == [202, 403]
    assert await objects(registry) == 1


async def test_one_upload_too_many_of_a_principal_is_denied_until_another_ends(http: aiohttp.ClientSession) -> None:
    """One counts from its first byte on: what was only begun holds nothing."""
    locations = [await begin_upload(http, REPOSITORY) for _ in range(5)]
    kept = [await patch(http, location, b"lay") for location in locations[:4]]
    async with http.patch(locations[4], data=b"lay") as answer:
        await refused(answer)
    assert await close(http, kept[0], digest_of(b"layer"), b"er") == 201
    await patch(http, locations[4], b"lay")


async def test_a_part_and_an_image_past_the_quota_are_limit_exceeded_by_the_api(tmp_path: Path) -> None:
    async with registry_client(tmp_path, quotas=Quotas(repository_bytes=QUOTA)) as doors:

        async def ask(operation: str, **parameters: Any) -> Any:
            asked = {"repositoryName": EXAMPLE, **parameters}
            return await doors.ask("ecr", operation, asked, doors.keys["administrator"])

        upload_id = (await doors.registry.uploads.begin_parts("123456789012", EXAMPLE))[0]
        part = {"uploadId": upload_id, "partFirstByte": 0, "partLastByte": QUOTA - 1}
        refusal = await ask("UploadLayerPart", **part, layerPartBlob=b64encode(LARGE[:QUOTA]).decode())
        assert refusal.status == 400
        assert b"LimitExceededException" in refusal.body
        refusal = await ask("PutImage", imageManifest=index_of(QUOTA), imageTag="large")
        assert refusal.status == 400
        assert b"LimitExceededException" in refusal.body
        await doors.registry.quiet()
