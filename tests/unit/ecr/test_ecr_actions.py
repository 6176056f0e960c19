"""Which actions each operation of the door needs, on which resources, with which condition keys of its own."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

import pytest

from proxy.ecr.routes import ROUTES
from support.aws_handler import ACCOUNT, OTHER_ACCOUNT, REGION, Answer, AwsHandler
from support.recording_access import RecordingAccess

ARN = f"arn:aws:ecr:{REGION}:{ACCOUNT}:repository/team/app"
BELOW = ARN.replace("app", "*")
BACKFILL = "6f0a8e1c-0000-4000-8000-000000000000"
THERE = ARN.replace(ACCOUNT, OTHER_ACCOUNT)
UPLOAD = "00000000-0000-4000-8000-00000000aaaa"
TAGS = [{"Key": "Team", "Value": "a"}, {"Key": "stage", "Value": ""}]
TAGGED = {"aws:requesttag/team": ("a",), "aws:requesttag/stage": ("",), "aws:tagkeys": ("Team", "stage")}

TABLE: Sequence[tuple[str, dict[str, Any], Sequence[tuple[str, str]], Mapping[str, Sequence[str]]]] = [
    ("GetAuthorizationToken", {}, [("GetAuthorizationToken", "*")], {}),
    ("CreateRepository", {"repositoryName": "team/app"}, [("CreateRepository", ARN)], {}),
    (
        "CreateRepository",
        {"repositoryName": "team/app", "tags": TAGS},
        [("CreateRepository", ARN), ("TagResource", ARN)],
        TAGGED,
    ),
    ("DescribeRepositories", {}, [("DescribeRepositories", ARN.replace("team/app", "*"))], {}),
    ("DescribeRepositories", {"registryId": OTHER_ACCOUNT}, [("DescribeRepositories", THERE[:-8] + "*")], {}),
    (
        "DescribeRepositories",
        {"repositoryNames": ["team/app", "b/c"]},
        [("DescribeRepositories", ARN), ("DescribeRepositories", ARN.replace("team/app", "b/c"))],
        {},
    ),
    *(
        (operation, {"registryId": OTHER_ACCOUNT, "repositoryName": "team/app", **more}, [(operation, THERE)], {})
        for operation, more in (
            ("DeleteRepository", {}),
            ("SetRepositoryPolicy", {"policyText": "{}", "force": True}),
            ("GetRepositoryPolicy", {}),
            ("DeleteRepositoryPolicy", {}),
            ("PutImageScanningConfiguration", {"imageScanningConfiguration": {}}),
            ("UpdateImageStorageClass", {"imageId": {"imageTag": "v1"}, "targetStorageClass": "ARCHIVE"}),
            ("PutImage", {"imageManifest": "{}"}),
            ("PutImageTagMutability", {"imageTagMutability": "MUTABLE"}),
            ("ListImages", {}),
            ("DescribeImages", {}),
            ("BatchGetImage", {"imageIds": [{"imageTag": "v1"}]}),
            ("BatchDeleteImage", {"imageIds": [{"imageTag": "v1"}]}),
            ("PutLifecyclePolicy", {"lifecyclePolicyText": " " * 100}),
            ("GetLifecyclePolicy", {}),
            ("DeleteLifecyclePolicy", {}),
            ("StartLifecyclePolicyPreview", {}),
            ("GetLifecyclePolicyPreview", {}),
            ("InitiateLayerUpload", {}),
            ("UploadLayerPart", {"uploadId": UPLOAD, "partFirstByte": 0, "partLastByte": 2, "layerPartBlob": "QUJD"}),
            ("CompleteLayerUpload", {"uploadId": UPLOAD, "layerDigests": [f"sha256:{64 * '0'}"]}),
            ("BatchCheckLayerAvailability", {"layerDigests": ["x"]}),
            ("GetDownloadUrlForLayer", {"layerDigest": "sha256:00"}),
        )
    ),
    (
        "ListImageReferrers",
        {"registryId": OTHER_ACCOUNT, "repositoryName": "team/app", "subjectId": {"imageDigest": "sha256:0"}},
        [("BatchGetImage", THERE)],
        {},
    ),
    ("TagResource", {"resourceArn": THERE, "tags": TAGS}, [("TagResource", THERE)], TAGGED),
    (
        "UntagResource",
        {"resourceArn": THERE, "tagKeys": ["Team"]},
        [("UntagResource", THERE)],
        {"aws:tagkeys": ("Team",)},
    ),
    ("ListTagsForResource", {"resourceArn": THERE}, [("ListTagsForResource", THERE)], {}),
    *(
        (operation, {}, [(operation, "*")], {})
        for operation in ("DescribeRegistry", "GetRegistryScanningConfiguration", "GetSigningConfiguration")
    ),
    *(
        (operation, parameters, [(operation, "*")], {})
        for operation, parameters in (
            ("StartReplicationBackfill", {"destination": {"region": "eu-west-1", "registryId": OTHER_ACCOUNT}}),
            ("StopReplicationBackfill", {"replicationBackfillId": BACKFILL}),
            ("ListReplicationBackfills", {}),
            ("DescribeReplicationBackfillResults", {"replicationBackfillId": BACKFILL}),
        )
    ),
    (
        "PutReplicationConfiguration",
        {"replicationConfiguration": {"rules": []}},
        [("PutReplicationConfiguration", "*")],
        {},
    ),
    (
        "DescribeImageReplicationStatus",
        {"registryId": OTHER_ACCOUNT, "repositoryName": "team/app", "imageId": {"imageTag": "v1"}},
        [("DescribeImageReplicationStatus", THERE)],
        {},
    ),
    ("PutRegistryPolicy", {"policyText": "{}"}, [("PutRegistryPolicy", "*")], {}),
    ("GetRegistryPolicy", {}, [("GetRegistryPolicy", "*")], {}),
    ("DeleteRegistryPolicy", {}, [("DeleteRegistryPolicy", "*")], {}),
    *(
        (
            operation,
            {"name": "BLOB_MOUNTING", **more},
            [(operation, "*")],
            {"ecr:accountsetting": ("BLOB_MOUNTING",)},
        )
        for operation, more in (("GetAccountSetting", {}), ("PutAccountSetting", {"value": "ENABLED"}))
    ),
    (
        "CreateRepositoryCreationTemplate",
        {"prefix": "team/", "appliedFor": ["CREATE_ON_PUSH"], "repositoryPolicy": "{}", "lifecyclePolicy": "{}"},
        [
            ("CreateRepositoryCreationTemplate", "*"),
            *((action, BELOW) for action in ("CreateRepository", "SetRepositoryPolicy", "PutLifecyclePolicy")),
        ],
        {},
    ),
    (
        "UpdateRepositoryCreationTemplate",
        {"prefix": "ROOT", "resourceTags": TAGS},
        [
            ("UpdateRepositoryCreationTemplate", "*"),
            *((action, ARN.replace("team/app", "*")) for action in ("CreateRepository", "TagResource")),
        ],
        TAGGED,
    ),
    ("DescribeRepositoryCreationTemplates", {}, [("DescribeRepositoryCreationTemplates", "*")], {}),
    ("DeleteRepositoryCreationTemplate", {"prefix": "team"}, [("DeleteRepositoryCreationTemplate", "*")], {}),
    *(
        (f"{verb}PullThroughCacheRule", {"ecrRepositoryPrefix": "quay"}, [(f"{verb}PullThroughCacheRule", "*")], {})
        for verb in ("Create", "Update", "Delete", "Validate")
    ),
    ("DescribePullThroughCacheRules", {}, [("DescribePullThroughCacheRules", "*")], {}),
    ("ListPullTimeUpdateExclusions", {}, [("ListPullTimeUpdateExclusions", "*")], {}),
    *(
        (operation, {"principalArn": f"arn:aws:iam::{ACCOUNT}:role/scanner"}, [(operation, "*")], {})
        for operation in ("RegisterPullTimeUpdateExclusion", "DeregisterPullTimeUpdateExclusion")
    ),
]


@pytest.fixture
def access() -> RecordingAccess:
    return RecordingAccess()


@pytest.fixture
async def door(access: RecordingAccess) -> AsyncIterator[AwsHandler]:
    door = AwsHandler(access=access)
    await door.begin()
    yield door
    await door.finish()


async def ask(door: AwsHandler, operation: str, parameters: Mapping[str, Any]) -> Answer:
    body = json.dumps(parameters).encode()
    return await door.send(door.signed(operation, body), body)


def test_the_table_knows_every_operation() -> None:
    assert {operation for operation, *_ in TABLE} == set(ROUTES)


@pytest.mark.parametrize(("operation", "parameters", "needs", "keys"), TABLE)
async def test_an_operation_asks_for_just_these_actions(
    door: AwsHandler,
    access: RecordingAccess,
    operation: str,
    parameters: dict[str, Any],
    needs: Sequence[tuple[str, str]],
    keys: Mapping[str, Sequence[str]],
) -> None:
    door.metadata.repositories.setdefault("b/c", {"repositoryName": "b/c"})
    await ask(door, operation, parameters)
    assert access.asked == [(f"ecr:{action}", resource) for action, resource in needs]
    assert all(each == keys for each in access.keys)
    account = OTHER_ACCOUNT if OTHER_ACCOUNT in needs[0][1] else ACCOUNT
    assert door.metadata.accounts == ([] if operation == "GetAuthorizationToken" else [account])


async def test_who_may_not_tag_makes_no_repository_with_tags(door: AwsHandler, access: RecordingAccess) -> None:
    access.denied = {"ecr:TagResource"}
    answer = await ask(door, "CreateRepository", {"repositoryName": "team/app", "tags": TAGS})
    assert answer.error()[0] == "AccessDeniedException"
    assert (await ask(door, "CreateRepository", {"repositoryName": "team/app"})).status == 200


@pytest.mark.parametrize(
    "arn",
    [
        None,
        7,
        "",
        "*",
        ARN.replace("team/app", "*"),
        ARN.replace("team/app", ""),
        ARN.replace("repository/", "x/"),
        ARN.replace(REGION, "eu-west-1"),
        ARN.replace("aws", "aws-cn", 1),
        ARN + " ",
    ],
)
async def test_an_arn_that_names_no_repository_of_this_region_is_invalid(
    door: AwsHandler, access: RecordingAccess, arn: object
) -> None:
    answer = await ask(door, "ListTagsForResource", {"resourceArn": arn})
    assert answer.error()[0] == "InvalidParameterException"
    assert "'resourceArn'" in answer.error()[1]
    assert access.asked == []


@pytest.mark.parametrize("tags", ["x", 7, [7], [{}], [{"Key": 7, "Value": "x"}], {"Key": "a"}])
async def test_tags_that_have_no_tags_form_are_left_to_the_model(
    door: AwsHandler, access: RecordingAccess, tags: object
) -> None:
    await ask(door, "TagResource", {"resourceArn": ARN, "tags": tags})
    assert access.keys == [{}]
    assert door.metadata.calls == [("TagResource", {"resourceArn": ARN, "tags": tags})]


async def test_facts_are_those_of_the_connection(door: AwsHandler, access: RecordingAccess) -> None:
    lines = [*door.signed(), ("X-Forwarded-For", "198.51.100.1"), ("User-Agent", "aws-cli/2")]
    await door.send(lines)
    info = access.info[-1]
    assert (info.source_ip, info.secure, info.user_agent, info.region) == ("127.0.0.1", False, "aws-cli/2", REGION)
    assert abs(info.now - door.clock()) < 60


# ---- lock-out -----------------------------------------------------------------------------------------------------


def denying(**more: Any) -> str:
    statement = {"Effect": "Deny", "Principal": "*", "Action": "ecr:SetRepositoryPolicy", **more}
    return json.dumps({"Version": "2012-10-17", "Statement": [statement]})


@pytest.fixture
async def real() -> AsyncIterator[AwsHandler]:
    found = AwsHandler()
    await found.begin()
    found.metadata.repositories["team/app"] = {"repositoryName": "team/app"}
    yield found
    await found.finish()


async def test_a_policy_that_would_lock_its_author_out_needs_force(real: AwsHandler) -> None:
    asking = {"repositoryName": "team/app", "policyText": denying()}
    answer = await ask(real, "SetRepositoryPolicy", asking)
    assert answer.error()[0] == "InvalidParameterException"
    assert "use force" in answer.error()[1]
    assert real.metadata.calls == []
    assert (await ask(real, "SetRepositoryPolicy", {**asking, "force": False})).status == 400
    assert (await ask(real, "SetRepositoryPolicy", {**asking, "force": True})).status == 200


async def test_a_policy_that_locks_out_somebody_else_or_something_else_is_set(real: AwsHandler) -> None:
    for text in (
        denying(Action="ecr:PutImage"),
        denying(Principal={"AWS": OTHER_ACCOUNT}),
        denying(Condition={"StringEquals": {"aws:username": "somebody"}}),
    ):
        answer = await ask(real, "SetRepositoryPolicy", {"repositoryName": "team/app", "policyText": text})
        assert answer.status == 200, answer.body


@pytest.mark.parametrize("text", [None, 7, [], {}])
async def test_a_policy_that_is_no_text_is_left_to_the_model(real: AwsHandler, text: object) -> None:
    asking = {"repositoryName": "team/app", "policyText": text}
    await ask(real, "SetRepositoryPolicy", asking)
    assert real.metadata.calls == [("SetRepositoryPolicy", asking)]
