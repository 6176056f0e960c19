"""Accounts, their aliases and administrators, and which writes of IAM outdate what nodes keep."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import delete

from proxy.auth.managed import ADMINISTRATOR_ACCESS
from proxy.metadata.client.epochs import Epochs
from proxy.metadata.db.identity_tables import attached_policies
from proxy.metadata.db.transaction import Transaction
from proxy.metadata.operations.accounts import Bootstrapped
from proxy.metadata.operations.iam import quotas
from proxy.model.errors import Code, Failure
from proxy.model.identity import Account, Principal
from support.iam_shapes import Asked
from support.metadata import ACCOUNT, REPOSITORY, World

OTHER = "210987654321"
KEY = "AKIA7777777777777777"
TRUST = '{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Principal":"*","Action":"sts:AssumeRole"}]}'


async def refused(code: Code, asking: Awaitable[Any]) -> None:
    with pytest.raises(Failure) as raised:
        await asking
    assert raised.value.code is code, raised.value


async def opened(world: World) -> Principal:
    """Another account beside the first one."""
    await world.bootstrap()
    return await world.metadata.create_account(OTHER, KEY, b"sealed", "boss")


class TestAccounts:
    async def test_a_new_account_has_a_root_and_an_administrator_with_the_key(self, world: World) -> None:
        made = await opened(world)
        assert (made.account, made.arn) == (OTHER, f"arn:aws:iam::{OTHER}:user/boss")
        assert [policy.arn for policy in made.policies] == [ADMINISTRATOR_ACCESS]
        key = await world.metadata.access_key(KEY)
        assert key is not None
        assert key.principal == made
        root = await world.metadata.principal(OTHER)
        assert root is not None
        assert root.arn == f"arn:aws:iam::{OTHER}:root"
        assert (await world.metadata.registry_access(OTHER)).exists

    async def test_an_account_that_is_there_and_a_key_that_is_somebodys_are_refused(self, world: World) -> None:
        await opened(world)
        create = world.metadata.create_account
        await refused(Code.ENTITY_ALREADY_EXISTS, create(OTHER, "AKIAX", b"sealed", "boss"))
        await refused(Code.ENTITY_ALREADY_EXISTS, create("1" * 12, KEY, b"sealed", "boss"))
        for number in ("1" * 11, "1" * 13, "x" * 12, "१" * 12):
            await refused(Code.VALIDATION_ERROR, create(number, "AKIAX", b"sealed", "boss"))
        assert [each.account for each in await world.metadata.accounts()] == [ACCOUNT, OTHER]

    async def test_of_two_that_open_one_account_at_once_one_is_refused(self, world: World) -> None:
        told = await asyncio.gather(
            *(world.metadata.create_account(OTHER, f"AKIA{n}", b"sealed", "boss") for n in range(2)),
            return_exceptions=True,
        )
        assert sorted(type(each).__name__ for each in told) == ["Failure", "Principal"]
        keys = [await world.metadata.access_key(f"AKIA{n}") for n in range(2)]
        assert keys.count(None) == 1

    async def test_of_a_closed_account_nothing_is_there_from_then_on(self, world: World) -> None:
        boss = await opened(world)
        iam = Asked(world.metadata, OTHER)
        await iam("CreateRole", RoleName="ci", AssumeRolePolicyDocument=TRUST)
        await world.metadata.call(OTHER, "CreateRepository", {"repositoryName": REPOSITORY})

        async def found() -> list[bool]:
            return [
                await world.metadata.access_key(KEY) is not None,
                await world.metadata.principal(boss.principal_id) is not None,
                await world.metadata.principal(OTHER) is not None,
                await world.metadata.role(OTHER, "ci") is not None,
                (await world.metadata.registry_access(OTHER)).exists,
                (await world.metadata.repository_access(OTHER, REPOSITORY)).exists,
            ]

        assert await found() == [True] * 6
        world.clock.now += 5
        closed = await world.metadata.close_account(OTHER)
        assert closed == Account(OTHER, world.clock.now - 5, world.clock.now)
        assert await found() == [False] * 6
        world.clock.now += 5
        assert await world.metadata.close_account(OTHER) == closed
        await refused(Code.ENTITY_ALREADY_EXISTS, world.metadata.create_account(OTHER, "AKIAX", b"sealed", "boss"))
        assert (await world.metadata.registry_access(ACCOUNT)).exists
        await refused(Code.NO_SUCH_ENTITY, world.metadata.close_account("1" * 12))

    @pytest.mark.parametrize(
        ("noun", "quota"),
        [("User", "UsersPerAccount"), ("Group", "GroupsPerAccount"), ("Role", "RolesPerAccount")],
    )
    async def test_an_account_has_so_many_users_groups_and_roles_and_no_more(
        self, world: World, monkeypatch: pytest.MonkeyPatch, noun: str, quota: str
    ) -> None:
        await opened(world)
        there = await Asked(world.metadata, ACCOUNT)("ListUsers")
        held = len(there["Users"]) if noun == "User" else 0
        monkeypatch.setattr(quotas, f"{noun.upper()}S", (quota, held + 2))
        more = {"AssumeRolePolicyDocument": TRUST} if noun == "Role" else {}
        for account in (ACCOUNT, OTHER):
            iam = Asked(world.metadata, account)
            for name in ("one", "two"):
                await iam(f"Create{noun}", **{f"{noun}Name": name}, **more)
            assert await iam.refused(f"Create{noun}", **{f"{noun}Name": "three"}, **more) == (
                "LimitExceeded",
                f"Cannot exceed quota for {quota}: {held + 2}",
            )


class TestAliases:
    async def test_an_account_has_one_alias_and_no_two_have_the_same(self, world: World) -> None:
        await opened(world)
        one, two = Asked(world.metadata, ACCOUNT), Asked(world.metadata, OTHER)
        assert (await one("ListAccountAliases"))["AccountAliases"] == []
        for alias in ("first", "second", "second"):
            await one("CreateAccountAlias", AccountAlias=alias)
            assert (await one("ListAccountAliases"))["AccountAliases"] == [alias]
        assert [each.alias for each in await world.metadata.accounts()] == ["second", ""]
        assert await two.refused("CreateAccountAlias", AccountAlias="second") == (
            "EntityAlreadyExists",
            "The account alias second already exists.",
        )
        await two("CreateAccountAlias", AccountAlias="first")
        assert (await one.refused("DeleteAccountAlias", AccountAlias="first"))[0] == "NoSuchEntity"
        await one("DeleteAccountAlias", AccountAlias="second")
        assert (await one("ListAccountAliases"))["AccountAliases"] == []


class TestAdministrator:
    """What was taken from an administrator stays taken, until the settings give a key."""

    @pytest.fixture
    async def iam(self, world: World) -> Asked:
        """IAM of an account after its first start, which made a key."""
        assert not (await world.bootstrap()).settled
        await world.bootstrap(access_key_id=KEY, sealed_secret=b"made", replaces=False)
        return Asked(world.metadata, ACCOUNT)

    async def starts(self, world: World) -> Bootstrapped:
        """A start that would make a key, if there never had been one."""
        await world.bootstrap()
        return await world.bootstrap(access_key_id="AKIANEW0000000000000", sealed_secret=b"new", replaces=False)

    async def recovers(self, world: World) -> Bootstrapped:
        """A start under settings that give a key."""
        return await world.bootstrap(access_key_id=KEY, sealed_secret=b"given")

    async def test_a_key_that_was_deleted_is_not_made_again(self, iam: Asked, world: World) -> None:
        await iam("DeleteAccessKey", UserName="administrator", AccessKeyId=KEY)
        told = await self.starts(world)
        assert (told.settled, told.access_key_ids) == (True, ())
        assert (await self.recovers(world)).access_key_ids == (KEY,)

    async def test_a_key_that_was_made_inactive_stays_so(self, iam: Asked, world: World) -> None:
        await iam("UpdateAccessKey", UserName="administrator", AccessKeyId=KEY, Status="Inactive")
        assert (await self.starts(world)).access_key_ids == ()
        assert await world.metadata.access_key(KEY) is None
        world.clock.now += 5
        assert (await self.recovers(world)).recovered == ()
        held = await world.metadata.access_key(KEY)
        assert held is not None
        assert held.sealed_secret == b"given"
        [listed] = (await iam("ListAccessKeys", UserName="administrator"))["AccessKeyMetadata"]
        assert (listed["Status"], listed["CreateDate"]) == ("Active", world.clock.now - 5)

    async def test_a_user_that_was_deleted_is_not_made_again(self, iam: Asked, world: World) -> None:
        await iam("DeleteAccessKey", UserName="administrator", AccessKeyId=KEY)
        await detach(world)
        await iam("DeleteUser", UserName="administrator")
        told = await self.starts(world)
        assert (told.settled, told.administrator, told.access_key_ids) == (True, None, ())
        back = await self.recovers(world)
        assert len(back.recovered) == 1
        assert back.administrator is not None
        assert [policy.arn for policy in back.administrator.policies] == [ADMINISTRATOR_ACCESS]
        key = await world.metadata.access_key(KEY)
        assert key is not None
        assert key.principal == back.administrator

    async def test_a_policy_that_was_detached_and_a_boundary_stay_until_the_settings_give_a_key(
        self, iam: Asked, world: World
    ) -> None:
        await detach(world)
        await iam("PutUserPermissionsBoundary", UserName="administrator", PermissionsBoundary=ADMINISTRATOR_ACCESS)
        told = (await self.starts(world)).administrator
        assert told is not None
        assert told.policies == ()
        assert told.boundary is not None
        back = await self.recovers(world)
        assert len(back.recovered) == 2
        held = await world.metadata.access_key(KEY)
        assert held is not None
        assert held.principal == back.administrator
        assert [policy.arn for policy in held.principal.policies] == [ADMINISTRATOR_ACCESS]
        assert held.principal.boundary is None
        assert (await self.recovers(world)).recovered == ()

    async def test_the_settings_key_is_the_administrators_only_one(self, iam: Asked, world: World) -> None:
        await iam("CreateUser", UserName="ann")
        await world.metadata.create_access_key(ACCOUNT, "ann", "AKIAGIVEN00000000000", b"anns")
        told = await world.bootstrap(access_key_id="AKIAGIVEN00000000000", sealed_secret=b"given")
        assert told.access_key_ids == ("AKIAGIVEN00000000000",)
        assert await world.metadata.access_key(KEY) is None
        key = await world.metadata.access_key("AKIAGIVEN00000000000")
        assert key is not None
        assert key.principal == told.administrator


async def detach(world: World) -> None:
    """Take AdministratorAccess from the administrator."""
    assert world.service is not None

    def take(tx: Transaction) -> None:
        tx.connection.execute(delete(attached_policies).where(attached_policies.c.policy_arn == ADMINISTRATOR_ACCESS))
        tx.changes.identity = True

    await world.service.store.write(take)


# (operation, parameters, whether nodes may keep what it changes), done one after the other
WRITES: list[tuple[str, dict[str, Any], bool]] = [
    ("CreateUser", {"UserName": "ann"}, False),
    ("UpdateUser", {"UserName": "ann", "NewPath": "/x/"}, True),
    ("TagUser", {"UserName": "ann", "Tags": [{"Key": "a", "Value": "b"}]}, True),
    ("UntagUser", {"UserName": "ann", "TagKeys": ["a"]}, True),
    ("PutUserPermissionsBoundary", {"UserName": "ann", "PermissionsBoundary": ADMINISTRATOR_ACCESS}, True),
    ("DeleteUserPermissionsBoundary", {"UserName": "ann"}, True),
    ("CreateGroup", {"GroupName": "devs"}, False),
    ("AddUserToGroup", {"GroupName": "devs", "UserName": "ann"}, True),
    ("UpdateGroup", {"GroupName": "devs", "NewGroupName": "crew"}, True),
    ("RemoveUserFromGroup", {"GroupName": "crew", "UserName": "ann"}, True),
    ("DeleteGroup", {"GroupName": "crew"}, False),
    ("CreateRole", {"RoleName": "ci", "AssumeRolePolicyDocument": TRUST}, False),
    ("UpdateRole", {"RoleName": "ci", "MaxSessionDuration": 7200}, True),
    ("UpdateAssumeRolePolicy", {"RoleName": "ci", "PolicyDocument": TRUST}, True),
    ("TagRole", {"RoleName": "ci", "Tags": [{"Key": "a", "Value": "b"}]}, True),
    ("UntagRole", {"RoleName": "ci", "TagKeys": ["a"]}, True),
    ("PutRolePermissionsBoundary", {"RoleName": "ci", "PermissionsBoundary": ADMINISTRATOR_ACCESS}, True),
    ("DeleteRolePermissionsBoundary", {"RoleName": "ci"}, True),
    ("DeleteRole", {"RoleName": "ci"}, True),
    ("UpdateAccessKey", {"UserName": "ann", "AccessKeyId": KEY, "Status": "Inactive"}, True),
    ("DeleteAccessKey", {"UserName": "ann", "AccessKeyId": KEY}, True),
    ("DeleteUser", {"UserName": "ann"}, True),
    ("CreateAccountAlias", {"AccountAlias": "alias"}, False),
    ("DeleteAccountAlias", {"AccountAlias": "alias"}, False),
]


async def test_writes_that_decisions_hang_on_move_the_epoch_of_identities_and_no_others_do(
    world: World, tmp_path: Path
) -> None:
    await world.bootstrap()
    page = await asyncio.to_thread(Epochs, tmp_path / "epochs")

    async def moves(write: Callable[[], Awaitable[Any]]) -> bool:
        before = page.identity()
        await write()
        return page.identity() != before

    try:
        for operation, parameters, expected in WRITES:
            if operation == "UpdateAccessKey":
                assert not await moves(lambda: world.metadata.create_access_key(ACCOUNT, "ann", KEY, b"sealed"))
                assert not await moves(lambda: world.metadata.note_key_use(KEY, 1.0, "us-east-1", "ecr"))

            async def write(operation: str = operation, parameters: dict[str, Any] = parameters) -> None:
                await world.metadata.iam(ACCOUNT, operation, parameters)

            assert await moves(write) == expected, operation
        assert await moves(lambda: world.metadata.close_account(ACCOUNT))
    finally:
        page.close()
