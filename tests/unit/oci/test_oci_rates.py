"""Request rates at both doors: whose they are, what counts, and what one is told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from proxy.model.quotas import Rate
from support.oci_requests import push_image
from support.recording_access import RecordingAccess
from support.recording_trail import RecordingTrail
from support.whole_registry import ACCOUNT, REGION, WholeRegistry, whole_registry

OTHER = "210987654321"
MANIFEST = "/v2/team/app/manifests/v1"
ONCE = Rate(0.25, 1.0)  # nothing comes back while a test runs that does not wait for it

_session = boto3.session.Session()


@pytest.fixture
def trail() -> RecordingTrail:
    return RecordingTrail()


@pytest.fixture
def access() -> RecordingAccess:
    return RecordingAccess()


@pytest.fixture
async def registry(tmp_path: Path, trail: RecordingTrail, access: RecordingAccess) -> AsyncIterator[WholeRegistry]:
    async with whole_registry(tmp_path, trail=trail, access=access, rates={"BatchGetImage": ONCE}) as found:
        async with found.client() as http:
            await push_image(http, "team/app", "v1", [b"a layer"])
        yield found


@pytest.fixture
async def http(registry: WholeRegistry) -> AsyncIterator[aiohttp.ClientSession]:
    async with registry.client() as session:
        yield session


def ecr(registry: WholeRegistry, key: tuple[str, str]) -> Any:
    return _session.client(
        "ecr",
        endpoint_url=registry.url,
        region_name=REGION,
        aws_access_key_id=key[0],
        aws_secret_access_key=key[1],
        config=Config(retries={"total_max_attempts": 1}),
    )


ASKED = {"registryId": ACCOUNT, "repositoryName": "team/app", "imageIds": [{"imageTag": "v1"}]}


async def test_past_the_rate_docker_is_told_to_come_again(http: aiohttp.ClientSession, trail: RecordingTrail) -> None:
    """429 in the protocol's form, with the seconds to wait; HEAD and GET of a manifest are one operation."""
    async with http.head(MANIFEST) as answer:
        assert answer.status == 200
    async with http.get(MANIFEST) as answer:
        assert (answer.status, answer.headers["Retry-After"]) == (429, "4")
        assert await answer.json() == {"errors": [{"code": "TOOMANYREQUESTS", "message": "Rate exceeded"}]}
    async with http.head(MANIFEST) as answer:
        assert answer.status == 429
    async with http.get("/v2/team/app/tags/list") as answer:
        assert answer.status == 200, "another operation, which has no rate"
    refused = [event for event in trail.events if event.get("errorCode") == "ThrottlingException"]
    assert [(event["eventName"], event["errorMessage"]) for event in refused] == [
        ("BatchGetImage", "Rate exceeded")
    ] * 2


async def test_both_doors_spend_the_same_tokens(registry: WholeRegistry, http: aiohttp.ClientSession) -> None:
    """What docker has used up is Throttling, 400, to the API; only the account that asks has used it."""
    async with http.get(MANIFEST) as answer:
        assert answer.status == 200
    asked = ecr(registry, await registry.give_key(ACCOUNT, "administrator"))
    with pytest.raises(ClientError) as refused:
        await asyncio.to_thread(asked.batch_get_image, **ASKED)
    assert refused.value.response["Error"] == {"Code": "ThrottlingException", "Message": "Rate exceeded"}
    assert refused.value.response["ResponseMetadata"]["HTTPStatusCode"] == 400
    other = ecr(registry, await registry.open_account(OTHER))
    found = await asyncio.to_thread(other.batch_get_image, **ASKED)
    assert len(found["images"]) == 1, "of the same registry, by another's account"


async def test_who_shows_no_password_uses_up_nothing(registry: WholeRegistry, http: aiohttp.ClientSession) -> None:
    """Nor who shows a wrong one, at either door."""
    async with aiohttp.ClientSession(registry.url) as nobody:
        for headers in ({}, {"Authorization": "Basic QVdTOndyb25n"}):
            async with nobody.get(MANIFEST, headers=headers) as answer:
                assert answer.status == 401
    key, _ = await registry.give_key(ACCOUNT, "administrator")
    with pytest.raises(ClientError, match="InvalidSignatureException"):
        await asyncio.to_thread(ecr(registry, (key, "wrong")).batch_get_image, **ASKED)
    async with http.get(MANIFEST) as answer:
        assert answer.status == 200


async def test_what_is_denied_counts(http: aiohttp.ClientSession, access: RecordingAccess) -> None:
    """The rate comes before the policies: a flood of refusals is one too."""
    access.denied = {"ecr:BatchGetImage"}
    async with http.get(MANIFEST) as answer:
        assert answer.status == 403
    access.denied = set()
    async with http.get(MANIFEST) as answer:
        assert answer.status == 429
