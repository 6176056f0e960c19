"""Rows that go from SQLite to PostgreSQL."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest
from sqlalchemy import Connection, Table, select

from proxy.metadata.client.client import MetadataClient
from proxy.metadata.db import move as moving
from proxy.metadata.db import snapshot
from proxy.metadata.db.move import move
from proxy.metadata.db.postgresql import PostgresqlDatabase
from proxy.metadata.db.schema import metadata
from proxy.metadata.db.sqlite import SqliteDatabase
from proxy.model.errors import Failure
from proxy.model.records import Fence, KeyRecord, Sealing, SentPart
from support import postgresql
from support.metadata import (
    ACCOUNT,
    DATA_KEY,
    IMAGE,
    REPOSITORY,
    Clock,
    World,
    digest,
    fill,
    index_manifest,
    plain_append,
    plain_client,
    postgresql_database,
    postgresql_service,
    sqlite_service,
)

pytestmark = pytest.mark.needs(postgresql.PROGRAM)


def every_row(connection: Connection) -> dict[str, list[tuple[object, ...]]]:
    return {
        table.name: [tuple(row) for row in connection.execute(select(table).order_by(*table.primary_key.columns))]
        for table in metadata.sorted_tables
    }


def fill_all(file: Path) -> None:
    database = SqliteDatabase(file)
    database.write(fill)
    database.close()


@pytest.fixture
async def source(tmp_path: Path) -> Path:
    """A file with rows in every table."""
    service = await sqlite_service(tmp_path, Clock())
    client = await plain_client(tmp_path)
    world = World(client, service)
    await world.bootstrap(access_key_id="AKIA7777777777777777", sealed_secret=b"\x00sealed")
    await world.call("CreateRepository", repositoryName="b/b", tags=[{"Key": "k", "Value": "ü"}])
    subject = {"mediaType": IMAGE, "digest": digest("subject"), "size": 1}
    pushed = [await world.image(f"i{number}", [f"v{number}"]) for number in range(20)]
    await world.image("signature", subject=subject, annotations={"a": "ü"})
    await world.put(index_manifest([pushed[0].digest]), ["latest"])
    leased = await world.lease(await world.begin(sealing=Sealing.NONE))
    keeper = MetadataClient.connect(f"unix:{tmp_path}/m.sock")
    await keeper.keep_open_object(
        "1" * 32,
        Fence(leased.upload_id, leased.fence),
        part_size=10,
        upload_id="id",
        parts=[SentPart(1, 1, '"e"', "c")],
        tail_offset=10,
        tail=b"\x00sealed",
        next_number=2,
    )
    await client.advance_upload(
        leased.upload_id, leased.fence, segment=plain_append(0, 5), hash_state=b"", frame_hashes=b"h" * 32
    )
    await keeper.record_key(KeyRecord("k", "aws-kms", b"\x00check", DATA_KEY, "arn", True), replaces=None)
    await keeper.close()
    await client.take_turn("sweep", seconds=9)
    await client.close()
    await service.close()
    await asyncio.to_thread(fill_all, tmp_path / "m.db")
    return tmp_path / "m.db"


async def test_every_row_of_every_table_is_copied_as_it_is_and_the_service_goes_on_from_there(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshot, "ROWS", 7)
    monkeypatch.setattr(snapshot, "LARGE_ROWS", 2)
    told: list[tuple[str, int, int]] = []
    url = await asyncio.to_thread(postgresql_database, tmp_path)
    copied = await asyncio.to_thread(move, source, url, lambda *step: told.append(step))

    def both() -> tuple[object, object]:
        old, new = SqliteDatabase(source), PostgresqlDatabase(url)
        rows = old.read(every_row), new.read(every_row)
        old.close()
        new.close()
        return rows

    before, after = await asyncio.to_thread(both)
    assert before == after
    assert isinstance(before, dict)
    assert copied == {table: len(rows) for table, rows in before.items()}
    assert all(copied.values())
    assert [step for step in told if step[0] == "images"][-1] == ("images", copied["images"], copied["images"])

    service = await postgresql_service(tmp_path, Clock())
    client = await plain_client(tmp_path)
    world = World(client, service)
    assert (await client.manifest(ACCOUNT, REPOSITORY, "v3")).media_type == IMAGE
    await world.image("after the move", ["new"], "c/c")
    assert (await client.tags(ACCOUNT, "c/c", last="", limit=9)).names == ("new",)
    await client.close()
    await service.close()


def test_who_takes_long_over_a_row_is_not_cut_off(source: Path, tmp_path: Path) -> None:
    hurried = f"{postgresql_database(tmp_path)}?options=-c%20idle_in_transaction_session_timeout%3D500ms"
    waits = iter([1.5])  # three times as long, once

    def told(*_: object) -> None:
        time.sleep(next(waits, 0.0))

    assert move(source, hurried, told)["images"]


def test_a_postgresql_that_holds_rows_is_refused(source: Path, tmp_path: Path) -> None:
    url = postgresql_database(tmp_path)
    move(source, url, lambda *step: None)
    with pytest.raises(Failure, match="holds rows already"):
        move(source, url, lambda *step: None)


def test_a_move_that_is_broken_off_leaves_nothing(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = postgresql_database(tmp_path)
    copy_table = moving._copy_table

    def fail_at_tags(old: Connection, new: Connection, table: Table, told: snapshot.ReportProgress) -> int:
        if table.name == "tags":
            raise KeyboardInterrupt
        return copy_table(old, new, table, told)

    monkeypatch.setattr(moving, "_copy_table", fail_at_tags)
    with pytest.raises(KeyboardInterrupt):
        move(source, url, lambda *step: None)
    monkeypatch.undo()
    assert move(source, url, lambda *step: None)["tags"] == 21


async def test_a_value_that_postgresql_cannot_store_is_told_with_its_table_and_nothing_is_copied(
    source: Path, tmp_path: Path
) -> None:
    service = await sqlite_service(tmp_path, Clock())
    client = await plain_client(tmp_path)
    await World(client).call("CreateRepository", repositoryName="n/n", tags=[{"Key": "k", "Value": "a\0b"}])
    await client.close()
    await service.close()
    url = await asyncio.to_thread(postgresql_database, tmp_path)
    with pytest.raises(Failure, match="a row of repository_tags holds what PostgreSQL cannot store"):
        await asyncio.to_thread(move, source, url, lambda *step: None)


def test_rows_that_do_not_count_up_are_not_committed(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = postgresql_database(tmp_path)
    counted = moving._count
    monkeypatch.setattr(moving, "_count", lambda connection, table: counted(connection, table) + 1)
    with pytest.raises(Failure, match="undone"):
        move(source, url, lambda *step: None)
    monkeypatch.undo()
    assert sum(move(source, url, lambda *step: None).values())
