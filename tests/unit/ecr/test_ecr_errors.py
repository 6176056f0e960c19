"""Each error that the model declares of each operation that is served, raised through the door and read by boto3.

The pairs come from the model: one that is neither raised nor among `CANNOT`, with its reason, fails.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from fakes.boto_registry import KMS_KEY, SMALL, BotoRegistry, boto_registry
from fakes.faulty import raising
from fakes.oci_words import digest_of, image

from harness.answershapes import declared
from harness.specimens import ACCOUNT, ECR, EMPTY_INDEX, EXCLUDING, REPOSITORY, SUBJECT, TAGS, repository
from proxy.ecr.errors import TRY_AGAIN
from proxy.ecr.routes import ROUTES
from proxy.metadata.operations.images import ANSWER_MAX
from proxy.model.errors import Code, Failure
from proxy.shapes import models

Given = Mapping[str, Any]
Scene = Callable[[BotoRegistry], Awaitable[Given]]
"""Makes what an error is about; returns the parameters that raise it."""

_UPSTREAM = "nothing is fetched from another registry"
_ONE_KIND = "whatever is wrong with its input is, in ECR's own text, an InvalidParameterException"
_ADDS_NOTHING = "it adds nothing that a quota counts"
_NO_KEY = "it touches no key: objects are gone by their rows, and parts were sealed as they came"
CANNOT: Mapping[tuple[str, str], str] = {
    ("BatchGetImage", "UnableToGetUpstreamImageException"): _UPSTREAM,
    ("GetDownloadUrlForLayer", "UnableToGetUpstreamLayerException"): _UPSTREAM,
    ("ListImageReferrers", "UnableToListUpstreamImageReferrersException"): _UPSTREAM,
    ("DeleteRepository", "KmsException"): _NO_KEY,
    ("CompleteLayerUpload", "KmsException"): _NO_KEY,
    ("PutAccountSetting", "LimitExceededException"): _ADDS_NOTHING,
    ("DeregisterPullTimeUpdateExclusion", "LimitExceededException"): _ADDS_NOTHING,
    ("ListPullTimeUpdateExclusions", "LimitExceededException"): _ADDS_NOTHING,
    **{
        (operation, "ValidationException"): _ONE_KIND
        for operation in (
            "DeleteRegistryPolicy",
            "DeleteRepositoryCreationTemplate",
            "DeregisterPullTimeUpdateExclusion",
            "DescribeRegistry",
            "DescribeRepositoryCreationTemplates",
            "GetRegistryPolicy",
            "GetRegistryScanningConfiguration",
            "GetSigningConfiguration",
            "ListPullTimeUpdateExclusions",
            "PutImageScanningConfiguration",
            "PutRegistryPolicy",
            "RegisterPullTimeUpdateExclusion",
            "UpdateImageStorageClass",
        )
    },
}
"""What the model declares and cannot happen here, and why."""

ABSENT = "no/where"
UNKNOWN_UPLOAD = "00000000-0000-4000-8000-00000000cccc"
ROLE = f"arn:aws:iam::{ACCOUNT}:role/scanner"
OTHERS_ROLE = "arn:aws:iam::999999999999:role/scanner"
INDEX = json.dumps(EMPTY_INDEX)
INDEX_DIGEST = digest_of(INDEX.encode())
OF_REPOSITORY = f"the repository with name '{REPOSITORY}' in the registry with id '{ACCOUNT}'"
APP: Given = {"repositoryName": REPOSITORY}
IMAGE: Given = {**APP, "imageManifest": INDEX, "imageTag": "v1"}
TEMPLATE: Given = {"prefix": "made", "appliedFor": ["CREATE_ON_PUSH"]}

TEXTS: Mapping[str, str] = {
    "ImageAlreadyExistsException": f"Image with digest '{INDEX_DIGEST}' and tag 'v1' already exists in the repository "
    f"with name '{REPOSITORY}' in registry with id '{ACCOUNT}'",
    "ImageNotFoundException": f"The image with imageId {{imageDigest:'null', imageTag:'none'}} does not exist within "
    f"{OF_REPOSITORY}",
    "ImageTagAlreadyExistsException": f"The image tag 'v1' already exists in the '{REPOSITORY}' repository and cannot "
    "be overwritten because the tag is immutable.",
    "ReferencedImagesNotFoundException": f"Images with digests '[{SUBJECT['digest']}]' required for pushing image into "
    f"repository with name '{REPOSITORY}' in the registry with id '{ACCOUNT}' do not exist",
    "RegistryPolicyNotFoundException": f"Registry policy does not exist in the registry with id '{ACCOUNT}'",
    "RepositoryAlreadyExistsException": f"The repository with name '{REPOSITORY}' already exists in the registry with "
    f"id '{ACCOUNT}'",
    "RepositoryNotEmptyException": f"The repository with name '{REPOSITORY}' in registry with id '{ACCOUNT}' cannot be "
    "deleted because it still contains images",
    "RepositoryNotFoundException": f"The repository with name '{ABSENT}' does not exist in the registry with id "
    f"'{ACCOUNT}'",
    "RepositoryPolicyNotFoundException": f"Repository policy does not exist for {OF_REPOSITORY}",
    "ServerException": TRY_AGAIN,
    "UploadNotFoundException": f"Upload with id '{UNKNOWN_UPLOAD}' could not be found for {OF_REPOSITORY}",
}
"""ECR's own, word for word; of our faults nothing is told."""
_INVALID = re.compile(
    r"Invalid parameter at '[\w.]+' failed to satisfy constraint: '.+'|"
    r"Invalid parameter at 'PolicyText' failed to satisfy constraint: 'Invalid registry policy provided': .+"
)

