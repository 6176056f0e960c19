"""Links to layers: what they open, for whom and how long, and that nobody else learns of them."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import structlog.testing

from proxy.auth.envelope import SmallSealer
from proxy.auth.layer_links import LIFETIME, PURPOSE, LayerLinks, LinkInvalid
from proxy.model.identity import Caller, Principal, Session, SessionKind
from support.examples import ACCOUNT, REPOSITORY, allow
from support.memory_connection import Answer
from support.oci_requests import digest_of
from support.recording_trail import RecordingTrail
from support.registry_client import HOST, LAYER, NOBODY, RegistryClient, registry_client

DIGEST = digest_of(LAYER)


class World:
    """Doors with a clock of links and a trail that are the test's."""

    def __init__(self) -> None:
        self.shift = 0.0
        self.trail = RecordingTrail()
        self.doors: RegistryClient

    def clock(self) -> float:
        return time.time() + self.shift


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    world = World()
    async with registry_client(tmp_path, trail=world.trail, clock=world.clock) as doors:
        world.doors = doors
        yield world
        await doors.registry.quiet()


async def url(doors: RegistryClient, digest: str = DIGEST, who: str = "administrator") -> str:
    asked = {"repositoryName": REPOSITORY, "layerDigest": digest}
    answer = await doors.ask("ecr", "GetDownloadUrlForLayer", asked, doors.keys[who])
    assert answer.status == 200, answer.body
    said = json.loads(answer.body)
    assert said["layerDigest"] == digest
    found: str = said["downloadUrl"]
    return found


async def refused(doors: RegistryClient, digest: str) -> tuple[str, str]:
    asked = {"repositoryName": REPOSITORY, "layerDigest": digest}
    answer = await doors.ask("ecr", "GetDownloadUrlForLayer", asked, doors.keys["administrator"])
    said = json.loads(answer.body)
    return said["__type"], said["message"]


async def fetch(doors: RegistryClient, link: str, method: str = "GET", **lines: str) -> Answer:
    parts = urlsplit(link)
    target = f"{parts.path}?{parts.query}" if parts.query else parts.path
    return await doors.plain(method, target, [(name.replace("_", "-"), value) for name, value in lines.items()])


async def test_a_link_leads_to_this_server_and_opens_the_layer_without_credentials(world: World) -> None:
    link = await url(world.doors)
    assert link.startswith(f"http://{HOST}/layers/{DIGEST}?token=")
    answer = await fetch(world.doors, link)
    assert (answer.status, answer.body, answer.headers["etag"]) == (200, LAYER, f'"{DIGEST}"')
    head = await fetch(world.doors, link, "HEAD")
    assert (head.status, head.headers["content-length"], head.body) == (200, str(len(LAYER)), b"")
    some = await fetch(world.doors, link, Range="bytes=2-6")
    assert (some.status, some.body) == (206, LAYER[2:7])
    assert (await fetch(world.doors, link, If_None_Match=f'"{DIGEST}"')).status == 304
    assert (await fetch(world.doors, link, Range="bytes=900-")).headers["content-range"] == f"bytes */{len(LAYER)}"


async def test_a_layer_that_no_image_uses_has_no_link_and_one_that_is_not_there_neither(world: World) -> None:
    doors = world.doors
    where = f"in the repository with name '{REPOSITORY}' in the registry with id '{ACCOUNT}'"
    loose, absent = digest_of(b"loose"), digest_of(b"absent")
    target = f"/v2/{REPOSITORY}/blobs/uploads/?digest={loose}"
    assert (await doors.docker("POST", target, doors.registry.password, b"loose")).status == 201
    assert await refused(doors, loose) == (
        "LayerInaccessibleException",
        f"The layer with digest '{loose}' {where} is not available because it is not associated with an image",
    )
    assert await refused(doors, absent) == (
        "LayersNotFoundException",
        f"The layer with digest '{absent}' does not exist {where}",
    )


async def test_a_link_opens_nothing_but_its_layer_and_only_as_it_was_made(world: World) -> None:
    doors = world.doors
    link = await url(doors)
    head, _, token = link.partition("?token=")
    other = "B" if token[60] == "A" else "A"
    for wrong in (
        link.replace(DIGEST, digest_of(b"v1")),
        f"{head}?token={token[:60]}{other}{token[61:]}",
        f"{head}?token={token[:-1]}",
        f"{head}?token={token}&token={token}",
        f"{head}?token=",
        f"{head}?token={'A' * 20_000}",
        head,
        f"{head.replace(DIGEST, '')}?token={token}",
    ):
        answer = await fetch(doors, wrong)
        assert (answer.status, json.loads(answer.body)) == (
            403,
            {"message": "This link does not open a layer, or its time is over."},
        )
    assert (await fetch(doors, link, "POST")).status == 405
    assert (await fetch(doors, link)).status == 200


