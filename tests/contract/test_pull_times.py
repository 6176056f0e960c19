"""lastRecordedPullTime: whose pulls count, how often it is written, and that nothing else changes by it."""

from __future__ import annotations

from typing import Any

import pytest

from proxy.model.records import PULL_EVERY_SECONDS, Pull
from support.metadata import ACCOUNT, REPOSITORY, World
from support.response_shapes import check

ANN = f"arn:aws:iam::{ACCOUNT}:user/ann"
SCANNER = f"arn:aws:iam::{ACCOUNT}:role/scanners/nightly"


@pytest.fixture
async def image(world: World) -> str:
    """A digest; the repository has another image too."""
    await world.bootstrap()
    await world.image("other", ["v2"])
    return (await world.image("app", ["v1"])).digest


async def pulled(world: World, digest: str, at: float, principal: str = ANN, repository: str = REPOSITORY) -> None:
    await world.metadata.note_pulls([Pull(ACCOUNT, repository, digest, principal, at)])


async def times(world: World) -> dict[str, Any]:
    """By tag."""
    answer = await world.call("DescribeImages", repositoryName=REPOSITORY)
    check("ecr", "DescribeImages", answer)
    return {each["imageTags"][0]: each.get("lastRecordedPullTime") for each in answer["imageDetails"]}


async def test_an_image_has_the_time_of_its_last_pull_and_none_before_it(world: World, image: str) -> None:
    assert await times(world) == {"v1": None, "v2": None}
    await pulled(world, image, 1000.5)
    assert await times(world) == {"v1": 1000.5, "v2": None}
    named = await world.call("DescribeImages", repositoryName=REPOSITORY, imageIds=[{"imageTag": "v1"}])
    assert named["imageDetails"][0]["lastRecordedPullTime"] == 1000.5


async def test_it_is_written_once_a_day_however_many_tell_of_it(world: World, image: str) -> None:
    for at, kept in (
        (1000.0, 1000.0),
        (1000.0 + PULL_EVERY_SECONDS - 1, 1000.0),
        (1000.0 + PULL_EVERY_SECONDS, 1000.0 + PULL_EVERY_SECONDS),
        (900.0, 1000.0 + PULL_EVERY_SECONDS),  # told late
    ):
        await pulled(world, image, at)
        assert (await times(world))["v1"] == kept


async def test_pulls_of_an_excluded_principal_leave_no_trace(world: World, image: str) -> None:
    await world.call("RegisterPullTimeUpdateExclusion", principalArn=SCANNER)
    await pulled(world, image, 1000.0, SCANNER)
    assert (await times(world))["v1"] is None
    two = [Pull(ACCOUNT, REPOSITORY, image, who, at) for who, at in ((SCANNER, 2000.0), (ANN, 3000.0))]
    await world.metadata.note_pulls(two)
    assert (await times(world))["v1"] == 3000.0
    await world.call("DeregisterPullTimeUpdateExclusion", principalArn=SCANNER)
    await pulled(world, image, 3000.0 + PULL_EVERY_SECONDS, SCANNER)
    assert (await times(world))["v1"] == 3000.0 + PULL_EVERY_SECONDS


async def test_what_is_gone_when_its_pull_is_told_of_is_nothing(world: World, image: str) -> None:
    await pulled(world, image, 1000.0, repository="gone/app")
    await pulled(world, "sha256:" + "0" * 64, 1000.0)
    await world.metadata.note_pulls([])
    assert await times(world) == {"v1": None, "v2": None}
