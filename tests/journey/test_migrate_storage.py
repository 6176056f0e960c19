"""All objects from a folder to S3 and back, under a server that goes on serving until the last moment, and archives."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import boto3
import pytest

from support.programs import ROOT, environment, run
from support.registry import Registry
from support.seaweed import Seaweed
from support.server import Server

LARGE = 900_000  # bytes
LARGER = 20 * 2**20  # in parts of S3


def start(data: Path, to: Path, extra: Mapping[str, str] | None, *more: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "proxy", "migrate-storage", "--data", str(data), "--to", str(to), *more],
        cwd=ROOT,
        env=environment(extra),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


async def migrate(data: Path, to: Path, *more: str, extra: Mapping[str, str] | None = None) -> tuple[int, str]:
    """The command's exit status and all it printed."""
    running = await asyncio.to_thread(start, data, to, extra, *more)
    said, _ = await asyncio.to_thread(running.communicate, timeout=100)
    assert "Traceback" not in said, said
    return running.returncode, said


def archives(data: Path, extra: Mapping[str, str]) -> str:
    """What `wharfage archive status` says."""
    return run(sys.executable, "-m", "proxy", "archive", "status", "--data", data, extra=extra).stdout


def is_idle(data: Path, extra: Mapping[str, str]) -> bool:
    return not run(
        sys.executable, "-m", "proxy", "jobs", "list", "--kind", "archive", "--data", data, extra=extra
    ).stdout


async def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not await asyncio.to_thread(holds):
        assert time.monotonic() < deadline
        await asyncio.sleep(0.1)


def change_class(server: Server, tag: str, target: str) -> str:
    """UpdateImageStorageClass; the image's status."""
    key_id, secret = server.credentials()
    ecr = boto3.client(
        "ecr",
        endpoint_url=server.url,
        region_name="us-east-1",
        aws_access_key_id=key_id,
        aws_secret_access_key=secret,
    )
    answer = ecr.update_image_storage_class(
        repositoryName="team/app", imageId={"imageTag": tag}, targetStorageClass=target
    )
    return str(answer["imageStatus"])


def section(settings: Mapping[str, str]) -> str:
    """[storage] of what a server's environment says."""
    lines = [f'{name.removeprefix("WHARFAGE_STORAGE_").lower()} = "{value}"' for name, value in settings.items()]
    return "\n".join(["[storage]", *lines, ""])


async def pulls(registry: Registry, images: Sequence[tuple[bytes, list[bytes]]]) -> None:
    for number, image in enumerate(images):
        assert await registry.pull_image("team/app", f"v{number}") == image


