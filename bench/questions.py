"""What `registry_size` asks: every operation of the ECR door by name, and what docker asks at its own.

Reads come before writes, so that lists are as they were filled; what a write makes, a later one deletes.
"""

from __future__ import annotations

import base64
import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from fill import ACCOUNT, DEEP, KIND, TAGGED, Size, config_of, manifest_of, name_of, tag_of
from load import expect, push_blob
from walks import REGION, WORKING_SET, Case, Side

PAGE = 50
POLICY = json.dumps({"Statement": {"Effect": "Allow", "Principal": "*", "Action": "ecr:BatchGetImage"}})
_KEEPS_ALL = {"tagStatus": "any", "countType": "imageCountMoreThan", "countNumber": 10**8}
LIFECYCLE = json.dumps({"rules": [{"rulePriority": 1, "selection": _KEEPS_ALL, "action": {"type": "expire"}}]})
BACKFILL = "6f0a8e1c-0000-4000-8000-000000000000"
REGISTRY_POLICY = json.dumps(
    {
        "Statement": {
            "Effect": "Allow",
            "Principal": {"AWS": f"arn:aws:iam::{ACCOUNT}:root"},
            "Action": "ecr:CreateRepository",
            "Resource": f"arn:aws:ecr:{REGION}:{ACCOUNT}:repository/*",
        }
    }
)


def reads() -> Iterator[Case]:
    yield from _pages("DescribeRepositories", lambda size: size.repositories + 2)
    yield _one("DescribeRepositories", "by name", lambda side: {"repositoryNames": [side.some() for _ in range(PAGE)]})
    for status, share in (("ANY", 1), ("TAGGED", 2), ("UNTAGGED", 2)):
        asked = {"repositoryName": DEEP, "filter": {"tagStatus": status}}
        for operation in ("DescribeImages", "ListImages"):
            yield from _pages(operation, _part(share), asked, status)
    yield _one("DescribeImages", "by tag", lambda side: {"repositoryName": DEEP, "imageIds": _tags(side)})
    yield _one("DescribeImages", "an image of 1,000 tags", lambda side: {"repositoryName": TAGGED})
    yield _one("DescribeImages", "of ten", lambda side: {"repositoryName": side.some()})
    yield _one("ListImages", "of ten", lambda side: {"repositoryName": side.some()})
    yield _one("BatchGetImage", "by tag", lambda side: {"repositoryName": DEEP, "imageIds": _tags(side)})
    yield _one(
        "BatchCheckLayerAvailability",
        "of many",
        lambda side: {"repositoryName": DEEP, "layerDigests": [config_of(DEEP, _number(side)) for _ in range(PAGE)]},
    )
    yield _one(
        "GetDownloadUrlForLayer",
        "",
        lambda side: {"repositoryName": DEEP, "layerDigest": config_of(DEEP, _number(side))},
    )
    yield _one(
        "ListImageReferrers", "", lambda side: {"repositoryName": DEEP, "subjectId": {"imageDigest": _digest_of(side)}}
    )
    yield _one(
        "DescribeImageReplicationStatus",
        "",
        lambda side: {"repositoryName": DEEP, "imageId": {"imageDigest": _digest_of(side)}},
    )
    yield _one("DescribeRepositoryCreationTemplates", "", lambda side: {})
    yield _one("ListPullTimeUpdateExclusions", "", lambda side: {})
    yield _one("ListTagsForResource", "", lambda side: {"resourceArn": _arn(side.some())})
    for operation, error in _OF_THE_REGISTRY.items():
        yield _one(operation, "", lambda side: {}, error)
    yield _one("DescribePullThroughCacheRules", "", lambda side: {})
    yield _one("ListReplicationBackfills", "", lambda side: {})
    for operation in ("StopReplicationBackfill", "DescribeReplicationBackfillResults"):
        yield _one(
            operation, "", lambda side: {"replicationBackfillId": BACKFILL}, "ReplicationBackfillNotFoundException"
        )
    for operation in ("GetLifecyclePolicy", "DeleteLifecyclePolicy", "StartLifecyclePolicyPreview"):
        yield _one(operation, "", lambda side: {"repositoryName": DEEP}, "LifecyclePolicyNotFoundException")
    yield _one(
        "GetLifecyclePolicyPreview",
        "",
        lambda side: {"repositoryName": DEEP},
        "LifecyclePolicyPreviewNotFoundException",
    )
    rule, named = {"ecrRepositoryPrefix": "no-rule"}, f"arn:aws:secretsmanager:{REGION}:{ACCOUNT}:secret"
    for operation in ("ValidatePullThroughCacheRule", "DeletePullThroughCacheRule"):
        yield _one(operation, "", lambda side: rule, "PullThroughCacheRuleNotFoundException")
    changed = {**rule, "credentialArn": f"{named}:ecr-pullthroughcache/none-AbCdEf"}
    yield _one("UpdatePullThroughCacheRule", "", lambda side: changed, "PullThroughCacheRuleNotFoundException")
    hub = {**rule, "upstreamRegistryUrl": "registry-1.docker.io"}
    yield _one("CreatePullThroughCacheRule", "", lambda side: hub, "UnsupportedUpstreamRegistryException")
    kept = {"repositoryName": TAGGED, "lifecyclePolicyText": LIFECYCLE}
    yield _one("PutLifecyclePolicy", "", lambda side: kept)
    yield _one("GetAccountSetting", "", lambda side: {"name": "BLOB_MOUNTING"})
    yield _one(
        "GetRepositoryPolicy", "", lambda side: {"repositoryName": side.some()}, "RepositoryPolicyNotFoundException"
    )
    restore = {"repositoryName": DEEP, "imageId": {"imageTag": tag_of(0)}, "targetStorageClass": "STANDARD"}
    yield _one("UpdateImageStorageClass", "", lambda side: restore, "ImageStorageClassUpdateNotSupportedException")
    yield Case("GET manifest", "of ten", _manifest_of_ten)
    yield Case("GET manifest", "of many", lambda side, n: side.get(f"/v2/{DEEP}/manifests/{_tag(side)}"))
    yield Case("GET tags/list", "middle", lambda side, n: side.get(f"/v2/{DEEP}/tags/list?n={PAGE}&last={_tag(side)}"))
    yield Case("GET _catalog", "middle", lambda side, n: side.get(f"/v2/_catalog?n={PAGE}&last={name_of(9)}"))


