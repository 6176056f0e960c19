"""AssumeRole: who may take a role, what the session is, and how it is limited."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.model.errors import Code, Failure
from proxy.model.identity import AttachedPolicy, Caller, Principal, Session, SessionKind
from support.sts_rows import ACCOUNT, NOW, OTHER, ROOT, StsWorld, allow, policy, trust, user

ANNA = user("anna", allow("sts:*"))
BOB = user("bob")
EVA = user("eva", allow("sts:*"), account=OTHER)
EVERYTHING = ["sts:AssumeRole", "sts:TagSession", "sts:SetSourceIdentity"]


def names(principal: Principal) -> tuple[dict[str, str], tuple[tuple[str, str], ...]]:
    """A trust policy's Principal that names one, and what it is bound to."""
    return {"AWS": principal.arn}, ((principal.arn, principal.principal_id),)


@pytest.fixture
def world() -> StsWorld:
    return StsWorld()


async def failure(asking: Any) -> Failure:
    with pytest.raises(Failure) as caught:
        await asking
    return caught.value


async def test_whom_the_trust_policy_names_gets_a_session_of_the_role(world: StsWorld) -> None:
    named, bound = names(BOB)
    role = world.new_role("ci", trust(named), path="/teams/", bound=bound)
    answer = await world.assume(BOB, role)
    assert answer["AssumedRoleUser"] == {
        "AssumedRoleId": "AROACI:build",
        "Arn": f"arn:aws:sts::{ACCOUNT}:assumed-role/ci/build",
    }
    assert set(answer) == {"Credentials", "AssumedRoleUser"}
    found = world.opened(answer)
    assert answer["Credentials"] == {
        "AccessKeyId": found.access_key_id,
        "SecretAccessKey": found.secret,
        "SessionToken": answer["Credentials"]["SessionToken"],
        "Expiration": int(NOW) + 3600,
    }
    assert found.principal_id == "AROACI"
    assert found.session == Session(SessionKind.ROLE, "build", int(NOW), int(NOW) + 3600)


async def test_a_trust_policy_that_names_the_account_only_needs_the_users_own_policy_too(world: StsWorld) -> None:
    role = world.new_role("ci", trust({"AWS": ACCOUNT}))
    assert await world.assume(ANNA, role)
    assert (await failure(world.assume(BOB, role))).code is Code.ACCESS_DENIED


async def test_across_accounts_both_must_allow_it(world: StsWorld) -> None:
    named, bound = names(EVA)
    role = world.new_role("ci", trust(named), bound=bound)
    assert await world.assume(EVA, role)
    silent = user("eva", account=OTHER)
    assert (await failure(world.assume(silent, role))).code is Code.ACCESS_DENIED
    closed = world.new_role("other", trust({"AWS": ACCOUNT}))
    assert (await failure(world.assume(EVA, closed))).code is Code.ACCESS_DENIED


async def test_a_user_made_anew_under_the_same_arn_is_somebody_else(world: StsWorld) -> None:
    named, _ = names(BOB)
    role = world.new_role("ci", trust(named), bound=((BOB.arn, "AIDABEFORE"),))
    assert (await failure(world.assume(BOB, role))).code is Code.ACCESS_DENIED


async def test_a_role_that_is_not_there_is_denied_in_the_words_of_one_that_may_not_be_taken(world: StsWorld) -> None:
    role = world.new_role("ci", trust({"AWS": OTHER}))
    denied = await failure(world.assume(ANNA, role))
    assert denied.code is Code.ACCESS_DENIED
    assert denied.message == (
        f"User: arn:aws:iam::{ACCOUNT}:user/anna is not authorized to perform: sts:AssumeRole on resource: "
        f"arn:aws:iam::{ACCOUNT}:role/ci"
    )
    world.roles.clear()
    absent = await failure(world.assume(ANNA, role))
    assert (absent.code, absent.message) == (denied.code, denied.message)


@pytest.mark.parametrize("other", ["role/CI", "role/ci", "role/elsewhere/ci"])
async def test_an_arn_with_another_path_or_case_is_not_the_roles(world: StsWorld, other: str) -> None:
    world.new_role("ci", trust({"AWS": ACCOUNT}), path="/teams/")
    asking = world.call("AssumeRole", ANNA, RoleArn=f"arn:aws:iam::{ACCOUNT}:{other}", RoleSessionName="build")
    assert (await failure(asking)).code is Code.ACCESS_DENIED


