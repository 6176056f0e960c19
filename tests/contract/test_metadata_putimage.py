"""What ECR's PutImage and PutImageTagMutability do, through every client: the same push as docker's."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Awaitable
from typing import Any

import pytest

from proxy.metadata.db.transaction import Registry
from proxy.model.errors import Code, Failure
from proxy.model.quotas import Quotas
from support.metadata import ACCOUNT, IMAGE, INDEX, REPOSITORY, World, digest, image_manifest, index_manifest

NAMED = {"repositoryName": REPOSITORY}


async def refused(code: Code, asking: Awaitable[Any]) -> str:
    """What is said."""
    with pytest.raises(Failure) as caught:
        await asking
    assert caught.value.code is code, caught.value
    return caught.value.message


async def put(world: World, content: bytes | str, **more: Any) -> dict[str, Any]:
    text = content if isinstance(content, str) else content.decode()
    answer = await world.call("PutImage", **NAMED, imageManifest=text, **more)
    image: dict[str, Any] = answer["image"]
    return image


async def blobs_of(world: World, *names: str) -> bytes:
    """The manifest of an image whose config and layers are there."""
    for name in names:
        await world.commit(name)
    return image_manifest(names[0], names[1:])


async def tags_of(world: World, image_digest: str) -> list[str]:
    asked = await world.call("DescribeImages", **NAMED, imageIds=[{"imageDigest": image_digest}])
    tags: list[str] = asked["imageDetails"][0].get("imageTags", [])
    return tags


class TestPutImage:
    async def test_a_manifest_put_is_byte_for_byte_what_docker_pulls(self, world: World) -> None:
        content = (await blobs_of(world, "config", "layer"))[:-1] + ',"annotations":{"ü":"é\\n \\u00e9 漢"}}'.encode()
        put_image = await put(world, content, imageTag="v1")
        assert put_image == {
            "registryId": ACCOUNT,
            "repositoryName": REPOSITORY,
            "imageId": {"imageDigest": digest(content), "imageTag": "v1"},
            "imageManifestMediaType": IMAGE,
        }
        for reference in ("v1", digest(content)):
            assert (await world.metadata.manifest(ACCOUNT, REPOSITORY, reference)).content == content

    async def test_another_tag_is_added_to_a_manifest_that_is_there(self, world: World) -> None:
        content = await blobs_of(world, "config")
        await world.put(content, ["a"])
        await put(world, content, imageTag="b")
        assert await tags_of(world, digest(content)) == ["a", "b"]

    async def test_a_tag_put_elsewhere_leaves_the_old_image_untagged(self, world: World) -> None:
        old, new = await blobs_of(world, "old"), await blobs_of(world, "new")
        await put(world, old, imageTag="v1")
        await put(world, new, imageTag="v1")
        assert await tags_of(world, digest(old)) == []
        assert await tags_of(world, digest(new)) == ["v1"]

    async def test_without_a_tag_an_image_is_untagged(self, world: World) -> None:
        content = await blobs_of(world, "config")
        assert (await put(world, content))["imageId"] == {"imageDigest": digest(content)}
        assert await tags_of(world, digest(content)) == []

    async def test_what_is_there_already_is_said_to_be(self, world: World) -> None:
        content = await blobs_of(world, "config")
        await put(world, content, imageTag="v1")
        for tag, given in (("v1", {"imageTag": "v1"}), ("null", {})):
            assert await refused(Code.IMAGE_ALREADY_EXISTS, put(world, content, **given)) == (
                f"Image with digest '{digest(content)}' and tag '{tag}' already exists in the repository with name"
                f" 'team/app' in registry with id '{ACCOUNT}'"
            )

    async def test_the_digest_that_is_given_must_be_the_manifests(self, world: World) -> None:
        content = await blobs_of(world, "config")
        said = await refused(Code.IMAGE_DIGEST_DOES_NOT_MATCH, put(world, content, imageDigest=digest("other")))
        assert digest(content) in said
        sha512 = "sha512:" + hashlib.sha512(content).hexdigest()
        for given in (digest(content), sha512):
            assert (await put(world, content, imageDigest=given))["imageId"] == {"imageDigest": given}

    async def test_the_type_may_be_in_the_manifest_or_beside_it_but_must_be_somewhere(self, world: World) -> None:
        typed = await blobs_of(world, "config")
        document = {name: value for name, value in json.loads(typed).items() if name != "mediaType"}
        untyped = json.dumps(document)
        assert await refused(Code.INVALID_PARAMETER, put(world, untyped)) == (
            "Invalid parameter at 'ImageManifest' failed to satisfy constraint:"
            " 'image manifest mediatype not provided in manifest or parameter'"
        )
        assert (await put(world, untyped, imageManifestMediaType=IMAGE))["imageManifestMediaType"] == IMAGE
        said = await refused(Code.INVALID_PARAMETER, put(world, typed, imageManifestMediaType=INDEX))
        assert "mediaType is" in said

    async def test_an_index_needs_its_manifests_and_a_manifest_its_layers(self, world: World) -> None:
        content = await blobs_of(world, "config")
        absent = digest("absent")
        index = index_manifest([digest(content), absent])
        await put(world, content)
        assert await refused(Code.REFERENCED_IMAGES_NOT_FOUND, put(world, index)) == (
            f"Images with digests '[{absent}]' required for pushing image into repository with name 'team/app'"
            f" in the registry with id '{ACCOUNT}' do not exist"
        )
        said = await refused(Code.LAYERS_NOT_FOUND, put(world, image_manifest("config", ["nowhere"])))
        assert digest("nowhere") in said
        whole = index_manifest([digest(content)])
        assert (await put(world, whole, imageTag="latest"))["imageManifestMediaType"] == INDEX

    @pytest.mark.parametrize(
        ("more", "why"),
        [
            ({"imageManifest": "{"}, "'ImageManifest' failed to satisfy constraint: 'Invalid JSON syntax: "),
            ({"imageManifest": "[]"}, "Invalid JSON syntax: the manifest is not a JSON object"),
            ({"imageManifest": json.dumps({"schemaVersion": 1})}, "mediatype not provided"),
            ({"imageManifest": json.dumps({"schemaVersion": 2, "mediaType": IMAGE})}, "config is missing"),
            ({"imageManifest": ""}, "'imageManifest' failed to satisfy constraint: 'Member must have length greater"),
            ({"imageManifest": "é" * (2**21 + 1)}, "'imageManifest' failed to satisfy constraint: 'Member must have"),
            ({"imageTag": "-x"}, "'imageTag' failed to satisfy constraint: "),
            ({"imageTag": "x" * 129}, "'imageTag' failed to satisfy constraint: "),
            ({"imageTag": "x" * 301}, "'imageTag' failed to satisfy constraint: 'Member must have length less"),
            ({"imageDigest": "sha256:1"}, "'imageDigest' failed to satisfy constraint: "),
        ],
        ids=lambda value: None if isinstance(value, str) else next(iter(value)),
    )
    async def test_what_is_wrong_is_named(self, world: World, more: dict[str, Any], why: str) -> None:
        await world.call("CreateRepository", **NAMED)
        asked = {**NAMED, "imageManifest": index_manifest([]).decode(), **more}
        assert why in await refused(Code.INVALID_PARAMETER, world.call("PutImage", **asked))

    async def test_no_repository_is_made(self, world: World) -> None:
        await refused(Code.REPOSITORY_NOT_FOUND, put(world, index_manifest([]), imageTag="v1"))
        await world.call("CreateRepository", **NAMED)
        elsewhere = put(world, index_manifest([]), registryId="999999999999")
        assert "'999999999999'" in await refused(Code.REPOSITORY_NOT_FOUND, elsewhere)

    async def test_a_manifest_of_four_mebibytes_is_taken_and_given_back(self, world: World) -> None:
        """By either protocol; a byte more is too many."""
        await world.call("CreateRepository", **NAMED)
        bare = index_manifest([], annotations={"x": ""})
        room = 4 * 2**20 - len(bare)
        content = index_manifest([], annotations={"x": '"' * (room // 2)})  # each is two in JSON
        content += b" " * (4 * 2**20 - len(content))
        await put(world, content, imageTag="large")
        assert (await world.metadata.manifest(ACCOUNT, REPOSITORY, "large")).content == content
        got = await world.call("BatchGetImage", **NAMED, imageIds=[{"imageTag": "large"}])
        assert got["images"][0]["imageManifest"].encode() == content
        await refused(Code.INVALID_PARAMETER, put(world, content + b" "))


class TestQuotas:
    @pytest.fixture
    def registry(self) -> Registry:
        return Registry(quotas=Quotas(images=2, tags=2))

    async def test_an_image_has_no_more_tags_than_its_quota(self, world: World) -> None:
        content = await blobs_of(world, "config")
        for tag in "ab":
            await put(world, content, imageTag=tag)
        said = await refused(Code.LIMIT_EXCEEDED, put(world, content, imageTag="c"))
        assert said == (
            "The image that the tag 'c' is for in the repository with name 'team/app' already has the maximum allowed"
            " number of tags which is '2'"
        )
        await refused(Code.LIMIT_EXCEEDED, world.put(content, ["d"]))
        other = await blobs_of(world, "other")
        await put(world, other, imageTag="c")
        await refused(Code.LIMIT_EXCEEDED, put(world, content, imageTag="c"))
        await put(world, other, imageTag="a")
        await put(world, content, imageTag="c")
        assert await tags_of(world, digest(content)) == ["b", "c"]

    async def test_a_repository_has_no_more_images_than_its_quota(self, world: World) -> None:
        await world.call("CreateRepository", **NAMED)
        one, two, three = (index_manifest([], number=number) for number in range(3))
        for content in (one, two):
            await put(world, content, imageTag="v1")
        assert await refused(Code.LIMIT_EXCEEDED, put(world, three)) == (
            f"The repository with name 'team/app' in the registry with id '{ACCOUNT}' already has the maximum allowed"
            " number of images which is '2'"
        )
        await refused(Code.LIMIT_EXCEEDED, world.put(three, ["v3"]))
        await put(world, one, imageTag="v2")
        await world.metadata.delete_manifest(ACCOUNT, REPOSITORY, digest(two))
        await put(world, three)


class TestMutability:
    async def test_a_tag_that_is_immutable_is_refused_even_with_its_own_manifest(self, world: World) -> None:
        await world.call("CreateRepository", **NAMED, imageTagMutability="IMMUTABLE")
        one, two = index_manifest([]), index_manifest([], x=2)
        await put(world, one, imageTag="v1")
        for content in (one, two):
            assert await refused(Code.IMAGE_TAG_ALREADY_EXISTS, put(world, content, imageTag="v1")) == (
                "The image tag 'v1' already exists in the 'team/app' repository and cannot be overwritten"
                " because the tag is immutable."
            )
        await put(world, one, imageTag="v2")
        await refused(Code.IMAGE_NOT_FOUND, world.metadata.manifest(ACCOUNT, REPOSITORY, digest(two)))

    async def test_a_mode_is_changed_and_said_with_its_filters(self, world: World) -> None:
        await world.call("CreateRepository", **NAMED)
        filters = [{"filterType": "WILDCARD", "filter": "dev-*"}, {"filterType": "WILDCARD", "filter": "*"}]
        for mode, given in (
            ("IMMUTABLE_WITH_EXCLUSION", {"imageTagMutabilityExclusionFilters": filters}),
            ("IMMUTABLE", {}),
            ("MUTABLE_WITH_EXCLUSION", {"imageTagMutabilityExclusionFilters": filters[:1]}),
            ("MUTABLE", {}),
        ):
            settings = {"imageTagMutability": mode, **given}
            said = await world.call("PutImageTagMutability", **NAMED, **settings)
            assert said == {"registryId": ACCOUNT, "repositoryName": REPOSITORY, **settings}
            [row] = (await world.call("DescribeRepositories"))["repositories"]
            assert {name: row[name] for name in row if "Mutability" in name} == settings

    async def test_a_mode_holds_from_the_next_push_on(self, world: World) -> None:
        await world.call("CreateRepository", **NAMED)
        one, two, three = (index_manifest([], number=number) for number in range(3))
        for content in (one, two):
            await put(world, content, imageTag="v1")
        await world.call("PutImageTagMutability", **NAMED, imageTagMutability="IMMUTABLE")
        await refused(Code.IMAGE_TAG_ALREADY_EXISTS, world.put(three, ["v1"]))
        await world.call("PutImageTagMutability", **NAMED, imageTagMutability="MUTABLE")
        await world.put(three, ["v1"])

    @pytest.mark.parametrize("operation", ["CreateRepository", "PutImageTagMutability"])
    @pytest.mark.parametrize(
        "settings",
        [
            {"imageTagMutability": "IMMUTABLE_WITH_EXCLUSION"},
            {"imageTagMutability": "MUTABLE", "imageTagMutabilityExclusionFilters": ["*"]},
            {"imageTagMutability": "MUTABLE_WITH_EXCLUSION", "imageTagMutabilityExclusionFilters": []},
            {"imageTagMutability": "MUTABLE_WITH_EXCLUSION", "imageTagMutabilityExclusionFilters": ["*"] * 6},
            {"imageTagMutability": "MUTABLE_WITH_EXCLUSION", "imageTagMutabilityExclusionFilters": ["a/b"]},
            {"imageTagMutability": "SOMETIMES"},
        ],
        ids=lambda settings: "-".join(map(str, settings.values())),
    )
    async def test_modes_and_filters_that_do_not_go_together_are_refused(
        self, world: World, operation: str, settings: dict[str, Any]
    ) -> None:
        repository = "team/app" if operation == "CreateRepository" else "team/other"
        if operation != "CreateRepository":
            await world.call("CreateRepository", repositoryName=repository)
        filters = settings.get("imageTagMutabilityExclusionFilters")
        if filters is not None:
            given = [{"filterType": "WILDCARD", "filter": each} for each in filters]
            settings = {**settings, "imageTagMutabilityExclusionFilters": given}
        said = await refused(Code.INVALID_PARAMETER, world.call(operation, repositoryName=repository, **settings))
        assert "'imageTagMutability" in said

    async def test_the_mode_of_no_repository_is_not_set(self, world: World) -> None:
        asked = {"repositoryName": "no/where", "imageTagMutability": "MUTABLE"}
        await refused(Code.REPOSITORY_NOT_FOUND, world.call("PutImageTagMutability", **asked))