async def test_a_link_ends_after_a_quarter_of_an_hour(world: World) -> None:
    link = await url(world.doors)
    world.shift = LIFETIME - 5
    assert (await fetch(world.doors, link)).status == 200
    world.shift = LIFETIME + 1
    assert (await fetch(world.doors, link)).status == 403
    assert LIFETIME == 900


async def test_a_link_goes_on_when_a_policy_changes_and_ends_with_the_principal(world: World) -> None:
    doors = world.doors
    await doors.permit(allow("ecr:GetDownloadUrlForLayer", Resource="*"))
    link = await url(doors, who=NOBODY)
    await doors.permit()
    assert (await fetch(doors, link)).status == 200
    key = {"UserName": NOBODY, "AccessKeyId": doors.keys[NOBODY].key_id}
    await doors.registry.metadata.iam(ACCOUNT, "DeleteAccessKey", key)
    await doors.registry.metadata.iam(ACCOUNT, "DeleteUser", {"UserName": NOBODY})
    assert (await fetch(doors, link)).status == 403


async def test_a_link_ends_with_the_layer(world: World) -> None:
    doors = world.doors
    link = await url(doors)
    asked: dict[str, Any] = {"repositoryName": REPOSITORY, "force": True}
    await doors.registry.metadata.call(ACCOUNT, "DeleteRepository", asked)
    assert (await fetch(doors, link)).status == 404


async def test_a_layer_whose_bytes_are_wrong_is_a_clean_error_that_tells_nothing(world: World, tmp_path: Path) -> None:
    doors = world.doors
    link = await url(doors)
    blob = await doors.registry.blobs.find(ACCOUNT, REPOSITORY, DIGEST)
    [path] = await asyncio.to_thread(lambda: list((tmp_path / "objects").rglob(f"*{blob.sealed.object_key[4:]}")))
    content = bytearray(path.read_bytes())
    content[-20] ^= 1
    path.write_bytes(bytes(content))
    assert (await fetch(doors, link)).status == 404
    assert (await fetch(doors, link)).status == 404  # quarantined by now


async def test_each_fetch_is_an_event_of_who_asked_for_the_link(world: World) -> None:
    doors = world.doors
    link = await url(doors)
    await fetch(doors, link, Range="bytes=0-3")
    event = world.trail.events[-1]
    assert event["eventName"] == "GetDownloadUrlForLayer"
    assert event["userIdentity"]["accessKeyId"] == doors.keys["administrator"].key_id
    assert event["requestParameters"] == {
        "registryId": ACCOUNT,
        "repositoryName": REPOSITORY,
        "layerDigest": DIGEST,
    }
    assert event["additionalEventData"]["bytesTransferredOut"] == 4
    await fetch(doors, link + "x")
    assert world.trail.events[-1]["errorCode"] == "AccessDeniedException"


async def test_no_log_and_no_event_has_the_token(world: World) -> None:
    with structlog.testing.capture_logs() as logs:
        link = await url(world.doors)
        await fetch(world.doors, link)
        await fetch(world.doors, link, Range="bytes=900-")
    token = link.partition("token=")[2]
    assert any(each.get("door") == "layers" for each in logs)
    assert token not in str(logs)
    assert token not in world.trail.text


# ---- the token -------------------------------------------------------------------------------------------------------

KEYS = [("one", bytes(32))]
CI = Principal("AROACI", ACCOUNT, f"arn:aws:iam::{ACCOUNT}:role/ci", "ci")


def test_a_token_brings_back_who_asked_with_their_session() -> None:
    links = LayerLinks(SmallSealer(KEYS, PURPOSE), "us-east-1")
    session = Session(SessionKind.ROLE, "job", 1000.0, 4600.0)
    token = links.issue(Caller(CI, session, None, "ASIA1"), "210987654321", "a/b", DIGEST, 1000.5)
    found = links.read(token, DIGEST, 1899.0)
    assert (found.principal_id, found.principal_account, found.access_key_id) == ("AROACI", ACCOUNT, "ASIA1")
    assert (found.session, found.account, found.repository) == (session, "210987654321", "a/b")


@pytest.mark.parametrize(
    ("purpose", "region", "digest", "now"),
    [
        ("authorization-token", "us-east-1", DIGEST, 1000.0),
        (PURPOSE, "eu-west-1", DIGEST, 1000.0),
        (PURPOSE, "us-east-1", digest_of(b"other"), 1000.0),
        (PURPOSE, "us-east-1", DIGEST, 1900.0),
    ],
    ids=["another-purpose", "another-region", "another-layer", "over"],
)
def test_a_token_counts_for_its_purpose_region_layer_and_time_alone(
    purpose: str, region: str, digest: str, now: float
) -> None:
    token = LayerLinks(SmallSealer(KEYS, PURPOSE), "us-east-1").issue(Caller(CI), ACCOUNT, "a/b", DIGEST, 1000.0)
    with pytest.raises(LinkInvalid):
        LayerLinks(SmallSealer(KEYS, purpose), region).read(token, digest, now)
