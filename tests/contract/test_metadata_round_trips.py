"""What a write costs in waits for PostgreSQL, and what an error does that comes after its statement."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event, func, insert, select
from sqlalchemy.engine import Engine
from sqlalchemy.exc import IntegrityError

from proxy.metadata.db.schema import manifest_bytes
from proxy.metadata.db.transaction import UNREAD, Transaction
from support.metadata import SERVICES, Clock, World, append, digest, image_manifest, on_each_service, plain_client


@pytest.fixture(params=on_each_service(("postgresql",)))
async def world(tmp_path: Path) -> AsyncIterator[World]:
    service = await SERVICES["postgresql"](tmp_path, Clock())
    metadata = await plain_client(tmp_path)
    yield World(metadata, service)
    await metadata.close()
    await service.close()


@pytest.fixture
def waits() -> Iterator[list[str]]:
    """The statements that are waited for, COMMIT included; BEGIN goes with the first."""
    found: list[str] = []

    def executed(connection: Any, cursor: Any, statement: str, parameters: Any, context: Any, many: bool) -> None:
        if not context.execution_options.get(UNREAD):
            found.append(statement)

    def committed(connection: Any) -> None:
        found.append("COMMIT")

    event.listen(Engine, "before_cursor_execute", executed)
    event.listen(Engine, "commit", committed)
    yield found
    event.remove(Engine, "before_cursor_execute", executed)
    event.remove(Engine, "commit", committed)


async def test_a_push_of_a_manifest_waits_ten_times(world: World, waits: list[str]) -> None:
    await world.image("first", ["latest"])
    for blob in ("config", "layer"):
        await world.commit(blob)
    waits.clear()
    await world.put(image_manifest("config", ["layer"]), ["stable"])
    assert len(waits) <= 10, waits
    assert waits[-1] == "COMMIT"


async def test_a_commit_of_a_layer_waits_seven_times(world: World, waits: list[str]) -> None:
    await world.commit("first")
    leased = await world.lease(await world.begin())
    waits.clear()
    await world.metadata.commit_upload(
        leased.upload_id, leased.fence, digest=digest("layer"), segment=append(0, 10), hash_state=b"state"
    )
    assert len(waits) <= 7, waits


def _write_bytes(tx: Transaction, of: str) -> str:
    tx.send(insert(manifest_bytes).values(digest=of, content=b"{}", images=1))
    return of


async def test_a_statement_that_nobody_waits_for_fails_its_own_write_only(world: World) -> None:
    """Of writes that share a commit, which these do: they are queued before the first is begun."""
    assert world.service is not None
    store = world.service.store
    writes = [store.write(partial(_write_bytes, of=of)) for of in ("a", "b", "a", "c")]
    one, two, failed, four = await asyncio.gather(*writes, return_exceptions=True)
    assert (one, two, four) == ("a", "b", "c")
    assert isinstance(failed, IntegrityError)
    assert await store.read(lambda tx: tx.connection.execute(select(func.count(manifest_bytes.c.digest))).scalar()) == 3


async def test_a_write_whose_last_statement_nobody_waits_for_is_there_for_others_when_it_returns(world: World) -> None:
    assert world.service is not None
    store = world.service.store
    for number in range(20):
        of = await store.write(partial(_write_bytes, of=str(number)))
        found = select(manifest_bytes.c.digest).where(manifest_bytes.c.digest == of)
        assert await store.read(lambda tx, found=found: tx.connection.execute(found).scalar()) == of  # type: ignore[misc]
