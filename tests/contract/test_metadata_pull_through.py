"""What the metadata service keeps of pull-through cache rules, through every client."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any

import pytest

from proxy.metadata.db.transaction import Registry
from proxy.model.errors import Code, Failure
from proxy.model.pull_through import PullThroughRule, choose, upstream_repository
from proxy.model.quotas import Quotas
from support.metadata import ACCOUNT, World
from support.response_shapes import check, declared

CREATE, DESCRIBE, UPDATE, DELETE = (
    f"{verb}PullThroughCacheRule{'s' if verb == 'Describe' else ''}"
    for verb in ("Create", "Describe", "Update", "Delete")
)
SECRET = f"arn:aws:secretsmanager:us-east-1:{ACCOUNT}:secret:ecr-pullthroughcache/hub-AbCdEf"
ROLE = f"arn:aws:iam::{ACCOUNT}:role/upstream"
HUB = {"upstreamRegistry": "docker-hub", "upstreamRegistryUrl": "registry-1.docker.io", "credentialArn": SECRET}
MOST = 4


@pytest.fixture
def registry() -> Registry:
    return Registry(quotas=Quotas(pull_through_rules=MOST))


@pytest.fixture(autouse=True)
async def account(world: World) -> None:
    await world.bootstrap()


async def call(world: World, operation: str, **parameters: Any) -> dict[str, Any]:
    """The answer, which is of the model's shape and has all that AWS always sends."""
    answer = await world.call(operation, **parameters)
    check("ecr", operation, answer)
    return answer


async def refused(world: World, code: Code, operation: str, **parameters: Any) -> str:
    asking: Awaitable[Any] = world.call(operation, **parameters)
    with pytest.raises(Failure) as caught:
        await asking
    assert caught.value.code is code, caught.value
    assert code.value in declared("ecr", operation)
    return caught.value.message


async def prefixes(world: World, **asked: Any) -> list[str]:
    return [each["ecrRepositoryPrefix"] for each in (await call(world, DESCRIBE, **asked))["pullThroughCacheRules"]]


async def test_each_operation_answers_the_members_that_the_model_gives_it(world: World) -> None:
    made = await call(world, CREATE, ecrRepositoryPrefix="docker-hub", **HUB)
    at, common = world.clock(), {"ecrRepositoryPrefix": "docker-hub", "registryId": ACCOUNT}
    common |= {"credentialArn": SECRET, "upstreamRepositoryPrefix": "ROOT"}
    assert made == {**common, **HUB, "createdAt": at}
    world.clock.now += 60
    [found] = (await call(world, DESCRIBE))["pullThroughCacheRules"]
    assert found == {**common, **HUB, "createdAt": at, "updatedAt": at}
    updated = await call(world, UPDATE, ecrRepositoryPrefix="docker-hub", customRoleArn=ROLE)
    assert updated == {**common, "customRoleArn": ROLE, "updatedAt": at + 60}
    gone = await call(world, DELETE, ecrRepositoryPrefix="docker-hub", registryId=ACCOUNT)
    del common["registryId"]
    url = HUB["upstreamRegistryUrl"]
    assert gone == {**common, "registryId": ACCOUNT, "customRoleArn": ROLE, "createdAt": at, "upstreamRegistryUrl": url}
    assert await prefixes(world) == []


async def test_an_upstream_of_the_operators_list_has_no_kind(world: World) -> None:
    made = await call(world, CREATE, ecrRepositoryPrefix="partner", upstreamRegistryUrl="harbor.partner.example")
    assert "upstreamRegistry" not in made
    assert "credentialArn" not in made
    rule = choose(await world.metadata.pull_through_rules(ACCOUNT), "partner/app")
    assert rule is not None
    assert (rule.upstream_registry, rule.upstream_url) == ("", "harbor.partner.example")


async def test_a_prefix_with_its_slash_and_without_is_one_and_comes_back_as_it_was_spelled(world: World) -> None:
    await call(world, CREATE, ecrRepositoryPrefix="team-a/", upstreamRegistryUrl="quay.io")
    why = await refused(world, Code.PULL_THROUGH_RULE_ALREADY_EXISTS, CREATE, ecrRepositoryPrefix="team-a", **HUB)
    assert why == "A pull through cache rule with these settings already exists for the private registry."
    assert await prefixes(world, ecrRepositoryPrefixes=["team-a"]) == ["team-a/"]
    await call(world, DELETE, ecrRepositoryPrefix="team-a")