@pytest.mark.needs("weed")
async def test_from_a_folder_to_s3_and_back_killed_on_the_way_and_served_throughout(
    start_server: Callable[..., Server], seaweed: Seaweed, tmp_path: Path
) -> None:
    own = await asyncio.to_thread(start_server, tmp_path / "data", workers=1)
    password = await asyncio.to_thread(own.password)
    settings = seaweed.settings(f"{uuid.uuid4().hex[:8]}/")
    to = tmp_path / "s3.toml"
    to.write_text(section(settings))
    images = []
    async with Registry(own.url, password) as registry:
        for number, layers in enumerate([[os.urandom(LARGER)], *[[os.urandom(LARGE)] for _ in range(8)]]):
            await registry.push_image("team/app", f"v{number}", layers, note=str(number))
            images.append(await registry.pull_image("team/app", f"v{number}"))

        running = await asyncio.to_thread(start, own.data, to, None)
        deadline = time.monotonic() + 60
        while await asyncio.to_thread(seaweed.count, settings["WHARFAGE_STORAGE_PREFIX"]) < 4:
            assert running.poll() is None, "it had ended before it could be killed"
            assert time.monotonic() < deadline
        running.send_signal(signal.SIGKILL)
        await asyncio.to_thread(running.communicate)
        await pulls(registry, images)

        status, said = await migrate(own.data, to)
        assert status == 0, said
        assert " 0 lacking" in said
        assert " 0 were there" not in said
        assert "now stop the server and run this again with --final" in said
        await registry.push_image("team/app", "v9", [os.urandom(LARGE)])
        images.append(await registry.pull_image("team/app", "v9"))
        status, said = await migrate(own.data, to, "--final")
        assert status == 1
        assert "--final is for when the server has stopped" in said
        session = await registry.begin("team/app")
        session = (await registry.chunk(session, b"half")).expect(202).headers["Location"]
    assert await asyncio.to_thread(own.stop) == 0
    status, said = await migrate(own.data, to, "--final", "--verify")
    assert status == 0, said
    assert "\n2 objects copied (" in said
    assert "1 open uploads ended" in said
    assert f"put the [storage] section of {to} in the place of the one in force" in said

    on_s3 = await asyncio.to_thread(start_server, own.data, workers=1, extra=settings)
    async with Registry(on_s3.url, password) as registry:
        await pulls(registry, images)
        (await registry.chunk(session.replace(own.address, on_s3.address), b"more")).expect(404)
        await registry.push_image("team/app", "v10", [os.urandom(LARGE)])
        images.append(await registry.pull_image("team/app", "v10"))
    assert await asyncio.to_thread(on_s3.stop) == 0

    back = tmp_path / "folder.toml"
    back.write_text(f'[storage]\npath = "{tmp_path / "back"}"\n')
    status, said = await migrate(own.data, back, "--final", "--verify", extra=settings)
    assert status == 0, said
    assert "WHARFAGE_STORAGE_BUCKET" in said, "it says what to take away"
    again = await asyncio.to_thread(
        start_server, own.data, workers=1, extra={"WHARFAGE_STORAGE_PATH": str(tmp_path / "back")}
    )
    async with Registry(again.url, password) as registry:
        await pulls(registry, images)
    assert await asyncio.to_thread(again.stop) == 0


async def test_a_target_that_is_anothers_or_the_same_is_refused(
    start_server: Callable[..., Server], tmp_path: Path
) -> None:
    own = await asyncio.to_thread(start_server, tmp_path / "data", workers=1)
    other = await asyncio.to_thread(start_server, tmp_path / "other", workers=1)
    to = tmp_path / "to.toml"
    refused = {other.data / "objects": "holds another registry's store", own.data / "objects": "in use already"}
    for path, words in refused.items():
        to.write_text(f'[storage]\npath = "{path}"\n')
        status, said = await migrate(own.data, to)
        assert status == 1
        assert words in said
        assert said.count("\n") == 1
    to.write_text('[storage]\nbackend = "s4"\n')
    status, said = await migrate(own.data, to)
    assert status == 2
    assert f"{to}: [storage] backend" in said
    for server in (own, other):
        assert await asyncio.to_thread(server.stop) == 0


@pytest.mark.timeout(300)
async def test_archived_layers_go_to_the_archive_of_the_target_or_stay_and_can_be_restored_after_either(
    start_server: Callable[..., Server], tmp_path: Path
) -> None:
    """From one pair of folders to another, then with the store alone."""
    before = {"WHARFAGE_ARCHIVE_PATH": str(tmp_path / "cold")}
    server = await asyncio.to_thread(start_server, tmp_path / "data", workers=1, extra=before)
    password = await asyncio.to_thread(server.password)
    async with Registry(server.url, password) as registry:
        for number in range(2):
            await registry.push_image("team/app", f"v{number}", [os.urandom(LARGE)], note=str(number))
        images = [await registry.pull_image("team/app", f"v{number}") for number in range(2)]
    for tag in ("v0", "v1"):
        assert change_class(server, tag, "ARCHIVE") == "ARCHIVED"
    await until(lambda: is_idle(server.data, before))

    to = tmp_path / "to.toml"
    places = {name: str(tmp_path / f"new-{name}") for name in ("storage", "archive")}
    to.write_text("".join(f'[{name}]\npath = "{path}"\n' for name, path in places.items()))
    status, said = await migrate(server.data, to, extra=before)
    assert status == 0, said
    assert await asyncio.to_thread(server.stop) == 0
    status, said = await migrate(server.data, to, "--final", "--verify", extra=before)
    assert status == 0, said
    assert said.startswith("0 objects copied (0 bytes), 4 were there")
    assert f"put the [storage] and [archive] sections of {to} in the place of those in force" in said
    assert "WHARFAGE_ARCHIVE_PATH" in said, "it says what to take away"
    for name in ("cold", "data/objects"):
        (tmp_path / name).rename(tmp_path / f"away-{Path(name).name}")

    between = {"WHARFAGE_STORAGE_PATH": places["storage"], "WHARFAGE_ARCHIVE_PATH": places["archive"]}
    server = await asyncio.to_thread(start_server, server.data, workers=1, extra=between)
    assert change_class(server, "v0", "STANDARD") == "ACTIVATING"
    await until(lambda: is_idle(server.data, between))
    async with Registry(server.url, password) as registry:
        assert await registry.pull_image("team/app", "v0") == images[0]
    assert await asyncio.to_thread(server.stop) == 0

    to.write_text(f'[storage]\npath = "{tmp_path / "last"}"\n')
    status, said = await migrate(server.data, to, "--final", "--verify", extra=between)
    assert status == 0, said
    assert "objects are in the store of [archive] and stay there" in said
    assert "WHARFAGE_ARCHIVE_PATH" not in said
    after = {**between, "WHARFAGE_STORAGE_PATH": str(tmp_path / "last")}
    server = await asyncio.to_thread(start_server, server.data, workers=1, extra=after)
    assert change_class(server, "v1", "STANDARD") == "ACTIVATING"
    await until(lambda: is_idle(server.data, after))
    assert " 0 layers" in await asyncio.to_thread(archives, server.data, after)
    async with Registry(server.url, password) as registry:
        await pulls(registry, images)
    assert await asyncio.to_thread(server.stop) == 0


