"""Access keys as a report lists them, their end by age, and revocations, through every client."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any

import pytest

from proxy.auth.managed import ADMINISTRATOR_ACCESS
from proxy.auth.revocation import MARGIN_SECONDS
from proxy.metadata.db.transaction import Registry
from proxy.metadata.operations.credentials import KEPT_SECONDS, SESSIONS_MAX
from proxy.model.errors import Code, Failure
from proxy.model.identity import Revocation
from support.iam_shapes import Asked
from support.metadata import ACCOUNT, World

OTHER = "210987654321"
DAYS = 30 * 86_400.0
TRUST = '{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Principal":"*","Action":"sts:AssumeRole"}]}'
ROLE = f"arn:aws:iam::{ACCOUNT}:role/machines/ci"


@pytest.fixture
def registry() -> Registry:
    return Registry(account=ACCOUNT, key_seconds=DAYS, lasting_key="AKIAADMIN")


@pytest.fixture(autouse=True)
async def people(world: World) -> None:
    """An administrator whose key the settings give, a user with two keys, a role, and another account."""
    await world.bootstrap(access_key_id="AKIAADMIN", sealed_secret=b"sealed")
    iam = Asked(world.metadata, ACCOUNT)
    await iam("CreateUser", UserName="ann", Path="/people/")
    await iam("CreateGroup", GroupName="readers")
    await iam("AddUserToGroup", GroupName="readers", UserName="ann")
    await iam("PutGroupPolicy", GroupName="readers", PolicyName="read", PolicyDocument=policy())
    await iam("CreateRole", RoleName="ci", Path="/machines/", AssumeRolePolicyDocument=TRUST)
    for name in ("AKIAANNONEONE001", "AKIAANNTWOTWO002"):
        await world.metadata.create_access_key(ACCOUNT, "ann", name, b"sealed")
    await world.metadata.create_account(OTHER, "AKIAOTHER", b"sealed", "boss")


def policy() -> str:
    return '{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"ecr:*","Resource":"*"}]}'


ANN = f"arn:aws:iam::{ACCOUNT}:user/people/ann"


async def refused(code: Code, asking: Awaitable[Any]) -> str:
    with pytest.raises(Failure) as caught:
        await asking
    assert caught.value.code is code, caught.value
    return caught.value.message


async def test_a_key_ends_by_its_age_but_for_the_one_that_the_settings_give(world: World) -> None:
    found = await world.metadata.access_key("AKIAANNONEONE001")
    lasting = await world.metadata.access_key("AKIAADMIN")
    assert found is not None
    assert lasting is not None
    assert (found.expires, lasting.expires) == (world.clock.now + DAYS, None)


async def test_the_report_has_every_key_with_its_use_its_end_and_what_it_acts_by(world: World) -> None:
    await world.metadata.note_key_use("AKIAANNONEONE001", world.clock.now + 5, "us-east-1", "ecr")
    await Asked(world.metadata, ACCOUNT)(
        "UpdateAccessKey", UserName="ann", AccessKeyId="AKIAANNTWOTWO002", Status="Inactive"
    )
    await world.metadata.close_account(OTHER)
    found = {each.access_key_id: each for each in await world.metadata.credentials(after="", limit=10)}
    assert list(found) == ["AKIAADMIN", "AKIAANNONEONE001", "AKIAANNTWOTWO002", "AKIAOTHER"]
    ann = found["AKIAANNONEONE001"]
    assert (ann.principal_arn, ann.is_active, ann.is_open, ann.policies) == (ANN, True, True, ("read",))
    assert (ann.created, ann.expires) == (world.clock.now, world.clock.now + DAYS)
    assert (ann.last_used, ann.last_service, ann.last_region) == (world.clock.now + 5, "ecr", "us-east-1")
    assert (found["AKIAANNTWOTWO002"].is_active, found["AKIAANNTWOTWO002"].last_used) == (False, None)
    assert (found["AKIAADMIN"].expires, found["AKIAADMIN"].policies) == (None, (ADMINISTRATOR_ACCESS,))
    assert not found["AKIAOTHER"].is_open
    page = await world.metadata.credentials(after="AKIAADMIN", limit=2)
    assert [each.access_key_id for each in page] == ["AKIAANNONEONE001", "AKIAANNTWOTWO002"]


async def test_a_revoked_user_has_no_active_key_and_says_until_when_the_rest_is_revoked(world: World) -> None:
    before = await world.metadata.access_key("AKIAANNONEONE001")
    assert before is not None
    until = world.clock.now + MARGIN_SECONDS
    assert await world.metadata.revoke(ANN) == Revocation(ANN, ("AKIAANNONEONE001", "AKIAANNTWOTWO002"), until)
    assert await world.metadata.access_key("AKIAANNONEONE001") is None
    found = await world.metadata.principal(before.principal.principal_id)
    assert found is not None
    assert found.revoked == (("", until),)
    world.clock.now += 100
    assert (await world.metadata.revoke(ANN)).access_key_ids == ()
    found = await world.metadata.principal(before.principal.principal_id)
    assert found is not None
    assert found.revoked == (("", until + 100),)


async def test_sessions_of_a_role_are_revoked_by_name_and_the_role_stands_for_all(world: World) -> None:
    async def revoked() -> tuple[tuple[str, float], ...]:
        role = await world.metadata.role(ACCOUNT, "ci")
        assert role is not None
        return role.principal.revoked

    until = world.clock.now + MARGIN_SECONDS
    for name in ("one", "two"):
        await world.metadata.revoke(f"arn:aws:sts::{ACCOUNT}:assumed-role/ci/{name}")
    assert await revoked() == (("one", until), ("two", until))
    world.clock.now += KEPT_SECONDS + MARGIN_SECONDS
    await world.metadata.revoke(f"arn:aws:sts::{ACCOUNT}:assumed-role/ci/three")
    assert await revoked() == (("three", world.clock.now + MARGIN_SECONDS),)
    await world.metadata.revoke(ROLE)
    assert await revoked() == (("", world.clock.now + MARGIN_SECONDS),)


async def test_more_sessions_of_a_role_than_a_decision_carries_are_refused(world: World) -> None:
    for number in range(SESSIONS_MAX):
        await world.metadata.revoke(f"arn:aws:sts::{ACCOUNT}:assumed-role/ci/s{number}")
    last = f"arn:aws:sts::{ACCOUNT}:assumed-role/ci/last"
    assert "revoke the role" in await refused(Code.LIMIT_EXCEEDED, world.metadata.revoke(last))
    await world.metadata.revoke(f"arn:aws:sts::{ACCOUNT}:assumed-role/ci/s0")
    await world.metadata.revoke(ROLE)


@pytest.mark.parametrize(
    ("arn", "code"),
    [
        ("ann", Code.INVALID_INPUT),
        (ACCOUNT, Code.INVALID_INPUT),
        (f"arn:aws:iam::{ACCOUNT}:group/readers", Code.INVALID_INPUT),
        (f"arn:aws:iam::{ACCOUNT}:user/ann", Code.NO_SUCH_ENTITY),  # its path is lacking
        (f"arn:aws:iam::{OTHER}:user/people/ann", Code.NO_SUCH_ENTITY),
        (f"arn:aws:iam::{ACCOUNT}:role/ci", Code.NO_SUCH_ENTITY),
        (f"arn:aws:sts::{ACCOUNT}:assumed-role/CI/one", Code.NO_SUCH_ENTITY),
        (f"arn:aws:sts::{ACCOUNT}:assumed-role/ann/one", Code.NO_SUCH_ENTITY),
        ("arn:aws:iam::999999999999:root", Code.NO_SUCH_ENTITY),
    ],
)
async def test_what_names_nobody_revokes_nothing(world: World, arn: str, code: Code) -> None:
    await refused(code, world.metadata.revoke(arn))
    assert await world.metadata.access_key("AKIAANNONEONE001") is not None


async def test_an_accounts_root_is_revoked_like_a_user(world: World) -> None:
    await world.metadata.create_access_key(ACCOUNT, None, "AKIAROOT", b"sealed")
    root = f"arn:aws:iam::{ACCOUNT}:root"
    assert (await world.metadata.revoke(root)).access_key_ids == ("AKIAROOT",)
    assert await world.metadata.access_key("AKIAROOT") is None
