"""Docker Engine against two installations: what it pushes to one it pulls from the other, until it is deleted here."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from support.engines import Docker
from support.images import MIB, tree
from support.installations import Installation

pytestmark = [pytest.mark.clients, pytest.mark.needs("docker", "dockerd"), pytest.mark.timeout(600)]


async def test_an_image_pushed_to_one_is_pulled_from_the_other_and_gone_there_once_it_is_deleted(
    docker: Docker, tmp_path: Path
) -> None:
    there = await asyncio.to_thread(Installation.start, tmp_path / "there", "eu-west-1")
    here = await asyncio.to_thread(Installation.start, tmp_path / "here", "us-east-1")
    try:
        await asyncio.to_thread(here.peer_with, there)
        await asyncio.to_thread(here.replicate_to, there, deletes=True)
        for each in (here, there):
            name = each.server.address
            docker("login", "--username", "AWS", "--password-stdin", name, stdin=each.password())
        pushed, pulled = (f"{each.server.address}/team/app:v1" for each in (here, there))
        docker("import", "-", pushed, stdin=tree(77, 5 * MIB))
        image = docker.image_id(pushed)
        digest = docker("push", pushed).stdout.split("digest: ")[1].split()[0]
        docker("image", "rm", pushed)
        assert (await here.status("team/app", imageTag="v1"))["status"] == "COMPLETE"

        assert digest in docker("pull", pulled).stdout
        assert docker.image_id(pulled) == image
        docker("image", "rm", pulled)
        found = here.client().batch_delete_image(repositoryName="team/app", imageIds=[{"imageDigest": digest}])
        assert not found["failures"]
        await here.caught_up()
        for reference in (pulled, f"{there.server.address}/team/app@{digest}"):
            refused = docker("pull", reference, ok=False)
            assert refused.returncode != 0
            assert "not found" in refused.stderr or "manifest unknown" in refused.stderr, refused.stderr
    finally:
        await asyncio.to_thread(here.stop)
        await asyncio.to_thread(there.stop)
