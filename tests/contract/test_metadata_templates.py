"""What the metadata service keeps of creation templates and pull-time exclusions, through every client."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Mapping, Sequence
from typing import Any

import pytest

from proxy.metadata.db.transaction import Registry
from proxy.model.errors import Code, Failure
from proxy.model.quotas import Quotas
from support.metadata import ACCOUNT, World
from support.response_shapes import check, declared

PUSH = ["CREATE_ON_PUSH"]
ROLE = f"arn:aws:iam::{ACCOUNT}:role/ecr-templates"
POLICY = json.dumps(
    {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Principal": "*", "Action": "ecr:BatchGetImage"}]},
    indent=2,
)
KMS = {"encryptionType": "KMS", "kmsKey": f"arn:aws:kms:us-east-1:{ACCOUNT}:key/1234abcd"}
WHOLE: Mapping[str, Any] = {
    "description": "a team's",
    "appliedFor": ["REPLICATION", "CREATE_ON_PUSH"],
    "encryptionConfiguration": KMS,
    "imageTagMutability": "IMMUTABLE_WITH_EXCLUSION",
    "imageTagMutabilityExclusionFilters": [{"filterType": "WILDCARD", "filter": "dev*"}],
    "repositoryPolicy": POLICY,
    "lifecyclePolicy": '{ "rules": [] }',
    "resourceTags": [{"Key": "team", "Value": "a"}, {"Key": "Stage", "Value": ""}],
    "customRoleArn": ROLE,
}
CREATE, DESCRIBE, UPDATE, DELETE = (
    f"{verb}RepositoryCreationTemplate{'s' if verb == 'Describe' else ''}"
    for verb in ("Create", "Describe", "Update", "Delete")
)
REGISTER, DEREGISTER, LIST = (
    "RegisterPullTimeUpdateExclusion",
    "DeregisterPullTimeUpdateExclusion",
    "ListPullTimeUpdateExclusions",
)


REFUSED: Sequence[tuple[Code, str, Mapping[str, Any]]] = (
    (Code.INVALID_PARAMETER, "appliedFor", {"appliedFor": []}),
    (Code.INVALID_PARAMETER, "appliedFor", {"appliedFor": None}),
    (Code.INVALID_PARAMETER, "prefix", {"prefix": "Prod"}),
    (Code.INVALID_PARAMETER, "ExclusionFilters", {"imageTagMutabilityExclusionFilters": None}),
    (Code.INVALID_PARAMETER, "kmsKey", {"encryptionConfiguration": {**KMS, "encryptionType": "AES256"}}),
    (Code.INVALID_PARAMETER, "kmsKey", {"encryptionConfiguration": {**KMS, "kmsKey": "alias/x"}}),
    (Code.INVALID_PARAMETER, "KMS_DSSE", {"encryptionConfiguration": {**KMS, "encryptionType": "KMS_DSSE"}}),
    (Code.INVALID_PARAMETER, "'Invalid repository policy provided'", {"repositoryPolicy": "{}"}),
    (Code.INVALID_PARAMETER, "Lifecycle policy validation failure", {"lifecyclePolicy": "[]"}),
    (Code.INVALID_PARAMETER, "Lifecycle policy validation failure", {"lifecyclePolicy": "[" * 30_000}),
    (Code.INVALID_PARAMETER, "lifecyclePolicy", {"lifecyclePolicy": " " * 30_721}),
    (Code.INVALID_PARAMETER, "resourceTags", {"resourceTags": [{"Key": "aws:x", "Value": ""}]}),
    (
        Code.INVALID_PARAMETER,
        "resourceTags",
        {"resourceTags": [{"Key": f"{n}", "Value": ""} for n in range(51)]},
    ),
    (Code.VALIDATION, "customRoleArn", {"customRoleArn": ROLE.replace(ACCOUNT, "210987654321")}),
    (Code.VALIDATION, "customRoleArn", {"customRoleArn": ROLE.replace("role", "user")}),
)

MOST = 4


@pytest.fixture
def registry() -> Registry:
    return Registry(quotas=Quotas(creation_templates=MOST, pull_time_exclusions=MOST))


@pytest.fixture(autouse=True)
async def account(world: World) -> None:
    await world.bootstrap()


async def call(world: World, operation: str, **parameters: Any) -> dict[str, Any]:
    """The answer, which is of the model's shape and has all that AWS always sends."""
    answer = await world.call(operation, **parameters)
    check("ecr", operation, answer)
    return answer


async def refused(world: World, code: Code, operation: str, **parameters: Any) -> str:
    """Why; the code is one that the model declares for the operation."""
    asking: Awaitable[Any] = world.call(operation, **parameters)
    with pytest.raises(Failure) as caught:
        await asking
    assert caught.value.code is code, caught.value
    assert code.value in declared("ecr", operation)
    return caught.value.message


