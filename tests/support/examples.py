"""One call of every operation that the three APIs serve, which succeeds once `settle` has made what it is about.

Each says which actions it needs, so that a test can give a caller just these, or all but one; and what is made for it
before, so that it can be done once, in any order. `ECR` and `STS` are here, `examples_iam.IAM` beside; `settle` makes
the world they are calls of: team/app with an image and two uploads, and the people, policies and provider of
`examples_iam.MADE`. Must not know how a request travels.
"""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

ACCOUNT, REGION = "123456789012", "us-east-1"
REPOSITORY = "team/app"
TAGS = ({"Key": "Team", "Value": "a"}, {"Key": "stage", "Value": "b c"})
PART, PART_UPLOAD = b"all of a layer", "00000000-0000-4000-8000-00000000aaaa"  # and a session that no part came to
FULL_UPLOAD = "00000000-0000-4000-8000-00000000bbbb"  # whose one part was this one
KEY, SPARE_KEY = "AKIASPECIMENS0000001", "AKIASPECIMENS0000002"  # ann's and two's

Call = tuple[str, str, Mapping[str, Any]]
"""Service, operation, parameters."""


@dataclass(frozen=True, slots=True)
class Example:
    """A call. `also` are actions that it needs besides its own; `free`: it needs none at all. `error` is the answer
    where there can be no better one. `before` is made for it alone, by an administrator. `action` is its own, where ECR
    gave it no name of its own."""

    service: str
    operation: str
    parameters: Mapping[str, Any]
    also: Sequence[str] = ()
    before: Sequence[Call] = ()
    error: str = ""
    free: bool = False
    action: str = ""

    @property
    def actions(self) -> Sequence[str]:
        return () if self.free else (f"{self.service}:{self.action or self.operation}", *self.also)


def document(*statements: Mapping[str, Any]) -> str:
    return json.dumps({"Version": "2012-10-17", "Statement": list(statements)})


def allow(action: Any, **more: Any) -> dict[str, Any]:
    return {"Effect": "Allow", "Action": action, **more}


def repository(name: str) -> str:
    return f"arn:aws:ecr:{REGION}:{ACCOUNT}:repository/{name}"


SHARED = document(allow("ecr:ListImages", Principal={"AWS": f"arn:aws:iam::{ACCOUNT}:user/two"}))
"""A repository's policy that lets two in, and no one else."""

REGISTRY = document(
    allow(["ecr:CreateRepository"], Principal={"AWS": f"arn:aws:iam::{ACCOUNT}:user/two"}, Resource=repository("*"))
)


def _ecr(operation: str, also: Sequence[str] = (), before: Sequence[Call] = (), **parameters: Any) -> Example:
    return Example("ecr", operation, parameters, also, before)


def _made(name: str, policy: str = "") -> Sequence[Call]:
    calls: list[Call] = [("ecr", "CreateRepository", {"repositoryName": name, "tags": list(TAGS)})]
    if policy:
        calls.append(("ecr", "SetRepositoryPolicy", {"repositoryName": name, "policyText": policy}))
    return calls


def _rule(prefix: str) -> Sequence[Call]:
    asked = {"ecrRepositoryPrefix": prefix, "upstreamRegistry": "quay", "upstreamRegistryUrl": "quay.io"}
    return [("ecr", "CreatePullThroughCacheRule", asked)]


NEAR: Mapping[str, Any] = {"destinations": [{"region": "us-east-1", "registryId": "999988887777"}]}
BACKFILL: Mapping[str, Any] = {"replicationBackfillId": "6f0a8e1c-0000-4000-8000-000000000000"}
_TEMPLATE: Mapping[str, Any] = {
    "description": "what teams get",
    "appliedFor": ["CREATE_ON_PUSH", "REPLICATION"],
    "imageTagMutability": "IMMUTABLE_WITH_EXCLUSION",
    "imageTagMutabilityExclusionFilters": [{"filterType": "WILDCARD", "filter": "dev*"}],
    "encryptionConfiguration": {"encryptionType": "AES256"},
    "repositoryPolicy": SHARED,
    "lifecyclePolicy": '{"rules": []}',
    "resourceTags": list(TAGS),
    "customRoleArn": f"arn:aws:iam::{ACCOUNT}:role/ann-role",
}


