"""GetCallerIdentity, GetSessionToken, GetAccessKeyInfo: and what no credentials of a kind may ask for."""

from __future__ import annotations

from typing import Any

import pytest

from proxy.awsmodel import models
from proxy.ecr.sts import SERVED
from proxy.model.errors import Code, Failure
from proxy.model.identity import AccessKey, Caller, Principal, PrincipalKind, Session, SessionKind
from support.sts_rows import ACCOUNT, NOW, ROOT, StsWorld, allow, trust, user

ANNA = user("anna", allow("sts:*"))
DENIED = user("dora", {"Effect": "Deny", "Action": "*", "Resource": "*"})
ROLE = Principal("AROACI", ACCOUNT, f"arn:aws:iam::{ACCOUNT}:role/ci", "ci", PrincipalKind.ROLE)
ROLE_SESSION = Caller(ROLE, Session(SessionKind.ROLE, "build", NOW, NOW + 900))
USER_SESSION = Caller(ANNA, Session(SessionKind.USER, "", NOW, NOW + 900))


@pytest.fixture
def world() -> StsWorld:
    return StsWorld()


async def failure(asking: Any) -> Failure:
    with pytest.raises(Failure) as caught:
        await asking
    return caught.value


@pytest.mark.parametrize(
    ("caller", "arn", "user_id"),
    [
        (Caller(ANNA), f"arn:aws:iam::{ACCOUNT}:user/anna", "AIDAANNA"),
        (Caller(DENIED), f"arn:aws:iam::{ACCOUNT}:user/dora", "AIDADORA"),
        (Caller(ROOT), f"arn:aws:iam::{ACCOUNT}:root", ACCOUNT),
        (USER_SESSION, f"arn:aws:iam::{ACCOUNT}:user/anna", "AIDAANNA"),
        (ROLE_SESSION, f"arn:aws:sts::{ACCOUNT}:assumed-role/ci/build", "AROACI:build"),
    ],
    ids=["user", "denied-everything", "root", "session-of-user", "session-of-role"],
)
async def test_everybody_may_ask_who_they_are(world: StsWorld, caller: Caller, arn: str, user_id: str) -> None:
    answer = await world.call("GetCallerIdentity", caller)
    assert answer == {"UserId": user_id, "Account": ACCOUNT, "Arn": arn}


@pytest.mark.parametrize(
    ("principal", "parameters", "seconds"),
    [
        (ANNA, {}, 43_200),
        (ANNA, {"DurationSeconds": 900}, 900),
        (ANNA, {"DurationSeconds": 129_600}, 129_600),
        (DENIED, {}, 43_200),
        (ROOT, {}, 3600),
        (ROOT, {"DurationSeconds": 900}, 900),
        (ROOT, {"DurationSeconds": 129_600}, 3600),
    ],
)
async def test_a_session_token_is_its_user_for_a_time(
    world: StsWorld, principal: Principal, parameters: dict[str, Any], seconds: int
) -> None:
    """No permission is needed; a root's session is an hour long at most."""
    answer = await world.call("GetSessionToken", principal, **parameters)
    found = world.opened(answer)
    assert found.principal_id == principal.principal_id
    assert found.session == Session(SessionKind.USER, "", int(NOW), int(NOW) + seconds)
    assert answer["Credentials"]["Expiration"] == int(NOW) + seconds


@pytest.mark.parametrize("seconds", [899, 129_601])
async def test_a_session_token_lasts_from_15_minutes_to_36_hours(world: StsWorld, seconds: int) -> None:
    assert (await failure(world.call("GetSessionToken", ANNA, DurationSeconds=seconds))).code is Code.VALIDATION_ERROR


async def test_a_session_token_with_mfa_is_refused(world: StsWorld) -> None:
    asking = world.call("GetSessionToken", ANNA, SerialNumber="arn:aws:iam::1:mfa/anna", TokenCode="123456")
    refused = await failure(asking)
    assert refused.code is Code.ACCESS_DENIED
    assert refused.message.startswith("MultiFactorAuthentication failed, unable to validate MFA code.")


@pytest.mark.parametrize("caller", [ROLE_SESSION, USER_SESSION], ids=["role", "user"])
async def test_temporary_credentials_get_no_session_token(world: StsWorld, caller: Caller) -> None:
    refused = await failure(world.call("GetSessionToken", caller))
    assert refused.code is Code.ACCESS_DENIED
    assert refused.message == "Cannot call GetSessionToken with session credentials"


async def test_those_of_a_session_token_take_roles_and_nothing_else_of_sts(world: StsWorld) -> None:
    role = world.new_role("ci", trust({"AWS": ACCOUNT}))
    found = world.opened(await world.assume(USER_SESSION, role)).session
    assert not found.chained
    world.access_keys["AKIAAAAAAAAAAAAAAAAA"] = AccessKey("AKIAAAAAAAAAAAAAAAAA", b"", ANNA)
    refused = await failure(world.call("GetAccessKeyInfo", USER_SESSION, AccessKeyId="AKIAAAAAAAAAAAAAAAAA"))
    assert refused.code is Code.ACCESS_DENIED


async def test_a_keys_account_is_told_to_who_may_ask(world: StsWorld) -> None:
    key = "AKIAAAAAAAAAAAAAAAAA"
    world.access_keys[key] = AccessKey(key, b"", ANNA)
    assert await world.call("GetAccessKeyInfo", ANNA, AccessKeyId=key) == {"Account": ACCOUNT}
    assert (await failure(world.call("GetAccessKeyInfo", DENIED, AccessKeyId=key))).code is Code.ACCESS_DENIED
    unknown = await failure(world.call("GetAccessKeyInfo", ANNA, AccessKeyId="AKIABBBBBBBBBBBBBBBB"))
    assert unknown.code is Code.VALIDATION_ERROR


@pytest.mark.parametrize("action", sorted(models.operations("sts") - SERVED))
async def test_what_is_not_served_is_an_unknown_operation(world: StsWorld, action: str) -> None:
    refused = await failure(world.sts.answer(action, Caller(ANNA), {}, world.info()))
    assert refused.code is Code.UNKNOWN_OPERATION
    assert action in refused.message


@pytest.mark.parametrize("action", sorted(SERVED - {"AssumeRoleWithWebIdentity"}))
async def test_only_a_web_identity_asks_without_a_signature(world: StsWorld, action: str) -> None:
    assert (await failure(world.sts.answer(action, None, {}, world.info()))).code is Code.ACCESS_DENIED
