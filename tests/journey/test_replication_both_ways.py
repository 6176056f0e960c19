"""Two installations that replicate to each other: nothing goes round, and both agree on every tag."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import urllib.request
from collections.abc import Iterator

import pytest

from support.accounts import open_account
from support.fault_proxy import FaultProxy, fault_proxy
from support.installations import ACCOUNT, Installation
from support.resolver import push_image

OTHER, THEIRS = "111122223333", "444455556666"


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Installation, Installation]]:
    with contextlib.ExitStack() as held:
        east = Installation.start(tmp_path_factory.mktemp("east"), "us-east-1", workers=2)
        held.callback(east.stop)
        west = Installation.start(tmp_path_factory.mktemp("west"), "us-west-2", workers=2)
        held.callback(west.stop)
        east.peer_with(west, accounts={OTHER: THEIRS})
        west.peer_with(east, accounts={THEIRS: OTHER})
        east.replicate_to(west, deletes=True)
        west.replicate_to(east, deletes=True)
        yield east, west


async def settled(*installations: Installation) -> None:
    """Once nothing is on its way in any direction."""
    for _ in range(2):
        for installation in installations:
            await installation.caught_up()


async def test_a_push_on_one_side_is_sent_once_and_comes_not_back(pair: tuple[Installation, Installation]) -> None:
    east, west = pair
    digest = await east.push("loop/app", "v1", b"loop")
    await settled(east, west)
    assert await west.pull("loop/app", "v1") == digest
    found = west.client().describe_image_replication_status(repositoryName="loop/app", imageId={"imageTag": "v1"})
    assert found["replicationStatuses"] == []


async def test_of_pushes_of_one_tag_at_once_both_sides_keep_the_same_and_both_images(
    pair: tuple[Installation, Installation],
) -> None:
    east, west = pair
    for number in range(5):
        name = f"race/{number}"
        mine, theirs = await asyncio.gather(
            east.push(name, "v1", b"east", note=f"east {number}"), west.push(name, "v1", b"west", note=f"west {number}")
        )
        await settled(east, west)
        won = await east.pull(name, "v1")
        assert won == await west.pull(name, "v1")
        assert won in (mine, theirs)
        for digest in (mine, theirs):
            assert await east.pull(name, digest) == await west.pull(name, digest) == digest


async def test_a_deletion_on_the_side_where_it_was_not_pushed_reaches_both(
    pair: tuple[Installation, Installation],
) -> None:
    east, west = pair
    digest = await east.push("delete/app", "v1", b"delete")
    await settled(east, west)
    assert await west.pull("delete/app", "v1") == digest
    west.client().batch_delete_image(repositoryName="delete/app", imageIds=[{"imageDigest": digest}])
    await settled(east, west)
    assert await east.pull("delete/app", digest) is None
    again = await east.push("delete/app", "v1", b"delete")
    await settled(east, west)
    assert await west.pull("delete/app", "v1") == again


async def test_accounts_of_other_numbers_replicate_by_the_peers_table(
    pair: tuple[Installation, Installation],
) -> None:
    east, west = pair
    mine = await asyncio.to_thread(open_account, east.server, OTHER)
    theirs = await asyncio.to_thread(open_account, west.server, THEIRS)
    east.client(key=mine).put_replication_configuration(
        replicationConfiguration={"rules": [{"destinations": [{"region": "us-west-2", "registryId": OTHER}]}]}
    )
    ecr = east.client(key=mine)
    ecr.create_repository(repositoryName="mapped")
    await asyncio.to_thread(push_image, ecr, "mapped", "v1", b"{}", [b"layer"])
    await settled(east, west)
    [found] = west.client(key=theirs).describe_images(repositoryName="mapped")["imageDetails"]
    assert (found["registryId"], found["imageTags"]) == (THEIRS, ["v1"])


async def test_another_accounts_registry_lets_images_in_by_its_policy(pair: tuple[Installation, Installation]) -> None:
    east, west = pair
    theirs = await asyncio.to_thread(open_account, west.server, "777788889999")
    try:
        east.replicate_to(west, registry="777788889999")
        await east.push("cross/app", "v1", b"cross")
        status = await east.status("cross/app", imageTag="v1")
        assert (status["status"], status["failureCode"]) == ("FAILED", "AccessDenied")
        allow = {
            "Sid": "east",
            "Effect": "Allow",
            "Principal": {"AWS": f"arn:aws:iam::{ACCOUNT}:root"},
            "Action": ["ecr:ReplicateImage", "ecr:CreateRepository"],
            "Resource": "arn:aws:ecr:us-west-2:777788889999:repository/*",
        }
        text = json.dumps({"Version": "2012-10-17", "Statement": [allow]})
        west.client(key=theirs).put_registry_policy(policyText=text)
        digest = await east.push("cross/app", "v2", b"cross")
        assert (await east.status("cross/app", imageTag="v2"))["status"] == "COMPLETE"
        [found] = west.client(key=theirs).describe_images(repositoryName="cross/app")["imageDetails"]
        assert found["imageDigest"] == digest
    finally:
        east.replicate_to(west, deletes=True)


async def test_a_layer_whose_line_is_cut_goes_on_where_it_stood(pair: tuple[Installation, Installation]) -> None:
    east, west = pair
    size = 30_000_000
    async with fault_proxy(west.port) as line:
        line.bytes_a_second = 5_000_000
        await asyncio.to_thread(east.peer_with, west, url=line.url, accounts={OTHER: THEIRS})
        digest = await east.push("cut/app", "v1", os.urandom(size))
        await requests_of(line, "PATCH", 1)
        await asyncio.sleep(2)  # some MB of the layer are there
        line.cut()
        await requests_of(line, "GET /v2/cut/app/blobs/uploads/", 1)
        line.bytes_a_second = None
        assert (await east.status("cut/app", imageTag="v1"))["status"] == "COMPLETE"
        assert await west.pull("cut/app", "v1") == digest
        sent = await asyncio.to_thread(bytes_sent, east)
        assert size < sent < 2 * size - 1_000_000  # what was on the line when it was cut goes again
    await asyncio.to_thread(east.peer_with, west, accounts={OTHER: THEIRS})


async def test_an_answer_that_is_lost_sends_no_layer_again(pair: tuple[Installation, Installation]) -> None:
    east, west = pair
    size = 2_000_000
    async with fault_proxy(west.port) as line:
        await asyncio.to_thread(east.peer_with, west, url=line.url, accounts={OTHER: THEIRS})
        line.lose_to, line.lose_answers = b"PUT /v2/lost/app/", 2  # of the layer's end, and of what follows
        digest = await east.push("lost/app", "v1", os.urandom(size))
        assert (await east.status("lost/app", imageTag="v1"))["status"] == "COMPLETE"
        assert line.lose_answers == 0
        assert await west.pull("lost/app", "v1") == digest
        assert await asyncio.to_thread(bytes_sent, east) < size + 10_000
    await asyncio.to_thread(east.peer_with, west, accounts={OTHER: THEIRS})


async def requests_of(line: FaultProxy, what: str, count: int) -> None:
    async with asyncio.timeout(60):
        while sum(each.startswith(what) for each in line.requests) < count:  # noqa: ASYNC110  # it tells nobody
            await asyncio.sleep(0.02)


def bytes_sent(installation: Installation) -> float:
    """Of layers to the peer, since it was started."""
    with urllib.request.urlopen(f"{installation.url}/metrics") as answer:  # noqa: S310  # a server of ours
        text = answer.read().decode()
    name = 'wharfage_replication_bytes_total{region="us-west-2"}'
    return sum(float(line.split()[-1]) for line in text.splitlines() if line.startswith(name))
