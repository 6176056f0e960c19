"""Opens store, keys and metadata from the settings, for `worker` and for the commands of `admin`."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from proxy.app import keys as app_keys
from proxy.app.metadata import metadata_client
from proxy.app.stores import make_links, make_store
from proxy.blob.buffers import PULL_BYTES, BufferPool
from proxy.blob.key_consensus import KeyConsensus
from proxy.blob.keys import DataKeys
from proxy.blob.master_file import MasterKeys
from proxy.config.settings import Config
from proxy.metadata.client.cache import CachedMetadata
from proxy.metadata.client.epochs import Epochs
from proxy.metadata.contract import Metadata
from proxy.runtime.data_directory import DataDirectory
from proxy.storage.base import ObjectStore, SignedLinks


@dataclass(frozen=True, slots=True)
class WorkerContext:
    """One process's store, keys and metadata client; `run` is a folder of this run only. `epochs` is None in commands,
    which cache nothing."""

    store: ObjectStore
    keys: DataKeys
    agreement: KeyConsensus
    metadata: Metadata
    pool: BufferPool
    run: Path
    links: SignedLinks | None = None
    epochs: Epochs | None = None


@contextlib.asynccontextmanager
async def open_context(
    config: Config,
    data: DataDirectory,
    masters: MasterKeys | None,
    *,
    epochs: Epochs | None = None,
    fills_cache: bool = True,
) -> AsyncIterator[WorkerContext]:
    """Store, keys and metadata for a `with` block; with `epochs`, reads of metadata are cached.
    `fills_cache` as in `make_store`."""
    client = metadata_client(config, data, epochs)
    store = await make_store(config, data, client, fills_cache=fills_cache)
    cached = CachedMetadata.wrap(client, epochs)
    links = make_links(config)
    try:
        async with app_keys.open_keys(config, masters, cached) as keys:
            yield WorkerContext(
                store, keys.data, keys.agreement, cached, BufferPool(read_bytes=PULL_BYTES), data.run, links, epochs
            )
    finally:
        await client.close()
        if links is not None:
            await links.close()
        await store.close()
