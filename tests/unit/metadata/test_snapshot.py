"""A snapshot of all rows, taken from each database while its service works."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from sqlalchemy import insert, select, text, update

from proxy.metadata.db import snapshot as snapshots
from proxy.metadata.db.columns import metadata
from proxy.metadata.db.identity_tables import accounts
from proxy.metadata.db.postgresql import reading_engine
from proxy.metadata.db.schema import repositories
from proxy.metadata.db.snapshot import LEFT_OUT, snapshot, stored_blobs
from proxy.metadata.db.sqlite import SqliteDatabase, sqlite_engine
from proxy.model.errors import Failure
from proxy.model.records import Fence, SentPart
from support import postgresql
from support.metadata import (
    ACCOUNT,
    REPOSITORY,
    SERVICES,
    Clock,
    World,
    append,
    fill,
    index_manifest,
    on_each_service,
    plain_client,
    postgresql_database,
    sqlite_service,
)

Told = tuple[str, int, int]


@pytest.fixture(params=on_each_service())
async def world(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[World]:
    """A service with rows in every table."""
    clock = Clock()
    service = await SERVICES[request.param](tmp_path, clock)
    client = await plain_client(tmp_path)
    world = World(client, service, clock)
    await world.bootstrap(access_key_id="AKIA7777777777777777", sealed_secret=b"\x00sealed")
    await world.call("CreateRepository", repositoryName="b/b", tags=[{"Key": "k", "Value": "ü"}])
    pushed = [await world.image(f"i{number}", [f"v{number}"]) for number in range(12)]
    await world.put(index_manifest([pushed[0].digest]), ["latest"])
    leased = await world.lease(await world.begin())
    await client.keep_open_object(  # type: ignore[attr-defined]  # the client keeps open objects, too
        leased.sealed.object_key,
        Fence(leased.upload_id, leased.fence),
        part_size=10,
        upload_id="id",
        parts=[SentPart(1, 1, '"e"', "c")],
        tail_offset=10,
        tail=b"x",
        next_number=2,
    )
    await client.advance_upload(leased.upload_id, leased.fence, segment=append(0, 5), hash_state=b"half")
    await client.take_turn("sweep", seconds=9)
    yield world
    await client.close()
    await service.close()


@pytest.fixture
def database(request: pytest.FixtureRequest, world: World, tmp_path: Path) -> Path | str:
    """Where the service's rows lie."""
    kind = request.node.callspec.params["world"]
    return tmp_path / "m.db" if kind == "sqlite" else postgresql_database(tmp_path)


def fill_all(database: Path | str) -> None:
    engine = sqlite_engine(database) if isinstance(database, Path) else reading_engine(database, "a test")
    with engine.connect() as connection, connection.begin():
        fill(connection)
    engine.dispose()


def rows_of(database: Path | str) -> dict[str, list[tuple[object, ...]]]:
    engine = sqlite_engine(database) if isinstance(database, Path) else reading_engine(database, "a test")
    with engine.connect() as connection:
        found = {
            table.name: [tuple(row) for row in connection.execute(select(table).order_by(*table.primary_key.columns))]
            for table in metadata.sorted_tables
        }
    engine.dispose()
    return found


@pytest.mark.needs(postgresql.PROGRAM)
@pytest.mark.parametrize("world", ["postgresql"], indirect=True)
async def test_who_takes_long_between_two_tables_is_not_cut_off(
    world: World, database: Path | str, tmp_path: Path
) -> None:
    """A service's session may idle in a transaction for 2 s, as others wait for it; nobody waits for a backup."""
    hurried = f"{database}?options=-c%20idle_in_transaction_session_timeout%3D500ms"
    waits = iter([1.5])  # three times as long, once

    def told(*_: object) -> None:
        time.sleep(next(waits, 0.0))

    assert (await asyncio.to_thread(snapshot, hurried, tmp_path / "rows.db", told))["images"]


