"""No answer tells who may not know whether a repository is there, or an account: it is the same but for the name."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from support.examples import ACCOUNT, ECR, REPOSITORY, Example, settle
from support.registry_client import NOBODY, RegistryClient, registry_client
from support.sigv4_signer import Credentials

OTHER, NO_ACCOUNT = "210987654321", "999999999999"
PLAIN, ABSENT = "team/own", "team/not"  # as long as REPOSITORY, which has a policy, images and uploads
ABOUT_ONE: Mapping[str, Example] = {
    each.operation: each
    for each in ECR
    if {"repositoryName", "repositoryNames", "resourceArn"} & each.parameters.keys()
}


@pytest.fixture
async def doors(tmp_path: Path) -> AsyncIterator[RegistryClient]:
    async with registry_client(tmp_path) as found:
        await settle(found.registry.metadata, [("ecr", "CreateRepository", {"repositoryName": PLAIN})])
        found.keys = {**found.keys, "elsewhere": Credentials(*await found.registry.open_account(OTHER))}
        yield found


def about(example: Example, name: str, registry: str) -> dict[str, Any]:
    """The example's call, of this repository of this registry."""
    given = dict(example.parameters)
    if "resourceArn" in given:
        return given | {"resourceArn": f"arn:aws:ecr:us-east-1:{registry}:repository/{name}"}
    named = {"repositoryNames": [name]} if "repositoryNames" in given else {"repositoryName": name}
    return given | named | {"registryId": registry}


async def answered(
    doors: RegistryClient, who: str, operation: str, given: Mapping[str, Any], *told: str
) -> tuple[Any, ...]:
    """Status, head and body, without what the caller told and what is every answer's own."""
    answer = await doors.ask("ecr", operation, given, doors.keys[who])
    body = answer.body.decode()
    for each in told:
        body = body.replace(each, "*")
    own = ("date", "x-amzn-requestid")
    return answer.status, {name: line for name, line in answer.headers.items() if name not in own}, body


@pytest.mark.parametrize("who", [NOBODY, "elsewhere"])
async def test_who_may_not_know_is_told_the_same_of_what_is_there_and_what_is_not(
    doors: RegistryClient, who: str
) -> None:
    for operation, example in ABOUT_ONE.items():
        said = [
            await answered(doors, who, operation, about(example, name, ACCOUNT), name)
            for name in (ABSENT, PLAIN, REPOSITORY)
        ]
        assert said[0][0] == 403, (operation, said)
        assert json.loads(said[0][2])["__type"] == "AccessDeniedException"
        assert said[1:] == said[:1] * 2, operation
    rows = await doors.rows()
    assert len(rows["repositories"]) == 2


async def test_an_account_that_is_not_there_is_one_that_lets_nobody_in(doors: RegistryClient) -> None:
    for operation, example in ABOUT_ONE.items():
        for who, there in ((NOBODY, OTHER), ("elsewhere", ACCOUNT), ("administrator", OTHER)):
            said = [
                await answered(doors, who, operation, about(example, REPOSITORY, registry), registry)
                for registry in (there, NO_ACCOUNT)
            ]
            assert said[0][0] == 403, (operation, who, said)
            assert said[0] == said[1], (operation, who)
    tokens = [
        await answered(doors, "administrator", "GetAuthorizationToken", {"registryIds": [registry]}, registry)
        for registry in (OTHER, NO_ACCOUNT)
    ]
    assert tokens[0] == tokens[1]


async def test_what_others_have_changes_nothing_in_ones_own_registry(doors: RegistryClient) -> None:
    for operation, example in ABOUT_ONE.items():
        if operation == "CreateRepository":
            continue
        said = [
            await answered(doors, "elsewhere", operation, about(example, name, OTHER), name)
            for name in (ABSENT, PLAIN, REPOSITORY)
        ]
        assert json.loads(said[0][2])["__type"] == "RepositoryNotFoundException", operation
        assert said[1:] == said[:1] * 2, operation
