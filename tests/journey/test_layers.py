"""Images through the API on a real server, on each store: docker pulls them, and what docker pushed comes back."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Callable
from typing import Any

import pytest

from harness.images import MIB
from harness.registry import Registry
from harness.resolver import client, digest_of, fetch_layer, get, pull_image, push_image, push_layer
from harness.server import Server

pytestmark = pytest.mark.timeout(180)


@pytest.fixture(params=["server", pytest.param("s3_server", marks=pytest.mark.needs("weed"))])
def stored(request: pytest.FixtureRequest) -> Server:
    """A server on each store."""
    server: Server = request.getfixturevalue(request.param)
    return server


async def asked(call: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
    return await asyncio.to_thread(call, *arguments, **named)


async def test_an_image_pushed_by_the_resolvers_sequence_is_pulled_by_docker_and_by_the_sequence(
    stored: Server, repository: str
) -> None:
    """Layers of one part, of several, and of one byte past a part; each pushed a second time as well."""
    ecr = client(stored)
    await asked(ecr.create_repository, repositoryName=repository)
    config = json.dumps({"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers"}}).encode()
    bytes_of = random.Random(repository).randbytes
    layers = [bytes_of(size) for size in (1, 3 * MIB, 10 * MIB + 1, 26 * MIB)]
    digest = await asked(push_image, ecr, repository, "v1", config, layers)
    for layer in layers:
        assert await asked(push_layer, ecr, repository, layer, checks=False) == digest_of(layer)
    async with Registry(stored.url, await asked(stored.password)) as docker:
        manifest, pulled = await docker.pull_image(repository, "v1")
        assert digest_of(manifest) == digest
        assert pulled == [config, *layers]
    assert await asked(pull_image, ecr, repository, "v1") == (config, layers)


async def test_what_docker_pushed_is_fetched_by_links_with_ranges(stored: Server, repository: str) -> None:
    ecr = client(stored)
    content = random.Random(repository).randbytes(9 * MIB)
    async with Registry(stored.url, await asked(stored.password)) as docker:
        await docker.push_image(repository, "v1", [content])
    assert await asked(fetch_layer, ecr, repository, digest_of(content)) == content
    said = await asked(ecr.get_download_url_for_layer, repositoryName=repository, layerDigest=digest_of(content))
    assert await asked(get, said["downloadUrl"], Range=f"bytes={8 * MIB - 5}-") == (206, content[8 * MIB - 5 :])
    assert (await asked(get, said["downloadUrl"][:-1]))[0] == 403


async def test_a_part_of_twenty_mebibytes_is_taken_and_one_of_a_byte_more_is_not(
    server: Server, repository: str
) -> None:
    ecr = client(server)
    await asked(ecr.create_repository, repositoryName=repository)
    upload_id = (await asked(ecr.initiate_layer_upload, repositoryName=repository))["uploadId"]
    content = bytes(range(256)) * (20 * MIB // 256)
    about = {"repositoryName": repository, "uploadId": upload_id, "partFirstByte": 0}
    with pytest.raises(ecr.exceptions.InvalidParameterException):
        await asked(ecr.upload_layer_part, **about, partLastByte=20 * MIB, layerPartBlob=content + b"x")
    answer = await asked(ecr.upload_layer_part, **about, partLastByte=20 * MIB - 1, layerPartBlob=content)
    assert answer["lastByteReceived"] == 20 * MIB - 1
    with pytest.raises(ecr.exceptions.InvalidLayerPartException) as caught:
        await asked(ecr.upload_layer_part, **about, partLastByte=0, layerPartBlob=b"x")
    assert caught.value.response["lastValidByteReceived"] == 20 * MIB - 1
    done = await asked(
        ecr.complete_layer_upload, repositoryName=repository, uploadId=upload_id, layerDigests=[digest_of(content)]
    )
    assert done["layerDigest"] == digest_of(content)
