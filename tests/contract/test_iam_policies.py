"""Managed and inline policies and what they hang on, on every service and client."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import unquote

import pytest

from proxy.auth.managed import AWS_MANAGED
from support.iam_shapes import Asked
from support.metadata import ACCOUNT, World

PULL_ONLY = "arn:aws:iam::aws:policy/AmazonEC2ContainerRegistryPullOnly"
TRUST = json.dumps(
    {
        "Version": "2012-10-17",
        "Statement": [{"Effect": "Allow", "Principal": {"AWS": ACCOUNT}, "Action": "sts:AssumeRole"}],
    }
)
NOUNS = {"User": {"UserName": "ann"}, "Group": {"GroupName": "devs"}, "Role": {"RoleName": "ci"}}


def document(action: str = "ecr:PutImage", filler: str = "") -> str:
    return json.dumps(
        {"Version": "2012-10-17", "Statement": [{"Sid": filler, "Effect": "Allow", "Action": action, "Resource": "*"}]},
        indent=1,
    )


@pytest.fixture
async def iam(world: World) -> Asked:
    """An account with a user, a group and a role."""
    await world.bootstrap()
    asked = Asked(world.metadata, ACCOUNT)
    await asked("CreateUser", UserName="ann", Path="/eng/")
    await asked("CreateGroup", GroupName="devs")
    await asked("CreateRole", RoleName="ci", AssumeRolePolicyDocument=TRUST)
    return asked


async def created(iam: Asked, name: str = "push", **more: Any) -> str:
    made = await iam("CreatePolicy", PolicyName=name, PolicyDocument=document(), **more)
    arn: str = made["Policy"]["Arn"]
    return arn


async def test_a_policy_reads_back_as_it_was_given(iam: Asked, world: World) -> None:
    given = document()
    tags = [{"Key": "Team", "Value": "a"}]
    made = await iam("CreatePolicy", PolicyName="push", Path="/eng/", Description="d", Tags=tags, PolicyDocument=given)
    policy = made["Policy"]
    assert policy["Arn"] == f"arn:aws:iam::{ACCOUNT}:policy/eng/push"
    assert policy["PolicyId"].startswith("ANPA")
    assert policy["CreateDate"] == policy["UpdateDate"] == world.clock.now
    read = (await iam("GetPolicy", PolicyArn=policy["Arn"]))["Policy"]
    assert (read["Description"], read["Tags"], read["DefaultVersionId"]) == ("d", tags, "v1")
    version = (await iam("GetPolicyVersion", PolicyArn=policy["Arn"], VersionId="v1"))["PolicyVersion"]
    assert unquote(version["Document"]) == given
    assert '"' not in version["Document"]
    assert version["IsDefaultVersion"] is True


async def test_a_name_is_taken_in_any_case_and_on_any_path(iam: Asked) -> None:
    await created(iam)
    assert await iam.refused("CreatePolicy", PolicyName="PUSH", Path="/x/", PolicyDocument=document()) == (
        "EntityAlreadyExists",
        "A policy called PUSH already exists. Duplicate names are not allowed.",
    )


async def test_a_policy_that_is_none_is_malformed(iam: Asked) -> None:
    for text in ("{", "[]", '{"Version":"2012-10-17"}'):
        code, _ = await iam.refused("CreatePolicy", PolicyName="bad", PolicyDocument=text)
        assert code == "MalformedPolicyDocument", text
        code, _ = await iam.refused("PutUserPolicy", UserName="ann", PolicyName="bad", PolicyDocument=text)
        assert code == "MalformedPolicyDocument", text


async def test_versions_are_numbered_once_and_five_at_most(iam: Asked, world: World) -> None:
    arn = await created(iam)
    for number in range(2, 6):
        world.clock.now += 1
        made = await iam(
            "CreatePolicyVersion", PolicyArn=arn, PolicyDocument=document(f"ecr:Get{number}*"), SetAsDefault=number == 3
        )
        assert made["PolicyVersion"]["VersionId"] == f"v{number}"
        assert made["PolicyVersion"]["IsDefaultVersion"] is (number == 3)
    assert await iam.refused("CreatePolicyVersion", PolicyArn=arn, PolicyDocument=document()) == (
        "LimitExceeded",
        "A managed policy can have up to 5 versions. Before you create a new version, you must delete an existing "
        "version.",
    )
    assert await iam.refused("DeletePolicyVersion", PolicyArn=arn, VersionId="v3") == (
        "DeleteConflict",
        "Cannot delete the default version of a policy.",
    )
    await iam("DeletePolicyVersion", PolicyArn=arn, VersionId="v5")
    made = await iam("CreatePolicyVersion", PolicyArn=arn, PolicyDocument=document())
    assert made["PolicyVersion"]["VersionId"] == "v6"
    pages = await iam.paged("ListPolicyVersions", lambda page: page["Versions"], PolicyArn=arn, MaxItems=2)
    assert [[version["VersionId"] for version in page] for page in pages] == [["v6", "v4"], ["v3", "v2"], ["v1"]]
    assert await iam.refused("GetPolicyVersion", PolicyArn=arn, VersionId="v5") == (
        "NoSuchEntity",
        f"Policy {arn} version v5 does not exist or is not attachable.",
    )
    read = (await iam("GetPolicy", PolicyArn=arn))["Policy"]
    assert (read["DefaultVersionId"], read["UpdateDate"]) == ("v3", world.clock.now)


async def test_the_default_version_is_what_counts_from_the_next_request_on(iam: Asked, world: World) -> None:
    arn = await created(iam)
    await iam("AttachUserPolicy", UserName="ann", PolicyArn=arn)
    ann = (await iam("GetUser", UserName="ann"))["User"]["UserId"]

    async def counting() -> list[str]:
        principal = await world.metadata.principal(ann)
        assert principal is not None
        return [json.loads(policy.text)["Statement"][0]["Action"] for policy in principal.policies]

    assert await counting() == ["ecr:PutImage"]
    await iam("CreatePolicyVersion", PolicyArn=arn, PolicyDocument=document("ecr:Get*"), SetAsDefault=True)
    assert await counting() == ["ecr:Get*"]
    await iam("SetDefaultPolicyVersion", PolicyArn=arn, VersionId="v1")
    assert await counting() == ["ecr:PutImage"]
    [default] = await world.metadata.policy_documents(ACCOUNT, [arn])
    assert json.loads(default.text)["Statement"][0]["Action"] == "ecr:PutImage"
    await iam("PutUserPolicy", UserName="ann", PolicyName="own", PolicyDocument=document("ecr:List*"))
    assert await counting() == ["ecr:List*", "ecr:PutImage"]
    await iam("DetachUserPolicy", UserName="ann", PolicyArn=arn)
    await iam("DeleteUserPolicy", UserName="ann", PolicyName="own")
    assert await counting() == []


async def test_a_policy_goes_once_nothing_hangs_on_it(iam: Asked) -> None:
    arn = await created(iam)
    await iam("AttachRolePolicy", RoleName="ci", PolicyArn=arn)
    in_use = ("DeleteConflict", "Cannot delete a policy attached to entities.")
    assert await iam.refused("DeletePolicy", PolicyArn=arn) == in_use
    await iam("DetachRolePolicy", RoleName="ci", PolicyArn=arn)
    await iam("PutUserPermissionsBoundary", UserName="ann", PermissionsBoundary=arn)
    assert await iam.refused("DeletePolicy", PolicyArn=arn) == in_use
    await iam("DeleteUserPermissionsBoundary", UserName="ann")
    await iam("CreatePolicyVersion", PolicyArn=arn, PolicyDocument=document())
    code, text = await iam.refused("DeletePolicy", PolicyArn=arn)
    assert (code, text.partition(".")[0]) == ("DeleteConflict", "This policy has more than one version")
    await iam("DeletePolicyVersion", PolicyArn=arn, VersionId="v2")
    await iam("DeletePolicy", PolicyArn=arn)
    for operation in ("GetPolicy", "DeletePolicy", "ListPolicyVersions", "ListPolicyTags", "ListEntitiesForPolicy"):
        assert await iam.refused(operation, PolicyArn=arn) == ("NoSuchEntity", f"Policy {arn} was not found.")


async def test_the_policies_of_aws_are_there_for_all_and_changed_by_nobody(iam: Asked) -> None:
    read = (await iam("GetPolicy", PolicyArn=PULL_ONLY))["Policy"]
    assert (read["DefaultVersionId"], read["AttachmentCount"]) == ("v1", 0)
    version = (await iam("GetPolicyVersion", PolicyArn=PULL_ONLY, VersionId="v1"))["PolicyVersion"]
    assert "ecr:BatchGetImage" in json.loads(unquote(version["Document"]))["Statement"][0]["Action"]
    await iam("AttachGroupPolicy", GroupName="devs", PolicyArn=PULL_ONLY)
    assert (await iam("GetPolicy", PolicyArn=PULL_ONLY))["Policy"]["AttachmentCount"] == 1
    outside = ("AccessDeniedException", "Policy is outside your own account.")
    writes: list[tuple[str, dict[str, Any]]] = [
        ("DeletePolicy", {}),
        ("CreatePolicyVersion", {"PolicyDocument": document()}),
        ("DeletePolicyVersion", {"VersionId": "v1"}),
        ("SetDefaultPolicyVersion", {"VersionId": "v1"}),
        ("TagPolicy", {"Tags": [{"Key": "a", "Value": "b"}]}),
        ("UntagPolicy", {"TagKeys": ["a"]}),
    ]
    for operation, more in writes:
        assert await iam.refused(operation, PolicyArn=PULL_ONLY, **more) == outside


@pytest.mark.parametrize("noun", NOUNS)
async def test_inline_policies_are_put_read_listed_and_deleted(iam: Asked, noun: str) -> None:
    named, word = NOUNS[noun], noun.lower()
    await iam(f"Put{noun}Policy", **named, PolicyName="b", PolicyDocument=document("ecr:Get*"))
    await iam(f"Put{noun}Policy", **named, PolicyName="a", PolicyDocument=document())
    await iam(f"Put{noun}Policy", **named, PolicyName="b", PolicyDocument=document("ecr:List*"))
    read = await iam(f"Get{noun}Policy", **named, PolicyName="b")
    assert read == {**named, "PolicyName": "b", "PolicyDocument": read["PolicyDocument"]}
    assert unquote(read["PolicyDocument"]) == document("ecr:List*")
    pages = await iam.paged(f"List{noun}Policies", lambda page: page["PolicyNames"], **named, MaxItems=1)
    assert pages == [["a"], ["b"]]
    await iam(f"Delete{noun}Policy", **named, PolicyName="b")
    gone = ("NoSuchEntity", f"The {word} policy with name b cannot be found.")
    assert await iam.refused(f"Get{noun}Policy", **named, PolicyName="b") == gone
    assert await iam.refused(f"Delete{noun}Policy", **named, PolicyName="b") == gone
    nobody = dict.fromkeys(named, "nobody")
    missing = ("NoSuchEntity", f"The {word} with name nobody cannot be found.")
    assert await iam.refused(f"List{noun}Policies", **nobody) == missing
    assert await iam.refused(f"Put{noun}Policy", **nobody, PolicyName="a", PolicyDocument=document()) == missing


@pytest.mark.parametrize(("noun", "most"), [("User", 2048), ("Group", 5120), ("Role", 10240)])
async def test_inline_policies_together_are_bounded_in_size_without_white_space(
    iam: Asked, noun: str, most: int
) -> None:
    named = NOUNS[noun]
    bare = len("".join(document(filler="").split()))
    half = document(filler="x" * (most // 2 - bare))
    spaced = half.replace("\n", "\n" * 50)
    await iam(f"Put{noun}Policy", **named, PolicyName="a", PolicyDocument=spaced)
    await iam(f"Put{noun}Policy", **named, PolicyName="b", PolicyDocument=half)
    [name] = named.values()
    too_long = document(filler="x" * (most // 2 - bare + 1))
    assert await iam.refused(f"Put{noun}Policy", **named, PolicyName="b", PolicyDocument=too_long) == (
        "LimitExceeded",
        f"Maximum policy size of {most} bytes exceeded for {noun.lower()} {name}",
    )


async def test_a_managed_policy_is_bounded_in_size_without_white_space(iam: Asked) -> None:
    bare = len("".join(document().split()))
    fits = document(filler="x" * (6144 - bare))
    await iam("CreatePolicy", PolicyName="fits", PolicyDocument=fits.replace("\n", "\n" * 99))
    too_long = document(filler="x" * (6145 - bare))
    refusal = ("LimitExceeded", "Cannot exceed quota for PolicySize: 6144")
    assert await iam.refused("CreatePolicy", PolicyName="not", PolicyDocument=too_long) == refusal


async def test_white_space_is_free_up_to_three_times_the_rest(iam: Asked) -> None:
    """Each worker keeps the policies of who asks, a hundred perhaps, as they are."""
    for operation, named, name, most in (
        ("CreatePolicy", {"PolicyName": "spaced"}, "PolicySize", 6144),
        ("PutUserPolicy", {"UserName": "ann", "PolicyName": "spaced"}, "UserPolicySize", 2048),
        ("PutRolePolicy", {"RoleName": "ci", "PolicyName": "spaced"}, "RolePolicySize", 10240),
        ("UpdateAssumeRolePolicy", {"RoleName": "ci"}, "ACLSizePerRole", 2048),
    ):
        text = TRUST if operation == "UpdateAssumeRolePolicy" else document()
        fits = text + " " * (4 * most - len(text))
        refusal = f"Cannot exceed quota for {name}: {most}, and {4 * most} with white space"
        assert await iam.refused(operation, **named, PolicyDocument=fits + " ") == ("LimitExceeded", refusal)
        await iam(operation, **named, PolicyDocument=fits)


async def test_what_is_too_long_is_refused_before_it_is_read(iam: Asked) -> None:
    """Compiling it could take a second of the one thread that writes."""
    long = {"PolicyName": "long", "PolicyDocument": "not JSON " * 14_000}
    assert (await iam.refused("CreatePolicy", **long))[0] == "LimitExceeded"
    for noun, named in NOUNS.items():
        assert (await iam.refused(f"Put{noun}Policy", **named, **long))[0] == "LimitExceeded"
    trust = {"RoleName": "ci", "PolicyDocument": long["PolicyDocument"]}
    assert (await iam.refused("UpdateAssumeRolePolicy", **trust))[0] == "LimitExceeded"


@pytest.mark.parametrize("noun", NOUNS)
async def test_attached_policies_are_listed_by_name_and_ten_at_most(iam: Asked, noun: str) -> None:
    named = NOUNS[noun]
    arns = [await created(iam, f"p{number:02}", Path="/a/" if number % 2 else "/") for number in range(10)]
    for arn in reversed(arns):
        await iam(f"Attach{noun}Policy", **named, PolicyArn=arn)
    await iam(f"Attach{noun}Policy", **named, PolicyArn=arns[0])
    assert await iam.refused(f"Attach{noun}Policy", **named, PolicyArn=PULL_ONLY) == (
        "LimitExceeded",
        f"Cannot exceed quota for PoliciesPer{noun}: 10",
    )
    listed = f"ListAttached{noun}Policies"
    pages = await iam.paged(listed, lambda page: page["AttachedPolicies"], **named, MaxItems=4)
    assert [len(page) for page in pages] == [4, 4, 2]
    assert [policy["PolicyArn"] for page in pages for policy in page] == arns
    narrowed = await iam(listed, **named, PathPrefix="/a/")
    assert [policy["PolicyName"] for policy in narrowed["AttachedPolicies"]] == ["p01", "p03", "p05", "p07", "p09"]
    await iam(f"Detach{noun}Policy", **named, PolicyArn=arns[0])
    assert await iam.refused(f"Detach{noun}Policy", **named, PolicyArn=arns[0]) == (
        "NoSuchEntity",
        f"Policy {arns[0]} was not found.",
    )


async def test_only_what_is_there_can_be_attached(iam: Asked) -> None:
    for arn in (
        f"arn:aws:iam::{ACCOUNT}:policy/no",
        "arn:aws:iam::aws:policy/No",
        "arn:aws:iam::999999999999:policy/p",
    ):
        assert await iam.refused("AttachUserPolicy", UserName="ann", PolicyArn=arn) == (
            "NoSuchEntity",
            f"Policy {arn} does not exist or is not attachable.",
        )


async def test_a_policy_knows_its_entities(iam: Asked) -> None:
    arn = await created(iam)
    await iam("CreateUser", UserName="bob")
    for noun, named in NOUNS.items():
        await iam(f"Attach{noun}Policy", **named, PolicyArn=arn)
    await iam("PutUserPermissionsBoundary", UserName="bob", PermissionsBoundary=arn)

    def names(page: dict[str, Any]) -> list[str]:
        of = (("PolicyGroups", "GroupName"), ("PolicyRoles", "RoleName"), ("PolicyUsers", "UserName"))
        return [entity[name] for key, name in of for entity in page[key]]

    cases: list[tuple[dict[str, str], list[str]]] = [
        ({}, ["devs", "ci", "ann", "bob"]),
        ({"EntityFilter": "User"}, ["ann", "bob"]),
        ({"EntityFilter": "Group"}, ["devs"]),
        ({"EntityFilter": "Role"}, ["ci"]),
        ({"PathPrefix": "/eng/"}, ["ann"]),
        ({"PathPrefix": "/ENG/"}, []),
        ({"PolicyUsageFilter": "PermissionsPolicy"}, ["devs", "ci", "ann"]),
        ({"PolicyUsageFilter": "PermissionsBoundary"}, ["bob"]),
    ]
    for narrowed, expected in cases:
        assert names(await iam("ListEntitiesForPolicy", PolicyArn=arn, **narrowed)) == expected, narrowed
    pages = await iam.paged("ListEntitiesForPolicy", names, PolicyArn=arn, MaxItems=1)  # type: ignore[arg-type]
    assert pages == [["devs"], ["ci"], ["ann"], ["bob"]]
    read = (await iam("GetPolicy", PolicyArn=arn))["Policy"]
    assert (read["AttachmentCount"], read["PermissionsBoundaryUsageCount"]) == (3, 1)


async def test_policies_are_listed_by_scope_path_and_use(iam: Asked) -> None:
    attached, edge, loose = [
        await created(iam, name, Path=path) for name, path in (("b", "/"), ("a", "/x/"), ("c", "/x_y/"))
    ]
    await iam("AttachUserPolicy", UserName="ann", PolicyArn=attached)
    await iam("AttachUserPolicy", UserName="ann", PolicyArn=PULL_ONLY)
    await iam("PutUserPermissionsBoundary", UserName="ann", PermissionsBoundary=edge)

    async def listed(**narrowed: Any) -> list[str]:
        pages = await iam.paged(
            "ListPolicies", lambda page: [policy["Arn"] for policy in page["Policies"]], MaxItems=2, **narrowed
        )
        return [arn for page in pages for arn in page]

    assert await listed() == [*AWS_MANAGED, edge, attached, loose]
    assert await listed(Scope="AWS") == list(AWS_MANAGED)
    assert await listed(Scope="Local") == [edge, attached, loose]
    assert await listed(Scope="Local", PathPrefix="/x/") == [edge]
    assert await listed(Scope="Local", PathPrefix="/X/") == []
    assert await listed(OnlyAttached=True, Scope="Local") == [attached]
    assert await listed(PolicyUsageFilter="PermissionsBoundary") == [edge]
    assert PULL_ONLY in await listed(PolicyUsageFilter="PermissionsPolicy")
    assert await listed(Scope="Local", PolicyUsageFilter="PermissionsPolicy") == [attached]


async def test_a_marker_of_another_list_is_refused(iam: Asked) -> None:
    for name in ("a", "b"):
        await created(iam, name)
    marker = (await iam("ListPolicies", Scope="Local", MaxItems=1))["Marker"]
    code, _ = await iam.refused("ListPolicies", Scope="AWS", MaxItems=1, Marker=marker)
    assert code == "ValidationError"


async def test_tags_of_a_policy_are_added_changed_and_taken_away(iam: Asked) -> None:
    arn = await created(iam, Tags=[{"Key": "Team", "Value": "a"}])
    await iam("TagPolicy", PolicyArn=arn, Tags=[{"Key": "team", "Value": "b"}, {"Key": "Cost", "Value": ""}])
    pages = await iam.paged("ListPolicyTags", lambda page: page["Tags"], PolicyArn=arn, MaxItems=1)
    assert pages == [[{"Key": "Cost", "Value": ""}], [{"Key": "team", "Value": "b"}]]
    await iam("UntagPolicy", PolicyArn=arn, TagKeys=["TEAM", "none"])
    assert (await iam("ListPolicyTags", PolicyArn=arn))["Tags"] == [{"Key": "Cost", "Value": ""}]
    found = await iam.metadata.iam_resource(ACCOUNT, "policy", arn)
    assert found is not None
    assert found.tags == (("Cost", ""),)