SCENES: dict[tuple[str, str], Scene] = {}
"""One for each pair; those of an operation are played in this order, in one registry."""


@pytest.fixture
async def registry(tmp_path: Path) -> AsyncIterator[BotoRegistry]:
    async with boto_registry(tmp_path) as found:
        await found.do("CreateRepository", **APP)
        yield found


def _pairs(operation: str) -> set[tuple[str, str]]:
    return {(operation, error) for error in declared("ecr", operation)}


@pytest.mark.parametrize("operation", ROUTES)
async def test_an_operation_raises_each_error_that_it_declares(registry: BotoRegistry, operation: str) -> None:
    needed = _pairs(operation) - CANNOT.keys()
    scenes = {error: scene for (of, error), scene in SCENES.items() if of == operation}
    assert {(operation, error) for error in scenes} == needed
    for error in sorted(scenes, key="ServerException".__eq__):  # a fault is for the call that comes next
        asked = await registry.ask(operation, await scenes[error](registry))
        assert asked.name == error, (error, asked.error, asked.said)
        assert asked.error is not None
        response = asked.error.response
        assert response["ResponseMetadata"]["HTTPStatusCode"] == (500 if error == "ServerException" else 400)
        assert response["ResponseMetadata"]["RequestId"]
        assert response["Error"] == {"Code": error, "Message": asked.said["message"]}
        _check_members(error, asked.said)
        _check_text(error, asked.said["message"])
        for member in asked.said.keys() - {"__type", "message"}:
            assert response[member] == asked.said[member]


def test_what_cannot_happen_is_declared_and_not_raised() -> None:
    assert set(CANNOT) <= {pair for operation in ROUTES for pair in _pairs(operation)}
    assert not set(CANNOT) & set(SCENES)


def _check_members(error: str, said: Given) -> None:
    members = models.shape("ecr", error)["members"]
    sent = said.keys() - {"__type"}
    if error == "KmsException":
        assert said["kmsError"] == "DisabledException"
    if error == "InvalidLayerPartException":
        assert said["lastValidByteReceived"] == len(b"four") - 1
    assert sent == members.keys(), error


def _check_text(error: str, message: str) -> None:
    assert message
    if error == "InvalidParameterException":
        assert _INVALID.fullmatch(message), message
    elif error in TEXTS:
        assert message == TEXTS[error]