@pytest.mark.parametrize(
    "arn",
    [
        f"arn:aws:iam::{ACCOUNT}:user/anna",
        "arn:aws:iam::12345:role/ci-role-of-it",
        f"arn:aws:sts::{ACCOUNT}:assumed-role/ci/build",
        f"arn:aws:iam::{ACCOUNT}:role/ci\n",
        f"arn:aws:iam::{ACCOUNT}:role/",
        "this-is-no-arn-at-all-but-long",
    ],
)
async def test_what_is_no_roles_arn_is_invalid(world: StsWorld, arn: str) -> None:
    refused = await failure(world.call("AssumeRole", ANNA, RoleArn=arn, RoleSessionName="build"))
    assert (refused.code, refused.message) == (Code.VALIDATION_ERROR, "Request ARN is invalid")


async def test_a_root_takes_no_role(world: StsWorld) -> None:
    role = world.new_role("ci", trust({"AWS": "*"}))
    refused = await failure(world.assume(ROOT, role))
    assert (refused.code, refused.message) == (Code.ACCESS_DENIED, "Roles may not be assumed by root accounts.")


@pytest.mark.parametrize(
    ("condition", "given", "wrong"),
    [
        ({"StringEquals": {"sts:ExternalId": "e-77"}}, {"ExternalId": "e-77"}, {"ExternalId": "e-78"}),
        ({"StringEquals": {"sts:ExternalId": "e-77"}}, {"ExternalId": "e-77"}, {}),
        (
            {"StringLike": {"sts:RoleSessionName": "${aws:username}"}},
            {"RoleSessionName": "anna"},
            {"RoleSessionName": "bob"},
        ),
        ({"StringEquals": {"sts:SourceIdentity": "anna"}}, {"SourceIdentity": "anna"}, {"SourceIdentity": "bob"}),
        (
            {"StringEquals": {"aws:RequestTag/Team": "a"}},
            {"Tags": [{"Key": "team", "Value": "a"}]},
            {"Tags": [{"Key": "team", "Value": "b"}]},
        ),
        (
            {"ForAllValues:StringEquals": {"aws:TagKeys": ["team"]}},
            {"Tags": [{"Key": "team", "Value": "a"}]},
            {"Tags": [{"Key": "cost", "Value": "a"}]},
        ),
        (
            {"ForAllValues:StringEquals": {"sts:TransitiveTagKeys": ["team"]}},
            {"Tags": [{"Key": "team", "Value": "a"}], "TransitiveTagKeys": ["team"]},
            {"Tags": [{"Key": "cost", "Value": "a"}], "TransitiveTagKeys": ["cost"]},
        ),
        (
            {"StringEquals": {"aws:PrincipalArn": ANNA.arn, "aws:SourceIp": "192.0.2.7"}},
            {},
            {"principal": user("zoe", allow("sts:*"))},
        ),
        ({"StringEquals": {"aws:ResourceTag/owner": "platform"}}, {}, {"role_tags": ()}),
        ({"StringEquals": {"iam:ResourceTag/owner": "platform"}}, {}, {"role_tags": ()}),
        ({"Null": {"aws:MultiFactorAuthPresent": "true"}}, {}, None),
        ({"Bool": {"aws:MultiFactorAuthPresent": "true"}}, None, {}),
    ],
)
async def test_the_trust_policys_conditions_count(
    world: StsWorld, condition: dict[str, Any], given: dict[str, Any] | None, wrong: dict[str, Any] | None
) -> None:
    """What is `given` is allowed by the condition, and what is `wrong` is not."""
    for parameters, expected in ((given, True), (wrong, False)):
        if parameters is None:
            continue
        asked = dict(parameters)
        caller = asked.pop("principal", ANNA)
        tags = asked.pop("role_tags", (("owner", "platform"),))
        role = world.new_role("ci", trust({"AWS": ACCOUNT}, EVERYTHING, condition), tags=tags)
        if expected:
            assert await world.assume(caller, role, **asked)
        else:
            assert (await failure(world.assume(caller, role, **asked))).code is Code.ACCESS_DENIED


@pytest.mark.parametrize(
    ("parameters", "action"),
    [
        ({"Tags": [{"Key": "team", "Value": "a"}]}, "sts:TagSession"),
        ({"SourceIdentity": "anna"}, "sts:SetSourceIdentity"),
    ],
)
async def test_tags_and_source_identity_need_an_action_of_their_own(
    world: StsWorld, parameters: dict[str, Any], action: str
) -> None:
    named, bound = names(BOB)
    role = world.new_role("ci", trust(named), bound=bound)
    refused = await failure(world.assume(BOB, role, **parameters))
    assert refused.message == (
        f"User: {BOB.arn} is not authorized to perform: {action} on resource: {role.principal.arn}"
    )
    allowed = world.new_role("ci", trust(named, ["sts:AssumeRole", action]), bound=bound)
    assert await world.assume(BOB, allowed, **parameters)


