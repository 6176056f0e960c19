"""What `contract.Metadata` promises of manifests, tags and referrers, and the ECR operations, through every client."""

from __future__ import annotations

import json
from collections.abc import Awaitable
from typing import Any

import pytest

from proxy.awsmodel.models import operations
from proxy.metadata.operations import ECR, images
from proxy.model.errors import Code, Failure
from proxy.model.records import CreateOnPush, Page
from support.metadata import (
    ACCOUNT,
    CONFIG,
    IMAGE,
    INDEX,
    REPOSITORY,
    World,
    digest,
    image_manifest,
    index_manifest,
)


async def refused(code: Code, asking: Awaitable[Any]) -> Failure:
    with pytest.raises(Failure) as caught:
        await asking
    assert caught.value.code is code, caught.value
    return caught.value


class TestManifests:
    async def test_a_manifest_comes_back_byte_for_byte_by_tag_and_by_digest(self, world: World) -> None:
        pushed = await world.image("app", ["v1", "v2", "v1"], annotations={"ü": "ö  \\n"})
        assert pushed.tags == ("v1", "v2")
        for reference in ("v1", "v2", pushed.digest):
            for _ in range(2):
                stored = await world.metadata.manifest(ACCOUNT, REPOSITORY, reference)
                assert digest(stored.content) == stored.digest == pushed.digest
                assert stored.media_type == IMAGE

    async def test_absent_manifests_and_repositories_are_told_apart_in_ecrs_words(self, world: World) -> None:
        await world.image("app", ["v1"])
        absent = digest("absent")
        failure = await refused(Code.IMAGE_NOT_FOUND, world.metadata.manifest(ACCOUNT, REPOSITORY, "v9"))
        assert failure.message == (
            "The image with imageId {imageDigest:'null', imageTag:'v9'} does not exist within the repository"
            f" with name 'team/app' in the registry with id '{ACCOUNT}'"
        )
        failure = await refused(Code.IMAGE_NOT_FOUND, world.metadata.manifest(ACCOUNT, REPOSITORY, absent))
        assert f"{{imageDigest:'{absent}', imageTag:'null'}}" in failure.message
        await refused(Code.REPOSITORY_NOT_FOUND, world.metadata.manifest(ACCOUNT, "no/where", "v1"))

    async def test_pushing_again_changes_nothing(self, world: World) -> None:
        await world.image("app", ["v1"])
        before = await world.call("DescribeImages", repositoryName=REPOSITORY)
        world.clock.now += 100
        await world.image("app", ["v1"])
        assert await world.call("DescribeImages", repositoryName=REPOSITORY) == before

    async def test_a_manifest_whose_bytes_have_another_digest_is_refused(self, world: World) -> None:
        await world.commit("config")
        await refused(
            Code.IMAGE_DIGEST_DOES_NOT_MATCH,
            world.metadata.put_manifest(
                ACCOUNT,
                REPOSITORY,
                content=image_manifest("config", []),
                media_type=IMAGE,
                digest=digest("something else"),
                tags=[],
                create=CreateOnPush.NO,
            ),
        )

    async def test_bytes_that_are_no_manifest_are_refused(self, world: World) -> None:
        await world.begin()
        await refused(
            Code.MANIFEST_INVALID,
            world.metadata.put_manifest(
                ACCOUNT,
                REPOSITORY,
                content=b"{]",
                media_type=IMAGE,
                digest=digest(b"{]"),
                tags=[],
                create=CreateOnPush.NO,
            ),
        )

    async def test_a_type_that_no_database_could_store_is_refused(self, world: World) -> None:
        for artifact_type in ("a/\ud800", "a/\0"):
            content = index_manifest([], artifactType=artifact_type)
            await refused(Code.MANIFEST_INVALID, world.put(content, create=True))

    async def test_missing_layers_are_named_and_only_the_repositorys_own_count(self, world: World) -> None:
        await world.commit("config")
        await world.commit("layer", "other/app")
        content = image_manifest("config", ["layer"])
        failure = await refused(Code.LAYERS_NOT_FOUND, world.put(content, ["v1"]))
        assert failure.fields["digests"] == [digest("layer")]
        await refused(Code.IMAGE_NOT_FOUND, world.metadata.manifest(ACCOUNT, REPOSITORY, "v1"))
        await world.metadata.mount_blob(ACCOUNT, REPOSITORY, digest("layer"), "other/app", create=CreateOnPush.NO)
        assert (await world.put(content, ["v1"])).digest == digest(content)

    async def test_a_foreign_layer_need_not_be_there(self, world: World) -> None:
        await world.commit("config")
        document = json.loads(image_manifest("config", ["foreign"]))
        document["layers"][0]["mediaType"] = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"
        document["layers"][0]["urls"] = ["https://example.com/layer"]
        await world.put(json.dumps(document).encode(), ["v1"])

    async def test_an_unknown_repository_is_made_only_when_told_to(self, world: World) -> None:
        content = index_manifest([])
        await refused(Code.REPOSITORY_NOT_FOUND, world.put(content, ["v1"], "new/one"))
        await world.put(content, ["v1"], "new/one", create=True)
        assert (await world.metadata.tags(ACCOUNT, "new/one", last="", limit=9)).names == ("v1",)

    async def test_an_index_needs_its_children_and_keeps_them(self, world: World) -> None:
        small = await world.image("small", ["small"], layers=["a"])
        large = await world.image("large", layers=["a", "b"])
        absent = digest("absent")
        failure = await refused(Code.REFERENCED_IMAGES_NOT_FOUND, world.put(index_manifest([small.digest, absent])))
        assert failure.message == (
            f"Images with digests '[{absent}]' required for pushing image into repository with name 'team/app'"
            f" in the registry with id '{ACCOUNT}' do not exist"
        )
        index = await world.put(index_manifest([small.digest, large.digest]), ["latest"])
        delete = world.metadata.delete_manifest
        failure = await refused(Code.IMAGE_REFERENCED, delete(ACCOUNT, REPOSITORY, small.digest))
        assert failure.message == f"Requested image referenced by manifest list: [{index.digest}]"
        (described,) = (
            await world.call("DescribeImages", repositoryName=REPOSITORY, imageIds=[{"imageTag": "latest"}])
        )["imageDetails"]
        assert described["imageSizeInBytes"] == 20
        assert described["imageManifestMediaType"] == INDEX
        await delete(ACCOUNT, REPOSITORY, index.digest)
        await delete(ACCOUNT, REPOSITORY, small.digest)

    async def test_a_moved_tag_leaves_the_old_image_untagged(self, world: World) -> None:
        old = await world.image("old", ["v1"])
        new = await world.image("new", ["v1"])
        assert (await world.metadata.manifest(ACCOUNT, REPOSITORY, "v1")).digest == new.digest
        assert (await world.metadata.manifest(ACCOUNT, REPOSITORY, old.digest)).digest == old.digest
        untagged = await world.call("ListImages", repositoryName=REPOSITORY, filter={"tagStatus": "UNTAGGED"})
        assert untagged["imageIds"] == [{"imageDigest": old.digest}]

    async def test_deleting_a_tag_leaves_the_image(self, world: World) -> None:
        image = await world.image("app", ["v1", "v2"])
        await world.metadata.manifest(ACCOUNT, REPOSITORY, "v1")
        await world.metadata.delete_tag(ACCOUNT, REPOSITORY, "v1")
        await refused(Code.IMAGE_NOT_FOUND, world.metadata.manifest(ACCOUNT, REPOSITORY, "v1"))
        await refused(Code.IMAGE_NOT_FOUND, world.metadata.delete_tag(ACCOUNT, REPOSITORY, "v1"))
        await world.metadata.delete_tag(ACCOUNT, REPOSITORY, "v2")
        await refused(Code.REPOSITORY_NOT_FOUND, world.metadata.delete_tag(ACCOUNT, "no/where", "v1"))
        assert (await world.metadata.manifest(ACCOUNT, REPOSITORY, image.digest)).digest == image.digest

    async def test_deleting_an_image_takes_its_tags(self, world: World) -> None:
        image = await world.image("app", ["v1", "v2"])
        await world.metadata.manifest(ACCOUNT, REPOSITORY, "v1")
        await world.metadata.delete_manifest(ACCOUNT, REPOSITORY, image.digest)
        for reference in ("v1", "v2", image.digest):
            await refused(Code.IMAGE_NOT_FOUND, world.metadata.manifest(ACCOUNT, REPOSITORY, reference))
        delete = world.metadata.delete_manifest
        await refused(Code.IMAGE_NOT_FOUND, delete(ACCOUNT, REPOSITORY, image.digest))
        await refused(Code.REPOSITORY_NOT_FOUND, delete(ACCOUNT, "no/where", image.digest))
        assert (await world.metadata.tags(ACCOUNT, REPOSITORY, last="", limit=9)) == Page((), False)

    async def test_one_manifest_in_two_repositories_outlives_either(self, world: World) -> None:
        image = await world.image("app", ["v1"])
        await world.image("app", ["v1"], "other/app")
        await world.metadata.delete_manifest(ACCOUNT, REPOSITORY, image.digest)
        assert (await world.metadata.manifest(ACCOUNT, "other/app", "v1")).digest == image.digest

    async def test_an_immutable_tag_is_neither_moved_nor_pushed_again(self, world: World) -> None:
        await world.call("CreateRepository", repositoryName=REPOSITORY, imageTagMutability="IMMUTABLE")
        first = await world.image("one", ["v1"])
        await refused(Code.IMAGE_TAG_ALREADY_EXISTS, world.image("one", ["v1"]))
        await world.image("one")
        failure = await refused(Code.IMAGE_TAG_ALREADY_EXISTS, world.image("two", ["v2", "v1"]))
        assert failure.message == (
            "The image tag 'v1' already exists in the 'team/app' repository and cannot be overwritten"
            " because the tag is immutable."
        )
        assert (await world.metadata.manifest(ACCOUNT, REPOSITORY, "v1")).digest == first.digest
        await refused(Code.IMAGE_NOT_FOUND, world.metadata.manifest(ACCOUNT, REPOSITORY, "v2"))

    @pytest.mark.parametrize(
        ("mutability", "movable"), [("IMMUTABLE_WITH_EXCLUSION", "dev-1"), ("MUTABLE_WITH_EXCLUSION", "v1")]
    )
    async def test_exclusions_turn_mutability_round_for_tags_that_match(
        self, world: World, mutability: str, movable: str
    ) -> None:
        filters = [{"filterType": "WILDCARD", "filter": "dev-*"}]
        made = await world.call(
            "CreateRepository",
            repositoryName=REPOSITORY,
            imageTagMutability=mutability,
            imageTagMutabilityExclusionFilters=filters,
        )
        assert made["repository"]["imageTagMutabilityExclusionFilters"] == filters
        await world.image("one", ["dev-1", "v1"])
        await world.image("two", [movable])
        (fixed,) = {"dev-1", "v1"} - {movable}
        await refused(Code.IMAGE_TAG_ALREADY_EXISTS, world.image("two", [fixed]))


