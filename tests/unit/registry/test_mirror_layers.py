"""One worker's copy of a layer on its way: what readers see of it, how it proves itself, how others read it."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import tempfile
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from proxy.model.errors import Code, Failure
from proxy.model.mirror import AbsentBlob
from proxy.registry.mirror import relay
from proxy.registry.mirror.fetch import follow
from proxy.registry.mirror.layer_copy import LayerCopy
from proxy.registry.mirror.relay import NoSuchFetch, SourceLost
from proxy.registry.mirror.spool import FRAME, FetchSpool
from support.other_registry import LAYER

CONTENT = os.urandom(2 * FRAME + 777)
DIGEST = f"sha256:{hashlib.sha256(CONTENT).hexdigest()}"
NAME = "123456789012", "far/app", DIGEST


def new_copy(folder: Path) -> LayerCopy:
    return LayerCopy(AbsentBlob(DIGEST, len(CONTENT), LAYER), FetchSpool(folder))


async def whole(runs: AsyncGenerator[memoryview, None]) -> bytes:
    return b"".join([bytes(run) async for run in runs])


async def pieces(*some: bytes) -> AsyncGenerator[memoryview, None]:
    for each in some:
        yield memoryview(each)


async def test_the_last_frame_is_held_back_until_all_of_the_layer_hashed_to_its_digest(tmp_path: Path) -> None:
    copy = new_copy(tmp_path)
    await copy.write(CONTENT)
    runs = copy.runs(0, len(CONTENT))
    seen = b"".join([bytes(await anext(runs)), bytes(await anext(runs))])
    assert seen == CONTENT[: 2 * FRAME]
    rest = asyncio.ensure_future(anext(runs))
    await asyncio.wait({rest}, timeout=0.01)
    assert not rest.done()
    await copy.verify()
    assert bytes(await rest) == CONTENT[2 * FRAME :]
    await copy.close()


async def test_bytes_that_hash_to_something_else_end_in_a_failure_for_every_reader(tmp_path: Path) -> None:
    copy = new_copy(tmp_path)
    with pytest.raises(Failure) as failed:
        await follow(copy, pieces(CONTENT[:-1], b"\0" if CONTENT[-1:] != b"\0" else b"\1"), "worker")
    assert failed.value.code is Code.INVALID_LAYER
    copy.fail(failed.value)
    for start, early in ((0, True), (2 * FRAME, True), (0, False)):
        with pytest.raises(Failure):
            await whole(copy.runs(start, len(CONTENT), early=early))
    await copy.close()


async def test_a_source_that_sends_more_than_the_layer_has_is_refused(tmp_path: Path) -> None:
    copy = new_copy(tmp_path)
    with pytest.raises(Failure, match="more than the layer"):
        await follow(copy, pieces(CONTENT, b"x"), "worker")
    await copy.close()


async def test_a_range_that_is_to_wait_sees_no_byte_before_the_digest_was_right(tmp_path: Path) -> None:
    copy = new_copy(tmp_path)
    await copy.write(CONTENT)
    waiting = asyncio.create_task(whole(copy.runs(5, 10, early=False)))
    await asyncio.wait({waiting}, timeout=0.01)
    assert not waiting.done()
    await copy.verify()
    assert await waiting == CONTENT[5:10]
    await copy.close()


async def test_a_copy_goes_on_from_the_byte_at_which_its_source_died(tmp_path: Path) -> None:
    async def dying() -> AsyncGenerator[memoryview, None]:
        yield memoryview(CONTENT[: FRAME + 5])
        raise SourceLost

    copy = new_copy(tmp_path)
    with pytest.raises(SourceLost):
        await follow(copy, dying(), "worker")
    assert copy.length == FRAME + 5
    await follow(copy, pieces(CONTENT[copy.length :]), "node")
    assert (copy.is_done, await whole(copy.runs(0, len(CONTENT)))) == (True, CONTENT)
    await copy.close()


# ---- read by another worker ------------------------------------------------------------------------------------------
@contextlib.asynccontextmanager
async def served(copy: LayerCopy) -> AsyncGenerator[str, None]:
    with tempfile.TemporaryDirectory(prefix="w-") as folder:  # a socket's address is short
        path = Path(folder) / relay.socket_name()
        server = await relay.serve(path, lambda *name: copy if name == NAME else None)
        try:
            yield str(path)
        finally:
            server.close()


async def test_another_worker_reads_what_has_come_and_what_comes_later(tmp_path: Path) -> None:
    copy = new_copy(tmp_path)
    await copy.write(CONTENT[:1000])
    async with served(copy) as address:
        source = await relay.connect(address, *NAME, 400)
        reading = asyncio.create_task(whole(source.runs))
        await copy.write(CONTENT[1000:])
        await copy.verify()
        assert (source.length, await reading) == (1000, CONTENT[400:])
    await copy.close()


async def test_another_worker_hears_the_failure_that_the_copy_ended_with(tmp_path: Path) -> None:
    copy = new_copy(tmp_path)
    async with served(copy) as address:
        source = await relay.connect(address, *NAME, 0)
        copy.fail(Failure(Code.UPSTREAM_UNAVAILABLE, "not reached", hint="look at its state", seconds=3.0))
        with pytest.raises(Failure) as failed:
            await whole(source.runs)
    assert (failed.value.code, failed.value.message) == (Code.UPSTREAM_UNAVAILABLE, "not reached")
    assert (failed.value.hint, failed.value.fields["seconds"]) == ("look at its state", 3.0)
    await copy.close()


async def test_a_copy_that_ends_with_its_worker_is_a_lost_source_and_no_failure(tmp_path: Path) -> None:
    copy = new_copy(tmp_path)
    async with served(copy) as address:
        source = await relay.connect(address, *NAME, 0)
        copy.ended_with_worker = True
        copy.fail(Failure(Code.METADATA_UNAVAILABLE, "ended"))
        with pytest.raises(SourceLost):
            await whole(source.runs)
    await copy.close()


async def test_no_copy_a_second_hand_copy_and_nobody_are_told_apart(tmp_path: Path) -> None:
    copy = new_copy(tmp_path)
    async with served(copy) as address:
        with pytest.raises(NoSuchFetch) as other:
            await relay.connect(address, "123456789012", "far/other", DIGEST, 0)
        with pytest.raises(NoSuchFetch) as second_hand:
            await relay.connect(address, *NAME, 0, first_hand=True)
        copy.is_first_hand = True
        await copy.write(CONTENT)
        await copy.verify()
        source = await relay.connect(address, *NAME, 0, first_hand=True)
        assert await whole(source.runs) == CONTENT
    with pytest.raises(NoSuchFetch) as nobody:
        await relay.connect(address, *NAME, 0)
    assert (other.value.is_gone, second_hand.value.is_gone, nobody.value.is_gone) == (False, False, True)
    await copy.close()
