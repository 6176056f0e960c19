"""Repositories that a push makes: by which creation template, with what of it, and when none is made."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable
from typing import Any

import pytest

from proxy.model.errors import Code, Failure
from proxy.model.identity import BoundPolicy
from proxy.model.records import CreateOnPush, Mounted
from support.iam_shapes import Asked
from support.metadata import ACCOUNT, REPOSITORY, World, digest, index_manifest

YES, BY_TEMPLATE, NO = CreateOnPush.YES, CreateOnPush.BY_TEMPLATE, CreateOnPush.NO
TRUST = '{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Principal":"*","Action":"sts:AssumeRole"}]}'
ADMINISTRATOR = f"arn:aws:iam::{ACCOUNT}:user/administrator"


@pytest.fixture(autouse=True)
async def administrator(world: World) -> str:
    """The account is open; the administrator's unique id."""
    found = await world.bootstrap()
    assert found.administrator is not None
    return found.administrator.principal_id


async def template(world: World, prefix: str, **given: Any) -> None:
    settings = {"appliedFor": ["CREATE_ON_PUSH"], **given}
    await world.call("CreateRepositoryCreationTemplate", prefix=prefix, **settings)


async def refused(code: Code, asking: Awaitable[Any]) -> str:
    with pytest.raises(Failure) as caught:
        await asking
    assert caught.value.code is code, caught.value
    return caught.value.message


async def described(world: World, name: str) -> dict[str, Any]:
    found: dict[str, Any] = (await world.call("DescribeRepositories", repositoryNames=[name]))["repositories"][0]
    return found


def policy(arn: str) -> str:
    allow = {"Effect": "Allow", "Principal": {"AWS": arn}, "Action": "ecr:BatchGetImage"}
    return json.dumps({"Version": "2012-10-17", "Statement": [allow]})


async def test_the_longest_prefix_counts_with_a_slash_at_its_end_and_root_for_the_rest(world: World) -> None:
    for prefix, mutability in (("ROOT", "MUTABLE"), ("prod", "IMMUTABLE")):
        await template(world, prefix, imageTagMutability=mutability)
    filters = [{"filterType": "WILDCARD", "filter": "dev*"}]
    for prefix, mutability in (("prod/team/", "MUTABLE_WITH_EXCLUSION"), ("prod/team/app", "IMMUTABLE_WITH_EXCLUSION")):
        await template(world, prefix, imageTagMutability=mutability, imageTagMutabilityExclusionFilters=filters)
    for name, mutability in (
        ("prod/x", "IMMUTABLE"),
        ("prod/x/y", "IMMUTABLE"),
        ("prod/teams", "IMMUTABLE"),
        ("prod/team", "IMMUTABLE"),
        ("prod/team/app", "MUTABLE_WITH_EXCLUSION"),
        ("prod/team/app/web", "IMMUTABLE_WITH_EXCLUSION"),
        ("prod", "MUTABLE"),
        ("production/x", "MUTABLE"),
    ):
        await world.begin(name, create=BY_TEMPLATE)
        found = await described(world, name)
        assert found["imageTagMutability"] == mutability, name
        assert found.get("imageTagMutabilityExclusionFilters") == (filters if "EXCLUSION" in mutability else None)


async def test_what_is_made_has_all_that_its_template_says(world: World, administrator: str) -> None:
    tags = [{"Key": "team", "Value": "a"}]
    text = policy(ADMINISTRATOR)
    await template(
        world,
        "prod",
        resourceTags=tags,
        customRoleArn=f"arn:aws:iam::{ACCOUNT}:role/r",
        repositoryPolicy=text,
        lifecyclePolicy='{"rules": []}',
        encryptionConfiguration={"encryptionType": "AES256"},
    )
    await world.begin("prod/app", create=YES)
    found = await described(world, "prod/app")
    assert found["createdAt"] == world.clock()
    assert found["encryptionConfiguration"] == {"encryptionType": "AES256"}
    assert (await world.call("ListTagsForResource", resourceArn=found["repositoryArn"]))["tags"] == tags
    assert (await world.call("GetRepositoryPolicy", repositoryName="prod/app"))["policyText"] == text
    access = await world.metadata.repository_access(ACCOUNT, "prod/app")
    assert access.policy == BoundPolicy(text, ((ADMINISTRATOR, administrator),))
    await world.call("DeleteRepositoryCreationTemplate", prefix="prod")  # it counted when the repository was made
    assert (await described(world, "prod/app")) == found