async def prefixes(world: World, **asked: Any) -> list[str]:
    return [each["prefix"] for each in (await call(world, DESCRIBE, **asked))["repositoryCreationTemplates"]]


class TestTemplates:
    async def test_a_template_comes_back_as_it_was_given(self, world: World) -> None:
        made = await call(world, CREATE, prefix="team/a", **WHOLE)
        assert made["registryId"] == ACCOUNT
        template = made["repositoryCreationTemplate"]
        assert template == {"prefix": "team/a", **WHOLE, "createdAt": world.clock(), "updatedAt": world.clock()}
        found = await call(world, DESCRIBE, prefixes=["team/a"])
        assert found == {"registryId": ACCOUNT, "repositoryCreationTemplates": [template]}
        assert (await call(world, DELETE, prefix="team/a"))["repositoryCreationTemplate"] == template
        assert await prefixes(world) == []

    async def test_what_is_not_given_has_ecrs_defaults(self, world: World) -> None:
        made = (await call(world, CREATE, prefix="ROOT", appliedFor=PUSH))["repositoryCreationTemplate"]
        assert made == {
            "prefix": "ROOT",
            "appliedFor": PUSH,
            "encryptionConfiguration": {"encryptionType": "AES256"},
            "imageTagMutability": "MUTABLE",
            "resourceTags": [],
            "createdAt": world.clock(),
            "updatedAt": world.clock(),
        }

    async def test_tags_and_a_key_of_ones_own_are_saved_without_a_role(self, world: World) -> None:
        """As ECR does, though its guide calls the role required; Terraform's provider relies on it."""
        given = {member: value for member, value in WHOLE.items() if member != "customRoleArn"}
        made = (await call(world, CREATE, prefix="a", **given))["repositoryCreationTemplate"]
        assert made == {"prefix": "a", **given, "createdAt": world.clock(), "updatedAt": world.clock()}

    async def test_an_update_leaves_what_it_does_not_name(self, world: World) -> None:
        before = (await call(world, CREATE, prefix="a", **WHOLE))["repositoryCreationTemplate"]
        world.clock.now += 60
        after = (await call(world, UPDATE, prefix="a", description="new"))["repositoryCreationTemplate"]
        assert after == {**before, "description": "new", "updatedAt": world.clock()}
        assert (await call(world, DESCRIBE))["repositoryCreationTemplates"] == [after]

    async def test_an_empty_text_or_list_takes_away_what_was_there(self, world: World) -> None:
        await call(world, CREATE, prefix="a", **WHOLE)
        empty = dict.fromkeys(("description", "repositoryPolicy", "lifecyclePolicy", "customRoleArn"), "")
        found = await call(
            world,
            UPDATE,
            prefix="a",
            **empty,
            resourceTags=[],
            encryptionConfiguration={"encryptionType": "AES256"},
            imageTagMutability="IMMUTABLE",
        )
        left = found["repositoryCreationTemplate"]
        assert left.keys() == {
            "prefix",
            "appliedFor",
            "encryptionConfiguration",
            "imageTagMutability",
            "resourceTags",
            "createdAt",
            "updatedAt",
        }
        assert left["resourceTags"] == []
        assert left["imageTagMutability"] == "IMMUTABLE"

    async def test_what_a_template_is_for_is_kept_once_however_often_it_is_named(self, world: World) -> None:
        """No model bounds the list, and every push of a new name reads it."""
        kinds = ["REPLICATION", "CREATE_ON_PUSH"]
        for operation in (CREATE, UPDATE):
            made = await call(world, operation, prefix="prod", appliedFor=kinds * 1000)
            assert made["repositoryCreationTemplate"]["appliedFor"] == kinds

    async def test_a_prefix_with_its_slash_and_without_is_one(self, world: World) -> None:
        await call(world, CREATE, prefix="prod/", appliedFor=PUSH)
        why = await refused(world, Code.TEMPLATE_ALREADY_EXISTS, CREATE, prefix="prod", appliedFor=PUSH)
        assert why == (
            f"The repository creation template with prefix 'prod' already exists in the registry with id '{ACCOUNT}'"
        )
        assert await prefixes(world, prefixes=["prod"]) == ["prod/"]
        await call(world, UPDATE, prefix="prod", description="x")
        assert (await call(world, DELETE, prefix="prod"))["repositoryCreationTemplate"]["prefix"] == "prod/"

    async def test_what_is_not_there_is_not_found(self, world: World) -> None:
        said = f"The repository creation template with prefix 'none' does not exist in the registry with id '{ACCOUNT}'"
        for operation in (UPDATE, DELETE):
            assert await refused(world, Code.TEMPLATE_NOT_FOUND, operation, prefix="none") == said

    async def test_templates_are_listed_by_prefix_page_by_page(self, world: World) -> None:
        for prefix in ("b/c", "ROOT", "a", "b"):
            await call(world, CREATE, prefix=prefix, appliedFor=PUSH)
        asked: dict[str, Any] = {"maxResults": 3}
        page = await call(world, DESCRIBE, **asked)
        rest = await call(world, DESCRIBE, **asked, nextToken=page["nextToken"])
        found = [
            each["prefix"] for each in (*page["repositoryCreationTemplates"], *rest["repositoryCreationTemplates"])
        ]
        assert found == ["ROOT", "a", "b", "b/c"]
        assert "nextToken" not in rest
        assert await prefixes(world, prefixes=["b", "none", "a"]) == ["a", "b"]
        for paging in ({"nextToken": page["nextToken"]}, asked):
            await refused(world, Code.INVALID_PARAMETER, DESCRIBE, prefixes=["a"], **paging)
        await refused(world, Code.INVALID_PARAMETER, DESCRIBE, nextToken="x")
        await refused(world, Code.INVALID_PARAMETER, DESCRIBE, prefixes=[f"p{n}" for n in range(101)])

    async def test_a_template_that_could_not_be_applied_is_refused(self, world: World) -> None:
        for code, said, given in REFUSED:
            assert said in await refused(world, code, CREATE, **{"prefix": "a", **WHOLE, **given})
        assert await prefixes(world) == []

    async def test_an_update_is_held_to_what_the_whole_would_be(self, world: World) -> None:
        await call(world, CREATE, prefix="a", **WHOLE)
        filters = WHOLE["imageTagMutabilityExclusionFilters"]
        await call(world, UPDATE, prefix="a", imageTagMutability="MUTABLE")
        await refused(world, Code.INVALID_PARAMETER, UPDATE, prefix="a", imageTagMutabilityExclusionFilters=filters)

    async def test_a_registry_has_so_many_templates_and_no_more(self, world: World) -> None:
        for number in range(MOST):
            await call(world, CREATE, prefix=f"p{number}", appliedFor=PUSH)
        assert f"'{MOST}'" in await refused(world, Code.LIMIT_EXCEEDED, CREATE, prefix="more", appliedFor=PUSH)
        await call(world, DELETE, prefix="p0")
        await call(world, CREATE, prefix="more", appliedFor=PUSH)