class TestLists:
    async def test_tags_and_repositories_are_paged_in_byte_order(self, world: World) -> None:
        names = ["B", "_x", "a", "a-1", "a.1", "b"]
        await world.image("app", [*reversed(names)])
        page = await world.metadata.tags(ACCOUNT, REPOSITORY, last="", limit=4)
        assert page == Page(("B", "_x", "a", "a-1"), True)
        assert await world.metadata.tags(ACCOUNT, REPOSITORY, last="a-1", limit=2) == Page(("a.1", "b"), False)
        assert await world.metadata.tags(ACCOUNT, REPOSITORY, last="a", limit=0) == Page((), True)
        await refused(Code.REPOSITORY_NOT_FOUND, world.metadata.tags(ACCOUNT, "no/where", last="", limit=2))
        for name in ("b/b", "a-b", "a/b"):
            await world.begin(name)
        assert await world.metadata.repositories(ACCOUNT, last="", limit=3) == Page(("a-b", "a/b", "b/b"), True)
        assert await world.metadata.repositories(ACCOUNT, last="b/b", limit=3) == Page((REPOSITORY,), False)
        assert await world.metadata.repositories("999999999999", last="", limit=3) == Page((), False)

    async def test_referrers_come_in_digest_order_filtered_and_paged(self, world: World) -> None:
        subject: dict[str, Any] = {"mediaType": IMAGE, "digest": digest("absent subject"), "size": 3}
        pushed = {}
        for number in range(5):
            kind = "sbom" if number % 2 else "signature"
            image = await world.image(
                f"ref-{number}",
                subject=subject,
                artifactType=f"application/{kind}",
                annotations={"number": str(number)},
            )
            assert image.subject == subject["digest"]
            pushed[image.digest] = (f"application/{kind}", {"number": str(number)})
        plain = await world.image("plain", subject=subject)

        async def ask(artifact_type: str | None, last: str, limit: int) -> Any:
            return await world.metadata.referrers(
                ACCOUNT, REPOSITORY, subject["digest"], artifact_type=artifact_type, last=last, limit=limit
            )

        found, more = await ask(None, "", 9)
        assert ([each.digest for each in found], more) == (sorted([*pushed, plain.digest]), False)
        for each in found:
            expected = pushed.get(each.digest, (CONFIG, None))
            assert (each.artifact_type, each.annotations, each.media_type) == (*expected, IMAGE)
            stored = await world.metadata.manifest(ACCOUNT, REPOSITORY, each.digest)
            assert each.size == len(stored.content)
        first, more = await ask("application/signature", "", 2)
        rest, none = await ask("application/signature", first[-1].digest, 2)
        assert (len(first), more, len(rest), none) == (2, True, 1, False)
        assert {each.artifact_type for each in (*first, *rest)} == {"application/signature"}
        unknown = await world.metadata.referrers(
            ACCOUNT, "no/where", subject["digest"], artifact_type=None, last="", limit=9
        )
        assert unknown == ((), False)
        await world.metadata.delete_manifest(ACCOUNT, REPOSITORY, plain.digest)
        assert len((await ask(None, "", 9))[0]) == 5


