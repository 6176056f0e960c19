"""Images through the API on a real server, on each store: docker pulls them, and what docker pushed comes back."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Callable
from typing import Any

import pytest

from support.images import MIB
from support.registry import OCI_INDEX, OCI_MANIFEST, Registry
from support.resolver import (
    client,
    digest_of,
    fetch_layer,
    fetch_side_by_side,
    get,
    pull_image,
    pull_index,
    push_image,
    push_layer,
)
from support.server import Server


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
    side_by_side = await asked(fetch_side_by_side, ecr, repository, digest_of(content), len(content), MIB + 1)
    assert side_by_side == content
    said = await asked(ecr.get_download_url_for_layer, repositoryName=repository, layerDigest=digest_of(content))
    assert await asked(get, said["downloadUrl"], Range=f"bytes={8 * MIB - 5}-") == (206, content[8 * MIB - 5 :])
    assert (await asked(get, said["downloadUrl"][:-1]))[0] == 403


async def test_the_resolver_puts_an_image_where_its_tag_is_elsewhere_and_leaves_it_where_it_is(
    server: Server, repository: str
) -> None:
    """It asks by digest and tag together. What is put again though it is there would be an error, which it is not."""
    ecr = client(server)
    await asked(ecr.create_repository, repositoryName=repository)
    config = json.dumps({"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers"}}).encode()

    async def push(tag: str, layer: bytes) -> str:
        digest: str = await asked(push_image, ecr, repository, tag, config, [layer])
        return digest

    async def tagged() -> dict[str, str]:
        found = (await asked(ecr.list_images, repositoryName=repository))["imageIds"]
        return {each["imageTag"]: each["imageDigest"] for each in found if "imageTag" in each}

    one = await push("v1", b"one")
    assert await push("v1", b"one") == one
    assert await push("v2", b"one") == one  # there, without the tag
    assert await tagged() == {"v1": one, "v2": one}
    two = await push("v2", b"two")  # not there, and the tag is another's
    assert await tagged() == {"v1": one, "v2": two}
    assert await push("v2", b"one") == one  # both there, apart
    assert await tagged() == {"v1": one, "v2": one}


async def test_the_resolver_pulls_each_child_of_an_index_that_docker_pushed(server: Server, repository: str) -> None:
    ecr = client(server)
    layers = [[b"amd64", b"both"], [b"arm64", b"both"]]
    async with Registry(server.url, await asked(server.password)) as docker:
        children = [await docker.push_image(repository, f"child-{n}", each) for n, each in enumerate(layers)]
        listed = [{"mediaType": OCI_MANIFEST, "digest": digest_of(each), "size": len(each)} for each in children]
        index = json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": listed}).encode()
        (await docker.put_manifest(repository, "both", index, OCI_INDEX)).expect(201)
    pulled = await asked(pull_index, ecr, repository, "both")
    assert [found for _, found in pulled] == layers


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