def writes() -> Iterator[Case]:
    def named(**more: Any) -> Callable[[Side], dict[str, Any]]:
        return lambda side: {"repositoryName": side.some(), **more}

    def made(operation: str, **more: Any) -> Case:
        return Case(operation, "", lambda side, n: side.call(operation, {"repositoryName": f"made/{n}", **more})[0])

    tagged = lambda side: {"resourceArn": _arn(side.some()), "tags": [{"Key": "team", "Value": "blue"}]}  # noqa: E731
    yield made("CreateRepository")
    yield made("SetRepositoryPolicy", policyText=POLICY)
    yield made("GetRepositoryPolicy")
    yield made("DeleteRepositoryPolicy")
    yield _one("PutImageScanningConfiguration", "", named(imageScanningConfiguration={"scanOnPush": True}))
    yield _one("PutImageTagMutability", "", named(imageTagMutability="MUTABLE"))
    yield _one("TagResource", "", tagged)
    yield _one("UntagResource", "", lambda side: {"resourceArn": _arn(side.some()), "tagKeys": ["team"]})
    near = {"destination": {"region": REGION, "registryId": "999988887777"}}
    yield _one("StartReplicationBackfill", "", lambda side: near, "InvalidParameterException")
    yield _one("PutReplicationConfiguration", "", lambda side: {"replicationConfiguration": {"rules": []}})
    yield _one("PutRegistryPolicy", "", lambda side: {"policyText": REGISTRY_POLICY})
    yield _one("GetRegistryPolicy", "", lambda side: {})
    yield Case("DeleteRegistryPolicy", "", _without_registry_policy)
    yield _one("PutAccountSetting", "", lambda side: {"name": "BLOB_MOUNTING", "value": "ENABLED"})
    yield Case("InitiateLayerUpload", "", _begin_layer)
    yield Case("UploadLayerPart", "", _add_part)
    yield Case("CompleteLayerUpload", "", _complete_layer)
    yield Case("PutImage", "of many", _put_image)
    yield Case("push", "new", lambda side, n: _push(side, f"made/{n}", n))
    yield Case("push", "of ten", lambda side, n: _push(side, side.some(), n))
    yield Case("push", "of many", lambda side, n: _push(side, DEEP, n))
    yield Case("pull", "new", lambda side, n: _pull(side, f"made/{n}", n))
    yield Case("pull", "of many", lambda side, n: _pull(side, DEEP, n))
    yield Case("BatchDeleteImage", "of many", _delete)
    yield made("DeleteRepository", force=True)
    for operation, more in _OF_A_TEMPLATE.items():
        yield Case(operation, "", _numbered(operation, lambda n: {"prefix": f"made-{n}"}, more))
    for operation in ("RegisterPullTimeUpdateExclusion", "DeregisterPullTimeUpdateExclusion"):
        yield Case(operation, "", _numbered(operation, lambda n: {"principalArn": _user(n)}, {}))