def _template(prefix: str) -> Sequence[Call]:
    return [("ecr", "CreateRepositoryCreationTemplate", {"prefix": prefix, **_TEMPLATE})]


LIFECYCLE = json.dumps(
    {
        "rules": [
            {
                "rulePriority": 1,
                "selection": {
                    "tagStatus": "untagged",
                    "countType": "sinceImagePushed",
                    "countUnit": "days",
                    "countNumber": 14,
                },
                "action": {"type": "expire"},
            }
        ]
    }
)


def _aging(name: str, preview: bool = False) -> Sequence[Call]:
    """A repository with a lifecycle policy, and perhaps a preview of it."""
    policy = {"repositoryName": name, "lifecyclePolicyText": LIFECYCLE}
    calls = [*_made(name), ("ecr", "PutLifecyclePolicy", policy)]
    return [*calls, ("ecr", "StartLifecyclePolicyPreview", {"repositoryName": name})] if preview else calls


def _excluded(name: str) -> str:
    return f"arn:aws:iam::{ACCOUNT}:role/scanners/{name}"


_APP: dict[str, Any] = {"repositoryName": REPOSITORY}
_PAGE: dict[str, Any] = {"maxResults": 1}

EMPTY_INDEX: dict[str, Any] = {
    "schemaVersion": 2,
    "mediaType": "application/vnd.oci.image.index.v1+json",
    "manifests": [],
}
SUBJECT = {"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": f"sha256:{'5' * 64}", "size": 5}
REFERRER = {**EMPTY_INDEX, "subject": SUBJECT, "artifactType": "a/b", "annotations": {"by": "ann"}}
EXCLUDING: dict[str, Any] = {
    "imageTagMutability": "IMMUTABLE_WITH_EXCLUSION",
    "imageTagMutabilityExclusionFilters": [{"filterType": "WILDCARD", "filter": "dev-*"}],
}