async def test_where_there_are_templates_a_push_that_none_is_for_makes_nothing(world: World) -> None:
    await template(world, "prod")
    await template(world, "prod/copies", appliedFor=["REPLICATION", "PULL_THROUGH_CACHE"])
    await refused(Code.REPOSITORY_NOT_FOUND, world.begin("dev/app", create=YES))
    await refused(Code.REPOSITORY_NOT_FOUND, world.begin("prod/app", create=NO))
    await world.begin("prod/copies/app", create=YES)  # prod's: the longer one is for others
    found = await world.call("DescribeRepositories")
    assert [each["repositoryName"] for each in found["repositories"]] == ["prod/copies/app"]


async def test_where_there_are_none_the_setting_says(world: World) -> None:
    await refused(Code.REPOSITORY_NOT_FOUND, world.begin("a/b", create=BY_TEMPLATE))
    await world.begin("a/b", create=YES)
    assert (await described(world, "a/b"))["imageTagMutability"] == "MUTABLE"


async def test_a_template_whose_policy_names_who_is_not_there_is_refused(world: World) -> None:
    why = await refused(Code.INVALID_PARAMETER, template(world, "prod", repositoryPolicy=policy(ADMINISTRATOR + "2")))
    assert "Principal not found" in why


@pytest.mark.parametrize(
    ("noun", "member", "value"),
    [
        ("User", "repositoryPolicy", f"arn:aws:iam::{ACCOUNT}:user/ci"),
        ("Role", "repositoryPolicy", f"arn:aws:iam::{ACCOUNT}:role/ci"),
        ("Role", "repositoryPolicy", f"arn:aws:sts::{ACCOUNT}:assumed-role/ci/build"),
        ("Role", "customRoleArn", f"arn:aws:iam::{ACCOUNT}:role/ci"),
    ],
    ids=["user", "role", "session", "role-it-works-by"],
)
async def test_a_template_whose_people_are_gone_makes_nothing_also_for_others_of_their_names(
    world: World, noun: str, member: str, value: str
) -> None:
    """Whom a template names is found when it is saved: who is made anew under the name is not who was meant."""
    iam, update = Asked(world.metadata, ACCOUNT), "UpdateRepositoryCreationTemplate"
    trust = {"AssumeRolePolicyDocument": TRUST} if noun == "Role" else {}
    first = (await iam(f"Create{noun}", **{f"{noun}Name": "ci"}, **trust))[noun][f"{noun}Id"]
    given = {member: policy(value) if member == "repositoryPolicy" else value}
    await template(world, "prod", **given)
    await world.begin("prod/before", create=YES)
    for operation, more in ((f"Delete{noun}", {}), (f"Create{noun}", trust)):
        await iam(operation, **{f"{noun}Name": "ci"}, **more)
        why = await refused(Code.INVALID_PARAMETER, world.begin("prod/app", create=YES))
        assert "prefix 'prod'" in why
        assert "names a principal that is not there" in why
        [shown] = (await world.call("DescribeRepositoryCreationTemplates"))["repositoryCreationTemplates"]
        assert first in shown[member]
        assert value not in shown[member]
    await world.call(update, prefix="prod", description="another one")
    await refused(Code.INVALID_PARAMETER, world.begin("prod/app", create=YES))
    await world.call(update, prefix="prod", **given)  # now it is the other one who is meant
    await world.begin("prod/app", create=YES)


async def test_whoever_made_a_repository_by_a_push_is_told_so(world: World) -> None:
    await template(world, "ROOT")
    assert (await world.begin("a/a", create=YES)).created_repository
    assert not (await world.begin("a/a", create=YES)).created_repository
    assert (await world.put(index_manifest([]), ["v1"], "b/b", create=YES)).created_repository
    assert not (await world.put(index_manifest([]), ["v2"], "b/b", create=YES)).created_repository
    await world.commit("layer")
    mount = world.metadata.mount_blob
    assert await mount(ACCOUNT, "c/c", digest("layer"), REPOSITORY, create=YES) is Mounted.CREATED
    assert await mount(ACCOUNT, "c/c", digest("layer"), REPOSITORY, create=YES) is Mounted.LINKED


async def test_who_asks_again_after_a_lost_answer_is_told_the_same(world: World) -> None:
    world.object_key = lambda: "ab" * 16  # type: ignore[method-assign]  # the same upload, asked for twice
    for _ in range(2):
        assert (await world.begin("a/a", create=YES)).created_repository
        world.clock.now += 1


async def test_of_pushes_that_race_one_makes_the_repository(world: World) -> None:
    await template(world, "prod", imageTagMutability="IMMUTABLE")
    begun = await asyncio.gather(*(world.begin("prod/app", create=YES) for _ in range(8)))
    assert sum(each.created_repository for each in begun) == 1
    assert len({each.upload_id for each in begun}) == 8
    assert len((await world.call("DescribeRepositories"))["repositories"]) == 1
