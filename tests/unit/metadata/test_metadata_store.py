"""The threads and transactions under the operations."""

from __future__ import annotations

import asyncio
import tempfile
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from sqlalchemy import insert, select, text
from sqlalchemy.exc import OperationalError

from proxy.metadata.db.postgresql import PostgresqlDatabase
from proxy.metadata.db.schema import turns
from proxy.metadata.db.sqlite import SqliteDatabase
from proxy.metadata.db.store import Database, Store
from proxy.metadata.db.transaction import Changes, Registry, Transaction
from proxy.model.errors import Code, Failure
from support.metadata import on_each_service, postgresql_database


@pytest.fixture
async def changes() -> list[Changes]:
    return []


@pytest.fixture
async def sqlite(tmp_path: Path, changes: list[Changes]) -> AsyncIterator[Store]:
    opened = Store(
        await asyncio.to_thread(SqliteDatabase, tmp_path / "m.db"), committed=lambda more, told: changes.append(more)
    )
    yield opened
    await opened.close()


@pytest.fixture(params=on_each_service())
async def store(request: pytest.FixtureRequest, tmp_path: Path, changes: list[Changes]) -> AsyncIterator[Store]:
    def connect() -> Database:
        if request.param == "sqlite":
            return SqliteDatabase(tmp_path / "m.db")
        return PostgresqlDatabase(postgresql_database(tmp_path))

    opened = Store(await asyncio.to_thread(connect), committed=lambda more, told: changes.append(more))
    yield opened
    await opened.close()


def adding(task: str) -> Callable[[Transaction], str]:
    def add(tx: Transaction) -> str:
        tx.connection.execute(insert(turns).values(task=task, until=0.0))
        tx.changed("a", task)
        return task

    return add


def names(tx: Transaction) -> list[str]:
    return list(tx.connection.execute(select(turns.c.task).order_by(turns.c.task)).scalars())


async def hold(store: Store) -> tuple[threading.Event, asyncio.Task[None]]:
    """Keep the writer busy, so that what is asked meanwhile goes into one group."""
    release, begun = threading.Event(), threading.Event()

    def wait(tx: Transaction) -> None:
        begun.set()
        release.wait(10)

    task = asyncio.create_task(store.write(wait))
    await asyncio.to_thread(begun.wait, 10)
    return release, task


async def test_the_database_is_private_and_commits_reach_the_disk(tmp_path: Path, sqlite: Store) -> None:
    def pragmas(tx: Transaction) -> list[object]:
        wanted = ("journal_mode", "synchronous", "foreign_keys")
        return [tx.connection.execute(text(f"PRAGMA {name}")).scalar() for name in wanted]

    assert await sqlite.write(pragmas) == ["wal", 2, 1]
    assert (tmp_path / "m.db").stat().st_mode & 0o777 == 0o600


def synchronous(tx: Transaction) -> int:
    found: int = tx.connection.execute(text("PRAGMA synchronous")).scalar_one()
    return found


FULL, NORMAL = 2, 1


@pytest.mark.parametrize(("alone", "level"), [(True, NORMAL), (False, FULL)])
async def test_a_write_that_need_not_be_durable_waits_for_no_disk_where_all_who_are_told_die_with_the_machine(
    tmp_path: Path, alone: bool, level: int
) -> None:
    store = Store(await asyncio.to_thread(lambda: SqliteDatabase(tmp_path / "m.db", alone=alone)))
    levels = [await store.write(synchronous, durable=durable) for durable in (False, True, False, False, True)]
    assert levels == [level, FULL, level, level, FULL]
    await store.close()


@pytest.fixture
async def alone(tmp_path: Path) -> AsyncIterator[Store]:
    opened = Store(await asyncio.to_thread(lambda: SqliteDatabase(tmp_path / "m.db", alone=True)))
    yield opened
    await opened.close()


async def test_one_write_that_must_last_makes_all_of_its_group_durable(alone: Store) -> None:
    release, busy = await hold(alone)
    asked = asyncio.gather(*(alone.write(synchronous, durable=durable) for durable in (False, True, False)))
    await asyncio.sleep(0)
    release.set()
    assert await asked == [FULL] * 3
    await busy


async def test_a_write_that_finds_that_it_must_last_is_done_anew_and_once(alone: Store) -> None:
    levels = []

    def run(tx: Transaction) -> None:
        adding("one")(tx)
        levels.append(synchronous(tx))
        tx.need_durability()

    await alone.write(run, durable=False)
    assert levels == [NORMAL, FULL]
    assert await alone.read(names) == ["one"]


