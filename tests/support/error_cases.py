"""How each error of ECR's operations comes about: for a pair of operation and error, what raises it.

A scene makes what the error is about in a `BotoRegistry` that has the repository `APP`, and returns the parameters.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from proxy.ecr.routes import ROUTES
from proxy.metadata.operations.images import ANSWER_MAX
from proxy.model.errors import Code, Failure
from support.boto_registry import KMS_KEY, SMALL, BotoRegistry
from support.examples import (
    ACCOUNT,
    BACKFILL,
    ECR,
    EMPTY_INDEX,
    EXCLUDING,
    LIFECYCLE,
    NEAR,
    REPOSITORY,
    SUBJECT,
    TAGS,
    repository,
)
from support.faulty import raising
from support.oci_requests import digest_of, image

Given = Mapping[str, Any]
Scene = Callable[[BotoRegistry], Awaitable[Given]]
"""Makes what an error is about; returns the parameters that raise it."""

ABSENT = "no/where"
UNKNOWN_UPLOAD = "00000000-0000-4000-8000-00000000cccc"
ROLE = f"arn:aws:iam::{ACCOUNT}:role/scanner"
OTHERS_ROLE = "arn:aws:iam::999999999999:role/scanner"
INDEX = json.dumps(EMPTY_INDEX)
INDEX_DIGEST = digest_of(INDEX.encode())
APP: Given = {"repositoryName": REPOSITORY}
IMAGE: Given = {**APP, "imageManifest": INDEX, "imageTag": "v1"}
TEMPLATE: Given = {"prefix": "made", "appliedFor": ["CREATE_ON_PUSH"]}

SCENES: dict[tuple[str, str], Scene] = {}
"""One for each pair; those of an operation are played in this order, in one registry."""


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


_EXAMPLES: Mapping[str, Given] = {each.operation: each.parameters for each in ECR}
_PREFIX: Given = {"ecrRepositoryPrefix": "Upper"}
_INVALID_INPUT: Mapping[str, Given] = {
    "CreatePullThroughCacheRule": {**_PREFIX, "upstreamRegistryUrl": "quay.io"},
    "DeletePullThroughCacheRule": _PREFIX,
    "DescribePullThroughCacheRules": {"maxResults": 0},
    "UpdatePullThroughCacheRule": _PREFIX,
    "ValidatePullThroughCacheRule": _PREFIX,
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
    "PutReplicationConfiguration": {"replicationConfiguration": {}},
    "StartReplicationBackfill": {"destination": {}},
    "StopReplicationBackfill": {"replicationBackfillId": "1"},
    "ListReplicationBackfills": {"maxResults": 51},
    "DescribeReplicationBackfillResults": {"replicationBackfillId": "1"},
    "RegisterPullTimeUpdateExclusion": {"principalArn": f"arn:aws:iam::{ACCOUNT}:root"},
    "TagResource": {"resourceArn": repository(REPOSITORY), "tags": [{"Key": "x"}]},
    "UntagResource": {"resourceArn": repository(REPOSITORY)},
    "UpdateRepositoryCreationTemplate": {"prefix": "x", "appliedFor": ["PULLING"]},
}
_FAILS_AT: Mapping[str, str] = {
    "CompleteLayerUpload": "commit_upload",
    "GetAuthorizationToken": "access_key",
    "InitiateLayerUpload": "begin_upload",
    "UpdatePullThroughCacheRule": "pull_through_rules",
    "ValidatePullThroughCacheRule": "pull_through_rules",
}
"""The call of the rows that fails, where it is not `call`."""


def _server(operation: str) -> Scene:
    async def scene(registry: BotoRegistry) -> Given:
        failed = Failure(Code.METADATA_UNAVAILABLE, "the rows at 10.0.0.1 are away", hint="secret")
        registry.rows.before[_FAILS_AT.get(operation, "call")] = raising(failed)
        if operation == "CompleteLayerUpload":
            return await uploaded(registry, [b"four"], digest_of(b"four"))
        return {**_EXAMPLES[operation], **(APP if "repositoryName" in _EXAMPLES[operation] else {})}

    return scene


for _operation in ROUTES:
    _parameters = _EXAMPLES[_operation]
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
_FAR = {"rules": [{"destinations": [{"region": "nowhere-1", "registryId": ACCOUNT}]}]}
given("Validation", "PutReplicationConfiguration", {"replicationConfiguration": _FAR})
given("ImageNotFound", "DescribeImageReplicationStatus", {**APP, "imageId": {"imageTag": "none"}})
for _named in ("StopReplicationBackfill", "DescribeReplicationBackfillResults"):
    given("ReplicationBackfillNotFound", _named, BACKFILL)
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
for _named in ("GetLifecyclePolicy", "DeleteLifecyclePolicy", "StartLifecyclePolicyPreview"):
    given("LifecyclePolicyNotFound", _named, APP)
given("LifecyclePolicyPreviewNotFound", "GetLifecyclePolicyPreview", APP)
given("TemplateNotFound", "UpdateRepositoryCreationTemplate", {"prefix": "gone"})
given("TemplateNotFound", "DeleteRepositoryCreationTemplate", {"prefix": "gone"})
given("Validation", "CreateRepositoryCreationTemplate", {**TEMPLATE, "customRoleArn": OTHERS_ROLE})
given("ExclusionNotFound", "DeregisterPullTimeUpdateExclusion", {"principalArn": ROLE})


@raises("LimitExceeded", "CreateRepository")
async def repositories_up_to_the_quota(registry: BotoRegistry) -> Given:
    for number in range(SMALL.repositories - 1):
        await registry.do("CreateRepository", repositoryName=f"more/{number}")
    return {"repositoryName": "too/many"}


_EU = {"region": "eu-west-1", "registryId": ACCOUNT}


async def _started(registry: BotoRegistry) -> Mapping[str, Any]:
    rules = [NEAR, {"destinations": [_EU]}]
    await registry.do("PutReplicationConfiguration", replicationConfiguration={"rules": rules})
    return await registry.do("StartReplicationBackfill", destination=_EU)


@raises("ReplicationBackfillInProgress", "StartReplicationBackfill")
async def a_backfill_to_the_region(registry: BotoRegistry) -> Given:
    await _started(registry)
    return {"destination": _EU}


@raises("LimitExceeded", "StartReplicationBackfill")
async def backfills_up_to_the_quota(registry: BotoRegistry) -> Given:
    return {"destination": NEAR["destinations"][0]}


@raises("ReplicationBackfillInvalidStatus", "StopReplicationBackfill")
async def a_backfill_that_is_stopped(registry: BotoRegistry) -> Given:
    stopped = {"replicationBackfillId": (await _started(registry))["replicationBackfillId"]}
    await registry.do("StopReplicationBackfill", **stopped)
    return stopped


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


@raises("LifecyclePolicyPreviewInProgress", "StartLifecyclePolicyPreview")
async def a_preview_that_was_started(registry: BotoRegistry) -> Given:
    asked = {**APP, "lifecyclePolicyText": LIFECYCLE}
    await registry.do("StartLifecyclePolicyPreview", **asked)
    return asked


@raises("ImageStorageClassUpdateNotSupported", "UpdateImageStorageClass")
async def an_image_that_is_not_archived(registry: BotoRegistry) -> Given:
    await registry.do("PutImage", **IMAGE)
    return {**APP, "imageId": {"imageTag": "v1"}, "targetStorageClass": "STANDARD"}


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
