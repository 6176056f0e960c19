"""Opens the keys of the settings: the key file, AWS KMS, or both; creates or refuses the file, and loads KMS's client.

The only place that chooses between the providers. Called by `processes`, `bootstrap`, `context` and `admin`. Must not
know what is wrapped or sealed.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from proxy.blob.key_consensus import KeyConsensus, KeyRecords
from proxy.blob.keys import DataKeys, Providers
from proxy.blob.local_keys import LocalKeys
from proxy.blob.master_file import KeyFileError, MasterKeys
from proxy.config.settings import Config
from proxy.model.names import repository_arn
from proxy.runtime.data_directory import DataDirectory

if TYPE_CHECKING:
    from proxy.blob.kms_keys import KmsKeys

REGISTRY_SECRET = "_registry-secret"  # noqa: S105  # no repository can have this name: context of the registry secret


@dataclass(frozen=True, slots=True)
class KeyServices:
    """`data` wraps the data keys of blobs, `agreement` seals small values."""

    data: DataKeys
    agreement: KeyConsensus


def master_keys(config: Config, data: DataDirectory) -> MasterKeys | None:
    """The key file, created at the first start; None if KMS is used without one. KeyFileError. Blocks.

    A file is never created if the metadata service is elsewhere, under KMS, or if the rows need another key already.
    """
    if os.path.lexists(data.master_keys):
        return MasterKeys.load(data.master_keys)
    if config.keys.provider == "kms":
        return None
    if not config.metadata.url and not _are_under_a_key(config, data):
        return MasterKeys.load_or_create(data.master_keys)
    raise KeyFileError(
        f"{data.master_keys} is not there, and this registry has keys already: copy that file from a node that serves "
        'or a backup, mount it ([keys] file), or use [keys] provider = "kms" as the other nodes do; to go back from '
        "KMS to a key file, make one with `wharfage key new --save`"
    )


def preload(config: Config) -> None:
    """Load what only KMS needs, before a fork: its client and its model (0.3 s, 30 MB)."""
    if config.keys.key_id:
        from proxy.blob import kms

        kms.load()


@contextlib.asynccontextmanager
async def open_keys(config: Config, masters: MasterKeys | None, records: KeyRecords) -> AsyncIterator[KeyServices]:
    """The keys, for a `with` block inside a running loop. Nothing is called yet: see `KeyConsensus.begin`."""
    context = repository_arn(config.registry.region, config.registry.account, REGISTRY_SECRET)
    seconds = config.keys.cache_seconds
    local = LocalKeys(masters, cache_seconds=seconds) if masters is not None else None
    kms = _kms(config, context) if config.keys.key_id else None
    prefers_kms = config.keys.provider == "kms"
    in_force = kms if prefers_kms else local
    if in_force is None:
        raise KeyFileError("there is neither a key file nor a KMS key to wrap with")
    agreement = KeyConsensus(
        records, masters=masters, kms=kms, prefers_kms=prefers_kms, sealed_for=context, node=socket.gethostname()
    )
    try:
        yield KeyServices(Providers(in_force, local=local, kms=kms), agreement)
    finally:
        if kms is not None:
            await kms.close()


def _kms(config: Config, context: str) -> KmsKeys:
    from proxy.blob.kms import Kms, KmsEndpoint  # loaded by those who use it
    from proxy.blob.kms_keys import KmsKeys

    keys = config.keys
    of_arn = re.match(r"arn:[^:]*:kms:([^:]+):", keys.key_id)
    endpoint = KmsEndpoint(
        key_id=keys.key_id,
        region=keys.region or (of_arn[1] if of_arn else config.registry.region),
        endpoint=keys.endpoint,
        access_key_id=keys.kms_access_key_id,
        secret_access_key=keys.kms_secret_access_key,
    )
    return KmsKeys(Kms(endpoint), context, cache_seconds=keys.cache_seconds)


def _are_under_a_key(config: Config, data: DataDirectory) -> bool:
    """Whether existing rows need a key that is missing here: a data directory without its keys, or a stand-by."""
    if config.metadata.database:
        from proxy.metadata.db.postgresql import holds_keys  # the driver is loaded by those who use it

        return holds_keys(config.metadata.database)
    return data.database.exists()