# ---- scenes -------------------------------------------------------------------------------------------------------


def raises(error: str, *operations: str) -> Callable[[Scene], Scene]:
    def kept(scene: Scene) -> Scene:
        for operation in operations:
            pair = operation, f"{error}Exception"
            assert pair not in SCENES, pair
            SCENES[pair] = scene
        return scene

    return kept


def given(error: str, operation: str, parameters: Given) -> None:
    @raises(error, operation)
    async def nothing_before(registry: BotoRegistry) -> Given:
        return parameters


_SPECIMENS: Mapping[str, Given] = {each.operation: each.parameters for each in ECR}
_INVALID_INPUT: Mapping[str, Given] = {
    "CreateRepositoryCreationTemplate": {**TEMPLATE, "appliedFor": []},
    "DeleteRegistryPolicy": {"unknown": 1},
    "DeleteRepositoryCreationTemplate": {"prefix": "Upper"},
    "DeregisterPullTimeUpdateExclusion": {"principalArn": f"arn:aws:iam::{ACCOUNT}:root"},
    "DescribeRegistry": {"unknown": 1},
    "DescribeRepositories": {"maxResults": 1001},
    "DescribeRepositoryCreationTemplates": {"nextToken": "any"},
    "GetAccountSetting": {"name": ""},
    "GetAuthorizationToken": {"registryIds": ["1"]},
    "GetRegistryPolicy": {"unknown": 1},
    "GetRegistryScanningConfiguration": {"unknown": 1},
    "GetSigningConfiguration": {"unknown": 1},
    "ListPullTimeUpdateExclusions": {"maxResults": 0},
    "ListTagsForResource": {"resourceArn": "arn:aws:ecr:us-east-1:1:repository/x"},
    "PutAccountSetting": {"name": "BLOB_MOUNTING", "value": "MAYBE"},
    "PutRegistryPolicy": {"policyText": "{}"},
    "RegisterPullTimeUpdateExclusion": {"principalArn": f"arn:aws:iam::{ACCOUNT}:root"},
    "TagResource": {"resourceArn": repository(REPOSITORY), "tags": [{"Key": "x"}]},
    "UntagResource": {"resourceArn": repository(REPOSITORY)},
    "UpdateRepositoryCreationTemplate": {"prefix": "x", "appliedFor": ["PULLING"]},
}
_FAILS_AT: Mapping[str, str] = {
    "CompleteLayerUpload": "commit_upload",
    "GetAuthorizationToken": "access_key",
    "InitiateLayerUpload": "begin_upload",
}
"""The call of the rows that fails, where it is not `call`."""


def _server(operation: str) -> Scene:
    async def scene(registry: BotoRegistry) -> Given:
        failed = Failure(Code.METADATA_UNAVAILABLE, "the rows at 10.0.0.1 are away", hint="secret")
        registry.rows.before[_FAILS_AT.get(operation, "call")] = raising(failed)
        if operation == "CompleteLayerUpload":
            return await uploaded(registry, [b"four"], digest_of(b"four"))
        return {**_SPECIMENS[operation], **(APP if "repositoryName" in _SPECIMENS[operation] else {})}

    return scene


for _operation in ROUTES:
    _parameters = _SPECIMENS[_operation]
    if "repositoryName" in _parameters:
        if _operation != "CreateRepository":
            given("RepositoryNotFound", _operation, {**_parameters, "repositoryName": ABSENT})
        given("InvalidParameter", _operation, {**_parameters, "repositoryName": "Upper/Case"})
    else:
        given("InvalidParameter", _operation, _INVALID_INPUT[_operation])
    if "resourceArn" in _parameters:
        given("RepositoryNotFound", _operation, {**_parameters, "resourceArn": repository(ABSENT)})
    if _operation != "UploadLayerPart":
        SCENES[_operation, "ServerException"] = _server(_operation)

given("RepositoryNotFound", "DescribeRepositories", {"repositoryNames": [REPOSITORY, ABSENT]})