@pytest.mark.needs("weed")
async def test_an_archive_that_the_new_store_could_not_reach_is_refused_until_a_place_is_named(
    start_server: Callable[..., Server], seaweed: Seaweed, tmp_path: Path
) -> None:
    """Also places of the one as targets of the other."""
    prefix = uuid.uuid4().hex[:8]
    before = seaweed.settings(f"{prefix}/")
    bucket = before["WHARFAGE_STORAGE_BUCKET"]
    before |= {"WHARFAGE_ARCHIVE_BUCKET": bucket, "WHARFAGE_ARCHIVE_PREFIX": f"{prefix}-cold/"}
    server = await asyncio.to_thread(start_server, tmp_path / "data", workers=1, extra=before)
    async with Registry(server.url, await asyncio.to_thread(server.password)) as registry:
        await registry.push_image("team/app", "v0", [os.urandom(LARGE)])
        images = [await registry.pull_image("team/app", "v0")]
    assert change_class(server, "v0", "ARCHIVE") == "ARCHIVED"
    await until(lambda: is_idle(server.data, before))
    assert await asyncio.to_thread(server.stop) == 0

    to = tmp_path / "to.toml"
    own = {name: value for name, value in before.items() if "STORAGE" in name}
    folder = f'[storage]\npath = "{tmp_path / "new"}"\n'
    refused = {
        folder: "name in [archive] of this file where archived layers are to go",
        section(own | {"WHARFAGE_STORAGE_ENDPOINT": "http://127.0.0.1:1"}): "name in [archive] of this file",
        section(own | {"WHARFAGE_STORAGE_PREFIX": f"{prefix}-cold/"}): "[storage] names the place of [archive]",
    }
    for text, words in refused.items():
        to.write_text(text)
        status, said = await migrate(server.data, to, "--final", extra=before)
        assert status == 1, said
        assert words in said
        assert said.count("\n") == 1
    to.write_text(f'{folder}[archive]\npath = "{tmp_path / "new cold"}"\n')
    status, said = await migrate(server.data, to, "--final", "--verify", extra=before)
    assert status == 0, said
    after = {"WHARFAGE_STORAGE_PATH": str(tmp_path / "new"), "WHARFAGE_ARCHIVE_PATH": str(tmp_path / "new cold")}
    server = await asyncio.to_thread(start_server, server.data, workers=1, extra=after)
    assert change_class(server, "v0", "STANDARD") == "ACTIVATING"
    await until(lambda: is_idle(server.data, after))
    async with Registry(server.url, await asyncio.to_thread(server.password)) as registry:
        await pulls(registry, images)
    assert await asyncio.to_thread(server.stop) == 0
