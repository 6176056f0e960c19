"""Prepares a metadata service before it serves: the account, the active keys, an administrator's access key.

Promises: of services that start at once over one empty database, one makes the administrator's key, and its log names
the host that has the credentials; no crash leaves a key whose secret is lost; a key that the account's users deleted is
not made again, unless the settings give one. Called by `worker`. Must not know how rows are stored.
"""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

from proxy import observe
from proxy.app import keys as app_keys
from proxy.auth import secrets
from proxy.blob.key_consensus import KeyConsensus
from proxy.blob.master_file import MasterKeys
from proxy.config.settings import Config
from proxy.metadata.operations.accounts import Bootstrapped
from proxy.metadata.service.service import Service
from proxy.model.errors import Failure
from proxy.runtime import data_directory
from proxy.runtime.data_directory import DataDirectory


async def first_start(config: Config, data: DataDirectory, masters: MasterKeys | None, service: Service) -> None:
    """Create, if missing, the account, the keys that all processes agree on, and an administrator with a key."""
    account = config.registry.account
    made = await service.bootstrap(account)
    if config.keys.provider == "kms" and made.settled and not config.keys.access_key_id:
        return  # nothing to seal, and no local key that could differ: rows are served also while KMS is unreachable
    async with app_keys.open_keys(config, masters, service) as keys:
        try:
            await keys.agreement.begin(moving=True)
        except Failure as failure:
            if "unavailable" not in failure.fields or not made.settled:
                raise
            observe.log.warning(
                "KMS does not answer: rows are served, keys are looked at by the workers", reason=failure.message
            )
            return
        await _administrator(config, data, keys.agreement, service, made)


async def _administrator(
    config: Config, data: DataDirectory, agreement: KeyConsensus, service: Service, found: Bootstrapped
) -> None:
    """Use the key in the settings; else what the database has, even if that is no key any more; else the one in the
    credentials file, which is written before the row, so that no crash leaves a key whose secret is lost. Of services
    that start at once, one makes it."""
    account, host = config.registry.account, socket.gethostname()
    given = (config.keys.access_key_id, config.keys.secret_access_key) if config.keys.access_key_id else None
    if given is None and found.settled:
        await asyncio.to_thread(_warn_of_useless_credentials, data.credentials, found.access_key_ids)
        return
    key, fresh = (given, False) if given else await asyncio.to_thread(_credentials, data.credentials)
    sealed = secrets.seal_secret(agreement.sealer(secrets.PURPOSE), *key)
    now = await service.bootstrap(account, access_key_id=key[0], sealed_secret=sealed, replaces=given is not None)
    if given:
        if now.recovered:
            observe.log.warning(
                "the settings give an administrator's key: its user is an administrator again",
                given_back=now.recovered,
                access_key_id=key[0],
                host=host,
            )
        if found.access_key_ids not in ((), now.access_key_ids):
            observe.log.warning(
                "the administrator's key that was in force is void: the settings give another one",
                void=found.access_key_ids,
                access_key_id=key[0],
                host=host,
            )
    elif key[0] in now.access_key_ids:
        observe.log.warning(  # every service starts at once somewhere; this line says where the credentials are
            "the administrator's key was made: its credentials are on this host only",
            access_key_id=key[0],
            file=str(data.credentials),
            host=host,
        )
    else:
        if fresh:
            await asyncio.to_thread(data.credentials.unlink, missing_ok=True)
        observe.log.warning(
            "another service made the administrator's key at the same moment: its log says on which host it is",
            access_key_id=now.access_key_ids,
            host=host,
        )


def _credentials(path: Path) -> tuple[tuple[str, str], bool]:
    """The administrator's key of this machine, and whether it was made just now."""
    found = data_directory.read_credentials(path)
    if found is not None:
        return found, False
    made = data_directory.new_access_key()
    data_directory.write_credentials(path, *made)
    return made, True


def _warn_of_useless_credentials(path: Path, in_force: tuple[str, ...]) -> None:
    found = data_directory.read_credentials(path)
    if found is not None and found[0] not in in_force:
        observe.log.warning(
            "the credentials here are of no use: their key is not in force",
            file=str(path),
            in_force=in_force,
        )
