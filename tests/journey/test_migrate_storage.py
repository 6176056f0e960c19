"""All objects from a folder to S3 and back, under a server that goes on serving until the last moment."""

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

import pytest

from support.programs import ROOT, environment
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
