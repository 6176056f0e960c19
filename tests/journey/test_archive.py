"""Archived layers as an operator has them: boto3 and docker's protocol against real servers with an [archive]."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError

from support.programs import ROOT, environment
from support.registry import Registry, digest_of
from support.seaweed import Seaweed
from support.server import Server

NAMED = {"repositoryName": "team/app"}
LAYERS = [b"shared" * 1000, os.urandom(300_000)]


def command(*words: str | Path, extra: Mapping[str, str]) -> tuple[int, str]:
    """The command's exit status and what it printed."""
    run = [sys.executable, "-m", "proxy", *map(str, words)]
    done = subprocess.run(
        run, cwd=ROOT, env=environment(extra), capture_output=True, text=True, check=False, timeout=100
    )
    assert "Traceback" not in done.stdout + done.stderr, done.stderr
    return done.returncode, done.stdout + done.stderr


def client(server: Server) -> Any:
    access_key_id, secret = server.credentials()
    return boto3.session.Session().client(
        "ecr",
        endpoint_url=server.url,
        region_name="us-east-1",
        aws_access_key_id=access_key_id,
        aws_secret_access_key=secret,
    )


async def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not await asyncio.to_thread(holds):
        assert time.monotonic() < deadline
        await asyncio.sleep(0.1)


def status(ecr: Any, tag: str) -> str:
    [found] = ecr.describe_images(**NAMED, imageIds=[{"imageTag": tag}])["imageDetails"]
    return str(found["imageStatus"])


def archives(data: Path, extra: Mapping[str, str]) -> str:
    code, said = command("archive", "status", "--data", data, extra=extra)
    assert code == 0, said
    return said


def is_idle(data: Path, extra: Mapping[str, str]) -> bool:
    code, said = command("jobs", "list", "--kind", "archive", "--data", data, extra=extra)
    return code == 0 and not said


def move(ecr: Any, tag: str, target: str) -> str:
    answer = ecr.update_image_storage_class(**NAMED, imageId={"imageTag": tag}, targetStorageClass=target)
    return str(answer["imageStatus"])


@pytest.fixture(params=["folder", "s3"])
def settings(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, str]:
    if request.param == "folder":
        return {"WHARFAGE_ARCHIVE_PATH": str(tmp_path / "cold")}
    weed: Seaweed = request.getfixturevalue("seaweed")
    own = weed.settings(tmp_path.name)
    return {
        **own,
        "WHARFAGE_ARCHIVE_BUCKET": own["WHARFAGE_STORAGE_BUCKET"],
        "WHARFAGE_ARCHIVE_PREFIX": f"{tmp_path.name}-cold/",
        "WHARFAGE_ARCHIVE_STORAGE_CLASS": "STANDARD_IA",
    }


@pytest.mark.timeout(300)
async def test_layers_go_to_the_archive_and_come_back_and_every_command_knows_both_places(
    start_server: Callable[..., Server], tmp_path: Path, settings: dict[str, str]
) -> None:
    """Archive, check, reseal, back up, restore elsewhere, activate with progress there, pull."""
    server = await asyncio.to_thread(start_server, tmp_path / "data", workers=2, extra=settings)
    password = await asyncio.to_thread(server.password)
    async with Registry(server.url, password) as registry:
        cold = await registry.push_image("team/app", "cold", LAYERS)
        await registry.push_image("team/app", "warm", LAYERS[:1])
        ecr = client(server)
        assert move(ecr, "cold", "ARCHIVE") == "ARCHIVED"
        await until(lambda: is_idle(server.data, settings))
        assert " 0 layers" not in await asyncio.to_thread(archives, server.data, settings)
        assert (await registry.manifest("team/app", digest_of(cold))).status == 404
        assert (await registry.blob("team/app", digest_of(LAYERS[1]))).expect(200).body == LAYERS[1]
        with pytest.raises(ClientError, match="ImageStorageClassUpdateNotSupported"):
            move(ecr, "cold", "ARCHIVE")
    assert await asyncio.to_thread(server.stop) == 0

    data = server.data
    for words in (("check",), ("check", "--quick"), ("rewrap", "--reseal"), ("check",)):
        code, said = await asyncio.to_thread(command, *words, "--data", data, extra=settings)
        assert code == 0, said
    assert " 0 orphans" in said
    without = {name: value for name, value in settings.items() if "ARCHIVE" not in name}
    code, said = await asyncio.to_thread(lambda: command("check", "--data", data, extra=without))
    assert code == 1, said
    assert "[archive] names no place" in said

    phrase = tmp_path / "phrase"
    phrase.write_text("correct horse battery\n")
    place = tmp_path / "backup"
    about = ("--passphrase-file", phrase)
    code, said = await asyncio.to_thread(lambda: command("backup", place, "--data", data, *about, extra=settings))
    assert code == 0, said
    new = tmp_path / "new"
    fresh = {"WHARFAGE_ARCHIVE_PATH": str(tmp_path / "new cold")}
    code, said = await asyncio.to_thread(lambda: command("restore", place, "--data", new, *about, extra={}))
    assert "name a place for them in [archive]" in said
    code, said = await asyncio.to_thread(
        lambda: command("restore", place, "--data", new, "--verify", *about, extra=fresh)
    )
    assert code == 0, said

    server = await asyncio.to_thread(start_server, new, workers=1, extra=fresh)
    ecr = client(server)
    assert "1 archived images" in await asyncio.to_thread(archives, new, fresh)
    assert move(ecr, "cold", "STANDARD") == "ACTIVATING"
    await until(lambda: status(ecr, "cold") == "ACTIVE")
    assert " 0 layers" in await asyncio.to_thread(archives, new, fresh)
    async with Registry(server.url, password) as registry:
        manifest, blobs = await registry.pull_image("team/app", "cold")
        assert manifest == cold
        assert set(LAYERS) <= set(blobs)


async def test_a_folder_that_is_not_mounted_is_not_taken_for_an_empty_archive(
    start_server: Callable[..., Server], tmp_path: Path
) -> None:
    settings = {"WHARFAGE_ARCHIVE_PATH": str(tmp_path / "cold")}
    server = await asyncio.to_thread(start_server, tmp_path / "data", workers=1, extra=settings)
    async with Registry(server.url, await asyncio.to_thread(server.password)) as registry:
        await registry.push_image("team/app", "cold", LAYERS)
    ecr = client(server)
    move(ecr, "cold", "ARCHIVE")
    await until(lambda: is_idle(server.data, settings))
    assert await asyncio.to_thread(server.stop) == 0
    (tmp_path / "cold").rename(tmp_path / "away")
    code, said = await asyncio.to_thread(lambda: command("check", "--repair", "--data", server.data, extra=settings))
    assert code == 1
    assert "is the place of [archive] mounted" in said
    assert not (tmp_path / "cold").exists()
