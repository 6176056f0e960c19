"""AssumeRoleWithWebIdentity, from a token of a real HTTPS issuer to a session of the role."""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from proxy.ecr.sts.issuers import UNVERIFIABLE, Issuers
from proxy.model.errors import Code, Failure
from proxy.model.identity import OidcProvider, Role, Session, SessionKind
from support.issuer import DISCOVERY, Issuer, github, sign, status
from support.sts_rows import ACCOUNT, OTHER, StsWorld, allow, policy, trust

WEB = "sts:AssumeRoleWithWebIdentity"
DENIED = "Not authorized to perform sts:AssumeRoleWithWebIdentity"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Issuer:
    return Issuer(tmp_path_factory.mktemp("issuer"))


@pytest.fixture
async def issuer(made: Issuer) -> AsyncIterator[Issuer]:
    made.asked, made.paths = [], {}
    await made.begin()
    yield made
    await made.finish()


@pytest.fixture
async def world(issuer: Issuer) -> AsyncIterator[StsWorld]:
    world = StsWorld(Issuers([issuer.url], tls=issuer.trusting, clock=time.monotonic))
    world.now = time.time()
    yield world
    await world.sts.idle()


@pytest.fixture
def provider(world: StsWorld, issuer: Issuer) -> OidcProvider:
    return world.new_provider(issuer.url.removeprefix("https://"), "sts.amazonaws.com")


def role_for(world: StsWorld, provider: OidcProvider, subject: str, *actions: str, **more: Any) -> Role:
    condition = {
        "StringLike": {f"{provider.url}:sub": subject},
        "StringEquals": {f"{provider.url}:aud": "sts.amazonaws.com"},
    }
    return world.new_role("ci", trust({"Federated": provider.arn}, [WEB, *actions], condition), **more)


async def ask(world: StsWorld, role: Role, token: str, **parameters: Any) -> Any:
    given = {"RoleArn": role.principal.arn, "RoleSessionName": "pod-1", "WebIdentityToken": token, **parameters}
    return await world.call("AssumeRoleWithWebIdentity", None, **given)


async def failure(asking: Any) -> Failure:
    with pytest.raises(Failure) as caught:
        await asking
    return caught.value


async def test_a_pod_gets_the_role_that_trusts_its_service_account(
    world: StsWorld, issuer: Issuer, provider: OidcProvider
) -> None:
    role = role_for(world, provider, "system:serviceaccount:ci:*")
    answer = await ask(world, role, issuer.token())
    found = world.opened(answer)
    issued = int(world.now)
    assert {key: value for key, value in answer.items() if key != "Credentials"} == {
        "AssumedRoleUser": {
            "AssumedRoleId": "AROACI:pod-1",
            "Arn": f"arn:aws:sts::{ACCOUNT}:assumed-role/ci/pod-1",
        },
        "SubjectFromWebIdentityToken": "system:serviceaccount:ci:build",
        "Provider": provider.arn,
        "Audience": "sts.amazonaws.com",
    }
    assert found.session == Session(
        SessionKind.ROLE,
        "pod-1",
        issued,
        issued + 3600,
        claims=(
            ("aws:federatedprovider", provider.arn),
            (f"{provider.url}:aud", "sts.amazonaws.com"),
            (f"{provider.url}:sub", "system:serviceaccount:ci:build"),
        ),
    )


async def test_a_workflow_gets_the_role_that_trusts_its_repository_and_branch(
    world: StsWorld, issuer: Issuer, provider: OidcProvider
) -> None:
    role = role_for(world, provider, "repo:octo-org/app:ref:refs/heads/main")
    main = github(issuer.url, world.now)
    branch = github(issuer.url, world.now, sub="repo:octo-org/app:ref:refs/heads/feature")
    assert await ask(world, role, sign(main, issuer.keys["one"], kid="one"))
    refused = await failure(ask(world, role, sign(branch, issuer.keys["one"], kid="one")))
    assert (refused.code, refused.message) == (Code.ACCESS_DENIED, DENIED)


async def test_a_role_that_is_not_there_is_denied_as_one_that_does_not_trust(
    world: StsWorld, issuer: Issuer, provider: OidcProvider
) -> None:
    role = role_for(world, provider, "somebody-else")
    denied = await failure(ask(world, role, issuer.token()))
    world.roles.clear()
    absent = await failure(ask(world, role, issuer.token()))
    assert (denied.code, denied.message) == (absent.code, absent.message) == (Code.ACCESS_DENIED, DENIED)


async def test_a_role_of_another_provider_or_for_callers_is_not_taken(
    world: StsWorld, issuer: Issuer, provider: OidcProvider
) -> None:
    other = world.new_role("ci", trust({"Federated": provider.arn.replace("localhost", "elsewhere")}, WEB))
    assert (await failure(ask(world, other, issuer.token()))).message == DENIED
    callers = world.new_role(
        "ci", trust({"Federated": provider.arn}, "sts:AssumeRole"), trust({"AWS": "*"}, "sts:AssumeRole")
    )
    assert (await failure(ask(world, callers, issuer.token()))).message == DENIED


