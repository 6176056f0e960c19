"""Layers in parts as the rows keep them, on every database: what is counted, what is too much, what is available."""

from __future__ import annotations

import pytest

from proxy.metadata.db.transaction import Registry
from proxy.model.errors import Code, Failure
from proxy.model.quotas import Quotas
from proxy.model.records import LayerParts, Upload
from support.metadata import ACCOUNT, CONFIG, REPOSITORY, World, append, digest
from support.metadata import LAYER as LAYER_TYPE

LEAST, MOST_BYTES, MOST_PARTS, LAYER = 5, 20, 4, 50


@pytest.fixture
def registry() -> Registry:
    quotas = Quotas(
        layer_part=10, layer_part_min=LEAST, layer_part_max=MOST_BYTES, layer_parts=MOST_PARTS, layer_bytes=LAYER
    )
    return Registry(quotas=quotas)


async def add(world: World, upload: Upload, length: int, state: bytes = b"state") -> Upload:
    """One more part of so many bytes."""
    leased = await world.lease(upload)
    sealed = leased.sealed
    segment = append(sealed.plain_size, length, sealed.stored_size)
    return await world.metadata.advance_upload(upload.upload_id, leased.fence, segment=segment, hash_state=state)


async def exceeds(world: World, upload: Upload, length: int) -> str:
    with pytest.raises(Failure) as refused:
        await add(world, upload, length)
    assert refused.value.code is Code.LIMIT_EXCEEDED
    found = await world.metadata.upload(ACCOUNT, REPOSITORY, upload.upload_id)
    assert found.parts is not None
    assert found.sealed.segment_count == found.parts.count
    await world.metadata.release_upload(upload.upload_id, found.fence)
    return refused.value.message


async def test_a_session_says_of_its_parts_what_their_rules_need(world: World) -> None:
    """How many came, how many were too small to have another after them, and the state before the last."""
    upload = await world.begin(in_parts=True)
    assert upload.parts == LayerParts(10, 0, 0, 0, b"")
    assert (await add(world, upload, LEAST, b"one")).parts == LayerParts(10, 1, 0, 0, b"")
    assert (await add(world, upload, LEAST - 1, b"two")).parts == LayerParts(10, 2, 0, LEAST, b"one")
    assert (await add(world, upload, 10, b"three")).parts == LayerParts(10, 3, 1, 2 * LEAST - 1, b"two")
    assert (await world.begin()).parts is None


async def test_a_part_whose_answer_was_lost_is_counted_once(world: World) -> None:
    upload = await world.begin(in_parts=True)
    fence = (await world.lease(upload)).fence
    asked = {"segment": append(0, LEAST), "hash_state": b"one"}
    once = await world.metadata.advance_upload(upload.upload_id, fence, **asked)  # type: ignore[arg-type]
    assert await world.metadata.advance_upload(upload.upload_id, fence, **asked) == once  # type: ignore[arg-type]
    assert once.parts == LayerParts(10, 1, 0, 0, b"")


async def test_parts_and_layers_are_held_to_the_quotas(world: World) -> None:
    """Of bytes in a part, of parts and of bytes in a layer: one more is refused, and what was there stays."""
    long = await world.begin(in_parts=True)
    assert f"at most {MOST_BYTES} bytes" in await exceeds(world, long, MOST_BYTES + 1)
    for _ in range(2):
        await add(world, long, MOST_BYTES)
    assert f"at most {LAYER} bytes" in await exceeds(world, long, 11)
    await add(world, long, 10)
    many = await world.begin(in_parts=True)
    for _ in range(MOST_PARTS):
        await add(world, many, LEAST)
    assert f"at most {MOST_PARTS} parts" in await exceeds(world, many, 1)
    of_docker = await world.begin()
    assert (await add(world, of_docker, LAYER + 1)).sealed.plain_size == LAYER + 1


async def test_a_layer_is_available_where_it_is_linked_and_sound(world: World) -> None:
    blob, _ = await world.commit("here", size=7)
    await world.commit("elsewhere", "other/app")
    asked = [digest("here"), digest("elsewhere"), digest("nowhere")]

    async def availability() -> list[str]:
        said = await world.call("BatchCheckLayerAvailability", repositoryName=REPOSITORY, layerDigests=asked)
        assert [layer["layerDigest"] for layer in said["layers"]] == asked
        return [layer["layerAvailability"] for layer in said["layers"]]

    assert await availability() == ["AVAILABLE", "UNAVAILABLE", "UNAVAILABLE"]
    await world.metadata.quarantine(blob.sealed.object_key, "why")
    assert await availability() == ["UNAVAILABLE"] * 3


async def test_a_layers_media_type_is_what_its_image_calls_it(world: World) -> None:
    await world.image("app", ["v1"])
    await world.commit("loose")
    asked = [digest("app-config"), digest("app-layer"), digest("loose")]
    said = await world.call("BatchCheckLayerAvailability", repositoryName=REPOSITORY, layerDigests=asked)
    assert [layer.get("mediaType") for layer in said["layers"]] == [CONFIG, LAYER_TYPE, None]


async def test_a_link_is_given_of_what_an_image_uses_alone(world: World) -> None:
    await world.image("app", ["v1"])
    await world.commit("loose")
    asked = {"repositoryName": REPOSITORY, "layerDigest": digest("app-layer")}
    assert await world.call("GetDownloadUrlForLayer", **asked) == {"layerDigest": digest("app-layer")}
    for name, code in (("loose", Code.LAYER_INACCESSIBLE), ("absent", Code.LAYERS_NOT_FOUND)):
        with pytest.raises(Failure) as refused:
            await world.call("GetDownloadUrlForLayer", **asked | {"layerDigest": digest(name)})
        assert refused.value.code is code
