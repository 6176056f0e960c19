"""Several workers and a service that dies: what invariants 2 and 5 ask of the metadata room."""

from __future__ import annotations

import asyncio
import contextlib
import random
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from proxy.metadata.client.client import MetadataClient
from proxy.metadata.contract import Metadata
from proxy.metadata.service.service import Service
from proxy.model.errors import Code, Failure
from support.metadata import (
    ACCOUNT,
    REPOSITORY,
    SERVICES,
    Clock,
    World,
    append,
    cached_client,
    digest,
    index_manifest,
    on_each_service,
    plain_client,
)

SERVE = """
import asyncio, sys
from pathlib import Path
from proxy.metadata.service.service import start_service

async def main(folder):
    service = await start_service(
        database=folder / "m.db", listen=f"unix:{folder}/m.sock", epochs=folder / "epochs"
    )
    print("up", flush=True)
    await asyncio.Event().wait()

asyncio.run(main(Path(sys.argv[1])))
"""


@pytest.fixture(params=on_each_service())
async def service(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Service]:
    started = await SERVICES[request.param](tmp_path, Clock())
    yield started
    await started.close()


@pytest.fixture
async def workers(service: Service, tmp_path: Path) -> AsyncIterator[list[World]]:
    clients = [await cached_client(tmp_path) for _ in range(4)]
    yield [World(client, service, Clock()) for client in clients]
    for client in clients:
        await client.close()


async def test_what_one_worker_changes_the_next_question_to_any_other_sees(workers: list[World]) -> None:
    one, *others = workers
    first = await one.image("first", ["v1"])
    for world in workers:
        for _ in range(2):
            assert (await world.metadata.manifest(ACCOUNT, REPOSITORY, "v1")).digest == first.digest
            await world.metadata.blob(ACCOUNT, REPOSITORY, digest("first-layer"))

    second = await others[0].image("second", ["v1"], layers=["x"])
    for world in workers:
        assert (await world.metadata.manifest(ACCOUNT, REPOSITORY, "v1")).digest == second.digest

    await others[1].metadata.delete_manifest(ACCOUNT, REPOSITORY, first.digest)
    await others[1].metadata.unlink_blob(ACCOUNT, REPOSITORY, digest("first-layer"))
    for world in workers:
        with pytest.raises(Failure, match="does not exist"):
            await world.metadata.manifest(ACCOUNT, REPOSITORY, first.digest)
        with pytest.raises(Failure) as caught:
            await world.metadata.blob(ACCOUNT, REPOSITORY, digest("first-layer"))
        assert caught.value.code is Code.LAYERS_NOT_FOUND


async def test_a_tag_hammered_by_all_workers_is_never_seen_to_go_back(workers: list[World]) -> None:
    """Each writer counts a tag up; whoever asks after an acknowledged write gets that image or a later one."""
    setup = workers[0]
    await setup.begin()
    contents = [index_manifest([], annotations={"number": str(number)}) for number in range(60)]
    order = {digest(content): number for number, content in enumerate(contents)}
    acknowledged = -1

    async def write() -> None:
        nonlocal acknowledged
        for number, content in enumerate(contents):
            await workers[number % 4].put(content, ["latest"])
            acknowledged = number

    async def watch(world: World) -> int:
        seen = 0
        while not writing.done():
            at_least = acknowledged
            with contextlib.suppress(Failure):
                stored = await world.metadata.manifest(ACCOUNT, REPOSITORY, "latest")
                assert order[stored.digest] >= at_least
                seen += 1
            await asyncio.sleep(0)  # an answer that was kept asks nobody and yields to nobody
        return seen

    writing = asyncio.create_task(write())
    counts = await asyncio.gather(*(watch(world) for world in workers))
    await writing
    assert min(counts) > 10


async def test_a_revoked_key_is_dead_in_every_worker(service: Service, workers: list[World]) -> None:
    await service.bootstrap(ACCOUNT, access_key_id="AKIAONE", sealed_secret=b"1")
    for world in workers:
        assert await world.metadata.access_key("AKIAONE") is not None
    await service.bootstrap(ACCOUNT, access_key_id="AKIATWO", sealed_secret=b"2")
    for world in workers:
        assert await world.metadata.access_key("AKIAONE") is None
        assert await world.metadata.access_key("AKIATWO") is not None