async def test_the_provider_must_be_one_of_the_roles_account(
    world: StsWorld, issuer: Issuer, provider: OidcProvider
) -> None:
    role = world.new_role("ci", trust({"Federated": provider.arn}, WEB), account=OTHER)
    refused = await failure(ask(world, role, issuer.token()))
    assert (refused.code, refused.message) == (
        Code.INVALID_IDENTITY_TOKEN,
        f"No OpenIDConnect provider found in your account for {issuer.url}",
    )
    assert issuer.asked == []


async def test_a_token_for_others_is_of_the_wrong_audience(
    world: StsWorld, issuer: Issuer, provider: OidcProvider
) -> None:
    role = role_for(world, provider, "*")
    refused = await failure(ask(world, role, issuer.token(aud="https://kubernetes.default.svc")))
    assert (refused.code, refused.message) == (Code.INVALID_IDENTITY_TOKEN, "Incorrect token audience")


async def test_an_expired_token_is_called_so(world: StsWorld, issuer: Issuer, provider: OidcProvider) -> None:
    role = role_for(world, provider, "*")
    refused = await failure(ask(world, role, issuer.token(exp=int(world.now) - 600)))
    assert refused.code is Code.EXPIRED_IDENTITY
    assert refused.message.startswith("Token expired: current date/time ")


async def test_a_forged_token_is_told_nothing_of_its_times_or_audience(
    world: StsWorld, issuer: Issuer, provider: OidcProvider
) -> None:
    role = role_for(world, provider, "*")
    known = issuer.keys["one"]
    issuer.rotate("one")
    forged = issuer.token(exp=1, aud="x")
    issuer.keys = {"one": known}
    refused = await failure(ask(world, role, forged))
    assert refused.message == "The signature of the ID Token does not hold by a key of its issuer."


async def test_an_issuer_that_fails_is_one_to_try_again(
    world: StsWorld, issuer: Issuer, provider: OidcProvider
) -> None:
    issuer.paths[DISCOVERY] = status(502)
    refused = await failure(ask(world, role_for(world, provider, "*"), issuer.token()))
    assert (refused.code, refused.message) == (Code.IDP_COMMUNICATION, UNVERIFIABLE)


async def test_what_an_issuer_sets_needs_the_trust_policys_word(
    world: StsWorld, issuer: Issuer, provider: OidcProvider
) -> None:
    claims: dict[str, Any] = {
        "https://aws.amazon.com/tags": {"principal_tags": {"team": ["a"]}, "transitive_tag_keys": ["team"]},
        "https://aws.amazon.com/source_identity": "anna",
    }
    token = issuer.token(**claims)
    assert (await failure(ask(world, role_for(world, provider, "*"), token))).message == DENIED
    role = role_for(world, provider, "*", "sts:TagSession", "sts:SetSourceIdentity")
    answer = await ask(world, role, token)
    session = world.opened(answer).session
    assert (session.tags, session.transitive, session.source_identity) == ((("team", "a"),), ("team",), "anna")
    assert answer["SourceIdentity"] == "anna"


@pytest.mark.parametrize(
    "set_by_issuer",
    [
        {"https://aws.amazon.com/tags": {"principal_tags": {"<>": ["a"]}}},
        {"https://aws.amazon.com/tags": {"principal_tags": {"aws:a": ["a"]}}},
        {"https://aws.amazon.com/source_identity": "not a name"},
        {"https://aws.amazon.com/source_identity": "aws:anna"},
    ],
)
async def test_what_an_issuer_sets_is_held_to_the_same_forms(
    world: StsWorld, issuer: Issuer, provider: OidcProvider, set_by_issuer: dict[str, Any]
) -> None:
    role = role_for(world, provider, "*", "sts:TagSession", "sts:SetSourceIdentity")
    assert (await failure(ask(world, role, issuer.token(**set_by_issuer)))).code is Code.VALIDATION_ERROR


async def test_the_session_may_be_narrowed_and_is_as_long_as_the_role_allows(
    world: StsWorld, issuer: Issuer, provider: OidcProvider
) -> None:
    role = role_for(world, provider, "*", seconds=7200)
    narrow = policy(allow("ecr:BatchGetImage"))
    answer = await ask(world, role, issuer.token(), Policy=narrow, DurationSeconds=7200)
    session = world.opened(answer).session
    assert (session.policy, session.expires - session.issued) == (narrow, 7200)
    refused = await failure(ask(world, role, issuer.token(), DurationSeconds=7201))
    assert refused.message == "The requested DurationSeconds exceeds the MaxSessionDuration set for this role."


async def test_a_provider_id_is_of_another_kind_of_token(
    world: StsWorld, issuer: Issuer, provider: OidcProvider
) -> None:
    role = role_for(world, provider, "*")
    refused = await failure(ask(world, role, issuer.token(), ProviderId="www.amazon.com"))
    assert refused.code is Code.VALIDATION_ERROR


async def test_an_identity_of_whom_more_is_said_than_a_session_holds_is_refused(
    world: StsWorld, issuer: Issuer, provider: OidcProvider
) -> None:
    role = role_for(world, provider, "system:serviceaccount:ci:*")
    refused = await failure(ask(world, role, issuer.token(amr=[secrets.token_hex(16) for _ in range(400)])))
    assert refused.code is Code.PACKED_POLICY_TOO_LARGE
    assert refused.message == "What the ID Token says of its subject is more than a session holds."
