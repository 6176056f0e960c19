"""Lifecycle policies as their users have them: boto3 and the real aws command against a real server."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError

from support.aws_command import Aws, said
from support.programs import ROOT
from support.registry import OCI_INDEX, Registry, digest_of
from support.server import Server

NAMED = {"repositoryName": "team/app"}
KEEP_TWO = json.dumps(
    {
        "rules": [
            {
                "rulePriority": 10,
                "description": "two releases",
                "selection": {
                    "tagStatus": "tagged",
                    "tagPatternList": ["v*"],
                    "countType": "imageCountMoreThan",
                    "countNumber": 2,
                },
                "action": {"type": "expire"},
            }
        ]
    }
)


def command(server: Server, *words: str) -> tuple[int, str]:
    """The command's exit status and what it printed."""
    done = subprocess.run(
        [sys.executable, "-m", "proxy", *words, "--data", str(server.data)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    return done.returncode, done.stdout + done.stderr


@pytest.fixture
async def own(start_server: Callable[..., Server], tmp_path: Path) -> AsyncIterator[Server]:
    """A server whose policies run every second, and whose sweep waits for nothing."""
    extra = {"WHARFAGE_LIFECYCLE_INTERVAL_SECONDS": "1", "WHARFAGE_SWEEP_GRACE_HOURS": "0"}
    server = await asyncio.to_thread(start_server, tmp_path / "data", workers=2, extra=extra)
    yield server
    await asyncio.to_thread(server.stop)


def client(server: Server) -> Any:
    access_key_id, secret = server.credentials()
    return boto3.session.Session().client(
        "ecr",
        endpoint_url=server.url,
        region_name="us-east-1",
        aws_access_key_id=access_key_id,
        aws_secret_access_key=secret,
    )


async def pushed(server: Server, *tags: str) -> list[str]:
    """An image for each tag; their digests."""
    password = await asyncio.to_thread(server.password)
    async with Registry(server.url, password) as registry:
        return [digest_of(await registry.push_image("team/app", tag, [tag.encode() * 100])) for tag in tags]


@pytest.mark.timeout(300)
async def test_a_policy_is_previewed_carried_out_by_the_command_and_then_by_itself(own: Server) -> None:
    """Put, preview with the waiter, run, push more, see them go; `check` is clean and each removal in the audit log."""
    ecr = client(own)
    images = await pushed(own, "v1", "v2", "v3", "v4", "other")
    ecr.start_lifecycle_policy_preview(**NAMED, lifecyclePolicyText=KEEP_TWO)
    waiter = ecr.get_waiter("lifecycle_policy_preview_complete")
    await asyncio.to_thread(waiter.wait, **NAMED, WaiterConfig={"Delay": 1})
    pages = list(ecr.get_paginator("get_lifecycle_policy_preview").paginate(**NAMED, PaginationConfig={"PageSize": 1}))
    assert [each["imageDigest"] for page in pages for each in page["previewResults"]] == images[:2]
    assert pages[0]["summary"] == {"expiringImageTotalCount": 2}
    assert len(ecr.list_images(**NAMED)["imageIds"]) == 5

    status, none = await asyncio.to_thread(command, own, "lifecycle", "run", "team/app")
    assert (status, "Lifecycle policy does not exist" in none) == (1, True)
    put = ecr.put_lifecycle_policy(**NAMED, lifecyclePolicyText=KEEP_TWO)
    assert put["lifecyclePolicyText"] == KEEP_TWO

    async def left() -> set[str]:
        listed = await asyncio.to_thread(lambda: ecr.list_images(**NAMED)["imageIds"])
        return {each["imageTag"] for each in listed}

    async with asyncio.timeout(60):
        while await left() != {"v3", "v4", "other"}:  # noqa: ASYNC110 - another process does it
            await asyncio.sleep(0.2)
    [v5] = await pushed(own, "v5")
    async with asyncio.timeout(60):
        while await left() != {"v4", "v5", "other"}:  # noqa: ASYNC110 - as above
            await asyncio.sleep(0.2)
    found = ecr.get_lifecycle_policy(**NAMED)
    assert found["lastEvaluatedAt"].timestamp() > 1e9
    status, clean = await asyncio.to_thread(command, own, "check")
    assert status == 0, clean
    log = (own.data / "audit" / "audit.jsonl").read_text().splitlines()
    events = [event for event in map(json.loads, log) if event["eventName"] == "PolicyExecutionEvent"]
    assert [event["requestParameters"]["imageDigest"] for event in events] == images[:3]
    assert {event["requestParameters"]["repositoryName"] for event in events} == {"team/app"}
    assert ecr.delete_lifecycle_policy(**NAMED)["lifecyclePolicyText"] == KEEP_TWO
    with pytest.raises(ecr.exceptions.LifecyclePolicyNotFoundException):
        ecr.get_lifecycle_policy(**NAMED)
    assert v5 not in images


@pytest.mark.timeout(300)
async def test_the_command_says_what_it_would_do_does_it_and_says_so(
    start_server: Callable[..., Server], tmp_path: Path
) -> None:
    """One line an image, with its digest and the rule's priority; also on a server that is stopped."""
    server = await asyncio.to_thread(start_server, tmp_path / "data", workers=1)
    images = await pushed(server, "v1", "v2", "v3", "v4")
    ecr = client(server)
    ecr.put_lifecycle_policy(**NAMED, lifecyclePolicyText=KEEP_TWO)
    for _ in range(2):
        status, dry = await asyncio.to_thread(command, server, "lifecycle", "run", "team/app", "--dry-run")
        assert (status, dry.splitlines()) == (
            0,
            [*(f"would be expired: {image} rule 10" for image in images[:2]), "2 images would go, 0 kept"],
        )
    status, done = await asyncio.to_thread(command, server, "lifecycle", "run", "team/app")
    assert (status, done.splitlines()) == (
        0,
        [*(f"expired: {image} rule 10" for image in images[:2]), "2 images, 0 kept"],
    )
    assert {each["imageDigest"] for each in ecr.list_images(**NAMED)["imageIds"]} == set(images[2:])
    await pushed(server, "v5")
    await asyncio.to_thread(server.stop)
    status, done = await asyncio.to_thread(command, server, "lifecycle", "run", "team/app")
    assert (status, done.count("expired: ")) == (0, 1)
    status, clean = await asyncio.to_thread(command, server, "check")
    assert status == 0, clean


async def test_an_archived_image_is_refused_by_both_protocols_until_it_is_restored(server: Server) -> None:
    """By tag and by digest, on any worker at once; docker's list of tags leaves it out; a push restores it."""
    ecr = client(server)
    name = "team/cold"
    password = await asyncio.to_thread(server.password)
    about = {"repositoryName": name, "imageId": {"imageTag": "v1"}}
    async with Registry(server.url, password) as registry:
        manifest = await registry.push_image(name, "v1", [b"cold"])
        await registry.push_image(name, "v2", [b"warm"])
        for restore in ("STANDARD", "push"):
            await registry.pull_image(name, "v1")
            archived = ecr.update_image_storage_class(**about, targetStorageClass="ARCHIVE")
            assert archived["imageStatus"] == "ARCHIVED"
            for reference in ("v1", digest_of(manifest)):
                answer = await registry.manifest(name, reference)
                assert (answer.status, json.loads(answer.body)["errors"][0]["code"]) == (404, "MANIFEST_UNKNOWN")
            tags = await registry.ask("GET", f"/v2/{name}/tags/list")
            assert json.loads(tags.body)["tags"] == ["v2"]
            got = ecr.batch_get_image(repositoryName=name, imageIds=[{"imageTag": "v1"}])
            assert [each["failureCode"] for each in got["failures"]] == ["ImageNotFound"]
            if restore == "push":
                await registry.push_image(name, "v1", [b"cold"])
            else:
                assert ecr.update_image_storage_class(**about, targetStorageClass=restore)["imageStatus"] == "ACTIVE"
            await registry.pull_image(name, "v1")
        [found] = ecr.describe_images(repositoryName=name, imageIds=[{"imageTag": "v1"}])["imageDetails"]
        assert found["lastActivatedAt"] > found["lastArchivedAt"] > found["imagePushedAt"]


@pytest.mark.clients
@pytest.mark.needs("aws")
@pytest.mark.timeout(300)
def test_the_pages_commands_typed_into_the_real_aws_command(aws: Aws) -> None:
    """docs/lifecycle.md: the policy of the first block, and every aws command of the page."""
    page = (ROOT / "docs" / "lifecycle.md").read_text()
    blocks = re.findall(r"^```sh\n(.*?)^```", page, flags=re.MULTILINE | re.DOTALL)
    aws("aws ecr create-repository --repository-name team/app")
    [policy] = re.findall(r"^cat > policy.json <<'EOF'\n(.*?)^EOF$", blocks[0], flags=re.MULTILINE | re.DOTALL)
    (aws.folder / "policy.json").write_text(policy)
    typed = [line for block in blocks for line in block.splitlines() if line.startswith("aws ")]
    assert len(typed) == 5
    index = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": []}
    aws.write("index.json", index)
    aws("aws ecr put-image --repository-name team/app --image-manifest file://index.json --image-tag v1")
    answers = [aws(line) for line in typed]
    assert answers[0]["lifecyclePolicyText"] == policy
    assert (answers[1]["status"], answers[3]["status"]) == ("IN_PROGRESS", "COMPLETE")
    assert answers[3]["summary"] == {"expiringImageTotalCount": 0}
    assert answers[4]["imageStatus"] == "ARCHIVED"
    assert aws("aws ecr get-lifecycle-policy --repository-name team/app")["lifecyclePolicyText"] == policy
    gone = aws("aws ecr delete-lifecycle-policy --repository-name team/app")
    assert gone["lifecyclePolicyText"] == policy
    again = said(aws.error("aws ecr delete-lifecycle-policy --repository-name team/app"))
    assert again[0] == "LifecyclePolicyNotFoundException"


def test_a_wrong_policy_is_refused_with_the_texts_of_ecr(server: Server) -> None:
    ecr = client(server)
    ecr.create_repository(repositoryName="team/wrong")
    text = KEEP_TWO.replace('"countNumber": 2', '"countNumber": 2, "countUnit": null')
    with pytest.raises(ClientError) as refused:
        ecr.put_lifecycle_policy(repositoryName="team/wrong", lifecyclePolicyText=text)
    error = refused.value.response["Error"]
    assert (error["Code"], error["Message"]) == (
        "InvalidParameterException",
        "Invalid parameter at 'LifecyclePolicyText' failed to satisfy constraint: 'Lifecycle policy validation "
        "failure: instance failed to match exactly one schema (matched 0 out of 2)'",
    )
