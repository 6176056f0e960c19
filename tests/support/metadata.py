"""A metadata service with a clock of its own, and pushes made short, for the tests of that room.

`SERVICES` is where another database joins: a factory that starts a service in an empty folder. `CLIENTS` says how it is
asked. The contract's tests run on every pair and their ids name both.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import tempfile
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import count, cycle
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, create_engine, insert, select

from proxy.metadata.client.cache import CachedMetadata
from proxy.metadata.client.client import MetadataClient
from proxy.metadata.client.epochs import Epochs
from proxy.metadata.contract import Metadata
from proxy.metadata.db import migrations
from proxy.metadata.db.columns import metadata as tables
from proxy.metadata.db.schema import blobs
from proxy.metadata.db.sqlite import SqliteDatabase
from proxy.metadata.db.transaction import Registry
from proxy.metadata.operations.accounts import Bootstrapped
from proxy.metadata.service.service import Service, start_service
from proxy.model.records import Blob, CreateOnPush, EncryptedDataKey, PushedManifest, Sealing, Segment, Upload
from support import postgresql

ACCOUNT = "123456789012"
REPOSITORY = "team/app"
DATA_KEY = EncryptedDataKey("raw", b"key-1", b"wrapped")
IMAGE = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"


@dataclass
class Clock:
    now: float = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


async def sqlite_service(folder: Path, clock: Clock, registry: Registry | None = None) -> Service:
    await asyncio.to_thread(_make_migrated, folder / "m.db")
    return await start_service(
        database=folder / "m.db",
        listen=f"unix:{folder}/m.sock",
        epochs=folder / "epochs",
        clock=clock,
        registry=registry,
    )


async def postgresql_service(folder: Path, clock: Clock, registry: Registry | None = None) -> Service:
    """Two over one database, since that is what PostgreSQL is for; clients ask them by turns. Closing one closes both.

    The page that clients read is the first's.
    """
    url = await asyncio.to_thread(_migrated_postgresql, folder)
    first, second = [
        await start_service(
            database=url,
            listen=f"unix:{folder}/{name}.sock",
            epochs=folder / page,
            database_time=clock,
            registry=registry,
            shutdown_seconds=1.0,
        )
        for name, page in (("m", "epochs"), ("second", "second-epochs"))
    ]
    close_first = first.close

    async def close() -> None:
        await second.close()
        await close_first()

    first.close = close  # type: ignore[method-assign]  # this one's own end, nobody else's
    return first


def _make_migrated(path: Path) -> None:
    if not path.exists():
        path.touch(mode=0o600)
        path.write_bytes(_migrated_file())


@cache
def _migrated_file() -> bytes:
    """A fresh SQLite database: what a migration makes in a tenth of a second, thousands of times in a run."""
    with tempfile.TemporaryDirectory() as folder:
        SqliteDatabase(Path(folder) / "m.db").close()
        return (Path(folder) / "m.db").read_bytes()


def postgresql_database(folder: Path) -> str:
    """The URL of the database that belongs to a test's folder, empty at first."""
    if folder not in _lent and folder not in _own:
        _own[folder] = postgresql.shared().database(hashlib.sha256(str(folder).encode()).hexdigest()[:32])
    return _lent.get(folder) or _own[folder]


def _migrated_postgresql(folder: Path) -> str:
    """The same with its schema in it: one that an earlier test has left, or a copy."""
    if folder not in _lent and folder not in _own:
        cluster = postgresql.shared()
        _lent[folder] = (
            _free.pop() if _free else cluster.database(f"world-{next(_NUMBERS)}", _migrated_database(cluster.port))
        )
    return postgresql_database(folder)


_own: dict[Path, str] = {}
_lent: dict[Path, str] = {}
_free: list[str] = []


def return_databases(folder: Path) -> None:
    """Whatever was lent to a test in this folder and below is free for the next one, if nobody is in it any more."""
    for each in [each for each in _lent if each.is_relative_to(folder)]:
        url = _lent.pop(each)
        if postgresql.empty(url):
            _free.append(url)


@cache
def _migrated_database(port: int) -> str:
    """The name of one that nobody is connected to, on the server at `port`."""
    name = "migrated"
    engine = create_engine(postgresql.shared().database(name).replace("postgresql:", "postgresql+psycopg:"))
    with engine.connect() as connection:
        migrations.upgrade(connection)
        connection.commit()
    engine.dispose()
    return name


SERVICES: dict[str, Callable[..., Awaitable[Service]]] = {
    "sqlite": sqlite_service,
    "postgresql": postgresql_service,
}
NEEDS = {"sqlite": (), "postgresql": (postgresql.PROGRAM,)}


WORLDS = tuple(f"{service}-{client}" for service in SERVICES for client in ("client", "cached"))
"""Each service asked by each client (`CLIENTS`): what a contract is held by."""


def on_each_service(worlds: Iterable[str] = tuple(SERVICES)) -> list[Any]:
    """Parameters for a fixture: each service's name, or each of `WORLDS`, marked by what it needs."""
    return [
        pytest.param(each, marks=[pytest.mark.needs(program) for program in NEEDS[each.partition("-")[0]]])
        for each in worlds
    ]


class ByTurns:
    """A `Metadata` whose calls go to the given ones by turns."""

    def __init__(self, clients: Sequence[Metadata]) -> None:
        self._clients = clients
        self._turns = cycle(clients)

    def __getattr__(self, name: str) -> Any:
        async def ask(*arguments: Any, **named: Any) -> Any:
            return await getattr(next(self._turns), name)(*arguments, **named)

        return ask

    def now(self) -> float:
        return max(client.now() for client in self._clients)

    async def close(self) -> None:
        for client in self._clients:
            await client.close()