ECR: Sequence[Example] = (
    _ecr("GetAuthorizationToken"),
    _ecr("CreateRepository", ("ecr:TagResource",), repositoryName="new/app", tags=list(TAGS)),
    _ecr("DescribeRepositories", before=_made("described"), **_PAGE),
    _ecr("DescribeRepositories", repositoryNames=[REPOSITORY]),
    _ecr("DeleteRepository", before=_made("gone/app"), repositoryName="gone/app"),
    _ecr("SetRepositoryPolicy", before=_made("set/app"), repositoryName="set/app", policyText=SHARED, force=True),
    _ecr("GetRepositoryPolicy", **_APP),
    _ecr("DeleteRepositoryPolicy", before=_made("open/app", SHARED), repositoryName="open/app"),
    _ecr("TagResource", before=_made("tagged"), resourceArn=repository("tagged"), tags=[{"Key": "x", "Value": "y"}]),
    _ecr("UntagResource", before=_made("bare"), resourceArn=repository("bare"), tagKeys=["stage"]),
    _ecr("ListTagsForResource", resourceArn=repository(REPOSITORY)),
    _ecr(
        "PutImage",
        before=_made("put/app"),
        repositoryName="put/app",
        imageManifest=json.dumps(EMPTY_INDEX),
        imageTag="v1",
    ),
    _ecr("PutImageTagMutability", before=_made("mode/app"), repositoryName="mode/app", **EXCLUDING),
    Example(
        "ecr",
        "ListImageReferrers",
        {"repositoryName": "referred/app", "subjectId": {"imageDigest": SUBJECT["digest"]}},
        before=[
            *_made("referred/app"),
            ("ecr", "PutImage", {"repositoryName": "referred/app", "imageManifest": json.dumps(REFERRER)}),
        ],
        action="BatchGetImage",
    ),
    _ecr("ListImages", **_APP, **_PAGE),
    _ecr("DescribeImages", **_APP, **_PAGE),
    _ecr("BatchGetImage", imageIds=[{"imageTag": "v1"}, {"imageTag": "none"}], **_APP),
    _ecr("BatchDeleteImage", imageIds=[{"imageTag": "v2"}, {"imageTag": "none"}], **_APP),
    _ecr("PutImageScanningConfiguration", imageScanningConfiguration={"scanOnPush": True}, **_APP),
    _ecr(
        "UpdateImageStorageClass",
        before=[
            *_made("cold/app"),
            (
                "ecr",
                "PutImage",
                {"repositoryName": "cold/app", "imageManifest": json.dumps(EMPTY_INDEX), "imageTag": "v1"},
            ),
        ],
        repositoryName="cold/app",
        imageId={"imageTag": "v1"},
        targetStorageClass="ARCHIVE",
    ),
    _ecr("PutLifecyclePolicy", before=_made("aged/app"), repositoryName="aged/app", lifecyclePolicyText=LIFECYCLE),
    _ecr("GetLifecyclePolicy", before=_aging("aging/app"), repositoryName="aging/app"),
    _ecr("DeleteLifecyclePolicy", before=_aging("ageless/app"), repositoryName="ageless/app"),
    _ecr("StartLifecyclePolicyPreview", before=_aging("begun/app"), repositoryName="begun/app"),
    _ecr("GetLifecyclePolicyPreview", before=_aging("seen/app", True), repositoryName="seen/app", **_PAGE),
    _ecr("DescribeRegistry"),
    _ecr("PutReplicationConfiguration", replicationConfiguration={"rules": []}),
    _ecr(
        "DescribeImageReplicationStatus",
        before=[
            *_made("far/app"),
            (
                "ecr",
                "PutImage",
                {"repositoryName": "far/app", "imageManifest": json.dumps(EMPTY_INDEX), "imageTag": "v1"},
            ),
        ],
        repositoryName="far/app",
        imageId={"imageTag": "v1"},
    ),
    _ecr(
        "StartReplicationBackfill",
        before=[("ecr", "PutReplicationConfiguration", {"replicationConfiguration": {"rules": [NEAR]}})],
        destination=NEAR["destinations"][0],
    ),
    Example("ecr", "StopReplicationBackfill", BACKFILL, error="ReplicationBackfillNotFoundException"),
    Example("ecr", "DescribeReplicationBackfillResults", BACKFILL, error="ReplicationBackfillNotFoundException"),
    _ecr("ListReplicationBackfills", maxResults=50),
    _ecr("GetRegistryScanningConfiguration"),
    Example("ecr", "GetSigningConfiguration", {}, error="SigningConfigurationNotFoundException"),
    _ecr("InitiateLayerUpload", **_APP),
    _ecr(
        "UploadLayerPart",
        **_APP,
        uploadId=PART_UPLOAD,
        partFirstByte=0,
        partLastByte=len(PART) - 1,
        layerPartBlob=b64encode(PART).decode(),
    ),
    _ecr("CompleteLayerUpload", **_APP, uploadId=FULL_UPLOAD, layerDigests=[f"sha256:{sha256(PART).hexdigest()}"]),
    _ecr("GetDownloadUrlForLayer", **_APP, layerDigest=f"sha256:{sha256(b'v1').hexdigest()}"),
    _ecr("BatchCheckLayerAvailability", **_APP, layerDigests=[f"sha256:{sha256(b'v1').hexdigest()}", "sha256:00", ""]),
    _ecr("PutRegistryPolicy", policyText=REGISTRY),
    _ecr("GetRegistryPolicy", before=[("ecr", "PutRegistryPolicy", {"policyText": REGISTRY})]),
    _ecr("DeleteRegistryPolicy", before=[("ecr", "PutRegistryPolicy", {"policyText": REGISTRY})]),
    _ecr("PutAccountSetting", name="BLOB_MOUNTING", value="ENABLED"),
    _ecr("GetAccountSetting", name="REGISTRY_POLICY_SCOPE"),
    _ecr(
        "CreateRepositoryCreationTemplate",
        ("ecr:CreateRepository", "ecr:SetRepositoryPolicy", "ecr:PutLifecyclePolicy", "ecr:TagResource"),
        prefix="made",
        **_TEMPLATE,
    ),
    _ecr("DescribeRepositoryCreationTemplates", before=_template("described"), **_PAGE),
    _ecr("DescribeRepositoryCreationTemplates", before=_template("named"), prefixes=["named"]),
    _ecr(
        "UpdateRepositoryCreationTemplate",
        ("ecr:CreateRepository",),
        _template("updated"),
        prefix="updated",
        imageTagMutability="MUTABLE",
    ),
    _ecr("DeleteRepositoryCreationTemplate", before=_template("gone"), prefix="gone"),
    _ecr("CreatePullThroughCacheRule", ecrRepositoryPrefix="made", upstreamRegistryUrl="quay.io"),
    _ecr("DescribePullThroughCacheRules", before=_rule("described"), **_PAGE),
    _ecr("DescribePullThroughCacheRules", before=_rule("named"), ecrRepositoryPrefixes=["named"]),
    _ecr("UpdatePullThroughCacheRule", before=_rule("updated"), ecrRepositoryPrefix="updated"),
    _ecr("DeletePullThroughCacheRule", before=_rule("gone"), ecrRepositoryPrefix="gone"),
    _ecr("ValidatePullThroughCacheRule", before=_rule("asked"), ecrRepositoryPrefix="asked"),
    _ecr("RegisterPullTimeUpdateExclusion", principalArn=_excluded("new")),
    _ecr(
        "DeregisterPullTimeUpdateExclusion",
        before=[("ecr", "RegisterPullTimeUpdateExclusion", {"principalArn": _excluded("gone")})],
        principalArn=_excluded("gone"),
    ),
    _ecr(
        "ListPullTimeUpdateExclusions",
        before=[("ecr", "RegisterPullTimeUpdateExclusion", {"principalArn": _excluded(name)}) for name in "ab"],
        **_PAGE,
    ),
)

