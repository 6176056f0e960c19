"""What a sender of another installation may do here, and what not; the tests play the sender."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from proxy.model.replica_headers import DESTINATION, FAILURE, ORIGIN, SOURCE, TAGS
from support.oci_requests import EMPTY_CONFIG, OCI_IMAGE, body, code_of, digest_of, image, push_image
from support.recording_trail import RecordingTrail
from support.whole_registry import ACCOUNT, REGION, WholeRegistry, whole_registry

OTHER = "999988887777"
AWAY = "eu-west-1"
SENDER = f"arn:aws:iam::{ACCOUNT}:user/sender"
RIGHTS = ("ecr:GetAuthorizationToken", "ecr:ReplicateImage", "ecr:CreateRepository")
LAYER = b"layer" * 1000
MANIFEST = image([LAYER])
DIGEST = digest_of(MANIFEST)
OWN = {SOURCE: f"{AWAY}/{ACCOUNT}", DESTINATION: f"{REGION}/{ACCOUNT}"}
FOREIGN = {SOURCE: f"{AWAY}/{OTHER}", DESTINATION: f"{REGION}/{ACCOUNT}"}
UPLOADS = "/v2/team/app/blobs/uploads/"


@pytest.fixture
def trail() -> RecordingTrail:
    return RecordingTrail()


@pytest.fixture
async def registry(tmp_path: Path, trail: RecordingTrail) -> AsyncIterator[WholeRegistry]:
    async with whole_registry(tmp_path, senders=[SENDER], trail=trail) as found:
        yield found


async def user(registry: WholeRegistry, name: str, *actions: str) -> aiohttp.ClientSession:
    """A session of a new user of the default account with these rights."""
    policy = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": actions, "Resource": "*"}]}
    await registry.metadata.iam(ACCOUNT, "CreateUser", {"UserName": name})
    given = {"UserName": name, "PolicyName": "own", "PolicyDocument": json.dumps(policy)}
    await registry.metadata.iam(ACCOUNT, "PutUserPolicy", given)
    key = await registry.give_key(ACCOUNT, name)
    found = await registry.metadata.access_key(key[0])
    password, _ = registry.tokens.issue(found.principal, ACCOUNT, REGION, time.time())
    basic = base64.b64encode(f"AWS:{password}".encode()).decode()
    return aiohttp.ClientSession(registry.url, headers={"Authorization": f"Basic {basic}"})


@pytest.fixture
async def sender(registry: WholeRegistry) -> AsyncIterator[aiohttp.ClientSession]:
    async with await user(registry, "sender", *RIGHTS) as found:
        yield found


async def send_blob(
    sender: aiohttp.ClientSession, content: bytes, headers: dict[str, str], repository: str = "team/app"
) -> int:
    """What POST answers; the bytes follow where it opens an upload."""
    where = {"mount": digest_of(content)}
    async with sender.post(f"/v2/{repository}/blobs/uploads/", params=where, headers=headers) as answer:
        status, location = answer.status, answer.headers.get("Location", "")
    if status == 202:
        async with sender.patch(location, data=body(content), headers=headers) as answer:
            assert answer.status == 202, await answer.text()
        async with sender.put(location, params={"digest": digest_of(content)}, headers=headers) as answer:
            assert answer.status == 201, await answer.text()
    return status


async def send_manifest(
    sender: aiohttp.ClientSession, headers: dict[str, str], *tags: str, content: bytes = MANIFEST
) -> tuple[int, str]:
    """Status and failure code."""
    where = f"/v2/team/app/manifests/{digest_of(content)}"
    more = {**headers, TAGS: ",".join(tags), "Content-Type": OCI_IMAGE}
    async with sender.put(where, data=content, headers=more) as answer:
        return answer.status, answer.headers.get(FAILURE, "")


async def send(sender: aiohttp.ClientSession, headers: dict[str, str], *tags: str) -> tuple[int, str]:
    for content in (EMPTY_CONFIG, LAYER):
        await send_blob(sender, content, headers)
    return await send_manifest(sender, headers, *tags)


async def tagged(registry: WholeRegistry) -> list[str]:
    page = await registry.metadata.tags(ACCOUNT, "team/app", last="", limit=100)
    return list(page.names)


async def let_in(registry: WholeRegistry, *actions: str, effect: str = "Allow") -> None:
    statement = {
        "Sid": "away",
        "Effect": effect,
        "Principal": {"AWS": f"arn:aws:iam::{OTHER}:root"},
        "Action": list(actions),
        "Resource": f"arn:aws:ecr:{REGION}:{ACCOUNT}:repository/*",
    }
    text = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
    await registry.metadata.call(ACCOUNT, "PutRegistryPolicy", {"policyText": text})


async def test_an_image_arrives_with_its_tags_in_a_repository_that_is_made(
    registry: WholeRegistry, sender: aiohttp.ClientSession
) -> None:
    assert await send(sender, OWN, "v1=100.5", "latest=101.0") == (201, "")
    assert await tagged(registry) == ["latest", "v1"]
    assert (await registry.metadata.manifest(ACCOUNT, "team/app", "v1")).content == MANIFEST
    assert not await registry.metadata.list_jobs(after=0, limit=10, kind="replication")


async def test_a_layer_is_asked_for_and_then_mounted_before_its_bytes_are_sent(
    registry: WholeRegistry, sender: aiohttp.ClientSession
) -> None:
    async def there(repository: str) -> int:
        async with sender.head(f"/v2/{repository}/blobs/{digest_of(LAYER)}", headers=OWN) as answer:
            return answer.status

    assert await there("team/app") == 404
    assert await send_blob(sender, LAYER, OWN) == 202
    assert await there("team/app") == 200
    assert await there("team/base") == 404
    assert await send_blob(sender, LAYER, OWN, "team/base") == 201
    assert await there("team/base") == 200
    await registry.metadata.call(ACCOUNT, "PutAccountSetting", {"name": "BLOB_MOUNTING", "value": "DISABLED"})
    assert await send_blob(sender, LAYER, OWN, "team/third") == 202


async def test_an_upload_goes_on_where_it_stands(registry: WholeRegistry, sender: aiohttp.ClientSession) -> None:
    async with sender.post(UPLOADS, params={"mount": digest_of(LAYER)}, headers=OWN) as answer:
        location = answer.headers["Location"]
    async with sender.patch(location, data=LAYER[:1000], headers=OWN) as answer:
        assert answer.status == 202
    async with sender.get(location, headers=OWN) as answer:
        assert (answer.status, answer.headers["Range"]) == (204, "0-999")
    rest = {**OWN, "Content-Range": f"1000-{len(LAYER) - 1}"}
    async with sender.patch(location, data=LAYER[1000:], headers=rest) as answer:
        assert answer.status == 202
    async with sender.put(location, params={"digest": digest_of(LAYER)}, headers=OWN) as answer:
        assert answer.status == 201


ELSE = [
    ("GET", "/v2/"),
    ("GET", "/v2/_catalog"),
    ("GET", "/v2/team/app/tags/list"),
    ("GET", "/v2/team/app/manifests/v1"),
    ("HEAD", "/v2/team/app/manifests/v1"),
    ("GET", f"/v2/team/app/blobs/{digest_of(LAYER)}"),
    ("DELETE", f"/v2/team/app/blobs/{digest_of(LAYER)}"),
    ("GET", f"/v2/team/app/referrers/{DIGEST}"),
    ("DELETE", f"{UPLOADS}00000000-0000-0000-0000-000000000000"),
]


@pytest.mark.parametrize(("method", "path"), ELSE)
async def test_a_sender_pulls_nothing_with_the_headers_or_without(
    registry: WholeRegistry, sender: aiohttp.ClientSession, method: str, path: str
) -> None:
    await send(sender, OWN, "v1=1.0")
    async with sender.request(method, path, headers=OWN) as answer:
        assert answer.status == 403
    async with sender.request(method, path) as answer:
        assert answer.status == (200 if path == "/v2/" else 403)


async def test_without_the_headers_a_sender_pushes_nothing(
    registry: WholeRegistry, sender: aiohttp.ClientSession
) -> None:
    async with sender.post(UPLOADS) as answer:
        assert answer.status == 403
    async with sender.put("/v2/team/app/manifests/v1", data=MANIFEST, headers={"Content-Type": OCI_IMAGE}) as answer:
        assert answer.status == 403


async def test_another_accounts_image_needs_the_registrys_policy_for_that_accounts_root(
    registry: WholeRegistry, sender: aiohttp.ClientSession
) -> None:
    await registry.open_account(OTHER)
    assert await send_manifest(sender, FOREIGN) == (403, "AccessDenied")
    await let_in(registry, "ecr:ReplicateImage")
    async with sender.post(UPLOADS, params={"mount": digest_of(LAYER)}, headers=FOREIGN) as answer:
        assert (answer.status, answer.headers[FAILURE]) == (404, "RepositoryNotFound")
    await let_in(registry, "ecr:ReplicateImage", "ecr:CreateRepository")
    assert await send(sender, FOREIGN, "v1=1.0") == (201, "")
    assert await tagged(registry) == ["v1"]


async def test_a_deny_of_the_registry_holds_for_its_own_account_too(
    registry: WholeRegistry, sender: aiohttp.ClientSession
) -> None:
    deny = {"Sid": "no", "Effect": "Deny", "Principal": "*", "Action": "ecr:ReplicateImage", "Resource": "*"}
    text = json.dumps({"Version": "2012-10-17", "Statement": [deny]})
    await registry.metadata.call(ACCOUNT, "PutRegistryPolicy", {"policyText": text})
    assert await send_manifest(sender, OWN) == (403, "AccessDenied")


async def test_a_sender_needs_both_actions_in_its_own_policies(registry: WholeRegistry) -> None:
    async with await user(registry, "sender", "ecr:ReplicateImage") as sender:
        async with sender.post(UPLOADS, params={"mount": digest_of(LAYER)}, headers=OWN) as answer:
            assert (answer.status, answer.headers[FAILURE]) == (404, "RepositoryNotFound")
        await registry.metadata.iam(ACCOUNT, "DeleteUserPolicy", {"UserName": "sender", "PolicyName": "own"})
        assert await send_manifest(sender, OWN) == (403, "AccessDenied")


async def test_who_is_not_listed_speaks_for_its_own_account_alone(registry: WholeRegistry) -> None:
    await registry.open_account(OTHER)
    await let_in(registry, "ecr:ReplicateImage", "ecr:CreateRepository")
    async with await user(registry, "unlisted", *RIGHTS) as sender:
        assert await send_manifest(sender, FOREIGN) == (403, "AccessDenied")
        assert await send_manifest(sender, {**OWN, DESTINATION: f"{REGION}/{OTHER}"}) == (403, "AccessDenied")
        assert await send(sender, OWN, "v1=1.0") == (201, "")


@pytest.mark.parametrize(
    "headers",
    [
        {**OWN, DESTINATION: f"eu-central-1/{ACCOUNT}"},
        {**OWN, SOURCE: f"{REGION}/{ACCOUNT}"},
        {SOURCE: OWN[SOURCE]},
        {DESTINATION: OWN[DESTINATION]},
    ],
    ids=["for another region", "from this region", "no destination", "no source"],
)
async def test_what_is_meant_for_elsewhere_or_comes_from_here_is_refused(
    registry: WholeRegistry, sender: aiohttp.ClientSession, headers: dict[str, str]
) -> None:
    async with sender.post(UPLOADS, params={"mount": digest_of(LAYER)}, headers=headers) as answer:
        assert answer.status == 400


async def test_an_unknown_destination_is_denied(registry: WholeRegistry, sender: aiohttp.ClientSession) -> None:
    assert await send_manifest(sender, {**OWN, DESTINATION: f"{REGION}/{OTHER}"}) == (403, "AccessDenied")


async def test_a_manifest_that_has_another_digest_is_refused(
    registry: WholeRegistry, sender: aiohttp.ClientSession
) -> None:
    await send(sender, OWN)
    where = f"/v2/team/app/manifests/{digest_of(b'other')}"
    async with sender.put(where, data=MANIFEST, headers={**OWN, "Content-Type": OCI_IMAGE}) as answer:
        assert (answer.status, await code_of(answer)) == (400, "DIGEST_INVALID")
    async with sender.put("/v2/team/app/manifests/v1", data=MANIFEST, headers=OWN) as answer:
        assert answer.status == 400


async def test_a_deletion_removes_what_was_sent_and_not_what_was_pushed_again_here(
    registry: WholeRegistry, sender: aiohttp.ClientSession
) -> None:
    async def delete(*tags: str) -> int:
        more = {**OWN, TAGS: ",".join(f"{tag}={OWN[SOURCE]}" for tag in tags), ORIGIN: OWN[SOURCE]}
        async with sender.delete(f"/v2/team/app/manifests/{DIGEST}", headers=more) as answer:
            return answer.status

    await send(sender, OWN, "v1=1.0", "v2=2.0")
    assert await delete("v1=1.0") == 409  # to be tried again: v2 has moved or gone there, which has not come here yet
    assert await tagged(registry) == ["v2"]
    async with registry.client() as http:
        await push_image(http, "team/app", "v3", [LAYER])
    assert await delete("v2=2.0") == 202
    assert await tagged(registry) == ["v3"]
    async with registry.client() as http, http.get("/v2/team/app/manifests/v3") as answer:
        assert answer.status == 200


async def test_a_deletion_removes_the_image(registry: WholeRegistry, sender: aiohttp.ClientSession) -> None:
    await send(sender, OWN, "v1=1.0")
    more = {**OWN, TAGS: f"v1=1.0={OWN[SOURCE]}", ORIGIN: OWN[SOURCE]}
    async with sender.delete(f"/v2/team/app/manifests/{DIGEST}", headers=more) as answer:
        assert answer.status == 202
    async with registry.client() as http, http.get(f"/v2/team/app/manifests/{DIGEST}") as answer:
        assert answer.status == 404


async def test_a_removed_tag_goes_alone(registry: WholeRegistry, sender: aiohttp.ClientSession) -> None:
    await send(sender, OWN, "v1=1.0", "v2=2.0")
    more = {**OWN, TAGS: f"v1=1.0={OWN[SOURCE]}"}
    async with sender.delete("/v2/team/app/manifests/v1", headers=more) as answer:
        assert answer.status == 202
    assert await tagged(registry) == ["v2"]
    async with sender.delete(f"/v2/team/app/manifests/{DIGEST}", headers=more) as answer:
        assert answer.status == 400  # whose push it was is not said


async def test_the_audit_event_says_whose_image_it_is(
    registry: WholeRegistry, sender: aiohttp.ClientSession, trail: RecordingTrail
) -> None:
    await send(sender, OWN, "v1=1.0")
    found = trail.events[-1]
    assert (found["eventName"], found["userIdentity"]["arn"]) == ("ReplicateImage", SENDER)
    assert found["requestParameters"]["replicatedFrom"] == OWN[SOURCE]
    assert found["requestParameters"]["imageTags"] == ["v1"]
    assert "CreateRepository" in [event["eventName"] for event in trail.events]


async def test_an_answer_to_a_replication_is_kept_for_nobody(registry: WholeRegistry) -> None:
    async with await user(registry, "sender", *RIGHTS) as sender:
        await send_blob(sender, LAYER, OWN)
        for _ in range(3):
            async with sender.head(f"/v2/team/app/blobs/{digest_of(LAYER)}", headers=OWN) as answer:
                assert answer.status == 200
        await registry.metadata.iam(ACCOUNT, "DeleteUserPolicy", {"UserName": "sender", "PolicyName": "own"})
        async with sender.head(f"/v2/team/app/blobs/{digest_of(LAYER)}", headers=OWN) as answer:
            assert answer.status == 403
