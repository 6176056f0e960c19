"""check and rewrap as an operator runs them: beside a server that goes on serving, and without one."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from support.programs import ROOT
from support.registry import Registry
from support.server import Server

LARGE = 1_000_000  # bytes; aiohttp warns of larger bodies sent whole


@pytest.fixture
async def own(start_server: Callable[..., Server], tmp_path: Path) -> AsyncIterator[Server]:
    """A server that this test may damage."""
    server = await asyncio.to_thread(start_server, tmp_path / "data", workers=2)
    yield server
    await asyncio.to_thread(server.stop)


async def run(server: Server, *command: str) -> tuple[int, str]:
    """The command's exit status and what it printed."""
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "proxy", *command, "--data", str(server.data)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    return done.returncode, done.stdout + done.stderr


async def test_check_and_rewrap_beside_a_running_server(own: Server) -> None:
    """Every pull, before and while all keys are wrapped anew and all blobs sealed anew, gives the same image."""
    password = await asyncio.to_thread(own.password)
    layers = [os.urandom(LARGE), os.urandom(100), os.urandom(LARGE)]
    async with Registry(own.url, password) as registry:
        await registry.push_image("team/app", "v1", layers)
        pulls = 0
        stop = asyncio.Event()

        async def pull_on() -> None:
            nonlocal pulls
            while not stop.is_set():
                _, pulled = await registry.pull_image("team/app", "v1")
                assert pulled[-len(layers) :] == layers
                pulls += 1

        pulling = asyncio.create_task(pull_on())
        for command in (["check"], ["rewrap"], ["check"], ["rewrap", "--reseal"], ["check"]):
            status, said = await run(own, *command)
            assert status == 0, said
        stop.set()
        await pulling
        assert pulls > 0
        await registry.push_image("team/app", "v2", [os.urandom(LARGE)])
        status, said = await run(own, "check")
        assert status == 0, said


async def test_damage_is_named_hidden_and_healed_by_a_push(own: Server) -> None:
    """check says 1 and which; --repair hides it from clients; a push of the same bytes makes the next check clean."""
    password = await asyncio.to_thread(own.password)
    content = os.urandom(LARGE)
    async with Registry(own.url, password) as registry:
        await registry.push_image("team/app", "v1", [content])
        digest = await registry.push_blob("team/app", content)
        stored = max((own.data / "objects").rglob("*"), key=lambda path: path.stat().st_size)
        with stored.open("r+b") as file:
            file.seek(LARGE // 2)
            byte = file.read(1)
            file.seek(LARGE // 2)
            file.write(bytes([byte[0] ^ 1]))
        status, said = await run(own, "check")
        assert status == 1
        assert digest in said
        status, said = await run(own, "check", "--repair")
        assert status == 1, said
        (await registry.blob("team/app", digest)).expect(404)
        assert await registry.push_blob("team/app", content) == digest
        assert (await registry.blob("team/app", digest)).expect(200).body == content
        status, said = await run(own, "check")
        assert status == 0, said


async def test_check_needs_no_running_server(own: Server) -> None:
    password = await asyncio.to_thread(own.password)
    async with Registry(own.url, password) as registry:
        await registry.push_image("team/app", "v1", [os.urandom(LARGE)])
    await asyncio.to_thread(own.stop)
    status, said = await run(own, "check")
    assert status == 0, said
    assert "2 blobs ok" in said


async def test_after_a_leak_both_commands_leave_nothing_that_the_old_master_key_opens(
    start_server: Callable[..., Server], own: Server
) -> None:
    """It can be taken out of the key file then: layers, access keys and signing secrets open, and old tokens do not."""
    password = await asyncio.to_thread(own.password)
    secret = (await run(own, "events", "secret"))[1]
    async with Registry(own.url, password) as registry:
        await registry.push_image("team/app", "v1", [os.urandom(LARGE)])
        image = await registry.pull_image("team/app", "v1")
    status, said = await run(own, "rewrap")
    assert status == 0, said
    assert "0 secrets" not in said
    status, said = await run(own, "rewrap", "--reseal", "--resume")
    assert status == 0, said
    assert "2 blobs resealed" in said
    assert await asyncio.to_thread(own.stop) == 0

    file = own.data / "keys" / "master.json"
    document = json.loads(file.read_text())
    active, _leaked = document["keys"]
    file.write_text(json.dumps(document | {"keys": [active]}))
    again = await asyncio.to_thread(start_server, own.data, workers=1)
    async with Registry(again.url, password) as registry:
        (await registry.manifest("team/app", "v1")).expect(401)
    async with Registry(again.url, await asyncio.to_thread(again.password)) as registry:
        assert await registry.pull_image("team/app", "v1") == image
    assert (await run(again, "events", "secret"))[1] == secret
    status, said = await run(again, "check")
    assert status == 0, said
    assert await asyncio.to_thread(again.stop) == 0
