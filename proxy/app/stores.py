"""Builds the object store of the settings, claims it by its marker, and loads its client before a fork.

The only place that chooses between the stores. Called by `processes`, `context`, `worker` and `admin`. Must not know
what is stored in one.
"""

from __future__ import annotations

import asyncio
import dataclasses
import os
from pathlib import Path
from typing import TYPE_CHECKING

from proxy.app.metadata import metadata_client, wait_for_metadata
from proxy.config.archive_settings import ArchiveSettings
from proxy.config.settings import Config
from proxy.metadata.archive_contract import ArchivePort
from proxy.metadata.client.client import MetadataClient
from proxy.model.errors import Code, Failure
from proxy.model.open_objects import OpenObjects
from proxy.runtime.data_directory import DataDirectory
from proxy.storage import marker
from proxy.storage.base import ObjectStore
from proxy.storage.filesystem.store import FilesystemStore
from proxy.storage.null_open_objects import NullOpenObjects
from proxy.storage.tiered import TieredStore

if TYPE_CHECKING:
    from proxy.storage.s3.bucket import S3Location
    from proxy.storage.s3.conditions import Conditions
    from proxy.storage.s3.signed_urls import S3Links


def claim_store(config: Config, data: DataDirectory) -> str:
    """Mark the store with an id at the first start, check it at later ones. Returns the id. Failure StoreUnavailable if
    it is another store.

    Blocks: for the parent, before it forks. Calls a remote metadata service to see if it has rows already."""

    def first() -> bool:
        if config.metadata.url:
            return asyncio.run(_has_no_blob(config, data))
        if config.metadata.database:
            from proxy.metadata.db.postgresql import holds_blobs  # the driver is loaded by those who use it

            return not holds_blobs(config.metadata.database)
        return not data.database.exists()

    if config.storage.backend == "filesystem":
        return marker.claim(data.objects, data.store_id, first=first)
    else:
        from proxy.storage.s3 import marker as s3_marker  # loaded by those who want it

        store_id = s3_marker.claim(_s3_location(config), config.storage.prefix, data.store_id, first=first)
        _learn_conditions(config, data)
        return store_id


def adopt_store(config: Config, data: DataDirectory, store_id: str) -> None:
    """Accept the configured store as the one with that id, or a copy of it; as `marker.adopt`. Blocks."""
    if config.storage.backend == "filesystem":
        marker.adopt(data.objects, store_id)
    else:
        from proxy.storage.s3 import marker as s3_marker  # loaded by those who want it

        s3_marker.adopt(_s3_location(config), config.storage.prefix, store_id)
        _learn_conditions(config, data)


def _learn_conditions(config: Config, data: DataDirectory) -> None:
    from proxy.storage.s3.conditions_probe import learn_conditions  # loaded by those who want it

    learn_conditions(_s3_location(config), config.storage.prefix, data.store_conditions)


def known_conditions(config: Config, data: DataDirectory) -> Conditions | None:
    """Which conditional requests the S3 store supports, as `claim_store` recorded it; None if that is unknown.
    Blocks."""
    from proxy.storage.s3.conditions import read_conditions  # loaded by those who want it
    from proxy.storage.s3.conditions_probe import describe

    return read_conditions(data.store_conditions, describe(_s3_location(config), config.storage.prefix))


async def _has_no_blob(config: Config, data: DataDirectory) -> bool:
    client = metadata_client(config, data)
    try:
        await wait_for_metadata(client, asyncio.Event())
        return not await client.objects(after="", limit=1)
    finally:
        await client.close()


def preload(config: Config) -> None:
    """Load what only some settings need, before a fork: the S3 client and its model (0.3 s, 30 MB)."""
    if config.storage.backend == "s3":
        from proxy.storage.s3 import bucket

        bucket.load()
    if config.events.sqs_queues:
        from proxy.storage.s3 import retries  # noqa: F401  # targets of events ask SQS by its clients
    if has_cache(config):
        from proxy.storage.cache import store as cache_store  # noqa: F401  # loaded by those who want it


def has_cache(config: Config) -> bool:
    return config.storage.backend == "s3" and config.cache.mib > 0


async def make_store(
    config: Config, data: DataDirectory, client: MetadataClient, *, fills_cache: bool = True
) -> ObjectStore:
    """The store for protocols and jobs: uploads can pause, with S3's state kept by `client`. With the archive, if any.

    It is behind this machine's cache if there is one. Without `fills_cache` the cache is neither read nor filled, but
    deletions still remove entries. The archive is read without the cache."""
    store = await _pausing_store(config, data, client)
    if has_cache(config):
        from proxy.storage.cache.store import CachedStore  # loaded by those who want it

        store = CachedStore(store, data.cache, config.cache.mib * 2**20, fills=fills_cache)
    archive = await asyncio.to_thread(make_archive, config, data)
    return store if archive is None else TieredStore(store, archive)


def make_archive(config: Config, data: DataDirectory) -> ObjectStore | None:
    """The store of `[archive]`, where each object is copied and finished in one step; None if not set. Blocks."""
    if not config.archive.names_a_place:
        return None
    store_id = marker.known_id(data.store_id)
    if config.archive.path:
        return FilesystemStore(_archive_folder(config), store_id=store_id, drafts=True)
    # The conditions of the store apply to every bucket.
    return _bucket_store(
        config, NullOpenObjects(), store_id, known_conditions(config, data), stall_seconds=1e6, archive=config.archive
    )


