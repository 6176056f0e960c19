"""Two installations, one of which replicates to the other, while both are killed and the line is cut at random.

At the end, once everything runs again, the second has what the first has: no image or tag is lost, none is too many,
each byte is right, and the status of each image is true. Meanwhile nothing that is half there is ever seen.
`--chaos-replication-seconds` says for how long, `--chaos-seed` draws the same again.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from support.fault_proxy import FaultProxy, fault_proxy
from support.installations import Installation
from support.registry import Registry, digest_of
from support.workload import pauses

REPOSITORIES = ("chaos/one", "chaos/two")
TAGS = tuple(f"v{number}" for number in range(6))
CAUGHT_UP_SECONDS = 400  # the longest pause between two attempts of a job is 300 s, and a jitter


async def push(
    installation: Installation, draw: random.Random, counts: dict[str, int], over: Callable[[], bool]
) -> None:
    """Push images, some over tags that are there, and remove tags and images, until it is over."""
    while not over():
        try:
            async with Registry(
                installation.url, await asyncio.to_thread(installation.password), seconds=20
            ) as registry:
                while not over():
                    await change(registry, draw, counts)
        except Exception:  # it is being killed: boto3 and aiohttp each say so in their own way
            await asyncio.sleep(0.2)


async def change(registry: Registry, draw: random.Random, counts: dict[str, int]) -> None:
    repository, tag = draw.choice(REPOSITORIES), draw.choice(TAGS)
    what = draw.choices(["push", "untag", "delete"], [8, 1, 1])[0]
    if what == "push":
        layers = [draw.randbytes(draw.choice([100, 50_000, 2_000_000])) for _ in range(2)]
        await registry.push_image(repository, tag, layers)
    elif what == "untag":
        (await registry.ask("DELETE", f"/v2/{repository}/manifests/{tag}")).expect(202, 404)
    else:
        found = await registry.manifest(repository, tag)
        if found.status == 200:
            (await registry.ask("DELETE", f"/v2/{repository}/manifests/{digest_of(found.body)}")).expect(202, 404)
    counts[what] = counts.get(what, 0) + 1
    await asyncio.sleep(draw.uniform(0, 0.3))


async def look(
    installation: Installation, draw: random.Random, counts: dict[str, int], over: Callable[[], bool]
) -> None:
    """Pull at the destination: whatever is there is whole. A wrong byte is remembered."""
    while not over():
        await asyncio.sleep(0.3)
        with contextlib.suppress(Exception):  # it is being killed
            async with Registry(
                installation.url, await asyncio.to_thread(installation.password), seconds=20
            ) as registry:
                found = await registry.manifest(draw.choice(REPOSITORIES), draw.choice(TAGS))
                if found.status != 200:
                    continue
                for descriptor in (found.json()["config"], *found.json()["layers"]):
                    blob = await registry.blob(draw.choice(REPOSITORIES), descriptor["digest"])
                    if blob.status == 200 and digest_of(blob.body) != descriptor["digest"]:
                        counts["wrong"] = counts.get("wrong", 0) + 1
                counts["pulled"] = counts.get("pulled", 0) + 1


class Faults:
    """What is done to the two, and to the line between them."""

    def __init__(self, here: Installation, there: Installation, line: FaultProxy, draw: random.Random) -> None:
        self.here, self.there, self.line, self.draw = here, there, line, draw

    def kill_everything(self, victim: Installation) -> None:
        victim.server.daemon.kill()
        victim.start_again()

    def kill_worker(self, victim: Installation) -> None:
        with contextlib.suppress(IndexError, psutil.NoSuchProcess):  # none is up just now
            self.draw.choice(victim.server.workers()).kill()

    def kill_metadata(self, victim: Installation) -> None:
        with contextlib.suppress(ValueError, psutil.NoSuchProcess):  # it is being started again
            victim.server.metadata_process().kill()

    async def strike(self) -> str:
        victim = self.draw.choice([self.here, self.there])
        what = self.draw.choices(["worker", "metadata", "everything", "cut", "away"], [4, 2, 1, 4, 1])[0]
        if what == "cut":
            self.line.cut()
        elif what == "away":
            self.line.mode = "refuse"
            self.line.cut()
            await asyncio.sleep(self.draw.uniform(0.5, 5.0))
            self.line.mode = "open"
        else:
            ways: dict[str, Callable[[Installation], None]] = {
                "worker": self.kill_worker,
                "metadata": self.kill_metadata,
                "everything": self.kill_everything,
            }
            await asyncio.to_thread(ways[what], victim)
        return what


def images(installation: Installation) -> dict[tuple[str, str], list[str]]:
    """The tags of each image, by repository and digest."""
    ecr, found = installation.client(), dict[tuple[str, str], list[str]]()
    for repository in ecr.describe_repositories()["repositories"]:
        name = repository["repositoryName"]
        for page in ecr.get_paginator("describe_images").paginate(repositoryName=name):
            for each in page["imageDetails"]:
                found[name, each["imageDigest"]] = sorted(each.get("imageTags", []))
    return found


def statuses(installation: Installation, names: Iterator[tuple[str, str]]) -> set[str]:
    ecr: Any = installation.client()
    found = set()
    for repository, digest in names:
        said = ecr.describe_image_replication_status(repositoryName=repository, imageId={"imageDigest": digest})
        found |= {each["status"] for each in said["replicationStatuses"]}
    return found


@pytest.mark.chaos
@pytest.mark.timeout(0)
async def test_a_second_region_has_what_the_first_has_whatever_was_killed_and_cut(
    tmp_path: Path, seed: int, request: pytest.FixtureRequest
) -> None:
    seconds: float = request.config.getoption("--chaos-replication-seconds")
    print(f"\nchaos: --chaos-seed {seed} for {seconds:g} s")  # noqa: T201 - shown with a failure, or by -s
    draw, counts, over = random.Random(seed), dict[str, int](), False
    async with contextlib.AsyncExitStack() as held:
        there = await asyncio.to_thread(Installation.start, tmp_path / "there", "eu-west-1", workers=2)
        held.push_async_callback(asyncio.to_thread, there.stop)
        here = await asyncio.to_thread(Installation.start, tmp_path / "here", "us-east-1", workers=2)
        held.push_async_callback(asyncio.to_thread, here.stop)
        line = await held.enter_async_context(fault_proxy(there.port))
        line.bytes_a_second = 20_000_000
        await asyncio.to_thread(here.peer_with, there, url=line.url)
        await asyncio.to_thread(here.replicate_to, there, deletes=True)
        faults = Faults(here, there, line, random.Random(draw.getrandbits(64)))
        async with asyncio.TaskGroup() as clients:
            for _ in range(2):
                clients.create_task(push(here, random.Random(draw.getrandbits(64)), counts, lambda: over))
            clients.create_task(look(there, random.Random(draw.getrandbits(64)), counts, lambda: over))
            async for _ in pauses(draw, 0.5, 4.0, seconds):
                what = await faults.strike()
                counts[what] = counts.get(what, 0) + 1
            over = True
        for installation in (here, there):
            await asyncio.to_thread(installation.server.daemon.wait_until, installation.server.is_ready, 60)
        began = time.monotonic()
        await here.caught_up(CAUGHT_UP_SECONDS)
        print(f"chaos: {counts}, caught up in {time.monotonic() - began:.0f} s")  # noqa: T201 - as above
        mine, theirs = await asyncio.to_thread(images, here), await asyncio.to_thread(images, there)
        assert theirs == mine
        assert await asyncio.to_thread(statuses, here, iter(mine)) <= {"COMPLETE"}
        for repository, digest in mine:
            assert await there.pull(repository, digest) == digest
        assert counts.get("wrong", 0) == 0
        assert counts["push"] > 10
        assert len(mine) > 5
