"""Referrers of images under a rule: those of the upstream beside those that were pushed here."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import aiohttp.web
import pytest
from botocore.exceptions import ClientError

from support.other_registry import IMAGE, INDEX, FarRegistry
from support.pull_through_world import World, digest_of, world

SIGNATURE, SBOM = "application/vnd.example.signature", "application/vnd.example.sbom"


async def listed(there: World, subject: str, query: str = "") -> list[str]:
    status, headers, body = await there.get(f"far/team/app/referrers/{subject}{query}")
    assert (status, headers["content-type"]) == (200, INDEX)
    return [each["digest"] for each in json.loads(body)["manifests"]]


@pytest.mark.parametrize("has_api", [True, False])
async def test_the_upstreams_referrers_are_listed_beside_those_that_are_here(tmp_path: Path, has_api: bool) -> None:
    """By its API, in pages, or by the index of the fallback tag. Layers come when they are pulled."""
    far = FarRegistry(no_referrers=not has_api, page=2)
    async with world(tmp_path, far) as there:
        subject = far.add_image("team/app", "1", b"layer")
        theirs = [far.add_referrer("team/app", subject, kind, layer) for kind, layer in
                  ((SIGNATURE, b"one"), (SIGNATURE, b"two"), (SBOM, b"three"))]  # fmt: skip
        if not has_api:
            index = {"schemaVersion": 2, "mediaType": INDEX, "manifests": far.referrers("team/app", subject)}
            far.add_manifest("team/app", subject.replace(":", "-"), INDEX, json.dumps(index).encode())
        assert await listed(there, subject) == []  # of what is not here nothing is asked
        assert (await there.get("far/team/app/manifests/1"))[0] == 200
        mine = await push_referrer(there, subject)
        assert await listed(there, subject) == sorted([*theirs, mine])
        assert await listed(there, subject, f"?artifactType={SBOM}") == [theirs[2]]
        before = len(far.asked)
        for _ in range(4):
            await listed(there, subject)
        assert len(far.asked) == before
        assert (await there.get(f"far/team/app/manifests/{theirs[2]}"))[0] == 200
        assert (await there.get(f"far/team/app/blobs/{digest_of(b'three')}"))[2] == b"three"
        ecr = await there.client()
        found = await asyncio.to_thread(
            ecr.list_image_referrers, repositoryName="far/team/app", subjectId={"imageDigest": subject}
        )
        assert [each["digest"] for each in found["referrers"]] == sorted([*theirs, mine])


async def push_referrer(there: World, subject: str) -> str:
    """One that somebody pushes here."""
    empty = {"mediaType": "application/vnd.oci.empty.v1+json", "digest": digest_of(b"{}"), "size": 2}
    assert (await there.get(f"far/team/app/blobs/{digest_of(b'{}')}"))[0] == 200
    manifest = {"schemaVersion": 2, "mediaType": IMAGE, "artifactType": "mine/it", "config": empty, "layers": [empty]}
    content = json.dumps(manifest | {"subject": {"mediaType": IMAGE, "digest": subject, "size": 2}}).encode()
    where = f"{there.server.url}/v2/far/team/app/manifests/{digest_of(content)}"
    async with there.session.put(where, data=content, headers={"Content-Type": IMAGE}) as answer:
        assert answer.status == 201
    return digest_of(content)


async def test_an_upstream_that_fails_is_told_at_first_and_then_what_is_here_is_stale(tmp_path: Path) -> None:
    async def down(request: aiohttp.web.Request) -> aiohttp.web.Response:
        return aiohttp.web.Response(status=500)

    async with world(tmp_path) as there:
        subject = there.far.add_image("team/app", "1", b"layer")
        path = f"GET /v2/team/app/referrers/{subject}"
        there.far.answers[path] = down
        assert (await there.get("far/team/app/manifests/1"))[0] == 200
        assert (await there.get(f"far/team/app/referrers/{subject}"))[0] == 503
        ecr = await there.client()
        with pytest.raises(ClientError) as raised:
            await asyncio.to_thread(
                ecr.list_image_referrers, repositoryName="far/team/app", subjectId={"imageDigest": subject}
            )
        assert raised.value.response["Error"]["Code"] == "UnableToListUpstreamImageReferrersException"
        del there.far.answers[path]
        theirs = there.far.add_referrer("team/app", subject, SBOM)
        await there.until(lambda: is_listed(there, subject))  # the breaker may have opened
        assert await listed(there, subject) == [theirs]


async def is_listed(there: World, subject: str) -> bool:
    return (await there.get(f"far/team/app/referrers/{subject}"))[0] == 200


@pytest.mark.parametrize("ending", ["sig", "att", "sbom"])
async def test_the_tags_of_cosign_come_as_any_tag(tmp_path: Path, ending: str) -> None:
    async with world(tmp_path) as there:
        subject = there.far.add_image("team/app", "1", b"layer")
        tag = f"{subject.replace(':', '-')}.{ending}"
        name = there.far.add_image("team/app", tag, b"signature")
        status, headers, _ = await there.get(f"far/team/app/manifests/{tag}")
        assert (status, headers["docker-content-digest"]) == (200, name)
        assert (await there.get(f"far/team/app/blobs/{digest_of(b'signature')}"))[2] == b"signature"
