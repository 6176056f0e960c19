"""IAM's users, their tags, boundaries and access keys, on every service and client."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from proxy.auth.managed import ADMINISTRATOR_ACCESS
from proxy.model.errors import Code, Failure
from support.iam_shapes import Asked
from support.metadata import ACCOUNT, World

SEALED = b"\x00sealed"
NO_ANN = ("NoSuchEntity", "The user with name ann cannot be found.")
NOBODY = {"UserName": "nobody"}
# One call of each operation that names a user, but for the name.
ON_A_USER: dict[str, dict[str, Any]] = {
    "GetUser": {},
    "UpdateUser": {"NewPath": "/x/"},
    "DeleteUser": {},
    "TagUser": {"Tags": [{"Key": "a", "Value": "b"}]},
    "UntagUser": {"TagKeys": ["a"]},
    "ListUserTags": {},
    "PutUserPermissionsBoundary": {"PermissionsBoundary": ADMINISTRATOR_ACCESS},
    "DeleteUserPermissionsBoundary": {},
    "ListAccessKeys": {},
    "UpdateAccessKey": {"AccessKeyId": "A" * 16, "Status": "Inactive"},
    "DeleteAccessKey": {"AccessKeyId": "A" * 16},
    "ListGroupsForUser": {},
    "AddUserToGroup": {"GroupName": "devs"},
    "RemoveUserFromGroup": {"GroupName": "devs"},
    "ListMFADevices": {},
    "ListSSHPublicKeys": {},
    "ListSigningCertificates": {},
    "ListServiceSpecificCredentials": {},
    "GetLoginProfile": {},
    "DeleteLoginProfile": {},
}


@pytest.fixture
async def iam(world: World) -> Asked:
    """IAM of an account that has an administrator and nobody else."""
    await world.bootstrap()
    return Asked(world.metadata, ACCOUNT)


async def made_key(world: World, name: str | None, number: int) -> dict[str, Any]:
    answer = await world.metadata.create_access_key(ACCOUNT, name, f"AKIA{number:016}", SEALED)
    key: dict[str, Any] = answer["AccessKey"]
    return key


class TestUsers:
    async def test_a_user_reads_back_as_it_was_made(self, iam: Asked, world: World) -> None:
        tags = [{"Key": "Team", "Value": "a"}, {"Key": "cost", "Value": ""}]
        made = await iam(
            "CreateUser", UserName="Ann", Path="/eng/", Tags=tags, PermissionsBoundary=ADMINISTRATOR_ACCESS
        )
        user = made["User"]
        assert user["Arn"] == f"arn:aws:iam::{ACCOUNT}:user/eng/Ann"
        assert user["UserId"].startswith("AIDA")
        assert len(user["UserId"]) == 21
        assert user["CreateDate"] == world.clock.now
        assert user["Tags"] == tags
        assert user["PermissionsBoundary"] == {
            "PermissionsBoundaryType": "Policy",
            "PermissionsBoundaryArn": ADMINISTRATOR_ACCESS,
        }
        assert await iam("GetUser", UserName="Ann") == made

    async def test_a_path_is_the_slash_unless_another_is_given(self, iam: Asked) -> None:
        made = (await iam("CreateUser", UserName="ann"))["User"]
        assert (made["Path"], made["Arn"]) == ("/", f"arn:aws:iam::{ACCOUNT}:user/ann")
        assert "Tags" not in made

    async def test_a_name_is_found_and_taken_in_any_case_and_on_any_path(self, iam: Asked) -> None:
        await iam("CreateUser", UserName="Ann")
        assert (await iam("GetUser", UserName="aNN"))["User"]["UserName"] == "Ann"
        assert await iam.refused("CreateUser", UserName="ANN", Path="/x/") == (
            "EntityAlreadyExists",
            "User with name ANN already exists.",
        )

    async def test_users_and_roles_and_groups_may_have_one_name(self, iam: Asked) -> None:
        trust = '{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Principal":"*","Action":"sts:AssumeRole"}]}'
        await iam("CreateUser", UserName="ci")
        await iam("CreateGroup", GroupName="ci")
        await iam("CreateRole", RoleName="ci", AssumeRolePolicyDocument=trust)
        for operation, parameter in (("GetUser", "UserName"), ("GetGroup", "GroupName"), ("GetRole", "RoleName")):
            assert await iam(operation, **{parameter: "ci"})

    async def test_of_two_that_make_one_name_at_once_one_is_refused(self, world: World, iam: Asked) -> None:
        async def make(name: str) -> Code | None:
            try:
                await world.metadata.iam(ACCOUNT, "CreateUser", {"UserName": name})
            except Failure as failure:
                return failure.code
            return None

        for number in range(5):
            told = await asyncio.gather(make(f"u{number}"), make(f"U{number}"))
            assert sorted(map(str, told)) == [Code.ENTITY_ALREADY_EXISTS, "None"]
        assert len((await iam("ListUsers"))["Users"]) == 6

    @pytest.mark.parametrize("operation", ON_A_USER)
    async def test_whoever_is_not_there_is_found_by_no_operation(self, iam: Asked, operation: str) -> None:
        await iam("CreateGroup", GroupName="devs")
        assert await iam.refused(operation, UserName="ann", **ON_A_USER[operation]) == NO_ANN

    async def test_another_accounts_user_is_not_there(self, iam: Asked, world: World) -> None:
        await iam("CreateUser", UserName="ann")
        assert await Asked(world.metadata, "0" * 12).refused("GetUser", UserName="ann") == NO_ANN

    async def test_a_request_without_a_name_is_about_the_root(self, iam: Asked, world: World) -> None:
        root = (await world.metadata.iam(ACCOUNT, "GetUser", {}))["User"]
        assert (root["UserId"], root["Arn"]) == (ACCOUNT, f"arn:aws:iam::{ACCOUNT}:root")
        await made_key(world, None, 1)
        assert len((await iam("ListAccessKeys"))["AccessKeyMetadata"]) == 1

    async def test_a_renamed_user_keeps_its_id_and_its_policies(self, iam: Asked, world: World) -> None:
        made = (await iam("CreateUser", UserName="ann", Tags=[{"Key": "k", "Value": "v"}]))["User"]
        await iam("PutUserPermissionsBoundary", UserName="ann", PermissionsBoundary=ADMINISTRATOR_ACCESS)
        before = await world.metadata.principal(made["UserId"])
        await iam("UpdateUser", UserName="ann", NewUserName="Bea", NewPath="/x/")
        after = await world.metadata.principal(made["UserId"])
        assert before is not None
        assert after is not None
        assert (after.name, after.arn) == ("Bea", f"arn:aws:iam::{ACCOUNT}:user/x/Bea")
        assert (after.tags, after.boundary) == (before.tags, before.boundary)
        assert await iam.refused("GetUser", UserName="ann") == NO_ANN

    async def test_a_new_name_may_be_the_old_one_in_another_case_but_nobody_elses(self, iam: Asked) -> None:
        await iam("CreateUser", UserName="ann")
        await iam("CreateUser", UserName="bea")
        await iam("UpdateUser", UserName="ann", NewUserName="ANN")
        assert (await iam("GetUser", UserName="ann"))["User"]["UserName"] == "ANN"
        assert await iam.refused("UpdateUser", UserName="ann", NewUserName="Bea") == (
            "EntityAlreadyExists",
            "User with name Bea already exists.",
        )

    async def test_lists_go_on_by_name_and_show_neither_tags_nor_boundary(self, iam: Asked) -> None:
        for name in ("bea", "Ann", "cyd"):
            await iam(
                "CreateUser",
                UserName=name,
                Tags=[{"Key": "a", "Value": "b"}],
                PermissionsBoundary=ADMINISTRATOR_ACCESS,
            )
        pages = await iam.paged("ListUsers", lambda answer: answer["Users"], MaxItems=3)
        assert [[user["UserName"] for user in page] for page in pages] == [["administrator", "Ann", "bea"], ["cyd"]]
        assert set(pages[1][0]) == {"Path", "UserName", "UserId", "Arn", "CreateDate"}

    async def test_a_list_is_narrowed_by_the_beginning_of_the_path_case_and_wildcards_as_they_stand(
        self, iam: Asked
    ) -> None:
        for name, path in (("a", "/eng/"), ("b", "/eng/x/"), ("c", "/Eng/"), ("d", "/e%g/")):
            await iam("CreateUser", UserName=name, Path=path)
        for prefix, names in (("/eng/", "ab"), ("/e", "abd"), ("/e%g/", "d"), ("/none/", "")):
            pages = await iam.paged("ListUsers", lambda answer: answer["Users"], PathPrefix=prefix, MaxItems=1)
            assert "".join(user["UserName"] for page in pages for user in page) == names

    async def test_a_marker_of_another_list_or_none_at_all_is_refused(self, iam: Asked) -> None:
        await iam("CreateUser", UserName="ann")
        marker = (await iam("ListUsers", MaxItems=1))["Marker"]
        assert len(marker) <= 320
        for wrong in (marker + "x", "x", marker[:-4]):
            assert await iam.refused("ListUsers", Marker=wrong) == ("ValidationError", "Invalid Marker.")
        assert await iam.refused("ListUsers", Marker=marker, PathPrefix="/x/") == ("ValidationError", "Invalid Marker.")
        assert (await iam.refused("ListGroups", Marker=marker))[0] == "ValidationError"

    async def test_a_deleted_user_is_nobody_any_more_and_its_name_is_free_for_another_one(
        self, iam: Asked, world: World
    ) -> None:
        first = (await iam("CreateUser", UserName="ann"))["User"]
        assert await world.metadata.principal(first["UserId"]) is not None
        await iam("DeleteUser", UserName="ANN")
        assert await world.metadata.principal(first["UserId"]) is None
        assert await iam.refused("GetUser", UserName="ann") == NO_ANN
        assert (await iam("CreateUser", UserName="ann"))["User"]["UserId"] != first["UserId"]

    async def test_what_a_user_has_and_is_in_keeps_it(self, iam: Asked, world: World) -> None:
        await iam("CreateUser", UserName="ann")
        await iam("CreateGroup", GroupName="devs")
        await iam("AddUserToGroup", GroupName="devs", UserName="ann")
        await made_key(world, "ann", 1)
        refusals = (
            ("must remove users from group", "RemoveUserFromGroup", {"GroupName": "devs"}),
            ("must delete access keys", "DeleteAccessKey", {"AccessKeyId": f"AKIA{1:016}"}),
        )
        for first, operation, parameters in refusals:
            assert await iam.refused("DeleteUser", UserName="ann") == (
                "DeleteConflict",
                f"Cannot delete entity, {first} first.",
            )
            await iam(operation, UserName="ann", **parameters)
        await iam("DeleteUser", UserName="ann")


class TestTags:
    async def test_a_tag_takes_the_place_of_one_with_its_key_in_any_case(self, iam: Asked) -> None:
        await iam("CreateUser", UserName="ann", Tags=[{"Key": "Team", "Value": "a"}, {"Key": "b", "Value": "c"}])
        await iam("TagUser", UserName="ann", Tags=[{"Key": "team", "Value": "x"}])
        held = (await iam("ListUserTags", UserName="ann"))["Tags"]
        assert held == [{"Key": "b", "Value": "c"}, {"Key": "team", "Value": "x"}]
        await iam("UntagUser", UserName="ann", TagKeys=["TEAM", "none"])
        assert (await iam("ListUserTags", UserName="ann"))["Tags"] == [{"Key": "b", "Value": "c"}]

    async def test_tags_go_on_by_key_also_where_keys_are_long(self, iam: Asked) -> None:
        keys = sorted(f"{number}" + "ü" * 127 for number in range(5))
        await iam("CreateUser", UserName="ann", Tags=[{"Key": key, "Value": ""} for key in reversed(keys)])
        pages = await iam.paged("ListUserTags", lambda answer: answer["Tags"], UserName="ann", MaxItems=2)
        assert [[tag["Key"] for tag in page] for page in pages] == [keys[:2], keys[2:4], keys[4:]]

    async def test_a_key_twice_or_one_of_aws_is_refused(self, iam: Asked) -> None:
        await iam("CreateUser", UserName="ann")
        twice = [{"Key": "k", "Value": "1"}, {"Key": "K", "Value": "2"}]
        assert await iam.refused("TagUser", UserName="ann", Tags=twice) == (
            "InvalidInput",
            "Duplicate tag keys found. Please note that Tag keys are case insensitive.",
        )
        reserved = [{"Key": "AWS:x", "Value": "1"}]
        assert (await iam.refused("CreateUser", UserName="bea", Tags=reserved))[0] == "InvalidInput"

    async def test_fifty_tags_are_the_most(self, iam: Asked) -> None:
        tags = [{"Key": f"k{number}", "Value": ""} for number in range(50)]
        await iam("CreateUser", UserName="ann", Tags=tags)
        await iam("TagUser", UserName="ann", Tags=tags[:3])
        assert await iam.refused("TagUser", UserName="ann", Tags=[{"Key": "more", "Value": ""}]) == (
            "LimitExceeded",
            "Cannot exceed quota for TagsPerUser: 50",
        )


class TestBoundaries:
    async def test_a_boundary_counts_for_the_user_until_it_is_deleted(self, iam: Asked, world: World) -> None:
        made = (await iam("CreateUser", UserName="ann"))["User"]
        await iam("PutUserPermissionsBoundary", UserName="ann", PermissionsBoundary=ADMINISTRATOR_ACCESS)
        held = await world.metadata.principal(made["UserId"])
        assert held is not None
        assert held.boundary is not None
        assert held.boundary.arn == ADMINISTRATOR_ACCESS
        await iam("DeleteUserPermissionsBoundary", UserName="ann")
        freed = await world.metadata.principal(made["UserId"])
        assert freed is not None
        assert freed.boundary is None

    @pytest.mark.parametrize(
        ("arn", "text"),
        [
            (f"arn:aws:iam::{ACCOUNT}:policy/none", "Scope ARN: {} does not exist or is not attachable."),
            ("arn:aws:iam::aws:policy/NoSuchPolicy", "Scope ARN: {} does not exist or is not attachable."),
            (f"arn:aws:iam::{ACCOUNT}:user/ann", "ARN {} is not valid."),
        ],
    )
    async def test_what_is_no_policy_of_the_account_is_no_boundary(self, iam: Asked, arn: str, text: str) -> None:
        said = ("InvalidInput" if "valid" in text else "NoSuchEntity", text.format(arn))
        assert await iam.refused("CreateUser", UserName="ann", PermissionsBoundary=arn) == said
        await iam("CreateUser", UserName="ann")
        assert await iam.refused("PutUserPermissionsBoundary", UserName="ann", PermissionsBoundary=arn) == said


class TestAccessKeys:
    async def test_a_key_is_listed_and_counts_and_its_secret_is_in_no_answer(self, iam: Asked, world: World) -> None:
        user = (await iam("CreateUser", UserName="Ann"))["User"]
        made = await made_key(world, "ann", 1)
        assert made == {
            "UserName": "Ann",
            "AccessKeyId": f"AKIA{1:016}",
            "Status": "Active",
            "CreateDate": world.clock.now,
        }
        assert (await iam("ListAccessKeys", UserName="ann"))["AccessKeyMetadata"] == [made]
        held = await world.metadata.access_key(made["AccessKeyId"])
        assert held is not None
        assert (held.sealed_secret, held.principal.principal_id) == (SEALED, user["UserId"])

    async def test_two_keys_are_the_most_also_inactive_ones(self, iam: Asked, world: World) -> None:
        await iam("CreateUser", UserName="ann")
        for number in (1, 2):
            await made_key(world, "ann", number)
        await iam("UpdateAccessKey", UserName="ann", AccessKeyId=f"AKIA{1:016}", Status="Inactive")
        with pytest.raises(Failure, match="Cannot exceed quota for AccessKeysPerUser: 2") as raised:
            await made_key(world, "ann", 3)
        assert raised.value.code is Code.IAM_LIMIT_EXCEEDED
        pages = await iam.paged(
            "ListAccessKeys", lambda answer: answer["AccessKeyMetadata"], UserName="ann", MaxItems=1
        )
        assert [[key["Status"] for key in page] for page in pages] == [["Inactive"], ["Active"]]

    async def test_a_key_id_is_not_given_twice(self, iam: Asked, world: World) -> None:
        await iam("CreateUser", UserName="ann")
        await iam("CreateUser", UserName="bea")
        await made_key(world, "ann", 1)
        with pytest.raises(Failure) as raised:
            await made_key(world, "bea", 1)
        assert raised.value.code is Code.ENTITY_ALREADY_EXISTS

    async def test_an_inactive_key_counts_no_more_until_it_is_active_again(self, iam: Asked, world: World) -> None:
        await iam("CreateUser", UserName="ann")
        key = (await made_key(world, "ann", 1))["AccessKeyId"]
        assert await world.metadata.access_key(key) is not None
        await iam("UpdateAccessKey", UserName="ann", AccessKeyId=key, Status="Inactive")
        assert await world.metadata.access_key(key) is None
        await iam("UpdateAccessKey", UserName="ann", AccessKeyId=key, Status="Active")
        assert await world.metadata.access_key(key) is not None
        assert (await iam.refused("UpdateAccessKey", UserName="ann", AccessKeyId=key, Status="Expired"))[0] == (
            "InvalidInput"
        )
        await iam("DeleteAccessKey", UserName="ann", AccessKeyId=key)
        assert await world.metadata.access_key(key) is None

    async def test_a_key_is_changed_in_its_own_users_name_only(self, iam: Asked, world: World) -> None:
        for name in ("ann", "bea"):
            await iam("CreateUser", UserName=name)
        key = (await made_key(world, "ann", 1))["AccessKeyId"]
        said = ("NoSuchEntity", f"The Access Key with id {key} cannot be found.")
        assert await iam.refused("DeleteAccessKey", UserName="bea", AccessKeyId=key) == said
        assert await iam.refused("UpdateAccessKey", UserName="bea", AccessKeyId=key, Status="Inactive") == said
        assert await Asked(world.metadata, "0" * 12).refused("GetAccessKeyLastUsed", AccessKeyId=key) == said

    async def test_a_keys_last_use_is_its_latest(self, iam: Asked, world: World) -> None:
        await iam("CreateUser", UserName="ann")
        key = (await made_key(world, "ann", 1))["AccessKeyId"]
        never = await iam("GetAccessKeyLastUsed", AccessKeyId=key)
        assert never == {"UserName": "ann", "AccessKeyLastUsed": {"ServiceName": "N/A", "Region": "N/A"}}
        await world.metadata.note_key_use(key, 50.0, "eu-west-1", "ecr")
        await world.metadata.note_key_use(key, 40.0, "us-east-1", "sts")
        await world.metadata.note_key_use("AKIANONE", 40.0, "us-east-1", "sts")
        used = (await iam("GetAccessKeyLastUsed", AccessKeyId=key))["AccessKeyLastUsed"]
        assert used == {"LastUsedDate": 50.0, "ServiceName": "ecr", "Region": "eu-west-1"}


class TestWhatNobodyHas:
    async def test_clients_that_clean_up_after_a_user_find_nothing(self, iam: Asked) -> None:
        await iam("CreateUser", UserName="ann")
        lists = {
            "ListMFADevices": "MFADevices",
            "ListSSHPublicKeys": "SSHPublicKeys",
            "ListSigningCertificates": "Certificates",
            "ListServiceSpecificCredentials": "ServiceSpecificCredentials",
        }
        for operation, member in lists.items():
            assert await iam(operation, UserName="ann") == {member: [], "IsTruncated": False}
        assert (await iam("ListVirtualMFADevices"))["VirtualMFADevices"] == []
        assert (await iam("ListServiceSpecificCredentials", AllUsers=True))["ServiceSpecificCredentials"] == []
        for operation in ("GetLoginProfile", "DeleteLoginProfile"):
            assert await iam.refused(operation, UserName="ann") == (
                "NoSuchEntity",
                "Login Profile for User ann cannot be found.",
            )