class TestRepositories:
    async def test_a_repository_is_echoed_as_it_was_made(self, world: World) -> None:
        made = await world.call(
            "CreateRepository",
            repositoryName=REPOSITORY,
            imageTagMutability="IMMUTABLE",
            imageScanningConfiguration={"scanOnPush": True},
            encryptionConfiguration={"encryptionType": "KMS", "kmsKey": "arn:of/own"},
            tags=[{"Key": "team", "Value": "red"}],
        )
        repository = made["repository"]
        assert repository == {
            "repositoryArn": f"arn:aws:ecr:us-east-1:{ACCOUNT}:repository/team/app",
            "registryId": ACCOUNT,
            "repositoryName": "team/app",
            "repositoryUri": f"{ACCOUNT}.dkr.ecr.us-east-1.amazonaws.com/team/app",
            "createdAt": world.clock.now,
            "imageTagMutability": "IMMUTABLE",
            "imageScanningConfiguration": {"scanOnPush": True},
            "encryptionConfiguration": {"encryptionType": "KMS", "kmsKey": "arn:of/own"},
        }
        described = await world.call("DescribeRepositories", repositoryNames=[REPOSITORY])
        assert described == {"repositories": [repository]}
        failure = await refused(
            Code.REPOSITORY_ALREADY_EXISTS, world.call("CreateRepository", repositoryName=REPOSITORY)
        )
        assert failure.message == (
            f"The repository with name 'team/app' already exists in the registry with id '{ACCOUNT}'"
        )

    @pytest.mark.parametrize(
        ("code", "settings"),
        [
            (Code.TOO_MANY_TAGS, {"tags": [{"Key": str(number), "Value": ""} for number in range(51)]}),
            (Code.INVALID_TAG_PARAMETER, {"tags": [{"Key": "k", "Value": ""}] * 2}),
            (Code.INVALID_TAG_PARAMETER, {"tags": [{"Key": "k" * 129, "Value": ""}]}),
            (Code.INVALID_PARAMETER, {"imageTagMutability": "IMMUTABLE_WITH_EXCLUSION"}),
            (Code.INVALID_PARAMETER, {"encryptionConfiguration": {"encryptionType": "AES256", "kmsKey": "k"}}),
            (Code.INVALID_PARAMETER, {"encryptionConfiguration": {"encryptionType": "KMS"}}),
            (Code.INVALID_PARAMETER, {"registryId": "999999999999"}),
            (Code.INVALID_PARAMETER, {"tags": [{"Key": "half", "Value": "\ud800"}]}),
        ],
    )
    async def test_settings_that_contradict_are_refused(
        self, world: World, code: Code, settings: dict[str, Any]
    ) -> None:
        await refused(code, world.call("CreateRepository", repositoryName=REPOSITORY, **settings))
        assert (await world.call("DescribeRepositories"))["repositories"] == []

    async def test_describing_pages_by_a_token_that_is_checked(self, world: World) -> None:
        for number in range(5):
            await world.call("CreateRepository", repositoryName=f"r{number}")
        first = await world.call("DescribeRepositories", maxResults=3)
        second = await world.call("DescribeRepositories", maxResults=3, nextToken=first["nextToken"])
        names = [each["repositoryName"] for each in (*first["repositories"], *second["repositories"])]
        assert names == [f"r{number}" for number in range(5)]
        assert "nextToken" not in second
        for token in ("made up", first["nextToken"][:-4], "e30=", first["nextToken"].swapcase()):
            failure = await refused(Code.INVALID_PARAMETER, world.call("DescribeRepositories", nextToken=token))
            assert failure.message.startswith("Invalid parameter at 'nextToken'")
        await refused(
            Code.INVALID_PARAMETER,
            world.call("DescribeRepositories", nextToken=first["nextToken"], repositoryNames=["r1"]),
        )
        await refused(Code.REPOSITORY_NOT_FOUND, world.call("DescribeRepositories", repositoryNames=["r1", "r9"]))

    async def test_only_an_empty_repository_goes_without_force(self, world: World) -> None:
        await world.image("app", ["v1"])
        await world.metadata.manifest(ACCOUNT, REPOSITORY, "v1")
        failure = await refused(Code.REPOSITORY_NOT_EMPTY, world.call("DeleteRepository", repositoryName=REPOSITORY))
        assert failure.message == (
            f"The repository with name 'team/app' in registry with id '{ACCOUNT}' cannot be deleted"
            " because it still contains images"
        )
        gone = await world.call("DeleteRepository", repositoryName=REPOSITORY, force=True)
        assert gone["repository"]["repositoryName"] == REPOSITORY
        await refused(Code.REPOSITORY_NOT_FOUND, world.metadata.manifest(ACCOUNT, REPOSITORY, "v1"))
        await refused(Code.REPOSITORY_NOT_FOUND, world.call("DeleteRepository", repositoryName=REPOSITORY))
        await world.call("CreateRepository", repositoryName=REPOSITORY)
        await refused(Code.IMAGE_NOT_FOUND, world.metadata.manifest(ACCOUNT, REPOSITORY, "v1"))
        await refused(Code.LAYERS_NOT_FOUND, world.metadata.blob(ACCOUNT, REPOSITORY, digest("app-layer")))

    async def test_another_registrys_repository_is_not_there(self, world: World) -> None:
        await world.image("app", ["v1"])
        failure = await refused(
            Code.REPOSITORY_NOT_FOUND,
            world.call("ListImages", repositoryName=REPOSITORY, registryId="999999999999"),
        )
        assert "'999999999999'" in failure.message
        listed = await world.call("ListImages", repositoryName=REPOSITORY, registryId=ACCOUNT)
        assert len(listed["imageIds"]) == 1