async def test_a_cut_of_power_takes_the_last_writes_that_need_not_be_durable_and_none_before(
    tmp_path: Path, alone: Store
) -> None:
    """The log of that moment, as far as it was synced."""
    log = tmp_path / "m.db-wal"

    def after_a_cut(synced: int) -> list[str]:
        there = Path(tempfile.mkdtemp(dir=tmp_path)) / "m.db"
        there.write_bytes((tmp_path / "m.db").read_bytes())
        there.with_name("m.db-wal").write_bytes(log.read_bytes()[:synced])
        opened = SqliteDatabase(there)
        try:
            return opened.read(lambda connection: names(Transaction(connection, 0.0, Registry())))
        finally:
            opened.close()

    await alone.write(adding("a, durable"))
    synced = log.stat().st_size
    await alone.write(adding("b"), durable=False)
    await alone.write(adding("c"), durable=False)
    assert await asyncio.to_thread(after_a_cut, synced) == ["a, durable"]
    await alone.write(adding("d, durable"))
    synced = log.stat().st_size
    assert await asyncio.to_thread(after_a_cut, synced) == ["a, durable", "b", "c", "d, durable"]


async def test_writes_that_queue_up_share_a_commit_and_one_that_fails_leaves_the_others(
    store: Store, changes: list[Changes]
) -> None:
    release, busy = await hold(store)

    def half(tx: Transaction) -> None:
        adding("half")(tx)
        raise Failure(Code.INVALID_PARAMETER, "no")

    asked = [store.write(adding("one")), store.write(half), store.write(adding("two")), store.write(adding("one"))]
    gathered = asyncio.gather(*asked, return_exceptions=True)
    await asyncio.sleep(0)
    release.set()
    one, refused, two, again = await gathered
    await busy
    assert (one, two) == ("one", "two")
    assert isinstance(refused, Failure)
    assert isinstance(again, Exception)
    assert await store.read(names) == ["one", "two"]
    assert [each.repositories for each in changes] == [{("a", "one"), ("a", "two")}]


async def test_a_database_that_fails_mid_group_fails_all_of_it_and_the_next_write_works(
    sqlite: Store, changes: list[Changes]
) -> None:
    store = sqlite
    release, busy = await hold(store)

    def broken(tx: Transaction) -> None:
        raise OperationalError("INSERT", {}, Exception("database or disk is full"))

    asked = asyncio.gather(store.write(adding("one")), store.write(broken), return_exceptions=True)
    await asyncio.sleep(0)
    release.set()
    for answer in await asked:
        assert isinstance(answer, Failure)
        assert answer.code is Code.STORE_FULL
    await busy
    assert await store.read(names) == []
    assert await store.write(adding("later")) == "later"
    assert [each.repositories for each in changes] == [{("a", "later")}]


async def test_a_database_without_room_says_store_full_and_goes_on_when_there_is_room(sqlite: Store) -> None:
    store = sqlite

    def limit(pages: int) -> Callable[[Transaction], object]:
        return lambda tx: tx.connection.execute(text(f"PRAGMA max_page_count={pages}")).scalar()

    def fill(tx: Transaction) -> None:
        for number in range(2000):
            adding(f"{number:04d}" * 16)(tx)

    await store.write(limit(1))
    with pytest.raises(Failure) as caught:
        await store.write(fill)
    assert caught.value.code is Code.STORE_FULL
    assert await store.read(names) == []
    await store.write(limit(1_000_000))
    await store.write(fill)
    assert len(await store.read(names)) == 2000


async def test_a_cancelled_writers_write_is_whole_and_told_to_the_epochs(store: Store, changes: list[Changes]) -> None:
    release, busy = await hold(store)
    writing = asyncio.create_task(store.write(adding("one")))
    await asyncio.sleep(0)
    writing.cancel()
    release.set()
    await busy
    await store.write(adding("two"))
    assert await store.read(names) == ["one", "two"]
    assert {("a", "one"), ("a", "two")} == set().union(*(each.repositories for each in changes))


async def test_closing_finishes_what_was_queued_and_refuses_the_rest(store: Store) -> None:
    release, busy = await hold(store)
    queued = asyncio.create_task(store.write(adding("one")))
    await asyncio.sleep(0)
    closing = asyncio.create_task(store.close())
    await asyncio.sleep(0)
    with pytest.raises(Failure) as caught:
        await store.write(adding("two"))
    assert caught.value.code is Code.METADATA_UNAVAILABLE
    release.set()
    assert await queued == "one"
    await busy
    await closing
