"""Each error that the model declares of each operation that is served, raised through the door and read by boto3.

The pairs come from the model: one that has no scene and is not among `CANNOT`, with its reason, fails.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import pytest

from proxy.awsmodel import models
from proxy.ecr.errors import TRY_AGAIN
from proxy.ecr.routes import ROUTES
from support.boto_registry import BotoRegistry, boto_registry
from support.error_cases import ABSENT, APP, INDEX_DIGEST, SCENES, UNKNOWN_UPLOAD, Given
from support.examples import ACCOUNT, REPOSITORY, SUBJECT
from support.response_shapes import declared
from support.rule_error_cases import RULE

_UPSTREAM = "nothing is fetched from another registry"
_ONE_KIND = "no text of ECR's is known that says it: what is wrong with its input is an InvalidParameterException"
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
            "CreatePullThroughCacheRule",
            "DeletePullThroughCacheRule",
            "DeleteLifecyclePolicy",
            "DeleteRegistryPolicy",
            "DeleteRepositoryCreationTemplate",
            "DeregisterPullTimeUpdateExclusion",
            "DescribePullThroughCacheRules",
            "DescribeImageReplicationStatus",
            "DescribeRegistry",
            "DescribeRepositoryCreationTemplates",
            "GetLifecyclePolicy",
            "GetLifecyclePolicyPreview",
            "GetRegistryPolicy",
            "GetRegistryScanningConfiguration",
            "GetSigningConfiguration",
            "ListPullTimeUpdateExclusions",
            "PutImageScanningConfiguration",
            "PutLifecyclePolicy",
            "PutRegistryPolicy",
            "RegisterPullTimeUpdateExclusion",
            "DescribeReplicationBackfillResults",
            "ListReplicationBackfills",
            "StartReplicationBackfill",
            "StopReplicationBackfill",
            "StartLifecyclePolicyPreview",
            "UpdateImageStorageClass",
            "UpdatePullThroughCacheRule",
            "ValidatePullThroughCacheRule",
        )
    },
}
"""What the model declares and cannot happen here, and why."""

assert RULE  # with which the scenes of rules are there too
OF_REPOSITORY = f"the repository with name '{REPOSITORY}' in the registry with id '{ACCOUNT}'"
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