class TestImages:
    async def test_listing_names_every_tag_and_the_untagged(self, world: World) -> None:
        one = await world.image("one", ["b", "a"])
        two = await world.image("two")
        tagged = [{"imageDigest": one.digest, "imageTag": tag} for tag in ("a", "b")]
        untagged = [{"imageDigest": two.digest}]
        for status, expected in (("TAGGED", tagged), ("UNTAGGED", untagged), ("ANY", tagged + untagged)):
            listed = await world.call("ListImages", repositoryName=REPOSITORY, filter={"tagStatus": status})
            assert listed == {"imageIds": expected}
        archived = await world.call("ListImages", repositoryName=REPOSITORY, filter={"imageStatus": "ARCHIVED"})
        assert archived == {"imageIds": []}

    @pytest.mark.parametrize("limit", [1, 2, 3, 4, 7])
    async def test_pages_of_any_size_hold_everything_once(self, world: World, limit: int) -> None:
        await world.image("one", ["a", "b", "c"])
        for number in range(4):
            await world.image(f"untagged-{number}")
        for operation, key, total in (("ListImages", "imageIds", 7), ("DescribeImages", "imageDetails", 5)):
            seen: list[Any] = []
            more: dict[str, Any] = {}
            while True:
                page = await world.call(operation, repositoryName=REPOSITORY, maxResults=limit, **more)
                assert len(page[key]) <= limit
                seen += page[key]
                if "nextToken" not in page:
                    break
                more = {"nextToken": page["nextToken"]}
            assert len(seen) == len({json.dumps(each) for each in seen}) == total

    async def test_a_token_is_good_only_for_the_list_it_came_from(self, world: World) -> None:
        await world.image("one", ["a", "b"])
        await world.image("one", ["a", "b"], "other/app")
        token = (await world.call("ListImages", repositoryName=REPOSITORY, maxResults=1))["nextToken"]
        for operation, more in (
            ("ListImages", {"repositoryName": "other/app"}),
            ("ListImages", {"repositoryName": REPOSITORY, "filter": {"tagStatus": "TAGGED"}}),
            ("DescribeImages", {"repositoryName": REPOSITORY}),
        ):
            await refused(Code.INVALID_PARAMETER, world.call(operation, nextToken=token, **more))

    async def test_an_image_is_described_with_what_is_known_of_it(self, world: World) -> None:
        subject = {"mediaType": IMAGE, "digest": digest("absent"), "size": 3}
        image = await world.image("app", ["v2", "v1"], subject=subject, artifactType="application/sbom")
        plain = await world.image("plain")
        details = (await world.call("DescribeImages", repositoryName=REPOSITORY))["imageDetails"]
        by_digest = {each["imageDigest"]: each for each in details}
        assert by_digest[image.digest] == {
            "registryId": ACCOUNT,
            "repositoryName": REPOSITORY,
            "imageDigest": image.digest,
            "imageTags": ["v1", "v2"],
            "imageSizeInBytes": 10,
            "imagePushedAt": world.clock.now,
            "imageManifestMediaType": IMAGE,
            "artifactMediaType": "application/sbom",
            "subjectManifestDigest": subject["digest"],
            "imageStatus": "ACTIVE",
        }
        assert "imageTags" not in by_digest[plain.digest]
        assert by_digest[plain.digest]["artifactMediaType"] == CONFIG
        for status, expected in (("TAGGED", image), ("UNTAGGED", plain)):
            listed = await world.call("DescribeImages", repositoryName=REPOSITORY, filter={"tagStatus": status})
            assert [each["imageDigest"] for each in listed["imageDetails"]] == [expected.digest]

    async def test_describing_named_images_fails_on_the_first_that_is_absent(self, world: World) -> None:
        image = await world.image("app", ["v1"])
        ids = [{"imageTag": "v1"}, {"imageDigest": image.digest}, {"imageTag": "v1", "imageDigest": image.digest}]
        named = await world.call("DescribeImages", repositoryName=REPOSITORY, imageIds=ids)
        assert [each["imageDigest"] for each in named["imageDetails"]] == [image.digest]
        failure = await refused(
            Code.IMAGE_NOT_FOUND,
            world.call("DescribeImages", repositoryName=REPOSITORY, imageIds=[{"imageTag": "x"}]),
        )
        assert failure.message == (
            "The image with imageId {imageDigest:'null', imageTag:'x'} does not exist within the repository"
            f" with name 'team/app' in the registry with id '{ACCOUNT}'"
        )
        await refused(
            Code.INVALID_PARAMETER,
            world.call("DescribeImages", repositoryName=REPOSITORY, imageIds=ids, nextToken="x"),
        )
        await refused(Code.INVALID_PARAMETER, world.call("DescribeImages", repositoryName=REPOSITORY, imageIds=[{}]))

    async def test_a_page_of_images_with_many_tags_is_shorter_and_goes_on(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """However many tags they have, each image comes once, with all of them; an image alone may exceed the bound."""
        monkeypatch.setattr(images, "TAGS_A_PAGE", 3)
        for number, held in enumerate((2, 1, 4, 0, 3)):
            await world.image(f"i{number}", [f"i{number}-{tag}" for tag in range(held)])
        pages: list[list[int]] = []
        more: dict[str, Any] | None = {}
        while more is not None:
            answer = await world.call("DescribeImages", repositoryName=REPOSITORY, **more)
            pages.append([len(each.get("imageTags", ())) for each in answer["imageDetails"]])
            more = {"nextToken": answer["nextToken"]} if "nextToken" in answer else None
        assert sorted(held for page in pages for held in page) == [0, 1, 2, 3, 4]
        assert len(pages) > 2
        assert all(sum(page) <= 3 or len(page) == 1 for page in pages)

    async def test_a_batch_of_manifests_beyond_its_bound_is_a_limit(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A hundred manifests of 4 MiB are never held whole; each alone can be had."""
        small, other = await world.image("app", ["v1"]), await world.image("other", ["v2"])
        stored = await world.metadata.manifest(ACCOUNT, REPOSITORY, small.digest)
        monkeypatch.setattr(images, "ANSWER_MAX", len(stored.content) + 1)
        ids = [{"imageDigest": small.digest}, {"imageDigest": other.digest}]
        await refused(Code.LIMIT_EXCEEDED, world.call("BatchGetImage", repositoryName=REPOSITORY, imageIds=ids))
        got = await world.call("BatchGetImage", repositoryName=REPOSITORY, imageIds=ids[:1])
        assert len(got["images"]) == 1

    async def test_a_batch_gives_manifests_and_a_failure_for_each_that_is_wrong(self, world: World) -> None:
        image = await world.image("app", ["v1"])
        other = await world.image("other")
        asked: list[tuple[dict[str, Any], str | None]] = [
            ({"imageTag": "v1"}, None),
            ({"imageDigest": image.digest}, None),
            ({"imageTag": "v1", "imageDigest": image.digest}, None),
            ({"imageTag": "v9"}, "ImageNotFound"),
            ({}, "MissingDigestAndTag"),
            ({"imageTag": None, "imageDigest": "sha512"}, "InvalidImageDigest"),
            ({"imageDigest": "sha256"}, "InvalidImageDigest"),
            ({"imageTag": "-x"}, "InvalidImageTag"),
            ({"imageTag": "v1", "imageDigest": other.digest}, "ImageTagDoesNotMatchDigest"),
        ]
        got = await world.call("BatchGetImage", repositoryName=REPOSITORY, imageIds=[each for each, _ in asked])
        stored = await world.metadata.manifest(ACCOUNT, REPOSITORY, "v1")
        assert [each["imageManifest"].encode() for each in got["images"]] == [stored.content] * 3
        assert got["images"][0] == {
            "registryId": ACCOUNT,
            "repositoryName": REPOSITORY,
            "imageId": {"imageDigest": image.digest, "imageTag": "v1"},
            "imageManifest": stored.content.decode(),
            "imageManifestMediaType": IMAGE,
        }
        assert got["images"][1]["imageId"] == {"imageDigest": image.digest}
        given = [({name: value for name, value in each.items() if value is not None}, code) for each, code in asked]
        assert [(each["imageId"], each["failureCode"]) for each in got["failures"]] == [
            each for each in given if each[1]
        ]
        assert got["failures"][0]["failureReason"] == "Requested image not found"

    async def test_deleting_by_tag_takes_the_image_with_its_last_tag(self, world: World) -> None:
        image = await world.image("app", ["v1", "v2"])
        for tag in ("v1", "v2"):
            await world.metadata.manifest(ACCOUNT, REPOSITORY, image.digest)
            gone = await world.call("BatchDeleteImage", repositoryName=REPOSITORY, imageIds=[{"imageTag": tag}])
            assert gone == {"imageIds": [{"imageDigest": image.digest, "imageTag": tag}], "failures": []}
        await refused(Code.IMAGE_NOT_FOUND, world.metadata.manifest(ACCOUNT, REPOSITORY, image.digest))

    async def test_deleting_by_digest_takes_all_tags(self, world: World) -> None:
        image = await world.image("app", ["v1", "v2"])
        plain = await world.image("plain")
        ids = [{"imageDigest": image.digest}, {"imageDigest": plain.digest}, {"imageTag": "v9"}]
        gone = await world.call("BatchDeleteImage", repositoryName=REPOSITORY, imageIds=ids)
        assert gone["imageIds"] == [
            {"imageDigest": image.digest, "imageTag": "v1"},
            {"imageDigest": image.digest, "imageTag": "v2"},
            {"imageDigest": plain.digest},
        ]
        assert [each["failureCode"] for each in gone["failures"]] == ["ImageNotFound"]
        assert await world.call("ListImages", repositoryName=REPOSITORY) == {"imageIds": []}

    async def test_a_child_stays_unless_its_index_goes_in_the_same_batch(self, world: World) -> None:
        child = await world.image("child", ["c"])
        index = await world.put(index_manifest([child.digest]), ["latest"])
        for image_id in ({"imageDigest": child.digest}, {"imageTag": "c"}):
            kept = await world.call("BatchDeleteImage", repositoryName=REPOSITORY, imageIds=[image_id])
            (failure,) = kept["failures"]
            assert failure["failureCode"] == "ImageReferencedByManifestList"
            assert failure["failureReason"] == f"Requested image referenced by manifest list: [{index.digest}]"
        ids = [{"imageDigest": child.digest}, {"imageDigest": index.digest}]
        gone = await world.call("BatchDeleteImage", repositoryName=REPOSITORY, imageIds=ids)
        assert gone["failures"] == []
        assert len(gone["imageIds"]) == 2

    async def test_indexes_of_indexes_go_from_the_top_each_looked_at_once(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Trying a hundred of them again and again kept all other writes waiting for seconds."""
        looked_at: list[Any] = []
        delete = images._delete

        def counted(*given: Any) -> Any:
            looked_at.append(given)
            return delete(*given)

        monkeypatch.setattr(images, "_delete", counted)
        chain = [(await world.image("leaf", ["leaf"])).digest]
        for _ in range(6):
            chain.append((await world.put(index_manifest([chain[-1]]), [f"level{len(chain)}"])).digest)
        plain = await world.image("plain", ["plain"])
        ids = [{"imageDigest": plain.digest}, {"imageTag": "none"}, *({"imageDigest": each} for each in chain)]
        gone = await world.call("BatchDeleteImage", repositoryName=REPOSITORY, imageIds=ids)
        assert [each["imageId"] for each in gone["failures"]] == [{"imageTag": "none"}]
        assert [each["imageDigest"] for each in gone["imageIds"]] == [plain.digest, *reversed(chain)]
        assert len(looked_at) == 8


class TestModel:
    async def test_every_other_operation_of_the_model_is_unknown_by_name(self, world: World) -> None:
        others = operations("ecr") - ECR.keys()
        assert others
        for operation in (*sorted(others), "NoSuchOperation", "create_repository", "../x"):
            failure = await refused(Code.UNKNOWN_OPERATION, world.call(operation))
            assert operation in failure.message

    @pytest.mark.parametrize(
        ("operation", "parameters", "member", "why"),
        [
            ("CreateRepository", {}, "repositoryName", "Member must not be null"),
            ("CreateRepository", {"repositoryName": "a"}, "repositoryName", "greater than or equal to 2"),
            ("CreateRepository", {"repositoryName": "a" * 257}, "repositoryName", "less than or equal to 256"),
            ("CreateRepository", {"repositoryName": "Team"}, "repositoryName", "must satisfy regular expression"),
            ("CreateRepository", {"repositoryName": "a/../b"}, "repositoryName", "must satisfy regular expression"),
            ("CreateRepository", {"repositoryName": "ab\n"}, "repositoryName", "must satisfy regular expression"),
            ("CreateRepository", {"repositoryName": 7}, "repositoryName", "must be a string"),
            ("CreateRepository", {"repositoryName": "ab", "colour": 1}, "colour", "not known"),
            ("ListImages", {"repositoryName": "ab", "maxResults": 1001}, "maxResults", "less than or equal to 1000"),
            ("ListImages", {"repositoryName": "ab", "maxResults": 0}, "maxResults", "greater than or equal to 1"),
            ("ListImages", {"repositoryName": "ab", "maxResults": True}, "maxResults", "must be an integer"),
            ("ListImages", {"repositoryName": "ab", "filter": {"tagStatus": "?"}}, "filter.tagStatus", "enum value"),
            ("ListImages", {"repositoryName": "ab", "registryId": "1"}, "registryId", "regular expression"),
            ("DeleteRepository", {"repositoryName": "ab", "force": "yes"}, "force", "must be a boolean"),
            ("BatchGetImage", {"repositoryName": "ab", "imageIds": []}, "imageIds", "greater than or equal to 1"),
            ("BatchGetImage", {"repositoryName": "ab", "imageIds": {}}, "imageIds", "must be a list"),
            ("BatchGetImage", {"repositoryName": "ab", "imageIds": [1]}, "imageIds.1.member", "a structure"),
        ],
    )
    async def test_what_breaks_the_model_is_named(
        self, world: World, operation: str, parameters: dict[str, Any], member: str, why: str
    ) -> None:
        failure = await refused(Code.INVALID_PARAMETER, world.call(operation, **parameters))
        assert failure.message.startswith(f"Invalid parameter at '{member}' failed to satisfy constraint: '")
        assert why in failure.message