_TOO_MANY = [{"Key": f"key-{number}", "Value": ""} for number in range(51)]
_RESERVED = [{"Key": "aws:mine", "Value": ""}]
_ARN: Given = {"resourceArn": repository(REPOSITORY)}
given("RepositoryAlreadyExists", "CreateRepository", APP)
given("InvalidTagParameter", "CreateRepository", {"repositoryName": "new", "tags": _RESERVED})
given("TooManyTags", "CreateRepository", {"repositoryName": "new", "tags": _TOO_MANY})
given("InvalidTagParameter", "TagResource", {**_ARN, "tags": [*TAGS, TAGS[0]]})
given("TooManyTags", "TagResource", {**_ARN, "tags": _TOO_MANY})
given("InvalidTagParameter", "UntagResource", {**_ARN, "tagKeys": ["k" * 129]})
given("TooManyTags", "UntagResource", {**_ARN, "tagKeys": [each["Key"] for each in _TOO_MANY]})
given("RepositoryPolicyNotFound", "GetRepositoryPolicy", APP)
given("RepositoryPolicyNotFound", "DeleteRepositoryPolicy", APP)
given("RegistryPolicyNotFound", "GetRegistryPolicy", {})
given("RegistryPolicyNotFound", "DeleteRegistryPolicy", {})
given("SigningConfigurationNotFound", "GetSigningConfiguration", {})
given("Validation", "GetAccountSetting", {"name": "NONE"})
given("Validation", "PutAccountSetting", {"name": "NONE", "value": "V1"})
given("Validation", "ListImageReferrers", {**APP, "subjectId": {"imageDigest": "sha256:5"}})
given("ImageDigestDoesNotMatch", "PutImage", {**IMAGE, "imageDigest": SUBJECT["digest"]})
given(
    "ReferencedImagesNotFound",
    "PutImage",
    {**APP, "imageManifest": json.dumps({**EMPTY_INDEX, "manifests": [SUBJECT]})},
)
given("ImageNotFound", "DescribeImages", {**APP, "imageIds": [{"imageTag": "none"}]})
given(
    "ImageNotFound",
    "UpdateImageStorageClass",
    {**APP, "imageId": {"imageTag": "none"}, "targetStorageClass": "ARCHIVE"},
)
given("TemplateNotFound", "UpdateRepositoryCreationTemplate", {"prefix": "gone"})
given("TemplateNotFound", "DeleteRepositoryCreationTemplate", {"prefix": "gone"})
given("Validation", "CreateRepositoryCreationTemplate", {**TEMPLATE, "customRoleArn": OTHERS_ROLE})
given("ExclusionNotFound", "DeregisterPullTimeUpdateExclusion", {"principalArn": ROLE})


@raises("LimitExceeded", "CreateRepository")
async def repositories_up_to_the_quota(registry: BotoRegistry) -> Given:
    for number in range(SMALL.repositories - 1):
        await registry.do("CreateRepository", repositoryName=f"more/{number}")
    return {"repositoryName": "too/many"}


@raises("Kms", "CreateRepository")
async def a_key_that_kms_refuses(registry: BotoRegistry) -> Given:
    registry.kms.refused[KMS_KEY] = "DisabledException"
    return {"repositoryName": "own/app", "encryptionConfiguration": {"encryptionType": "KMS", "kmsKey": KMS_KEY}}


async def own_repository(registry: BotoRegistry) -> None:
    registry.kms.refused.clear()
    configuration = {"encryptionType": "KMS", "kmsKey": KMS_KEY}
    await registry.do("CreateRepository", repositoryName="own/app", encryptionConfiguration=configuration)


def refuse(registry: BotoRegistry) -> None:
    registry.kms.refused[KMS_KEY] = "DisabledException"
    registry.age_keys()


# ---- images


@raises("RepositoryNotEmpty", "DeleteRepository")
async def a_repository_with_an_image(registry: BotoRegistry) -> Given:
    await registry.do("PutImage", **IMAGE)
    return APP


