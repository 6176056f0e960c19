"""ECR's own texts of parameters that it refuses and of what a batch leaves out, word for word."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from proxy.awsmodel import models
from support.examples import ACCOUNT, EMPTY_INDEX, FULL_UPLOAD, REPOSITORY
from support.oci_requests import OCI_IMAGE, digest_of, image
from support.registry_client import RegistryClient, registry_client

NAME = models.shape("ecr", "RepositoryName")["pattern"]
DIGEST = "[a-zA-Z0-9-_+.]+:[a-fA-F0-9]+"
APP: Mapping[str, Any] = {"repositoryName": REPOSITORY}

REFUSED: list[tuple[str, Mapping[str, Any], str, str]] = [
    ("DescribeRepositories", {"maxResults": 1001}, "maxResults", "Member must have value less than or equal to 1000"),
    ("ListTagsForResource", {"resourceArn": "arn:aws:ecr:here"}, "resourceArn", "Invalid ARN"),
    ("GetRepositoryPolicy", {"repositoryName": "Upper"}, "repositoryName", f"must satisfy regular expression '{NAME}'"),
    (
        "PutImage",
        {**APP, "imageManifest": json.dumps({"schemaVersion": 2})},
        "ImageManifest",
        "image manifest mediatype not provided in manifest or parameter",
    ),
    (
        "CompleteLayerUpload",
        {**APP, "uploadId": FULL_UPLOAD, "layerDigests": ["md5:00"]},
        "layerDigests",
        "digest algorithm 'md5' is not supported",
    ),
    ("SetRepositoryPolicy", {**APP, "policyText": "{}"}, "PolicyText", "Invalid repository policy provided"),
    ("PutRegistryPolicy", {"policyText": "{}"}, "PolicyText", "Invalid registry policy provided"),
]


@pytest.fixture
async def doors(tmp_path: Path) -> AsyncIterator[RegistryClient]:
    async with registry_client(tmp_path) as found:
        yield found


async def ask(doors: RegistryClient, operation: str, parameters: Mapping[str, Any]) -> Any:
    return json.loads((await doors.ask("ecr", operation, parameters, doors.keys["administrator"])).body)


async def test_a_parameter_is_refused_by_its_name_and_constraint(doors: RegistryClient) -> None:
    """A policy's constraint has what is wrong with it behind it."""
    for operation, given, parameter, why in REFUSED:
        said = await ask(doors, operation, given)
        assert said["__type"] == "InvalidParameterException"
        text = f"Invalid parameter at '{parameter}' failed to satisfy constraint: '{why}'"
        assert said["message"].removesuffix(": The policy has no Statement") == text


async def test_a_batch_says_of_each_image_why_it_is_left_out(doors: RegistryClient) -> None:
    got = await ask(doors, "BatchGetImage", {**APP, "imageIds": [{"imageTag": "v1"}]})
    child = got["images"][0]["imageId"]["imageDigest"]
    listed = {"mediaType": OCI_IMAGE, "digest": child, "size": len(got["images"][0]["imageManifest"])}
    index = json.dumps({**EMPTY_INDEX, "manifests": [listed]})
    assert "image" in await ask(doors, "PutImage", {**APP, "imageManifest": index})
    wanted: list[tuple[dict[str, str], str, str]] = [
        ({"imageTag": "none"}, "ImageNotFound", "Requested image not found"),
        ({}, "MissingDigestAndTag", "Invalid request parameters: both tag and digest cannot be null"),
        (
            {"imageDigest": "none"},
            "InvalidImageDigest",
            f"Invalid request parameters: image digest should satisfy the regex '{DIGEST}'",
        ),
    ]
    referenced = f"Requested image referenced by manifest list: [{digest_of(index.encode())}]"
    for operation, more in (
        ("BatchGetImage", []),
        ("BatchDeleteImage", [({"imageDigest": child}, "ImageReferencedByManifestList", referenced)]),
    ):
        ids = [image_id for image_id, _, _ in (*wanted, *more)]
        failures = (await ask(doors, operation, {**APP, "imageIds": ids}))["failures"]
        assert failures == [
            {"imageId": image_id, "failureCode": code, "failureReason": reason}
            for image_id, code, reason in (*wanted, *more)
        ]


async def test_layers_that_a_manifest_needs_are_named_as_images_are(doors: RegistryClient) -> None:
    said = await ask(doors, "PutImage", {**APP, "imageManifest": image([b"none"]).decode()})
    assert said["message"] == (
        f"Layers with digests '[{digest_of(b'none')}]' required for pushing image into repository with name "
        f"'{REPOSITORY}' in the registry with id '{ACCOUNT}' do not exist"
    )