async def claim_archive(config: Config, data: DataDirectory, rows: ArchivePort) -> None:
    """Mark the store of `[archive]` if it is empty and no row names an archived object; else check its marker.

    Failure StoreUnavailable if it is another one, or is not configured while rows need it."""
    store_id = await asyncio.to_thread(marker.known_id, data.store_id)
    if not config.archive.names_a_place:
        if await _any_archived(rows):
            raise Failure(
                Code.STORE_UNAVAILABLE,
                "rows name layers in an archive, and [archive] names no place",
                hint="name it as before: its layers cannot be read without",
            )
        return
    if store_id is None:
        return  # nothing has begun here yet
    if not await asyncio.to_thread(_is_archive, config, store_id):
        if await _any_archived(rows):
            where = config.archive.path or f"{config.archive.bucket}/{config.archive.prefix}"
            raise marker.wrong_store(f"is the place of [archive] mounted, and the right one, {where}?", None)
        await asyncio.to_thread(adopt_archive, config, store_id)


def adopt_archive(config: Config, store_id: str) -> None:
    """Accept the store of `[archive]` as that of the registry with that store id; as `marker.adopt`. Blocks."""
    if config.archive.path:
        marker.adopt(_archive_folder(config), store_id)
    else:
        from proxy.storage.s3 import marker as s3_marker  # loaded by those who want it

        s3_marker.adopt(_archive_location(config), config.archive.prefix, store_id)


def _is_archive(config: Config, store_id: str) -> bool:
    """Whether the archive's marker has that id."""
    if config.archive.path:
        return marker.known_id(_archive_folder(config) / marker.NAME) == store_id
    from proxy.storage.s3 import marker as s3_marker  # loaded by those who want it

    return s3_marker.find(_archive_location(config), config.archive.prefix) == store_id


async def _any_archived(rows: ArchivePort) -> bool:
    try:
        return await rows.any_archived()
    except Failure as failure:
        if failure.code is Code.UNKNOWN_OPERATION:  # a service of an earlier release has none
            return False
        raise


def _archive_folder(config: Config) -> Path:
    return Path(config.archive.path).absolute()


def _archive_location(config: Config) -> S3Location:
    return dataclasses.replace(_s3_location(config), bucket=config.archive.bucket)


async def _pausing_store(config: Config, data: DataDirectory, client: MetadataClient) -> ObjectStore:
    store_id = await asyncio.to_thread(marker.known_id, data.store_id)
    if config.storage.backend == "filesystem":
        return FilesystemStore(data.objects, store_id=store_id)
    conditions = await asyncio.to_thread(known_conditions, config, data)
    return _bucket_store(config, client, store_id, conditions)


def part_buffer_bytes(config: Config) -> int:
    """A worker's even share of `buffers_mib`. At least two parts: one is sent while another fills."""
    storage, workers = config.storage, config.server.workers or len(os.sched_getaffinity(0))
    return max(storage.buffers_mib // workers, 2 * storage.part_mib) * 2**20


def make_unpaused_store(config: Config, data: DataDirectory, store_id: str) -> ObjectStore:
    """The store for copies that finish each object in one step: it calls no metadata service."""
    if config.storage.backend == "filesystem":
        return FilesystemStore(data.objects, store_id=store_id, drafts=True)
    return _bucket_store(config, NullOpenObjects(), store_id, known_conditions(config, data), stall_seconds=1e6)


def _bucket_store(
    config: Config,
    open_objects: OpenObjects,
    store_id: str | None,
    conditions: Conditions | None,
    *,
    stall_seconds: float = 5.0,
    archive: ArchiveSettings | None = None,
) -> ObjectStore:
    """The bucket of `[storage]`, or of `[archive]`."""
    from proxy.storage.s3.bucket import Bucket, load  # loaded by those who want it
    from proxy.storage.s3.conditions import Conditions
    from proxy.storage.s3.store import S3Store

    storage = config.storage
    return S3Store(
        Bucket(
            _s3_location(config) if archive is None else _archive_location(config),
            conditions=conditions or Conditions(),
            session=load(),
            storage_class="" if archive is None else archive.storage_class,
        ),
        open_objects,
        prefix=storage.prefix if archive is None else archive.prefix,
        store_id=store_id,
        part_size=storage.part_mib * 2**20,
        buffer_bytes=part_buffer_bytes(config) if archive is None else 2 * storage.part_mib * 2**20,
        checksum=storage.checksum,
        stall_seconds=stall_seconds,
    )


def make_links(config: Config) -> S3Links | None:
    """Signs the links for `[storage] redirect`; None without it."""
    storage = config.storage
    if not storage.redirect:
        return None
    from proxy.storage.s3.bucket import load  # loaded by those who want it
    from proxy.storage.s3.signed_urls import S3Links

    location = _s3_location(config)
    public = dataclasses.replace(location, endpoint=storage.public_endpoint or location.endpoint)
    return S3Links(public, prefix=storage.prefix, session=load())


def _s3_location(config: Config) -> S3Location:
    from proxy.storage.s3.bucket import S3Location  # loaded by those who want it

    storage = config.storage
    return S3Location(
        bucket=storage.bucket,
        endpoint=storage.endpoint,
        region=storage.region,
        access_key_id=storage.access_key_id,
        secret_access_key=storage.secret_access_key,
        addressing=storage.addressing,
        ca_bundle=storage.ca_bundle,
    )
