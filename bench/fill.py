"""A registry of a size, written as rows: what a hundred thousand pushes leave behind, in minutes.

Rows go past the service, in bulk, into a database of its own schema or of the migration before (columns that are not
there are left out): COPY on PostgreSQL, one statement a batch on SQLite, foreign keys unchecked on both. What is
written is whole as far as rows go: manifests hash to their digests, links and counters are right, each blob has its
segment. No object is stored: what is pulled must have been pushed.

The registry has `repositories` of `each` images (a config of its own, the repository's layer, one tag), named
`name_of(n)`; `DEEP` with `deep` images, of which every second has a tag; and `TAGGED` with one image of `tags` tags.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql
from sqlalchemy import Connection, Table, create_engine, insert, inspect
from tqdm import tqdm  # type: ignore[import-untyped]  # ships no types

from proxy.metadata.db import identity_tables, migrations, schema
from proxy.metadata.db.sqlite import sqlite_engine
from proxy.metadata.db.transaction import Registry, Transaction
from proxy.metadata.operations.accounts import bootstrap

ACCOUNT = "123456789012"
DEEP, TAGGED = "deep/app", "tagged/app"
BEFORE = "0006"  # the migration before the newest
NOW = 1_790_000_000.0
KIND = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
BATCH = 20_000  # rows of a table that are written together

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Size:
    repositories: int
    each: int
    deep: int
    tags: int

    @property
    def images(self) -> int:
        return self.repositories * self.each + self.deep + 1


SMALL = Size(200, 10, 200, 1000)


def name_of(number: int) -> str:
    return f"team-{number // 100:04}/app-{number:06}"


def tag_of(number: int) -> str:
    return f"v{number:07}"


def config_of(name: str, number: int) -> str:
    """The digest of an image's config."""
    return _digest(f"config {number} of {name}".encode())


def manifest_of(name: str, number: int, **more: Any) -> bytes:
    document = {
        "schemaVersion": 2,
        "mediaType": KIND,
        "config": {"mediaType": CONFIG, "digest": config_of(name, number), "size": 1000},
        "layers": [{"mediaType": LAYER, "digest": _layer_of(name), "size": 1000}],
        **more,
    }
    return json.dumps(document).encode()


def repositories(size: Size) -> Iterator[tuple[str, int]]:
    """(name, images) of each."""
    yield DEEP, size.deep
    yield TAGGED, 1
    for number in range(size.repositories):
        yield name_of(number), size.each


def fill(database: Path | str, size: Size, *, revision: str = schema.HEAD, quiet: bool = True) -> None:
    """Make the database at that revision, which must be empty, with an account that has no key yet; then the rows."""
    columns = _made(database, revision)
    batches: dict[Table, list[Row]] = {}
    opened = _Postgresql(database, columns) if isinstance(database, str) else _Sqlite(database, columns)
    with closing(opened), tqdm(total=size.images, unit=" images", desc="rows", disable=quiet) as bar:
        for table, row in _rows(size):
            batch = batches.setdefault(table, [])
            batch.append(row)
            bar.update(table is schema.images)
            if len(batch) == BATCH:
                opened.write(table, batch)
                batch.clear()
        for table, batch in batches.items():
            if batch:
                opened.write(table, batch)


def _made(database: Path | str, revision: str) -> Mapping[str, set[str]]:
    """The columns of each table that is there then."""
    engine = (
        create_engine(database.replace("postgresql:", "postgresql+psycopg:"))
        if isinstance(database, str)
        else sqlite_engine(database)
    )
    head = schema.HEAD
    with engine.connect() as connection:
        connection.info["writing"] = True
        try:
            schema.HEAD = revision
            migrations.upgrade(connection)
        finally:
            schema.HEAD = head
        if revision == head:
            bootstrap(Transaction(connection, NOW, Registry(account=ACCOUNT)), ACCOUNT)
        else:  # operations know the newest schema alone
            connection.execute(insert(identity_tables.accounts).values(account=ACCOUNT, created_at=NOW))
        found = _columns(connection)
        connection.commit()
    engine.dispose()
    return found


def _columns(connection: Connection) -> Mapping[str, set[str]]:
    looked = inspect(connection)
    return {table: {column["name"] for column in looked.get_columns(table)} for table in looked.get_table_names()}


class _Sqlite:
    def __init__(self, path: Path, columns: Mapping[str, set[str]]) -> None:
        self._columns = columns
        self._connection = sqlite3.connect(path, isolation_level=None)
        for pragma in ("journal_mode=OFF", "synchronous=OFF", "foreign_keys=OFF", "cache_size=-2000000"):
            self._connection.execute(f"PRAGMA {pragma}").close()
        self._connection.execute("BEGIN")  # one for all: pages of indexes are written once

    def write(self, table: Table, rows: Sequence[Row]) -> None:
        names = [name for name in rows[0] if name in self._columns[table.name]]
        marks = ", ".join("?" * len(names))
        statement = f"INSERT INTO {table.name} ({', '.join(names)}) VALUES ({marks})"  # noqa: S608 - the schema's own
        self._connection.executemany(statement, ([row[name] for name in names] for row in rows))

    def close(self) -> None:
        if "repositories" in self._columns["accounts"]:
            self._connection.execute("UPDATE accounts SET repositories = (SELECT count(*) FROM repositories)")
        self._connection.execute("COMMIT")
        self._connection.execute("PRAGMA journal_mode=WAL").close()
        self._connection.close()


