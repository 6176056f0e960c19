"""OIDC providers, on every service and client."""

from __future__ import annotations

from typing import Any

import pytest

from support.iam_shapes import Asked
from support.metadata import ACCOUNT, World

URL = "https://token.actions.example.com/org"
ARN = f"arn:aws:iam::{ACCOUNT}:oidc-provider/token.actions.example.com/org"
PRINT = "6938fd4d98bab03faadb97b34396831e3780aea1"


@pytest.fixture
async def iam(world: World) -> Asked:
    await world.bootstrap()
    return Asked(world.metadata, ACCOUNT)


async def test_a_provider_reads_back_as_it_was_given(iam: Asked, world: World) -> None:
    tags = [{"Key": "Team", "Value": "a"}]
    made = await iam(
        "CreateOpenIDConnectProvider", Url=URL, ClientIDList=["sts.amazonaws.com"], ThumbprintList=[PRINT], Tags=tags
    )
    assert made == {"OpenIDConnectProviderArn": ARN, "Tags": tags}
    assert await iam("GetOpenIDConnectProvider", OpenIDConnectProviderArn=ARN) == {
        "Url": "token.actions.example.com/org",
        "ClientIDList": ["sts.amazonaws.com"],
        "ThumbprintList": [PRINT],
        "CreateDate": world.clock.now,
        "Tags": tags,
    }
    assert await iam("ListOpenIDConnectProviders") == {"OpenIDConnectProviderList": [{"Arn": ARN}]}
    found = await world.metadata.oidc_provider(ACCOUNT, "token.actions.example.com/org")
    assert found is not None
    assert (found.arn, found.client_ids, found.thumbprints) == (ARN, ("sts.amazonaws.com",), (PRINT,))


async def test_a_url_is_trusted_once(iam: Asked) -> None:
    await iam("CreateOpenIDConnectProvider", Url=URL)
    assert await iam.refused("CreateOpenIDConnectProvider", Url=URL) == (
        "EntityAlreadyExists",
        f"Provider with url {URL} already exists.",
    )


@pytest.mark.parametrize(
    "url",
    [
        "http://issuer.example.com",
        "issuer.example.com",
        "https://",
        "https://user@issuer.example.com",
        "https://issuer.example.com?x=1",
        "https://issuer.example.com/#f",
        "https://issuer.example.com/a b",
        "https://[::1",
        "https://-issuer.example.com",
    ],
)
async def test_an_issuer_is_https_with_a_host_and_a_path_only(iam: Asked, url: str) -> None:
    assert await iam.refused("CreateOpenIDConnectProvider", Url=url) == (
        "ValidationError",
        "Invalid Open ID Connect Provider URL",
    )


async def test_client_ids_are_added_and_taken_away_a_hundred_at_most(iam: Asked) -> None:
    await iam("CreateOpenIDConnectProvider", Url=URL, ClientIDList=[f"c{number}" for number in range(99)])
    named = {"OpenIDConnectProviderArn": ARN}
    for _ in range(2):
        await iam("AddClientIDToOpenIDConnectProvider", **named, ClientID="last")
    full = ("LimitExceeded", "Cannot exceed quota for ClientIdsPerOpenIdConnectProvider: 100")
    assert await iam.refused("AddClientIDToOpenIDConnectProvider", **named, ClientID="more") == full
    for _ in range(2):
        await iam("RemoveClientIDFromOpenIDConnectProvider", **named, ClientID="c0")
    held = (await iam("GetOpenIDConnectProvider", **named))["ClientIDList"]
    assert held == [*(f"c{number}" for number in range(1, 99)), "last"]
    too_many = [f"c{number}" for number in range(101)]
    assert await iam.refused("CreateOpenIDConnectProvider", Url="https://other.example", ClientIDList=too_many) == full


async def test_thumbprints_are_replaced_whole_five_at_most(iam: Asked) -> None:
    await iam("CreateOpenIDConnectProvider", Url=URL, ThumbprintList=[PRINT])
    named = {"OpenIDConnectProviderArn": ARN}
    new = [f"{number:040x}" for number in range(5)]
    await iam("UpdateOpenIDConnectProviderThumbprint", **named, ThumbprintList=new)
    assert (await iam("GetOpenIDConnectProvider", **named))["ThumbprintList"] == new
    for bad in ([*new, PRINT], ["z" * 40]):
        code, _ = await iam.refused("UpdateOpenIDConnectProviderThumbprint", **named, ThumbprintList=bad)
        assert code == "InvalidInput"
    assert (await iam("GetOpenIDConnectProvider", **named))["ThumbprintList"] == new


async def test_a_provider_that_is_gone_is_not_found_and_may_be_deleted_again(iam: Asked, world: World) -> None:
    await iam("CreateOpenIDConnectProvider", Url=URL)
    named = {"OpenIDConnectProviderArn": ARN}
    for _ in range(2):
        await iam("DeleteOpenIDConnectProvider", **named)
    gone = ("NoSuchEntity", f"OpenIDConnect Provider not found for arn {ARN}")
    calls: list[tuple[str, dict[str, Any]]] = [
        ("GetOpenIDConnectProvider", {}),
        ("AddClientIDToOpenIDConnectProvider", {"ClientID": "c"}),
        ("RemoveClientIDFromOpenIDConnectProvider", {"ClientID": "c"}),
        ("UpdateOpenIDConnectProviderThumbprint", {"ThumbprintList": [PRINT]}),
        ("TagOpenIDConnectProvider", {"Tags": [{"Key": "a", "Value": "b"}]}),
        ("UntagOpenIDConnectProvider", {"TagKeys": ["a"]}),
        ("ListOpenIDConnectProviderTags", {}),
    ]
    for operation, more in calls:
        assert await iam.refused(operation, **named, **more) == gone
    assert await world.metadata.oidc_provider(ACCOUNT, "token.actions.example.com/org") is None


async def test_tags_of_a_provider_are_added_and_taken_away(iam: Asked) -> None:
    await iam("CreateOpenIDConnectProvider", Url=URL, Tags=[{"Key": "Team", "Value": "a"}])
    named = {"OpenIDConnectProviderArn": ARN}
    await iam("TagOpenIDConnectProvider", **named, Tags=[{"Key": "Cost", "Value": "1"}])
    pages = await iam.paged("ListOpenIDConnectProviderTags", lambda page: page["Tags"], **named, MaxItems=1)
    assert pages == [[{"Key": "Cost", "Value": "1"}], [{"Key": "Team", "Value": "a"}]]
    await iam("UntagOpenIDConnectProvider", **named, TagKeys=["Team"])
    assert (await iam("ListOpenIDConnectProviderTags", **named))["Tags"] == [{"Key": "Cost", "Value": "1"}]