async def plain_client(folder: Path) -> Metadata:
    sockets = [folder / f"{name}.sock" for name in ("m", "second")]
    there = await asyncio.to_thread(lambda: [path for path in sockets if path.exists()])
    clients = [MetadataClient.connect(f"unix:{path}", patience=2.0) for path in there or sockets[:1]]
    return ByTurns(clients) if len(clients) > 1 else clients[0]


async def cached_client(folder: Path) -> Metadata:
    return CachedMetadata.wrap(await plain_client(folder), await asyncio.to_thread(Epochs, folder / "epochs"))


CLIENTS: dict[str, Callable[[Path], Awaitable[Metadata]]] = {"client": plain_client, "cached": cached_client}


_NUMBERS = count(1)  # object keys, unique over all worlds of a test


@dataclass
class World:
    """A service and one client of it, with the few steps that most tests begin with."""

    metadata: Metadata
    service: Service | None = None
    clock: Clock = field(default_factory=Clock)

    async def bootstrap(self, **key: Any) -> Bootstrapped:
        assert self.service is not None
        return await self.service.bootstrap(ACCOUNT, **key)

    def object_key(self) -> str:
        return f"{next(_NUMBERS):032x}"

    async def begin(
        self,
        repository: str = REPOSITORY,
        *,
        create: bool | CreateOnPush = True,
        sealing: Sealing = Sealing.AES_GCM,
        in_parts: bool = False,
        opened_by: str = "",
    ) -> Upload:
        return await self.metadata.begin_upload(
            ACCOUNT,
            repository,
            algorithm="sha256",
            object_key=self.object_key(),
            data_key=DATA_KEY,
            sealed_for=f"arn:aws:ecr:us-east-1:{ACCOUNT}:repository/{repository}",
            frame_length=1 << 18,
            create=_rule(create),
            sealing=sealing,
            in_parts=in_parts,
            opened_by=opened_by,
        )

    async def lease(self, upload: Upload, seconds: float = 30.0) -> Upload:
        return await self.metadata.lease_upload(ACCOUNT, upload.repository, upload.upload_id, seconds=seconds)

    async def commit(self, name: str, repository: str = REPOSITORY, size: int = 10) -> tuple[Blob, str | None]:
        """One whole upload of a blob whose digest is that of `name`."""
        leased = await self.lease(await self.begin(repository))
        return await self.metadata.commit_upload(
            leased.upload_id, leased.fence, digest=digest(name), segment=append(0, size), hash_state=b"state"
        )

    async def image(
        self,
        name: str,
        tags: Sequence[str] = (),
        repository: str = REPOSITORY,
        *,
        layers: Sequence[str] | None = None,
        **more: Any,
    ) -> PushedManifest:
        """An image with its config and one layer (or `layers`, by name), blobs pushed first."""
        config, layer_names = f"{name}-config", [f"{name}-layer"] if layers is None else list(layers)
        for blob in (config, *layer_names):
            await self.commit(blob, repository)
        return await self.put(image_manifest(config, layer_names, **more), tags, repository)

    async def put(
        self,
        content: bytes,
        tags: Sequence[str] = (),
        repository: str = REPOSITORY,
        *,
        create: bool | CreateOnPush = False,
    ) -> PushedManifest:
        return await self.metadata.put_manifest(
            ACCOUNT,
            repository,
            content=content,
            media_type=json.loads(content).get("mediaType"),
            digest=digest(content),
            tags=tags,
            create=_rule(create),
        )

    async def call(self, operation: str, **parameters: Any) -> dict[str, Any]:
        return await self.metadata.call(ACCOUNT, operation, parameters)


def _rule(create: bool | CreateOnPush) -> CreateOnPush:
    if isinstance(create, CreateOnPush):
        return create
    return CreateOnPush.YES if create else CreateOnPush.NO


def fill(connection: Connection) -> None:
    """A row in each table that has none yet, about what is there where it is about something."""
    about = connection.execute(select(blobs.c.object_key).limit(1)).scalar_one()
    samples = {str: "x", int: 1, float: 1.0, bytes: b"x", bool: True}
    for table in tables.sorted_tables:
        if connection.execute(select(table).limit(1)).first() is None:
            row = {column.name: samples[column.type.python_type] for column in table.columns}
            for key in table.foreign_keys:
                row[key.parent.name] = connection.execute(select(key.column).limit(1)).scalar_one()
            connection.execute(insert(table).values(row | ({"object_key": about} if "object_key" in row else {})))


def digest(content: str | bytes) -> str:
    data = content.encode() if isinstance(content, str) else content
    return "sha256:" + hashlib.sha256(data).hexdigest()


def append(offset: int, length: int, stored_offset: int | None = None) -> Segment:
    """A message that stores 100 bytes beyond its plaintext."""
    stored = offset if stored_offset is None else stored_offset
    return Segment(offset, length, stored, length + 100, b"header")


def plain_append(offset: int, length: int) -> Segment:
    """Bytes that are stored as they are."""
    return Segment(offset, length, offset, length, b"")


def image_manifest(config: str, layers: Sequence[str], size: int = 10, **more: Any) -> bytes:
    document = {
        "schemaVersion": 2,
        "mediaType": IMAGE,
        "config": {"mediaType": CONFIG, "digest": digest(config), "size": size},
        "layers": [{"mediaType": LAYER, "digest": digest(layer), "size": size} for layer in layers],
        **more,
    }
    return json.dumps(document).encode()


def index_manifest(children: Sequence[str], **more: Any) -> bytes:
    entries = [{"mediaType": IMAGE, "digest": child, "size": 500} for child in children]
    return json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": entries, **more}).encode()