class _Postgresql:
    def __init__(self, url: str, columns: Mapping[str, set[str]]) -> None:
        self._columns = columns
        self._connection = psycopg.connect(url, autocommit=True)
        self._connection.execute("SET session_replication_role = replica")  # no foreign key is looked up
        self._connection.execute("SET synchronous_commit = off")

    def write(self, table: Table, rows: Sequence[Row]) -> None:
        names = [name for name in rows[0] if name in self._columns[table.name]]
        statement = sql.SQL("COPY {} ({}) FROM STDIN").format(
            sql.Identifier(table.name), sql.SQL(", ").join(map(sql.Identifier, names))
        )
        with self._connection.cursor() as cursor, cursor.copy(statement) as copy:
            for row in rows:
                copy.write_row([row[name] for name in names])

    def close(self) -> None:
        """Sequences go on after the rows, and what autovacuum does within its minute is done."""
        if "repositories" in self._columns["accounts"]:
            self._connection.execute("UPDATE accounts SET repositories = (SELECT count(*) FROM repositories)")
        for table, column in (("repositories", "repository_id"), ("images", "image_id"), ("blobs", "blob_id")):
            self._connection.execute(
                sql.SQL("SELECT setval(pg_get_serial_sequence({}, {}), (SELECT max({}) FROM {}))").format(
                    table, column, sql.Identifier(column), sql.Identifier(table)
                )
            )
        self._connection.execute("VACUUM ANALYZE")
        self._connection.close()


def _rows(size: Size) -> Iterator[tuple[Table, Row]]:
    image_id = blob_id = 0
    for repository_id, (name, count) in enumerate(repositories(size), 1):
        yield schema.repositories, _repository(repository_id, name, count)
        blob_id += 1
        layer_id = blob_id
        yield from _blob(layer_id, _layer_of(name), repository_id, name, uses=count)
        for number in range(count):
            image_id, blob_id = image_id + 1, blob_id + 1
            yield from _blob(blob_id, config_of(name, number), repository_id, name, uses=1)
            tags = [tag_of(number)] if name != DEEP or number % 2 == 0 else []
            if name == TAGGED:
                tags = [tag_of(each) for each in range(size.tags)]
            content = manifest_of(name, number)
            digest = _digest(content)
            yield schema.manifest_bytes, {"digest": digest, "content": content, "images": 1}
            yield schema.images, _image(image_id, repository_id, digest, len(content), len(tags))
            for needed in (layer_id, blob_id):
                ids = {"image_id": image_id, "blob_id": needed, "repository_id": repository_id}
                yield schema.image_blobs, ids
            for tag in tags:
                yield (
                    schema.tags,
                    {"repository_id": repository_id, "name": tag, "image_id": image_id, "pushed_at": NOW},
                )


def _repository(repository_id: int, name: str, images: int) -> Row:
    return {
        "repository_id": repository_id,
        "account": ACCOUNT,
        "name": name,
        "created_at": NOW,
        "tag_mutability": "MUTABLE",
        "scan_on_push": False,
        "encryption_type": "AES256",
        "images": images,
    }


def _image(image_id: int, repository_id: int, digest: str, size: int, tags: int) -> Row:
    return {
        "image_id": image_id,
        "repository_id": repository_id,
        "digest": digest,
        "media_type": KIND,
        "kind": "image",
        "artifact_type": CONFIG,
        "manifest_size": size,
        "image_size": 31_000_000,
        "pushed_at": NOW + image_id / 1000,
        "tagged": int(tags > 0),
        "tags": tags,
    }


def _blob(blob_id: int, digest: str, repository_id: int, name: str, *, uses: int) -> Iterator[tuple[Table, Row]]:
    """A blob, its only segment and its only link."""
    key = hashlib.blake2b(digest.encode(), digest_size=16).hexdigest()  # as random as those of a push
    yield (
        schema.blobs,
        {
            "blob_id": blob_id,
            "account": ACCOUNT,
            "digest": digest,
            "size": 1000,
            "object_key": key,
            "stored_size": 1500,
            "segment_count": 1,
            "sealed_for": f"arn:aws:ecr:us-east-1:{ACCOUNT}:repository/{name}",
            "frame_length": 1 << 18,
            "sealing": "aes-gcm",
            "provider_id": "wharfage",
            "provider_info": b"0" * 40,
            "data_key": b"1" * 48,
            "links": 1,
            "touched_at": NOW,
            "created_at": NOW,
        },
    )
    yield (
        schema.segments,
        {
            "object_key": key,
            "plain_offset": 0,
            "stored_offset": 0,
            "plain_length": 1000,
            "stored_length": 1500,
            "header": b"2" * 300,
        },
    )
    yield (
        schema.blob_links,
        {"repository_id": repository_id, "blob_id": blob_id, "uses": uses, "touched_at": NOW},
    )


def _layer_of(name: str) -> str:
    return _digest(f"layer of {name}".encode())


def _digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"