class TestExclusions:
    async def test_an_exclusion_is_registered_listed_and_taken_away(self, world: World) -> None:
        made = await call(world, REGISTER, principalArn=ROLE)
        assert made == {"principalArn": ROLE, "createdAt": world.clock()}
        why = await refused(world, Code.EXCLUSION_ALREADY_EXISTS, REGISTER, principalArn=ROLE)
        assert why == (
            f"The pull time update exclusion for '{ROLE}' already exists in the registry with id '{ACCOUNT}'"
        )
        assert await call(world, LIST) == {"pullTimeUpdateExclusions": [ROLE]}
        assert await call(world, DEREGISTER, principalArn=ROLE) == {"principalArn": ROLE}
        assert await call(world, LIST) == {"pullTimeUpdateExclusions": []}
        await refused(world, Code.EXCLUSION_NOT_FOUND, DEREGISTER, principalArn=ROLE)

    async def test_exclusions_are_listed_by_arn_page_by_page(self, world: World) -> None:
        for name in "cab":
            await call(world, REGISTER, principalArn=f"{ROLE}/{name}")
        page = await call(world, LIST, maxResults=2)
        rest = await call(world, LIST, maxResults=1000, nextToken=page["nextToken"])
        found = [*page["pullTimeUpdateExclusions"], *rest["pullTimeUpdateExclusions"]]
        assert found == [f"{ROLE}/{name}" for name in "abc"]
        assert "nextToken" not in rest
        await refused(world, Code.INVALID_PARAMETER, LIST, nextToken="x")

    async def test_who_is_no_user_and_no_role_is_refused(self, world: World) -> None:
        for arn in ["ann", ROLE.replace("role", "group"), ROLE + "x" * 200, ROLE + "/*", None]:
            await refused(world, Code.INVALID_PARAMETER, REGISTER, principalArn=arn)

    async def test_a_registry_has_so_many_exclusions_and_no_more(self, world: World) -> None:
        for number in range(MOST):
            await call(world, REGISTER, principalArn=f"{ROLE}{number}")
        assert f"'{MOST}'" in await refused(world, Code.LIMIT_EXCEEDED, REGISTER, principalArn=ROLE)