@raises("ImageStorageClassUpdateNotSupported", "UpdateImageStorageClass")
async def an_image_to_archive(registry: BotoRegistry) -> Given:
    await registry.do("PutImage", **IMAGE)
    return {**APP, "imageId": {"imageTag": "v1"}, "targetStorageClass": "ARCHIVE"}


@raises("ImageAlreadyExists", "PutImage")
async def an_image_that_is_there(registry: BotoRegistry) -> Given:
    await registry.do("PutImage", **IMAGE)
    return IMAGE


@raises("ImageTagAlreadyExists", "PutImage")
async def a_tag_that_stays_where_it_is(registry: BotoRegistry) -> Given:
    await registry.do("PutImageTagMutability", **APP, **EXCLUDING)
    return IMAGE  # there since the scene before


@raises("LimitExceeded", "PutImage")
async def an_image_with_as_many_tags_as_it_may_have(registry: BotoRegistry) -> Given:
    await registry.do("PutImageTagMutability", **APP, imageTagMutability="MUTABLE")
    return {**IMAGE, "imageTag": "v2"}


@raises("LayersNotFound", "PutImage")
async def a_manifest_of_layers_that_never_came(registry: BotoRegistry) -> Given:
    return {**APP, "imageManifest": image([b"none"]).decode()}


@raises("Kms", "PutImage")
async def an_image_for_a_repository_whose_key_is_refused(registry: BotoRegistry) -> Given:
    await own_repository(registry)
    refuse(registry)
    return {**IMAGE, "repositoryName": "own/app"}