ROLE = f"arn:aws:iam::{ACCOUNT}:role/ann-role"
NARROWED = document(allow("ecr:Get*", Resource="*"))

STS: Sequence[Example] = (
    Example("sts", "GetCallerIdentity", {}, free=True),
    Example("sts", "GetSessionToken", {"DurationSeconds": 900}, free=True),
    Example("sts", "GetAccessKeyInfo", {"AccessKeyId": KEY}),
    Example(
        "sts",
        "AssumeRole",
        {
            "RoleArn": ROLE,
            "RoleSessionName": "build",
            "Policy": NARROWED,
            "Tags": [{"Key": "job", "Value": "7"}],
            "SourceIdentity": "ann",
        },
        ("sts:TagSession", "sts:SetSourceIdentity"),
    ),
    # Whoever asks has signed nothing: that no issuer vouches for the token is all that can be said.
    Example(
        "sts",
        "AssumeRoleWithWebIdentity",
        {"RoleArn": ROLE, "RoleSessionName": "build", "WebIdentityToken": "not.a.token"},
        error="InvalidIdentityToken",
        free=True,
    ),
)


async def settle(metadata: Any, made: Sequence[Call]) -> None:
    """Make `made` in the rows, without asking anybody."""
    for service, operation, parameters in made:
        ask = metadata.iam if service == "iam" else metadata.call
        await ask(ACCOUNT, operation, parameters)
