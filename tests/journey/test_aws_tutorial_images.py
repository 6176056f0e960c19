"""The tutorial's sections on images, layers and what a registry makes by itself, typed into the real aws command.

The last test holds all sections to all that is served of ECR.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from botocore import xform_name

from proxy.ecr.routes import ROUTES
from support.aws_command import Aws, said
from support.images import MIB
from support.policies import PULL, allow, policy
from support.registry import OCI_CONFIG, OCI_INDEX, OCI_LAYER, OCI_MANIFEST, digest_of
from support.resolver import get

pytestmark = [pytest.mark.clients, pytest.mark.needs("aws"), pytest.mark.timeout(600)]

NAMED = "--repository-name team/app"


def upload(aws: Aws, *parts: bytes) -> dict[str, Any]:
    """A layer in these parts; its descriptor."""
    upload_id = aws.text(f"aws ecr initiate-layer-upload {NAMED} --query uploadId --output text")
    first = 0
    for part in parts:
        (aws.folder / "part").write_bytes(part)
        given = f"--upload-id {upload_id} --part-first-byte {first} --part-last-byte {first + len(part) - 1}"
        received = aws(f"aws ecr upload-layer-part {NAMED} {given} --layer-part-blob fileb://part")
        first += len(part)
        assert (received["uploadId"], received["lastByteReceived"]) == (upload_id, first - 1)
    digest = digest_of(b"".join(parts))
    done = aws(f"aws ecr complete-layer-upload {NAMED} --upload-id {upload_id} --layer-digests {digest}")
    assert done["layerDigest"] == digest
    return {"digest": digest, "size": first}


def test_an_image_that_the_aws_command_pushes_part_by_part(aws: Aws, account: str, tmp_path: Path) -> None:
    aws(f"aws ecr create-repository {NAMED}")
    content = bytes(range(256)) * (5 * MIB // 256) + b"the last part may be small"
    config = json.dumps({"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers"}}).encode()
    layer = {"mediaType": OCI_LAYER, **upload(aws, content[: 5 * MIB], content[5 * MIB :])}
    manifest = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": {"mediaType": OCI_CONFIG, **upload(aws, config)},
        "layers": [layer],
    }

    # What is there, what is not, and what no digest is.
    checked = aws(
        f"aws ecr batch-check-layer-availability {NAMED} --layer-digests {layer['digest']} sha256:{'0' * 64} none"
    )
    assert {each["layerDigest"]: each["layerAvailability"] for each in checked["layers"]} == {
        layer["digest"]: "AVAILABLE",
        f"sha256:{'0' * 64}": "UNAVAILABLE",
    }
    assert [each["failureCode"] for each in checked["failures"]] == ["InvalidLayerDigest"]

    # The image, which comes back as it was written; a second one under a tag that stays is refused.
    aws.write("manifest.json", manifest)
    text = (tmp_path / "manifest.json").read_text()
    put = f"aws ecr put-image {NAMED} --image-manifest file://manifest.json --image-tag v1"
    image_id = {"imageDigest": digest_of(text.encode()), "imageTag": "v1"}
    assert aws(put)["image"]["imageId"] == image_id
    assert said(aws.error(put))[0] == "ImageAlreadyExistsException"
    got = aws(f"aws ecr batch-get-image {NAMED} --image-ids imageTag=v1 imageTag=none")
    assert [(each["imageId"], each["imageManifest"]) for each in got["images"]] == [(image_id, text)]
    assert [each["failureCode"] for each in got["failures"]] == ["ImageNotFound"]
    changed = aws(f"aws ecr put-image-tag-mutability {NAMED} --image-tag-mutability IMMUTABLE")
    assert changed == {"registryId": account, "repositoryName": "team/app", "imageTagMutability": "IMMUTABLE"}
    aws.write("manifest.json", {**manifest, "annotations": {"another": "image"}})
    immutable = "The image tag 'v1' already exists in the 'team/app' repository and cannot be overwritten "
    assert said(aws.error(put)) == ("ImageTagAlreadyExistsException", f"{immutable}because the tag is immutable.")

    # Its layer by a link that signs itself, whole and in part.
    url = aws.text(
        f"aws ecr get-download-url-for-layer {NAMED} --layer-digest {layer['digest']} --query downloadUrl --output text"
    )
    assert get(url) == (200, content)
    assert get(url, Range=f"bytes={5 * MIB - 2}-{5 * MIB + 7}") == (206, content[5 * MIB - 2 : 5 * MIB + 8])

    # What is attached to it.
    subject = {"mediaType": OCI_MANIFEST, "digest": image_id["imageDigest"], "size": len(text.encode())}
    aws.write("sbom.json", {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [], "subject": subject})
    aws(f"aws ecr put-image {NAMED} --image-manifest file://sbom.json")
    sbom = digest_of((tmp_path / "sbom.json").read_bytes())
    attached = aws(f"aws ecr list-image-referrers {NAMED} --subject-id imageDigest={subject['digest']}")
    assert [each["digest"] for each in attached["referrers"]] == [sbom]

    # The lists, and what each image is.
    assert aws(f"aws ecr list-images {NAMED} --filter tagStatus=TAGGED") == {"imageIds": [image_id]}
    [described] = aws(f"aws ecr describe-images {NAMED} --image-ids imageTag=v1")["imageDetails"]
    assert (described["imageTags"], described["imageSizeInBytes"]) == (["v1"], len(content))
    query = "--query repositories[].imageTagMutability --output text"
    assert aws.text(f"aws ecr describe-repositories --repository-names team/app {query}") == "IMMUTABLE"
    archive = f"aws ecr update-image-storage-class {NAMED} --image-id imageTag=v1 --target-storage-class ARCHIVE"
    assert aws(archive)["imageStatus"] == "ARCHIVED"
    assert said(aws.error(archive))[0] == "ImageStorageClassUpdateNotSupportedException"
    assert aws(f"aws ecr list-images {NAMED} --filter imageStatus=ARCHIVED,tagStatus=TAGGED") == {
        "imageIds": [image_id]
    }
    assert aws(archive.replace("ARCHIVE", "STANDARD"))["imageStatus"] == "ACTIVE"

    # By digest an image goes with its tags; a repository with an image in it wants to be forced.
    gone = aws(f"aws ecr batch-delete-image {NAMED} --image-ids imageDigest={image_id['imageDigest']} imageTag=none")
    assert gone["imageIds"] == [image_id]
    assert [each["failureCode"] for each in gone["failures"]] == ["ImageNotFound"]
    assert aws(f"aws ecr list-images {NAMED}") == {"imageIds": [{"imageDigest": sbom}]}
    full = f"The repository with name 'team/app' in registry with id '{account}' cannot be deleted because it still "
    assert said(aws.error(f"aws ecr delete-repository {NAMED}")) == (
        "RepositoryNotEmptyException",
        f"{full}contains images",
    )
    aws(f"aws ecr delete-repository {NAMED} --force")
    none = f"The repository with name 'team/app' does not exist in the registry with id '{account}'"
    assert said(aws.error(f"aws ecr list-images {NAMED}")) == ("RepositoryNotFoundException", none)


def test_what_a_registry_makes_by_itself_and_what_it_says_of_itself(aws: Aws, account: str) -> None:
    # A template for repositories that pushes make: as it was given, but for what is changed.
    aws.write("share.json", policy(allow(PULL, Principal="*")))
    made = aws(
        "aws ecr create-repository-creation-template --prefix team --applied-for CREATE_ON_PUSH "
        "--description 'what teams get' --image-tag-mutability IMMUTABLE_WITH_EXCLUSION "
        "--image-tag-mutability-exclusion-filters filterType=WILDCARD,filter=dev-* "
        "--resource-tags Key=team,Value=blue --repository-policy file://share.json"
    )
    template = made["repositoryCreationTemplate"]
    assert (made["registryId"], template["prefix"], template["resourceTags"]) == (
        account,
        "team",
        [{"Key": "team", "Value": "blue"}],
    )
    assert template["repositoryPolicy"] == (aws.folder / "share.json").read_text()
    again = aws.error("aws ecr create-repository-creation-template --prefix team --applied-for REPLICATION")
    assert said(again)[0] == "TemplateAlreadyExistsException"
    change = "aws ecr update-repository-creation-template --prefix team --description less --applied-for REPLICATION"
    changed = aws(change)["repositoryCreationTemplate"]
    assert changed["updatedAt"] > template["updatedAt"]
    kept = {**template, "description": "less", "appliedFor": ["REPLICATION"], "updatedAt": changed["updatedAt"]}
    assert changed == kept
    described = aws("aws ecr describe-repository-creation-templates --prefixes team")
    assert described == {"registryId": account, "repositoryCreationTemplates": [kept]}
    gone = aws("aws ecr delete-repository-creation-template --prefix team")["repositoryCreationTemplate"]
    assert gone == kept
    missing = said(aws.error("aws ecr delete-repository-creation-template --prefix team"))
    assert missing[0] == "TemplateNotFoundException"

    # Whose pulls are no use: a scanner's.
    scanner = f"arn:aws:iam::{account}:role/scanner"
    excluded = aws(f"aws ecr register-pull-time-update-exclusion --principal-arn {scanner}")
    assert excluded["principalArn"] == scanner
    twice = said(aws.error(f"aws ecr register-pull-time-update-exclusion --principal-arn {scanner}"))
    assert twice[0] == "ExclusionAlreadyExistsException"
    assert aws("aws ecr list-pull-time-update-exclusions") == {"pullTimeUpdateExclusions": [scanner]}
    gone = aws(f"aws ecr deregister-pull-time-update-exclusion --principal-arn {scanner}")
    assert gone == {"principalArn": scanner}
    none = said(aws.error(f"aws ecr deregister-pull-time-update-exclusion --principal-arn {scanner}"))
    assert none[0] == "ExclusionNotFoundException"

    # Scanning and signing: what is stored and said of them.
    aws(f"aws ecr create-repository {NAMED}")
    scanning = "--image-scanning-configuration scanOnPush=true"
    assert aws(f"aws ecr put-image-scanning-configuration {NAMED} {scanning}") == {
        "registryId": account,
        "repositoryName": "team/app",
        "imageScanningConfiguration": {"scanOnPush": True},
    }
    [shown] = aws("aws ecr describe-repositories --repository-names team/app")["repositories"]
    assert shown["imageScanningConfiguration"] == {"scanOnPush": True}
    assert aws("aws ecr get-registry-scanning-configuration") == {
        "registryId": account,
        "scanningConfiguration": {"scanType": "BASIC", "rules": []},
    }
    assert said(aws.error("aws ecr get-signing-configuration"))[0] == "SigningConfigurationNotFoundException"
    rules = {"rules": [{"destinations": [{"region": "us-east-1", "registryId": "999988887777"}]}]}
    configure = "aws ecr put-replication-configuration --replication-configuration"
    assert aws(f"{configure} '{json.dumps(rules)}'") == {"replicationConfiguration": rules}
    assert aws("aws ecr describe-registry") == {"registryId": account, "replicationConfiguration": rules}
    assert said(aws.error(f"aws ecr describe-image-replication-status {NAMED} --image-id imageTag=none"))[0] == (
        "ImageNotFoundException"
    )
    aws(f"{configure} rules=[]")
    assert aws("aws ecr describe-registry") == {"registryId": account, "replicationConfiguration": {"rules": []}}
    data = aws("aws ecr get-authorization-token")["authorizationData"]
    assert [each.keys() for each in data] == [{"authorizationToken", "expiresAt", "proxyEndpoint"}]

    # What is served later says its name.
    later = said(aws.error(f"aws ecr describe-image-scan-findings {NAMED} --image-id imageTag=v1"))
    assert (later[0], "DescribeImageScanFindings" in later[1]) == ("UnknownOperationException", True)


def test_every_operation_that_is_served_of_ecr_was_typed() -> None:
    """In a section of the tutorial, or where rules have the upstream that they need."""
    here = Path(__file__).parent
    files = [*here.glob("test_aws_tutorial*.py"), here / "test_pull_through_rules.py"]
    sections = "".join(each.read_text() for each in files)
    typed = set(re.findall(r"aws ecr ([a-z]+(?:-[a-z]+)+)", sections))
    newer = {name for name in ROUTES if "ReplicationBackfill" in name}  # the command has none of them yet
    assert {xform_name(name, "-") for name in ROUTES.keys() - newer} - typed == set()