@raises("LimitExceeded", "BatchGetImage")
async def more_manifests_than_one_answer_takes(registry: BotoRegistry) -> Given:
    ids = []
    for number in range(3):
        padded = json.dumps({**EMPTY_INDEX, "annotations": {str(number): "x" * (ANSWER_MAX // 3)}})
        await registry.do("PutImage", **APP, imageManifest=padded)
        ids.append({"imageDigest": digest_of(padded.encode())})
    return {**APP, "imageIds": ids}


# ---- layers


async def uploaded(registry: BotoRegistry, parts: Sequence[bytes], digest: str = "", name: str = REPOSITORY) -> Given:
    """What completes an upload of these parts, as the layer that `digest` says."""
    upload = (await registry.do("InitiateLayerUpload", repositoryName=name))["uploadId"]
    at = 0
    for content in parts:
        await registry.do("UploadLayerPart", **part(upload, at, content))
        at += len(content)
    return {"repositoryName": name, "uploadId": upload, "layerDigests": [digest or digest_of(b"".join(parts))]}


def part(upload: str, first: int, content: bytes, name: str = REPOSITORY) -> dict[str, Any]:
    return {
        "repositoryName": name,
        "uploadId": upload,
        "partFirstByte": first,
        "partLastByte": first + len(content) - 1,
        "layerPartBlob": base64.b64encode(content).decode(),
    }


@raises("Kms", "InitiateLayerUpload")
async def an_upload_to_a_repository_whose_key_is_refused(registry: BotoRegistry) -> Given:
    await own_repository(registry)
    refuse(registry)
    return {"repositoryName": "own/app"}


@raises("Kms", "UploadLayerPart")
async def a_part_under_a_key_that_is_refused_by_now(registry: BotoRegistry) -> Given:
    await own_repository(registry)
    begun = await uploaded(registry, [], name="own/app")
    refuse(registry)
    return part(begun["uploadId"], 0, b"four", "own/app")


@raises("InvalidLayerPart", "UploadLayerPart")
async def a_part_that_leaves_a_hole(registry: BotoRegistry) -> Given:
    begun = await uploaded(registry, [b"four"])
    return part(begun["uploadId"], 5, b"more")


@raises("LimitExceeded", "UploadLayerPart")
async def a_part_past_the_layers_quota(registry: BotoRegistry) -> Given:
    begun = await uploaded(registry, [b"x" * SMALL.layer_part_max] * (SMALL.layer_bytes // SMALL.layer_part_max))
    return part(begun["uploadId"], SMALL.layer_bytes, b"x")


@raises("UploadNotFound", "UploadLayerPart")
async def a_part_of_no_upload(registry: BotoRegistry) -> Given:
    return part(UNKNOWN_UPLOAD, 0, b"four")


@raises("Server", "UploadLayerPart")
async def a_part_while_the_store_is_away(registry: BotoRegistry) -> Given:
    begun = await uploaded(registry, [])
    failed = Failure(Code.STORE_UNAVAILABLE, "the disk at /srv is away", hint="secret")
    registry.objects.before |= {"begin_append": raising(failed), "begin": raising(failed), "append": raising(failed)}
    return part(begun["uploadId"], 0, b"four")


@raises("UploadNotFound", "CompleteLayerUpload")
async def no_upload(registry: BotoRegistry) -> Given:
    return {**APP, "uploadId": UNKNOWN_UPLOAD, "layerDigests": [digest_of(b"four")]}


@raises("EmptyUpload", "CompleteLayerUpload")
async def an_upload_without_a_part(registry: BotoRegistry) -> Given:
    return await uploaded(registry, [])


@raises("InvalidLayer", "CompleteLayerUpload")
async def a_layer_of_another_digest(registry: BotoRegistry) -> Given:
    return await uploaded(registry, [b"four"], digest_of(b"five"))


@raises("LayerPartTooSmall", "CompleteLayerUpload")
async def a_small_part_before_the_last(registry: BotoRegistry) -> Given:
    return await uploaded(registry, [b"x", b"four"])


@raises("LayerAlreadyExists", "CompleteLayerUpload")
async def a_layer_that_is_there(registry: BotoRegistry) -> Given:
    await registry.do("CompleteLayerUpload", **await uploaded(registry, [b"four"]))
    return await uploaded(registry, [b"four"])


@raises("LayersNotFound", "GetDownloadUrlForLayer")
async def no_layer(registry: BotoRegistry) -> Given:
    return {**APP, "layerDigest": digest_of(b"none")}


@raises("LayerInaccessible", "GetDownloadUrlForLayer")
async def a_layer_of_no_image(registry: BotoRegistry) -> Given:
    await registry.do("CompleteLayerUpload", **await uploaded(registry, [b"four"]))
    return {**APP, "layerDigest": digest_of(b"four")}


# ---- the registry


@raises("TemplateAlreadyExists", "CreateRepositoryCreationTemplate")
async def a_template_that_is_there(registry: BotoRegistry) -> Given:
    await registry.ask("CreateRepositoryCreationTemplate", TEMPLATE)
    return {**TEMPLATE, "prefix": "made/"}


@raises("LimitExceeded", "CreateRepositoryCreationTemplate")
async def as_many_templates_as_there_may_be(registry: BotoRegistry) -> Given:
    await registry.ask("CreateRepositoryCreationTemplate", TEMPLATE)
    return {**TEMPLATE, "prefix": "other"}


@raises("Validation", "UpdateRepositoryCreationTemplate")
async def a_template_for_the_role_of_another_account(registry: BotoRegistry) -> Given:
    await registry.do("CreateRepositoryCreationTemplate", **TEMPLATE)
    return {"prefix": "made", "customRoleArn": OTHERS_ROLE}


@raises("ExclusionAlreadyExists", "RegisterPullTimeUpdateExclusion")
async def an_exclusion_that_is_there(registry: BotoRegistry) -> Given:
    await registry.ask("RegisterPullTimeUpdateExclusion", {"principalArn": ROLE})
    return {"principalArn": ROLE}


@raises("LimitExceeded", "RegisterPullTimeUpdateExclusion")
async def as_many_exclusions_as_there_may_be(registry: BotoRegistry) -> Given:
    await registry.ask("RegisterPullTimeUpdateExclusion", {"principalArn": ROLE})
    return {"principalArn": ROLE.replace("scanner", "other")}
