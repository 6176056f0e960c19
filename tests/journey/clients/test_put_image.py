"""Images put by boto3 over layers that docker's door took, pulled by crane; and what oras attaches, listed by boto3."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from support.images import Layout
from support.programs import run
from support.registry import OCI_INDEX, OCI_MANIFEST, digest_of
from support.server import Server

pytestmark = [pytest.mark.clients, pytest.mark.needs("crane")]

Command = Callable[..., CompletedProcess[str]]
IMMUTABLE = "cannot be overwritten because the tag is immutable."


@pytest.fixture
def crane(docker_login: Path) -> Command:
    def call(*words: str | Path, ok: bool = True) -> CompletedProcess[str]:
        return run("crane", *words, "--insecure", extra={"DOCKER_CONFIG": str(docker_login)}, ok=ok)

    return call


@pytest.fixture
def ecr(server: Server) -> Any:
    access_key_id, secret = server.credentials()
    return boto3.session.Session().client(
        "ecr",
        endpoint_url=server.url,
        region_name="us-east-1",
        aws_access_key_id=access_key_id,
        aws_secret_access_key=secret,
        config=Config(retries={"total_max_attempts": 1}),
    )


def pushed(crane: Command, server: Server, repository: str, image: Layout) -> Iterator[tuple[str, str]]:
    """(digest, manifest) of each image of an index that crane has pushed."""
    crane("push", image.path, f"{server.address}/{repository}:pushed")
    index = json.loads(crane("manifest", f"{server.address}/{repository}:pushed").stdout)
    for each in index["manifests"]:
        yield each["digest"], crane("manifest", f"{server.address}/{repository}@{each['digest']}").stdout


def refused(method: Callable[..., Any], **parameters: Any) -> tuple[str, str]:
    with pytest.raises(ClientError) as caught:
        method(**parameters)
    error = caught.value.response["Error"]
    return error["Code"], error["Message"]


def test_an_image_put_by_boto3_is_pulled_by_crane_to_the_byte(
    crane: Command, ecr: Any, server: Server, repository: str, multi_arch: Layout, tmp_path: Path
) -> None:
    """Of what crane pushed, another image and another index are put, which then pull whole."""
    named = {"repositoryName": repository}
    children = dict(pushed(crane, server, repository, multi_arch))
    put: list[dict[str, Any]] = []
    for manifest in children.values():
        text = json.dumps({**json.loads(manifest), "annotations": {"by": "bötö3 \n 漢"}}, ensure_ascii=False, indent=3)
        image = ecr.put_image(**named, imageManifest=text)["image"]
        assert image["imageManifest"] == text
        assert image["imageId"] == {"imageDigest": digest_of(text.encode())}
        put.append({"mediaType": OCI_MANIFEST, "digest": digest_of(text.encode()), "size": len(text.encode())})
        assert crane("manifest", f"{server.address}/{repository}@{put[-1]['digest']}").stdout == text
    platforms = [{"os": "linux", "architecture": name} for name in ("amd64", "arm64", "riscv64")]
    listed = [{**each, "platform": platform} for each, platform in zip(put, platforms, strict=True)]
    index = json.dumps({"schemaVersion": 2, "manifests": listed})
    ecr.put_image(**named, imageManifest=index, imageManifestMediaType=OCI_INDEX, imageTag="put")
    crane("validate", "--remote", f"{server.address}/{repository}:put")
    crane("pull", "--format=oci", f"{server.address}/{repository}:put", tmp_path / "back")
    for digest in (digest_of(index.encode()), *(each["digest"] for each in put)):
        found = tmp_path / "back" / "blobs" / "sha256" / digest.removeprefix("sha256:")
        assert digest_of(found.read_bytes()) == digest
    got = ecr.batch_get_image(**named, imageIds=[{"imageTag": "put"}])["images"][0]
    assert (got["imageManifest"], got["imageManifestMediaType"]) == (index, OCI_INDEX)

    [described] = ecr.describe_images(**named, imageIds=[{"imageTag": "put"}])["imageDetails"]
    sizes = [sum(layer["size"] for layer in json.loads(manifest)["layers"]) for manifest in children.values()]
    assert described["imageSizeInBytes"] == max(sizes)
    [failure] = ecr.batch_delete_image(**named, imageIds=[{"imageDigest": put[0]["digest"]}])["failures"]
    assert failure["failureReason"] == f"Requested image referenced by manifest list: [{digest_of(index.encode())}]"

    pages = ecr.get_paginator("list_images").paginate(**named, PaginationConfig={"PageSize": 3})
    ids = [image_id for page in pages for image_id in page["imageIds"]]
    pages = ecr.get_paginator("describe_images").paginate(**named, PaginationConfig={"PageSize": 3})
    details = [detail for page in pages for detail in page["imageDetails"]]
    everything = {*children, *(each["digest"] for each in put), multi_arch.digest, digest_of(index.encode())}
    assert len(ids) == len(details) == 8
    assert {each["imageDigest"] for each in ids} == {each["imageDigest"] for each in details} == everything
    assert {each["imageTag"] for each in ids if "imageTag" in each} == {"put", "pushed"}


def test_an_immutable_tag_is_refused_at_both_doors_in_the_same_words(
    crane: Command, ecr: Any, server: Server, repository: str, small_image: Layout
) -> None:
    reference = f"{server.address}/{repository}"
    filters = [{"filterType": "WILDCARD", "filter": "dev-*"}]
    mode = {"imageTagMutability": "IMMUTABLE_WITH_EXCLUSION", "imageTagMutabilityExclusionFilters": filters}
    ecr.create_repository(repositoryName=repository)
    ecr.put_image_tag_mutability(repositoryName=repository, **mode)
    for tag in ("v1", "dev-1"):
        crane("push", small_image.path, f"{reference}:{tag}")
    manifest = crane("manifest", f"{reference}:v1").stdout
    said = refused(ecr.put_image, repositoryName=repository, imageManifest=manifest, imageTag="v1")
    assert (said[0], IMMUTABLE in said[1]) == ("ImageTagAlreadyExistsException", True)
    other = json.dumps({**json.loads(manifest), "annotations": {"other": "one"}})
    for tag in ("v1", "dev-1"):
        put = {"repositoryName": repository, "imageManifest": other, "imageTag": tag}
        if tag == "v1":
            assert refused(ecr.put_image, **put)[0] == "ImageTagAlreadyExistsException"
        else:
            ecr.put_image(**put)
    complaint = crane("tag", f"{reference}:dev-1", "v1", ok=False).stderr
    assert "TAG_INVALID" in complaint
    assert IMMUTABLE in complaint
    crane("tag", f"{reference}:v1", "dev-1")
    said = refused(ecr.put_image, repositoryName=repository, imageManifest=manifest, imageTag="dev-1")
    assert said[0] == "ImageAlreadyExistsException"


def test_the_largest_manifest_goes_through_boto3_and_back_through_crane(
    crane: Command, ecr: Any, server: Server, repository: str
) -> None:
    """4 MiB of UTF-8, which JSON's escapes make three times as long; a byte more is refused by its name."""
    ecr.create_repository(repositoryName=repository)
    index = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [], "annotations": {"x": ""}}
    room = 4 * 2**20 - len(json.dumps(index))
    index["annotations"] = {"x": "ü" * (room // 2) + "x" * (room % 2)}
    text = json.dumps(index, ensure_ascii=False)
    assert len(text.encode()) == 4 * 2**20
    image = ecr.put_image(repositoryName=repository, imageManifest=text, imageTag="large")["image"]
    assert image["imageId"]["imageDigest"] == digest_of(text.encode())
    assert crane("manifest", f"{server.address}/{repository}:large").stdout == text
    code, _ = refused(ecr.put_image, repositoryName=repository, imageManifest=text + " ", imageTag="larger")
    assert code == "InvalidParameterException"


@pytest.mark.needs("oras")
def test_what_oras_attaches_is_listed_as_a_referrer(
    crane: Command, ecr: Any, server: Server, repository: str, small_image: Layout, docker_login: Path, tmp_path: Path
) -> None:
    reference = f"{server.address}/{repository}"
    crane("push", small_image.path, f"{reference}:v1")
    (tmp_path / "sbom.json").write_text("{}")
    for kind in ("application/sbom", "application/signature"):
        words = ["--artifact-type", kind, "--annotation", "by=oras", f"{reference}:v1", "sbom.json"]
        run("oras", "attach", "--plain-http", *words, extra={"DOCKER_CONFIG": str(docker_login)}, cwd=tmp_path)
    asked = {"repositoryName": repository, "subjectId": {"imageDigest": small_image.digest}}
    found = ecr.list_image_referrers(**asked)["referrers"]
    assert {each["artifactType"] for each in found} == {"application/sbom", "application/signature"}
    for each in found:
        manifest = crane("manifest", f"{reference}@{each['digest']}").stdout
        assert (len(manifest), digest_of(manifest.encode())) == (each["size"], each["digest"])
        assert each["annotations"]["by"] == "oras"
    only = ecr.list_image_referrers(**asked, filter={"artifactTypes": ["application/sbom"]})["referrers"]
    assert [each["artifactType"] for each in only] == ["application/sbom"]
    [detail] = ecr.describe_images(repositoryName=repository, imageIds=[{"imageDigest": only[0]["digest"]}])[
        "imageDetails"
    ]
    assert (detail["subjectManifestDigest"], detail["artifactMediaType"]) == (small_image.digest, "application/sbom")
