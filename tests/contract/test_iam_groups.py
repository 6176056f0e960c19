"""IAM's groups and who is in them, on every service and client."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import insert

from proxy.auth.managed import ADMINISTRATOR_ACCESS
from proxy.metadata.db.identity_tables import attached_policies, inline_policies
from proxy.metadata.db.transaction import Transaction
from support.iam_shapes import Asked
from support.metadata import ACCOUNT, World

NO_DEVS = ("NoSuchEntity", "The group with name devs cannot be found.")
# One call of each operation that names a group, but for the name.
ON_A_GROUP: dict[str, dict[str, Any]] = {
    "GetGroup": {},
    "UpdateGroup": {"NewPath": "/x/"},
    "DeleteGroup": {},
    "AddUserToGroup": {"UserName": "ann"},
    "RemoveUserFromGroup": {"UserName": "ann"},
}


@pytest.fixture
async def iam(world: World) -> Asked:
    """IAM of an account with a user."""
    await world.bootstrap()
    asked = Asked(world.metadata, ACCOUNT)
    await asked("CreateUser", UserName="ann")
    return asked


async def holds(world: World, holder_id: str, **columns: Any) -> None:
    """Hang a policy on a group: a managed one by `policy_arn`, else an inline one."""
    assert world.service is not None
    table = attached_policies if "policy_arn" in columns else inline_policies

    def hang(tx: Transaction) -> None:
        tx.connection.execute(insert(table).values(holder_id=holder_id, **columns))
        tx.changes.identity = True

    await world.service.store.write(hang)


async def test_a_group_reads_back_as_it_was_made(iam: Asked, world: World) -> None:
    made = (await iam("CreateGroup", GroupName="Devs", Path="/eng/"))["Group"]
    assert made["Arn"] == f"arn:aws:iam::{ACCOUNT}:group/eng/Devs"
    assert made["GroupId"].startswith("AGPA")
    assert made["CreateDate"] == world.clock.now
    assert await iam("GetGroup", GroupName="dEVS") == {"Group": made, "Users": [], "IsTruncated": False}


async def test_a_name_is_taken_in_any_case(iam: Asked) -> None:
    await iam("CreateGroup", GroupName="devs")
    said = ("EntityAlreadyExists", "Group with name DEVS already exists.")
    assert await iam.refused("CreateGroup", GroupName="DEVS", Path="/x/") == said
    await iam("CreateGroup", GroupName="ops")
    assert await iam.refused("UpdateGroup", GroupName="ops", NewGroupName="DEVS") == said
    await iam("UpdateGroup", GroupName="devs", NewGroupName="DEVS", NewPath="/x/")
    assert (await iam("GetGroup", GroupName="devs"))["Group"]["Arn"] == f"arn:aws:iam::{ACCOUNT}:group/x/DEVS"


@pytest.mark.parametrize("operation", ON_A_GROUP)
async def test_a_group_that_is_not_there_is_found_by_no_operation(iam: Asked, operation: str) -> None:
    assert await iam.refused(operation, GroupName="devs", **ON_A_GROUP[operation]) == NO_DEVS


async def test_a_member_has_the_groups_policies_while_it_is_one(iam: Asked, world: World) -> None:
    group = (await iam("CreateGroup", GroupName="devs"))["Group"]
    ann = (await iam("GetUser", UserName="ann"))["User"]["UserId"]
    await holds(world, group["GroupId"], policy_arn=ADMINISTRATOR_ACCESS, attached_at=1.0)
    await holds(world, group["GroupId"], name="own", document="{}")

    async def held() -> list[tuple[str, str]]:
        principal = await world.metadata.principal(ann)
        assert principal is not None
        return [(policy.name, policy.holder) for policy in principal.policies]

    assert await held() == []
    for _ in range(2):  # once more is no error, and no second membership
        await iam("AddUserToGroup", GroupName="devs", UserName="ann")
        assert await held() == [("own", group["Arn"]), ("AdministratorAccess", group["Arn"])]
    await iam("UpdateGroup", GroupName="devs", NewGroupName="crew")
    assert {holder for _, holder in await held()} == {f"arn:aws:iam::{ACCOUNT}:group/crew"}
    for _ in range(2):
        await iam("RemoveUserFromGroup", GroupName="crew", UserName="ann")
        assert await held() == []


async def test_a_user_is_in_ten_groups_at_most(iam: Asked) -> None:
    for number in range(11):
        await iam("CreateGroup", GroupName=f"g{number:02}")
    for number in range(10):
        await iam("AddUserToGroup", GroupName=f"g{number:02}", UserName="ann")
    assert await iam.refused("AddUserToGroup", GroupName="g10", UserName="ann") == (
        "LimitExceeded",
        "Cannot exceed quota for GroupsPerUser: 10",
    )
    await iam("AddUserToGroup", GroupName="g03", UserName="ann")
    pages = await iam.paged("ListGroupsForUser", lambda answer: answer["Groups"], UserName="ann", MaxItems=4)
    assert [len(page) for page in pages] == [4, 4, 2]
    assert [group["GroupName"] for page in pages for group in page] == [f"g{number:02}" for number in range(10)]


async def test_members_come_in_pages_each_once(iam: Asked) -> None:
    await iam("CreateGroup", GroupName="devs")
    for number in range(5):
        await iam("CreateUser", UserName=f"u{number}")
        await iam("AddUserToGroup", GroupName="devs", UserName=f"u{number}")
    pages = await iam.paged("GetGroup", lambda answer: answer["Users"], GroupName="devs", MaxItems=2)
    assert [len(page) for page in pages] == [2, 2, 1]
    assert sorted(user["UserName"] for page in pages for user in page) == [f"u{number}" for number in range(5)]


async def test_lists_go_on_by_name_and_are_narrowed_by_path(iam: Asked) -> None:
    for name, path in (("b", "/x/"), ("A", "/x/y/"), ("c", "/")):
        await iam("CreateGroup", GroupName=name, Path=path)
    pages = await iam.paged("ListGroups", lambda answer: answer["Groups"], MaxItems=2)
    assert [[group["GroupName"] for group in page] for page in pages] == [["A", "b"], ["c"]]
    assert len((await iam("ListGroups", PathPrefix="/x/"))["Groups"]) == 2


async def test_members_and_policies_keep_a_group(iam: Asked, world: World) -> None:
    for name, first, keep in (
        ("one", "remove users from group", None),
        ("two", "detach all policies", {"policy_arn": ADMINISTRATOR_ACCESS, "attached_at": 1.0}),
        ("six", "delete policies", {"name": "own", "document": "{}"}),
    ):
        group = (await iam("CreateGroup", GroupName=name))["Group"]
        if keep is None:
            await iam("AddUserToGroup", GroupName=name, UserName="ann")
        else:
            await holds(world, group["GroupId"], **keep)
        assert await iam.refused("DeleteGroup", GroupName=name) == (
            "DeleteConflict",
            f"Cannot delete entity, must {first} first.",
        )
    await iam("RemoveUserFromGroup", GroupName="one", UserName="ann")
    await iam("DeleteGroup", GroupName="ONE")
    assert (await iam.refused("GetGroup", GroupName="one"))[0] == "NoSuchEntity"