async def test_the_session_carries_policy_arns_tags_and_source_identity(world: StsWorld) -> None:
    role = world.new_role("ci", trust({"AWS": ACCOUNT}, EVERYTHING))
    arn = "arn:aws:iam::aws:policy/AmazonEC2ContainerRegistryPullOnly"
    world.documents[arn] = AttachedPolicy("{}", arn=arn)
    narrow = policy(allow("ecr:BatchGetImage"))
    answer = await world.assume(
        ANNA,
        role,
        Policy=narrow,
        PolicyArns=[{"arn": arn}, {"arn": arn}],
        Tags=[{"Key": "Team", "Value": "a"}, {"Key": "cost", "Value": ""}],
        TransitiveTagKeys=["team"],
        SourceIdentity="anna",
        DurationSeconds=900,
    )
    assert world.opened(answer).session == Session(
        SessionKind.ROLE,
        "build",
        int(NOW),
        int(NOW) + 900,
        policy=narrow,
        policy_arns=(arn,),
        tags=(("Team", "a"), ("cost", "")),
        transitive=("Team",),
        source_identity="anna",
    )
    assert answer["SourceIdentity"] == "anna"
    assert 1 <= answer["PackedPolicySize"] <= 20


# ---- roles taken by roles -------------------------------------------------------------------------------------------


BUILD = f"arn:aws:sts::{ACCOUNT}:assumed-role/first/build"
BUILD_OF_FIRST = ((BUILD, "AROAFIRST"),)


async def chained(world: StsWorld, **parameters: Any) -> Caller:
    """A session of the role `first`, taken by Anna, whose tag team goes on and whose tag cost does not."""
    first = world.new_role("first", trust({"AWS": ACCOUNT}, EVERYTHING))
    tags = [{"Key": "Team", "Value": "a"}, {"Key": "cost", "Value": "7"}]
    answer = await world.assume(ANNA, first, Tags=tags, TransitiveTagKeys=["Team"], **parameters)
    return world.caller(answer, first.principal)


async def test_transitive_tags_go_on_and_others_end(world: StsWorld) -> None:
    second = world.new_role("second", trust({"AWS": BUILD}, EVERYTHING), bound=BUILD_OF_FIRST)
    answer = await world.assume(await chained(world), second, Tags=[{"Key": "stage", "Value": "b"}])
    session = world.opened(answer).session
    assert session.tags == (("Team", "a"), ("stage", "b"))
    assert session.transitive == ("Team",)
    assert session.chained


async def test_tags_that_only_go_on_need_the_right_to_tag_too(world: StsWorld) -> None:
    second = world.new_role("second", trust({"AWS": BUILD}), bound=BUILD_OF_FIRST)
    refused = await failure(world.assume(await chained(world), second))
    assert "sts:TagSession" in refused.message


async def test_a_transitive_tag_may_not_be_given_another_value(world: StsWorld) -> None:
    second = world.new_role("second", trust({"AWS": "*"}, EVERYTHING))
    caller = await chained(world)
    for more in ({}, {"TransitiveTagKeys": ["team"]}):
        refused = await failure(world.assume(caller, second, Tags=[{"Key": "team", "Value": "b"}], **more))
        assert refused.code is Code.VALIDATION_ERROR
        assert "conflicts with a transitive tag key from the calling session" in refused.message


async def test_a_source_identity_goes_on_and_cannot_become_another(world: StsWorld) -> None:
    second = world.new_role("second", trust({"AWS": BUILD}, EVERYTHING), bound=BUILD_OF_FIRST)
    caller = await chained(world, SourceIdentity="anna")
    assert world.opened(await world.assume(caller, second)).session.source_identity == "anna"
    assert world.opened(await world.assume(caller, second, SourceIdentity="anna")).session.source_identity == "anna"
    assert (await failure(world.assume(caller, second, SourceIdentity="bob"))).code is Code.ACCESS_DENIED