_OF_THE_REGISTRY = {
    "DescribeRegistry": "",
    "GetAuthorizationToken": "",
    "GetRegistryScanningConfiguration": "",
    "GetSigningConfiguration": "SigningConfigurationNotFoundException",
    "GetRegistryPolicy": "RegistryPolicyNotFoundException",
}


_OF_A_TEMPLATE: Mapping[str, Mapping[str, Any]] = {
    "CreateRepositoryCreationTemplate": {"appliedFor": ["CREATE_ON_PUSH"]},
    "UpdateRepositoryCreationTemplate": {"imageTagMutability": "IMMUTABLE"},
    "DeleteRepositoryCreationTemplate": {},
}


def _numbered(
    operation: str, parameters: Callable[[int], Mapping[str, Any]], more: Mapping[str, Any]
) -> Callable[[Side, int], float]:
    return lambda side, n: side.call(operation, {**parameters(n), **more})[0]


def _user(number: int) -> str:
    return f"arn:aws:iam::{ACCOUNT}:user/user-{number}"


def _one(operation: str, page: str, parameters: Callable[[Side], Mapping[str, Any]], error: str = "") -> Case:
    return Case(operation, page, lambda side, n: side.call(operation, parameters(side), error=error)[0])


def _pages(
    operation: str, entries: Callable[[Size], int], asked: Mapping[str, Any] | None = None, what: str = ""
) -> Iterator[Case]:
    """The first, the middle and the last `PAGE` entries of a list of that many."""

    def page(place: str) -> Case:
        def ask(side: Side, number: int) -> float:
            key = f"{operation} {what} {place}"
            more: dict[str, Any] = {"maxResults": PAGE, **(asked or {})}
            if place != "first":
                if key not in side.marks:
                    last = entries(side.size) - PAGE
                    side.marks[key] = _token(side, operation, asked or {}, last // 2 if place == "middle" else last)
                more["nextToken"] = side.marks[key]
            seconds, answer = side.call(operation, more)
            if ("nextToken" in answer) != (place != "last"):
                raise RuntimeError(f"{key}: {answer.get('nextToken')}")
            return seconds

        return Case(operation, f"{what} {place}".strip(), ask)

    return map(page, ("first", "middle", "last"))


def _part(share: int) -> Callable[[Size], int]:
    return lambda size: size.deep // share


def _token(side: Side, operation: str, asked: Mapping[str, Any], position: int) -> str:
    """Where the list goes on after so many entries."""
    token: dict[str, str] = {}
    while position:
        step = min(position, 1000)
        _, answer = side.call(operation, {"maxResults": step, **asked, **token})
        token = {"nextToken": answer["nextToken"]}
        position -= step
    return token["nextToken"]


def _manifest_of_ten(side: Side, number: int) -> float:
    """Of 2,000 of them, so that most answers are the database's, and not what the worker keeps."""
    return side.get(f"/v2/{side.some()}/manifests/{tag_of(number % side.size.each)}")


def _tag(side: Side) -> str:
    """With a page of them behind it."""
    return tag_of(side.random.randrange(WORKING_SET // 4) * 2 * (side.size.deep // WORKING_SET))


def _number(side: Side) -> int:
    return side.random.randrange(WORKING_SET) * (side.size.deep // WORKING_SET)


def _digest_of(side: Side) -> str:
    return _digest(manifest_of(DEEP, _number(side)))


def _tags(side: Side) -> list[dict[str, str]]:
    first = side.random.randrange(2) * (side.size.deep // 2)
    return [{"imageTag": tag_of(first + each * 2)} for each in range(PAGE)]


def _arn(name: str) -> str:
    return f"arn:aws:ecr:{REGION}:{ACCOUNT}:repository/{name}"


def _without_registry_policy(side: Side, number: int) -> float:
    side.call("PutRegistryPolicy", {"policyText": REGISTRY_POLICY})
    return side.call("DeleteRegistryPolicy", {})[0]


def _begin_layer(side: Side, number: int) -> float:
    seconds, answer = side.call("InitiateLayerUpload", {"repositoryName": DEEP})
    side.marks[f"upload {number}"] = answer["uploadId"]
    return seconds


def _add_part(side: Side, number: int) -> float:
    part = f"part {number}".encode()
    asked = {"partFirstByte": 0, "partLastByte": len(part) - 1, "layerPartBlob": base64.b64encode(part).decode()}
    return side.call("UploadLayerPart", {**_upload(side, number), **asked})[0]


def _complete_layer(side: Side, number: int) -> float:
    asked = {"layerDigests": [_digest(f"part {number}".encode())]}
    return side.call("CompleteLayerUpload", {**_upload(side, number), **asked})[0]


def _upload(side: Side, number: int) -> dict[str, Any]:
    return {"repositoryName": DEEP, "uploadId": side.marks[f"upload {number}"]}


def _put_image(side: Side, number: int) -> float:
    """Over layers that are there."""
    content = manifest_of(DEEP, number % side.size.deep, annotations={"number": str(number)}).decode()
    return side.call("PutImage", {"repositoryName": DEEP, "imageManifest": content, "imageTag": f"q{number}"})[0]


def _image(repository: str, number: int) -> tuple[bytes, bytes, str]:
    """(config, layer, their manifest) that nobody has."""
    config, layer = (f"{kind} {number} pushed to {repository}".encode() for kind in ("config", "layer"))
    described = [
        {"mediaType": f"application/vnd.oci.image.{kind}", "digest": _digest(content), "size": len(content)}
        for kind, content in (("config.v1+json", config), ("layer.v1.tar", layer))
    ]
    document = {"schemaVersion": 2, "mediaType": KIND, "config": described[0], "layers": described[1:]}
    return config, layer, json.dumps(document)


def _push(side: Side, repository: str, number: int) -> float:
    config, layer, document = _image(repository, number)
    began = time.perf_counter()
    for content in (layer, config):
        push_blob(side.docker, repository, memoryview(content), _digest(content))
    path, more = f"/v2/{repository}/manifests/p{number}", f"Content-Type: {KIND}\r\n"
    expect(side.docker.ask("PUT", path, document.encode(), more), 201)
    return time.perf_counter() - began


def _pull(side: Side, repository: str, number: int) -> float:
    config, layer, _ = _image(repository, number)
    return side.get(f"/v2/{repository}/manifests/p{number}") + sum(
        side.get(f"/v2/{repository}/blobs/{_digest(content)}") for content in (config, layer)
    )


def _delete(side: Side, number: int) -> float:
    """What was pushed through both doors."""
    asked = {"repositoryName": DEEP, "imageIds": [{"imageTag": f"{kind}{number}"} for kind in "pq"]}
    seconds, answer = side.call("BatchDeleteImage", asked)
    if answer["failures"]:
        raise RuntimeError(str(answer))
    return seconds


def _digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"
