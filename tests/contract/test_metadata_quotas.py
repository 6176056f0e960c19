"""Quotas of a registry, and the counters that they are held by, on every database."""

from __future__ import annotations

import asyncio

import pytest

from proxy.metadata.db.transaction import Registry
from proxy.model.errors import Code, Failure
from proxy.model.quotas import Quotas
from support.metadata import ACCOUNT, World

MOST = 3


@pytest.fixture
def registry() -> Registry:
    return Registry(quotas=Quotas(repositories=MOST))


async def test_a_registry_holds_no_more_repositories_than_its_quota(world: World) -> None:
    """LimitExceeded for one too many, by CreateRepository and by a push; one that goes makes room."""
    await world.bootstrap()
    for number in range(MOST):
        await world.call("CreateRepository", repositoryName=f"team/{number}")
    said = f"The registry with id '{ACCOUNT}' already has the maximum allowed number of repositories which is '{MOST}'"
    with pytest.raises(Failure) as refused:
        await world.call("CreateRepository", repositoryName="team/more")
    assert (refused.value.code, refused.value.message) == (Code.LIMIT_EXCEEDED, said)
    with pytest.raises(Failure) as refused:
        await world.begin("team/more")
    assert (refused.value.code, refused.value.message) == (Code.LIMIT_EXCEEDED, said)
    await world.begin("team/0")  # one that is there is no new one
    await world.call("DeleteRepository", repositoryName="team/1")
    await world.call("CreateRepository", repositoryName="team/more")
    found = await world.call("DescribeRepositories")
    assert [each["repositoryName"] for each in found["repositories"]] == ["team/0", "team/2", "team/more"]


async def test_repositories_made_at_once_stay_within_the_quota(world: World) -> None:
    """Of many that come together, through several services where there are, exactly the quota is made."""
    await world.bootstrap()

    making = [world.call("CreateRepository", repositoryName=f"team/{number}") for number in range(4 * MOST)]
    refused = [each for each in await asyncio.gather(*making, return_exceptions=True) if isinstance(each, Failure)]
    assert [failure.code for failure in refused] == [Code.LIMIT_EXCEEDED] * 3 * MOST
    assert len((await world.call("DescribeRepositories"))["repositories"]) == MOST