async def test_every_row_of_every_table_comes_along_but_what_is_of_the_moment(
    world: World, database: Path | str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshots, "ROWS", 7)
    monkeypatch.setattr(snapshots, "LARGE_ROWS", 2)
    await asyncio.to_thread(fill_all, database)
    told: list[Told] = []
    copied = await asyncio.to_thread(snapshot, database, tmp_path / "rows.db", lambda *step: told.append(step))
    before = await asyncio.to_thread(rows_of, database)
    after = await asyncio.to_thread(rows_of, tmp_path / "rows.db")
    assert all(before.values()), "a table without a row proves nothing"
    assert {name for name, rows in after.items() if not rows} == LEFT_OUT & after.keys()
    owned = {row[4] for row in before["blobs"]}
    before["segments"] = [row for row in before["segments"] if row[0] in owned]
    for table, name in (
        (accounts, ACCOUNT),
        (repositories, REPOSITORY),
    ):  # 5 bytes of the open upload do not come along
        at = table.c.keys().index("bytes")
        before[table.name] = [
            (*row[:at], row[at] - 5, *row[at + 1 :]) if name in row else row  # type: ignore[operator]  # a number
            for row in before[table.name]
        ]
    assert {name: rows for name, rows in after.items() if name not in LEFT_OUT} == {
        name: rows for name, rows in before.items() if name not in LEFT_OUT
    }
    assert copied == {name: len(rows) for name, rows in after.items() if name not in LEFT_OUT}
    assert ("images", copied["images"], copied["images"]) in told


async def test_what_is_written_while_it_copies_is_not_in_it(world: World, database: Path | str, tmp_path: Path) -> None:
    """Not even in tables that come later: it is one moment's."""
    loop = asyncio.get_running_loop()

    def push(table: str, done: int, total: int) -> None:
        if (table, done) == ("accounts", 0):
            asyncio.run_coroutine_threadsafe(world.image("late", ["late"]), loop).result(30)

    copied = await asyncio.to_thread(snapshot, database, tmp_path / "rows.db", push)
    assert copied["tags"] == 13
    assert (await world.metadata.manifest(ACCOUNT, REPOSITORY, "late")).digest
    assert len((await asyncio.to_thread(rows_of, tmp_path / "rows.db"))["tags"]) == 13


async def test_it_is_one_file_that_a_service_can_go_on_with(world: World, database: Path | str, tmp_path: Path) -> None:
    folder = tmp_path / "restored"
    folder.mkdir()
    await asyncio.to_thread(snapshot, database, folder / "m.db", lambda *step: None)
    assert [path.name for path in folder.iterdir()] == ["m.db"]
    listed = await asyncio.to_thread(lambda: list(stored_blobs(folder / "m.db")))
    assert [key for key, *_ in listed] == sorted(key for key, *_ in listed)
    assert len(listed) == 24
    assert all(flags == (110, False, False) for _, size, _, *others in listed for flags in [(size, *others)])
    service = await sqlite_service(folder, Clock())
    client = await plain_client(folder)
    restored = World(client, service)
    assert (await client.manifest(ACCOUNT, REPOSITORY, "v3")).digest
    await restored.image("after", ["new"], "c/c")
    assert (await client.tags(ACCOUNT, "c/c", last="", limit=9)).names == ("new",)
    await client.close()
    await service.close()


async def test_a_copy_that_is_broken_off_leaves_no_file(world: World, database: Path | str, tmp_path: Path) -> None:
    def stop(table: str, done: int, total: int) -> None:
        if table == "tags":
            raise KeyboardInterrupt

    folder = tmp_path / "broken"
    folder.mkdir()

    def broken() -> None:
        with pytest.raises(KeyboardInterrupt):
            snapshot(database, folder / "rows.db", stop)

    await asyncio.to_thread(broken)
    assert list(folder.iterdir()) == []


def test_tables_of_another_version_are_refused(tmp_path: Path) -> None:
    """And left as they are: a server of that version may be using them."""
    SqliteDatabase(tmp_path / "m.db").close()
    engine = sqlite_engine(tmp_path / "m.db")
    with engine.connect() as connection, connection.begin():
        connection.execute(text("UPDATE alembic_version SET version_num = '0001'"))
    engine.dispose()
    with pytest.raises(Failure, match="another version of wharfage"):
        snapshot(tmp_path / "m.db", tmp_path / "rows.db", lambda *step: None)


def test_a_damaged_database_is_one_failure(tmp_path: Path) -> None:
    SqliteDatabase(tmp_path / "m.db").close()
    engine = sqlite_engine(tmp_path / "m.db")
    with engine.connect() as connection, connection.begin():
        connection.execute(insert(accounts), [{"account": f"{n:012}", "created_at": 0.0} for n in range(20_000)])
        connection.execute(update(accounts).values(created_at=1.0))
    engine.dispose()
    with sqlite3.connect(tmp_path / "m.db") as plain:
        plain.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    plain.close()
    size = (tmp_path / "m.db").stat().st_size
    with (tmp_path / "m.db").open("r+b") as file:
        file.seek(size // 2 // 4096 * 4096)
        file.write(b"\xff" * 65_536)
    with pytest.raises(Failure, match="the rows cannot be copied"):
        snapshot(tmp_path / "m.db", tmp_path / "rows.db", lambda *step: None)
    assert not (tmp_path / "rows.db").exists()
