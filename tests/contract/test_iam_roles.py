"""IAM's roles and their trust policies, on every service and client."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import unquote

import pytest

from proxy.auth.managed import ADMINISTRATOR_ACCESS
from support.iam_shapes import Asked
from support.metadata import ACCOUNT, World

OTHER = "210987654321"
ANN = f"arn:aws:iam::{ACCOUNT}:user/ann"
# One call of each operation that names a role, but for the name.
ON_A_ROLE: dict[str, dict[str, Any]] = {
    "GetRole": {},
    "UpdateRole": {},
    "UpdateRoleDescription": {"Description": "d"},
    "UpdateAssumeRolePolicy": {"PolicyDocument": "{}"},
    "DeleteRole": {},
    "TagRole": {"Tags": [{"Key": "a", "Value": "b"}]},
    "UntagRole": {"TagKeys": ["a"]},
    "ListRoleTags": {},
    "PutRolePermissionsBoundary": {"PermissionsBoundary": ADMINISTRATOR_ACCESS},
    "DeleteRolePermissionsBoundary": {},
    "ListInstanceProfilesForRole": {},
}


def trust(*principals: str, kind: str = "AWS", **more: Any) -> str:
    """A trust policy with some white space, as people write them."""
    action = "sts:AssumeRole" if kind == "AWS" else "sts:AssumeRoleWithWebIdentity"
    statement = {"Effect": "Allow", "Principal": {kind: list(principals)}, "Action": action, **more}
    return json.dumps({"Version": "2012-10-17", "Statement": [statement]}, indent=2)


@pytest.fixture
async def iam(world: World) -> Asked:
    """IAM of an account with a user."""
    await world.bootstrap()
    asked = Asked(world.metadata, ACCOUNT)
    await asked("CreateUser", UserName="ann")
    return asked


async def document(iam: Asked) -> str:
    shown: str = (await iam("GetRole", RoleName="ci"))["Role"]["AssumeRolePolicyDocument"]
    assert not set(' "{}:/\n') & set(shown)
    return unquote(shown)


class TestRoles:
    async def test_a_role_reads_back_as_it_was_made(self, iam: Asked, world: World) -> None:
        given = {
            "Path": "/eng/",
            "Description": "for ü",
            "MaxSessionDuration": 7200,
            "Tags": [{"Key": "Team", "Value": "a"}],
        }
        text = trust(ANN, ACCOUNT, f"arn:aws:iam::{ACCOUNT}:root")
        made = (
            await iam(
                "CreateRole",
                RoleName="CI",
                AssumeRolePolicyDocument=text,
                PermissionsBoundary=ADMINISTRATOR_ACCESS,
                **given,
            )
        )["Role"]
        assert made["Arn"] == f"arn:aws:iam::{ACCOUNT}:role/eng/CI"
        assert made["RoleId"].startswith("AROA")
        assert made["CreateDate"] == world.clock.now
        assert {name: made[name] for name in given} == given
        assert made["PermissionsBoundary"]["PermissionsBoundaryArn"] == ADMINISTRATOR_ACCESS
        assert await iam("GetRole", RoleName="ci") == {"Role": {**made, "RoleLastUsed": {}}}
        assert await document(iam) == text

    async def test_what_is_not_given_has_iams_own_values(self, iam: Asked) -> None:
        made = (await iam("CreateRole", RoleName="ci", AssumeRolePolicyDocument=trust(ACCOUNT)))["Role"]
        assert (made["Path"], made["MaxSessionDuration"]) == ("/", 3600)
        assert not {"Description", "Tags", "PermissionsBoundary"} & made.keys()

    async def test_a_name_is_taken_in_any_case_and_on_any_path(self, iam: Asked) -> None:
        await iam("CreateRole", RoleName="ci", AssumeRolePolicyDocument=trust(ACCOUNT))
        assert await iam.refused("CreateRole", RoleName="CI", Path="/x/", AssumeRolePolicyDocument="{}") == (
            "EntityAlreadyExists",
            "Role with name CI already exists.",
        )

    @pytest.mark.parametrize("operation", ON_A_ROLE)
    async def test_a_role_that_is_not_there_is_found_by_no_operation(self, iam: Asked, operation: str) -> None:
        assert await iam.refused(operation, RoleName="ci", **ON_A_ROLE[operation]) == (
            "NoSuchEntity",
            "The role with name ci cannot be found.",
        )

    async def test_sts_sees_every_change_at_once(self, iam: Asked, world: World) -> None:
        await iam("CreateRole", RoleName="ci", AssumeRolePolicyDocument=trust(ACCOUNT))
        before = await world.metadata.role(ACCOUNT, "CI")
        assert before is not None
        assert (before.max_session_seconds, before.trust.principals) == (3600, ())
        await iam("UpdateRole", RoleName="ci", MaxSessionDuration=43200, Description="new")
        await iam("UpdateAssumeRolePolicy", RoleName="ci", PolicyDocument=trust(ANN))
        await iam("TagRole", RoleName="ci", Tags=[{"Key": "a", "Value": "b"}])
        after = await world.metadata.role(ACCOUNT, "ci")
        assert after is not None
        ann = (await iam("GetUser", UserName="ann"))["User"]["UserId"]
        assert (after.max_session_seconds, after.trust.text) == (43200, trust(ANN))
        assert after.trust.principals == ((ANN, ann),)
        assert after.principal.tags == (("a", "b"),)
        await iam("DeleteRole", RoleName="ci")
        assert await world.metadata.role(ACCOUNT, "ci") is None
        assert await world.metadata.principal(after.principal.principal_id) is None

    async def test_an_update_sets_the_hour_unless_it_says_more_and_keeps_the_description(self, iam: Asked) -> None:
        await iam(
            "CreateRole",
            RoleName="ci",
            AssumeRolePolicyDocument=trust(ACCOUNT),
            MaxSessionDuration=7200,
            Description="d",
        )
        await iam("UpdateRole", RoleName="ci")
        role = (await iam("GetRole", RoleName="ci"))["Role"]
        assert (role["MaxSessionDuration"], role["Description"]) == (3600, "d")
        await iam("UpdateRole", RoleName="ci", Description="", MaxSessionDuration=7200)
        described = (await iam("UpdateRoleDescription", RoleName="ci", Description="again"))["Role"]
        assert (described["MaxSessionDuration"], described["Description"]) == (7200, "again")

    async def test_lists_go_on_by_name_with_documents_and_without_tags(self, iam: Asked) -> None:
        for name, path in (("b", "/x/"), ("A", "/x/y/"), ("c", "/")):
            tags = [{"Key": "a", "Value": "b"}]
            await iam("CreateRole", RoleName=name, Path=path, AssumeRolePolicyDocument=trust(ACCOUNT), Tags=tags)
        pages = await iam.paged("ListRoles", lambda answer: answer["Roles"], MaxItems=2)
        assert [[role["RoleName"] for role in page] for page in pages] == [["A", "b"], ["c"]]
        assert unquote(pages[0][0]["AssumeRolePolicyDocument"]) == trust(ACCOUNT)
        assert not {"Tags", "RoleLastUsed"} & pages[0][0].keys()
        assert len((await iam("ListRoles", PathPrefix="/x/y/"))["Roles"]) == 1

    async def test_tags_and_boundary_come_and_go(self, iam: Asked) -> None:
        await iam("CreateRole", RoleName="ci", AssumeRolePolicyDocument=trust(ACCOUNT))
        await iam("TagRole", RoleName="ci", Tags=[{"Key": "b", "Value": "1"}, {"Key": "a", "Value": "2"}])
        assert [tag["Key"] for tag in (await iam("ListRoleTags", RoleName="ci"))["Tags"]] == ["a", "b"]
        await iam("UntagRole", RoleName="ci", TagKeys=["A", "b"])
        await iam("PutRolePermissionsBoundary", RoleName="ci", PermissionsBoundary=ADMINISTRATOR_ACCESS)
        held = (await iam("GetRole", RoleName="ci"))["Role"]
        assert "Tags" not in held
        assert held["PermissionsBoundary"]["PermissionsBoundaryType"] == "Policy"
        await iam("DeleteRolePermissionsBoundary", RoleName="ci")
        assert "PermissionsBoundary" not in (await iam("GetRole", RoleName="ci"))["Role"]

    async def test_a_roles_last_use_is_its_latest(self, iam: Asked, world: World) -> None:
        made = await iam("CreateRole", RoleName="ci", AssumeRolePolicyDocument=trust(ACCOUNT))
        role_id = made["Role"]["RoleId"]
        await world.metadata.note_role_use(role_id, 50.0, "eu-west-1")
        await world.metadata.note_role_use(role_id, 40.0, "us-east-1")
        used = (await iam("GetRole", RoleName="ci"))["Role"]["RoleLastUsed"]
        assert used == {"LastUsedDate": 50.0, "Region": "eu-west-1"}

    async def test_roles_of_aws_own_services_are_refused(self, iam: Asked) -> None:
        for given in ({"RoleName": "AWSServiceRoleForX"}, {"RoleName": "x", "Path": "/aws-service-role/x/"}):
            code, _ = await iam.refused("CreateRole", AssumeRolePolicyDocument=trust(ACCOUNT), **given)
            assert code == "InvalidInput"
        assert (await iam.refused("CreateServiceLinkedRole", AWSServiceName="x.amazonaws.com"))[0] == "InvalidInput"

    async def test_clients_that_clean_up_after_a_role_find_no_instance_profiles(self, iam: Asked) -> None:
        await iam("CreateRole", RoleName="ci", AssumeRolePolicyDocument=trust(ACCOUNT))
        assert (await iam("ListInstanceProfilesForRole", RoleName="ci"))["InstanceProfiles"] == []


class TestTrust:
    @pytest.mark.parametrize(
        "text",
        [
            "{",
            "[]",
            json.dumps({"Version": "2012-10-17"}),
            trust("nobody"),
            trust(ANN, Resource="*"),
            trust(ANN, Action="ecr:PutImage"),
        ],
    )
    async def test_a_document_that_is_no_trust_policy_is_malformed(self, iam: Asked, text: str) -> None:
        code, _ = await iam.refused("CreateRole", RoleName="ci", AssumeRolePolicyDocument=text)
        assert code == "MalformedPolicyDocument"
        await iam("CreateRole", RoleName="ci", AssumeRolePolicyDocument=trust(ACCOUNT))
        code, _ = await iam.refused("UpdateAssumeRolePolicy", RoleName="ci", PolicyDocument=text)
        assert code == "MalformedPolicyDocument"
        assert await document(iam) == trust(ACCOUNT)

    @pytest.mark.parametrize(
        "arn",
        [
            f"arn:aws:iam::{ACCOUNT}:user/bea",
            f"arn:aws:iam::{ACCOUNT}:user/eng/ann",
            f"arn:aws:iam::{ACCOUNT}:role/ann",
            f"arn:aws:iam::{OTHER}:user/ann",
        ],
    )
    async def test_who_does_not_exist_is_trusted_by_nobody(self, iam: Asked, arn: str) -> None:
        assert await iam.refused("CreateRole", RoleName="ci", AssumeRolePolicyDocument=trust(ANN, arn)) == (
            "MalformedPolicyDocument",
            f'Invalid principal in policy: "AWS":"{arn}"',
        )

    async def test_accounts_that_are_not_here_are_trusted_by_nobody(self, iam: Asked, world: World) -> None:
        for text in (trust(OTHER), trust(f"arn:aws:sts::{OTHER}:assumed-role/x/y")):
            code, said = await iam.refused("CreateRole", RoleName="ci", AssumeRolePolicyDocument=text)
            assert code == "MalformedPolicyDocument"
            assert OTHER in said
        await world.metadata.create_account(OTHER, "AKIAOTHER", b"sealed", "administrator")
        text = trust(OTHER, f"arn:aws:iam::{OTHER}:user/administrator")
        await iam("CreateRole", RoleName="ci", AssumeRolePolicyDocument=text)
        held = await world.metadata.role(ACCOUNT, "ci")
        assert held is not None
        assert len(held.trust.principals) == 1

    async def test_everyone_services_and_web_identities_need_not_be_here(self, iam: Asked) -> None:
        provider = f"arn:aws:iam::{ACCOUNT}:oidc-provider/token.actions.example.com"
        for number, text in enumerate((trust("*"), trust(provider, kind="Federated"))):
            await iam("CreateRole", RoleName=f"r{number}", AssumeRolePolicyDocument=text)

    async def test_who_was_trusted_and_is_made_anew_is_somebody_else_and_the_policy_shows_it(
        self, iam: Asked, world: World
    ) -> None:
        text = trust(ANN, ACCOUNT)
        await iam("CreateRole", RoleName="ci", AssumeRolePolicyDocument=text)
        first = (await iam("GetUser", UserName="ann"))["User"]["UserId"]
        await iam("DeleteUser", UserName="ann")
        await iam("CreateUser", UserName="ann")
        held = await world.metadata.role(ACCOUNT, "ci")
        assert held is not None
        assert held.trust.principals == ((ANN, ""),)
        assert await document(iam) == text.replace(ANN, first)
        listed = (await iam("ListRoles"))["Roles"][0]["AssumeRolePolicyDocument"]
        assert unquote(listed) == text.replace(ANN, first)
        await iam("UpdateAssumeRolePolicy", RoleName="ci", PolicyDocument=text)
        again = await world.metadata.role(ACCOUNT, "ci")
        assert again is not None
        assert again.trust.principals[0][1] not in ("", first)

    async def test_who_was_trusted_and_is_renamed_stays_trusted_under_the_new_name(
        self, iam: Asked, world: World
    ) -> None:
        await iam("CreateRole", RoleName="ci", AssumeRolePolicyDocument=trust(ANN))
        user_id = (await iam("GetUser", UserName="ann"))["User"]["UserId"]
        await iam("UpdateUser", UserName="ann", NewUserName="bea", NewPath="/x/")
        held = await world.metadata.role(ACCOUNT, "ci")
        assert held is not None
        assert held.trust.principals == ((ANN, user_id),)
        assert await document(iam) == trust(f"arn:aws:iam::{ACCOUNT}:user/x/bea")

    async def test_a_trust_policy_has_2048_characters_at_most_white_space_apart(self, iam: Asked) -> None:
        def of(length: int) -> str:
            bare = len("".join(trust(ANN, Sid="").split()))
            return trust(ANN, Sid="s" * (length - bare))

        assert await iam.refused("CreateRole", RoleName="ci", AssumeRolePolicyDocument=of(2049)) == (
            "LimitExceeded",
            "Cannot exceed quota for ACLSizePerRole: 2048",
        )
        assert len(of(2048)) > 2048
        await iam("CreateRole", RoleName="ci", AssumeRolePolicyDocument=of(2048))