@pytest.mark.parametrize("operation", [UPDATE, DELETE, DESCRIBE])
async def test_an_unknown_prefix_is_not_found(world: World, operation: str) -> None:
    asked = {"ecrRepositoryPrefixes": ["none"]} if operation == DESCRIBE else {"ecrRepositoryPrefix": "none"}
    why = await refused(world, Code.PULL_THROUGH_RULE_NOT_FOUND, operation, **asked)
    assert why.startswith("The pull through cache rule was not found.")


async def test_a_registry_has_as_many_rules_as_its_quota(world: World) -> None:
    for number in range(MOST):
        await call(world, CREATE, ecrRepositoryPrefix=f"p{number}", upstreamRegistryUrl="quay.io")
    await refused(world, Code.LIMIT_EXCEEDED, CREATE, ecrRepositoryPrefix="more", upstreamRegistryUrl="quay.io")


async def test_rules_come_by_pages(world: World) -> None:
    for prefix in ("cc", "aa", "bb"):
        await call(world, CREATE, ecrRepositoryPrefix=prefix, upstreamRegistryUrl="quay.io")
    first = await call(world, DESCRIBE, maxResults=2)
    second = await call(world, DESCRIBE, maxResults=2, nextToken=first["nextToken"])
    both = [*first["pullThroughCacheRules"], *second["pullThroughCacheRules"]]
    assert [each["ecrRepositoryPrefix"] for each in both] == ["aa", "bb", "cc"]
    assert "nextToken" not in second
    await refused(world, Code.INVALID_PARAMETER, DESCRIBE, ecrRepositoryPrefixes=["aa"], maxResults=1)
    await refused(world, Code.INVALID_PARAMETER, DESCRIBE, nextToken="other")


@pytest.mark.parametrize("wrong", [{"ecrRepositoryPrefix": "UPPER"}, {"ecrRepositoryPrefix": "x"}, {"nothing": "x"}])
async def test_what_breaks_the_model_is_refused(world: World, wrong: dict[str, str]) -> None:
    await refused(
        world, Code.INVALID_PARAMETER, CREATE, **{"ecrRepositoryPrefix": "ok", "upstreamRegistryUrl": "quay.io"} | wrong
    )


async def test_a_rule_for_all_names_maps_them_as_they_are(world: World) -> None:
    asked = {"upstreamRegistryUrl": "quay.io", "ecrRepositoryPrefix": "ROOT"}
    await refused(world, Code.INVALID_PARAMETER, CREATE, **asked, upstreamRepositoryPrefix="team")
    await call(world, CREATE, **asked)
    rule = choose(await world.metadata.pull_through_rules(ACCOUNT), "a/b")
    assert rule is not None
    assert upstream_repository(rule, "a/b") == "a/b"


async def test_the_rule_of_a_repository_is_that_of_its_longest_prefix_and_changes_with_the_next_request(
    world: World,
) -> None:
    async def found(name: str) -> PullThroughRule | None:
        return choose(await world.metadata.pull_through_rules(ACCOUNT), name)

    assert await found("a/b/c") is None
    await call(world, CREATE, ecrRepositoryPrefix="ROOT", upstreamRegistryUrl="quay.io")
    await call(world, CREATE, ecrRepositoryPrefix="a/b", upstreamRegistryUrl="public.ecr.aws")
    rule = await found("a/b/c")
    assert rule is not None
    assert rule.upstream_url == "public.ecr.aws"
    assert rule == PullThroughRule(ACCOUNT, "a/b", "", "public.ecr.aws", "ROOT", "", "", world.clock(), world.clock())
    await call(world, DELETE, ecrRepositoryPrefix="a/b")
    rule = await found("a/b/c")
    assert rule is not None
    assert rule.prefix == "ROOT"
    assert await world.metadata.pull_through_rules("210987654321") == ()