async def test_a_chain_of_roles_lasts_an_hour_at_most(world: StsWorld) -> None:
    second = world.new_role("second", trust({"AWS": BUILD}, EVERYTHING), seconds=43200, bound=BUILD_OF_FIRST)
    caller = await chained(world)
    assert world.opened(await world.assume(caller, second)).session.expires == int(NOW) + 3600
    refused = await failure(world.assume(caller, second, DurationSeconds=3601))
    assert (refused.code, refused.message) == (
        Code.VALIDATION_ERROR,
        "The requested DurationSeconds exceeds the 1 hour session limit for roles assumed by role chaining",
    )


# ---- limits ---------------------------------------------------------------------------------------------------------


async def test_a_session_is_no_longer_than_the_role_allows(world: StsWorld) -> None:
    role = world.new_role("ci", trust({"AWS": ACCOUNT}), seconds=7200)
    assert world.opened(await world.assume(ANNA, role, DurationSeconds=7200)).session.expires == int(NOW) + 7200
    refused = await failure(world.assume(ANNA, role, DurationSeconds=7201))
    assert (refused.code, refused.message) == (
        Code.VALIDATION_ERROR,
        "The requested DurationSeconds exceeds the MaxSessionDuration set for this role.",
    )


async def test_who_may_not_take_a_role_does_not_learn_how_long_it_lasts(world: StsWorld) -> None:
    role = world.new_role("ci", trust({"AWS": OTHER}))
    assert (await failure(world.assume(ANNA, role, DurationSeconds=43200))).code is Code.ACCESS_DENIED


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "7", "{}", '{"Statement":7}', policy({"Effect": "Maybe", "Action": "*", "Resource": "*"})]
)
async def test_a_session_policy_must_be_a_policy(world: StsWorld, text: str) -> None:
    role = world.new_role("ci", trust({"AWS": ACCOUNT}))
    refused = await failure(world.assume(ANNA, role, Policy=text))
    assert refused.code is (Code.MALFORMED_POLICY_DOCUMENT if text else Code.VALIDATION_ERROR)


async def test_a_session_policy_names_no_principal(world: StsWorld) -> None:
    role = world.new_role("ci", trust({"AWS": ACCOUNT}))
    refused = await failure(world.assume(ANNA, role, Policy=policy({**allow("ecr:*"), "Principal": "*"})))
    assert refused.code is Code.MALFORMED_POLICY_DOCUMENT


async def test_a_session_policy_has_2048_characters_at_most(world: StsWorld) -> None:
    role = world.new_role("ci", trust({"AWS": ACCOUNT}))
    text = policy(allow("ecr:*"))
    assert await world.assume(ANNA, role, Policy=text + " " * (2048 - len(text)))
    refused = await failure(world.assume(ANNA, role, Policy=text + " " * (2049 - len(text))))
    assert refused.code is Code.VALIDATION_ERROR


async def test_there_are_ten_policy_arns_at_most_and_each_must_exist(world: StsWorld) -> None:
    role = world.new_role("ci", trust({"AWS": ACCOUNT}))
    arns = [f"arn:aws:iam::{ACCOUNT}:policy/p{number}" for number in range(11)]
    world.documents = {arn: AttachedPolicy("{}", arn=arn) for arn in arns}
    assert await world.assume(ANNA, role, PolicyArns=[{"arn": arn} for arn in arns[:10]])
    assert (await failure(world.assume(ANNA, role, PolicyArns=[{"arn": arn} for arn in arns]))).code is (
        Code.VALIDATION_ERROR
    )
    del world.documents[arns[3]]
    refused = await failure(world.assume(ANNA, role, PolicyArns=[{"arn": arn} for arn in arns[:10]]))
    assert arns[3] in refused.message


async def test_what_packs_to_more_than_two_kilobytes_is_too_large(world: StsWorld) -> None:
    role = world.new_role("ci", trust({"AWS": ACCOUNT}, EVERYTHING))
    words = [hashlib.sha256(str(number).encode()).hexdigest() for number in range(50)]
    refused = await failure(world.assume(ANNA, role, Tags=[{"Key": word[:9], "Value": word * 3} for word in words]))
    assert refused.code is Code.PACKED_POLICY_TOO_LARGE
    assert refused.message.startswith("Packed size of session tags consumes 1")
    assert refused.message.endswith("% of allotted space.")