async def test_a_restarted_service_outdates_every_kept_answer(tmp_path: Path) -> None:
    service = await SERVICES["sqlite"](tmp_path, Clock())
    client = await cached_client(tmp_path)
    world = World(client, service, Clock())
    await world.image("app", ["v1"])
    await client.manifest(ACCOUNT, REPOSITORY, "v1")
    await service.close()
    # What another start of the service may have done before it answered anybody.
    service = await SERVICES["sqlite"](tmp_path, Clock())
    other = await plain_client(tmp_path)
    await other.delete_tag(ACCOUNT, REPOSITORY, "v1")
    with pytest.raises(Failure):
        await client.manifest(ACCOUNT, REPOSITORY, "v1")
    for each in (client, other):
        await each.close()
    await service.close()


async def test_many_are_paged_through_whole_and_in_order(service: Service, tmp_path: Path) -> None:
    client = await plain_client(tmp_path)
    world = World(client, service, Clock())
    await world.begin()
    total = 400
    tags = [f"t{number:05d}" for number in range(total)]
    shuffled = random.Random(7).sample(tags, total)
    for start in range(0, total, 100):
        content = index_manifest([], annotations={"start": str(start)})
        await world.put(content, shuffled[start : start + 100])
    for start in range(0, total, 50):
        await asyncio.gather(
            *(world.put(index_manifest([], annotations={"n": str(n)})) for n in range(start, start + 50)),
            *(world.begin(f"many/r{n:05d}") for n in range(start, start + 50)),
        )

    async def names(kind: str) -> list[str]:
        found: list[str] = []
        more = True
        while more:
            last = found[-1] if found else ""
            if kind == "tags":
                page = await client.tags(ACCOUNT, REPOSITORY, last=last, limit=90)
            else:
                page = await client.repositories(ACCOUNT, last=last, limit=90)
            found += page.names
            more = page.more
        return found

    assert await names("tags") == tags
    assert await names("repositories") == [*(f"many/r{n:05d}" for n in range(total)), REPOSITORY]
    for operation, key, expected in (
        ("ListImages", "imageIds", 2 * total),
        ("DescribeImages", "imageDetails", total + 4),
    ):
        seen = 0
        token: dict[str, str] = {}
        while True:
            page = await world.call(operation, repositoryName=REPOSITORY, maxResults=130, **token)
            seen += len(page[key])
            if "nextToken" not in page:
                break
            token = {"nextToken": page["nextToken"]}
        assert seen == expected
    await client.close()


class Killable:
    """A service in a process of its own, to be killed."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._process: subprocess.Popen[str] | None = None

    async def start(self) -> None:
        self._process = await asyncio.to_thread(
            subprocess.Popen,
            [sys.executable, "-c", SERVE, str(self._folder)],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        assert await asyncio.to_thread(self._process.stdout.readline) == "up\n"

    async def kill(self) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        self._process.send_signal(signal.SIGKILL)
        await asyncio.to_thread(self._process.wait)
        self._process.stdout.close()


@pytest.fixture
async def killable(tmp_path: Path) -> AsyncIterator[tuple[Killable, Metadata]]:
    service = Killable(tmp_path)
    await service.start()
    client = MetadataClient.connect(f"unix:{tmp_path}/m.sock", patience=20.0)
    yield service, client
    await client.close()
    await service.kill()


async def test_a_push_goes_on_through_a_killed_service_and_nothing_acknowledged_is_lost(
    killable: tuple[Killable, Metadata],
) -> None:
    process, client = killable
    world = World(client)

    async def restart() -> None:
        await process.kill()
        await asyncio.sleep(0.3)  # the client has to wait for a socket that nobody listens on
        await process.start()

    upload = await world.begin()
    await restart()
    leased = await world.lease(upload)
    restarting = asyncio.create_task(restart())
    await asyncio.sleep(0.1)
    blob, leftover = await client.commit_upload(
        upload.upload_id, leased.fence, digest=digest("layer"), segment=append(0, 7), hash_state=b"s"
    )
    await restarting
    assert leftover is None
    await process.kill()
    await process.start()
    assert await client.blob(ACCOUNT, REPOSITORY, digest("layer")) == blob


async def test_writes_hammered_through_kills_are_all_there_that_were_acknowledged(
    killable: tuple[Killable, Metadata],
) -> None:
    process, client = killable
    world = World(client)
    await world.begin()
    acknowledged: list[str] = []

    async def write(worker: int) -> None:
        for number in range(40):
            content = index_manifest([], annotations={"w": f"{worker}-{number}"})
            await world.put(content, [f"w{worker}-{number}"])
            acknowledged.append(digest(content))

    async def disturb() -> None:
        for _ in range(3):
            await asyncio.sleep(0.2)
            await process.kill()
            await process.start()

    await asyncio.gather(disturb(), *(write(worker) for worker in range(4)))
    await process.kill()
    await process.start()
    assert len(acknowledged) == 160
    for wanted in acknowledged:
        assert digest((await client.manifest(ACCOUNT, REPOSITORY, wanted)).content) == wanted
