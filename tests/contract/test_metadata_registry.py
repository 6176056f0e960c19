"""What the metadata service says of a whole registry, and of what is only kept or refused, through every client."""

from __future__ import annotations

import botocore.session
import botocore.validate
import pytest

from proxy.model.errors import Code, Failure
from support.metadata import ACCOUNT, REPOSITORY, World, digest

ECR = botocore.session.get_session().get_service_model("ecr")
MUTED = {"imageScanningConfiguration": {"scanOnPush": False}}
SCANNED = {"imageScanningConfiguration": {"scanOnPush": True}}


@pytest.fixture(autouse=True)
async def account(world: World) -> None:
    await world.bootstrap()


async def call(world: World, operation: str, **parameters: object) -> dict[str, object]:
    """The answer, which its model's output can be."""
    answer = await world.call(operation, **parameters)
    report = botocore.validate.ParamValidator().validate(answer, ECR.operation_model(operation).output_shape)
    assert not report.has_errors(), report.generate_report()
    return answer


async def refused(world: World, operation: str, **parameters: object) -> tuple[Code, str]:
    with pytest.raises(Failure) as caught:
        await world.call(operation, **parameters)
    return caught.value.code, caught.value.message


async def test_a_registry_copies_nothing_elsewhere(world: World) -> None:
    assert await call(world, "DescribeRegistry") == {
        "registryId": ACCOUNT,
        "replicationConfiguration": {"rules": []},
    }


async def test_a_registry_scans_as_ecrs_do_by_default(world: World) -> None:
    assert await call(world, "GetRegistryScanningConfiguration") == {
        "registryId": ACCOUNT,
        "scanningConfiguration": {"scanType": "BASIC", "rules": []},
    }


async def test_no_registry_signs(world: World) -> None:
    assert await refused(world, "GetSigningConfiguration") == (
        Code.SIGNING_CONFIGURATION_NOT_FOUND,
        f"Signing configuration does not exist in the registry with id '{ACCOUNT}'",
    )


@pytest.mark.parametrize(
    "operation", ["DescribeRegistry", "GetRegistryScanningConfiguration", "GetSigningConfiguration"]
)
async def test_an_account_that_is_not_open_has_no_registry(world: World, operation: str) -> None:
    with pytest.raises(Failure) as caught:
        await world.metadata.call("999999999999", operation, {})
    assert caught.value.code is Code.ACCESS_DENIED


async def test_whether_a_repository_is_scanned_on_push_is_kept_and_told(world: World) -> None:
    await world.call("CreateRepository", repositoryName=REPOSITORY)
    for given, kept in ((SCANNED, SCANNED), (MUTED, MUTED), ({"imageScanningConfiguration": {}}, MUTED)):
        answer = await call(world, "PutImageScanningConfiguration", repositoryName=REPOSITORY, **given)
        assert answer == {"registryId": ACCOUNT, "repositoryName": REPOSITORY, **kept}
        [described] = (await world.call("DescribeRepositories"))["repositories"]
        assert described["imageScanningConfiguration"] == kept["imageScanningConfiguration"]
    code, message = await refused(world, "PutImageScanningConfiguration", repositoryName="no/where", **SCANNED)
    assert (code, message) == (
        Code.REPOSITORY_NOT_FOUND,
        f"The repository with name 'no/where' does not exist in the registry with id '{ACCOUNT}'",
    )


async def test_an_image_is_not_moved_into_the_storage_class_that_it_has(world: World) -> None:
    pushed = await world.image("app", ["v1"])
    asked = {"repositoryName": REPOSITORY, "imageId": {"imageTag": "v1"}}
    for target, status in (("ARCHIVE", "ARCHIVED"), ("STANDARD", "ACTIVE")):
        moved = await world.call("UpdateImageStorageClass", **asked, targetStorageClass=target)
        assert moved == {
            "registryId": ACCOUNT,
            "repositoryName": REPOSITORY,
            "imageId": {"imageDigest": pushed.digest, "imageTag": "v1"},
            "imageStatus": status,
        }
        code, _ = await refused(world, "UpdateImageStorageClass", **asked, targetStorageClass=target)
        assert code is Code.IMAGE_STORAGE_CLASS_UPDATE_NOT_SUPPORTED


@pytest.mark.parametrize(
    ("repository", "image_id", "target", "code"),
    [
        ("no/where", {"imageTag": "v1"}, "ARCHIVE", Code.REPOSITORY_NOT_FOUND),
        (REPOSITORY, {"imageTag": "v9"}, "ARCHIVE", Code.IMAGE_NOT_FOUND),
        (REPOSITORY, {"imageDigest": digest("absent")}, "ARCHIVE", Code.IMAGE_NOT_FOUND),
        (REPOSITORY, {}, "ARCHIVE", Code.INVALID_PARAMETER),
        (REPOSITORY, {"imageTag": "v1"}, "COLD", Code.INVALID_PARAMETER),
    ],
    ids=["no-repository", "no-tag", "no-digest", "neither", "no-class"],
)
async def test_a_storage_class_is_asked_for_in_words_of_the_model(
    world: World, repository: str, image_id: dict[str, str], target: str, code: Code
) -> None:
    await world.image("app", ["v1"])
    asked = {"repositoryName": repository, "imageId": image_id, "targetStorageClass": target}
    assert (await refused(world, "UpdateImageStorageClass", **asked))[0] is code