@pytest.mark.parametrize(
    "parameters",
    [
        {"Tags": [{"Key": "a", "Value": "1"}, {"Key": "A", "Value": "2"}]},
        {"Tags": [{"Key": "aws:team", "Value": "1"}]},
        {"Tags": [{"Key": "a", "Value": "1"}], "TransitiveTagKeys": ["b"]},
        {"Tags": [{"Key": f"k{number}", "Value": ""} for number in range(51)]},
        {"Tags": [{"Key": "a", "Value": "<>"}]},
        {"SourceIdentity": "aws:anna"},
        {"RoleSessionName": "a b"},
        {"RoleSessionName": "a"},
        {"RoleSessionName": "a" * 65},
        {"DurationSeconds": 899},
        {"DurationSeconds": 43201},
        {"ExternalId": "a"},
        {"ProvidedContexts": [{"ProviderArn": "arn:aws:iam::aws:contextProvider/IdentityCenter"}]},
    ],
)
async def test_what_sts_does_not_take_is_a_validation_error(world: StsWorld, parameters: dict[str, Any]) -> None:
    role = world.new_role("ci", trust({"AWS": ACCOUNT}, EVERYTHING))
    assert (await failure(world.assume(ANNA, role, **parameters))).code is Code.VALIDATION_ERROR


TEXTS = st.text(st.characters(codec="utf-8"), max_size=12)
NAMES = st.sampled_from(["Version", "Statement", "Effect", "Action", "Resource", "Condition", "Allow", "*"]) | TEXTS
DOCUMENTS = st.recursive(
    st.none() | st.booleans() | st.integers() | NAMES,
    lambda part: st.lists(part, max_size=3) | st.dictionaries(NAMES, part, max_size=4),
    max_leaves=10,
)


@given(
    document=TEXTS | DOCUMENTS.map(json.dumps),
    tags=st.lists(st.tuples(TEXTS, TEXTS), max_size=3),
    transitive=st.lists(TEXTS, max_size=2),
    others=st.dictionaries(st.sampled_from(["RoleSessionName", "SourceIdentity", "ExternalId"]), TEXTS),
)
def test_whatever_is_asked_is_answered_or_refused(
    document: str, tags: list[tuple[str, str]], transitive: list[str], others: dict[str, str]
) -> None:
    """Never an exception that the door does not know."""

    async def ask() -> None:
        world = StsWorld()
        role = world.new_role("ci", trust({"AWS": ACCOUNT}, EVERYTHING))
        given = {"Tags": [{"Key": key, "Value": value} for key, value in tags], "TransitiveTagKeys": transitive}
        for narrowed in ({}, {"Policy": document}):
            with contextlib.suppress(Failure):
                await world.assume(ANNA, role, **given, **narrowed, **others)

    asyncio.run(ask())


async def test_mfa_is_refused_as_there_is_no_device(world: StsWorld) -> None:
    role = world.new_role("ci", trust({"AWS": ACCOUNT}))
    refused = await failure(world.assume(ANNA, role, SerialNumber="arn:aws:iam::1:mfa/a", TokenCode="123456"))
    assert refused.code is Code.ACCESS_DENIED
    assert refused.message.startswith("MultiFactorAuthentication failed, unable to validate MFA code.")
    refused = await failure(world.assume(ANNA, role, TokenCode="123456"))
    assert refused.message == (
        "MultiFactorAuthentication failed, must provide both MFA serial number and one time pass code."
    )


# ---- last used ------------------------------------------------------------------------------------------------------


async def test_a_roles_use_is_noted_once_an_hour(world: StsWorld) -> None:
    role = world.new_role("ci", trust({"AWS": ACCOUNT}))
    for minutes in (0, 30, 59, 60):
        world.now = NOW + minutes * 60
        await world.assume(ANNA, role)
        await world.sts.idle()
    assert world.uses == [("AROACI", NOW, "us-east-1"), ("AROACI", NOW + 3600, "us-east-1")]


async def test_a_note_that_fails_fails_no_request_and_is_made_at_a_later_use(world: StsWorld) -> None:
    role = world.new_role("ci", trust({"AWS": ACCOUNT}))
    world.fail_with = Failure(Code.METADATA_UNAVAILABLE, "away")
    assert await world.assume(ANNA, role)
    await world.sts.idle()
    world.fail_with = None
    world.now += 60
    await world.assume(ANNA, role)
    await world.sts.idle()
    assert len(world.uses) == 1


async def test_the_secret_is_in_no_other_answer_and_no_text(world: StsWorld) -> None:
    role = world.new_role("ci", trust({"AWS": ACCOUNT}))
    one, two = await world.assume(ANNA, role), await world.assume(ANNA, role)
    assert one["Credentials"]["SecretAccessKey"] not in json.dumps(two)
    assert one["Credentials"]["SecretAccessKey"] not in one["Credentials"]["SessionToken"]
