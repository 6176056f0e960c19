"""token and key export: reads credentials and the keys of stored data."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import ssl
import time
import urllib.request
from pathlib import Path

from proxy.admin.session import CommandRefused, existing, visiting
from proxy.app.context import WorkerContext
from proxy.auth import tokens
from proxy.blob.master_file import MasterKeys, as_json, new_key
from proxy.config.settings import Config
from proxy.runtime import data_directory
from proxy.runtime.data_directory import DataDirectory

ROTATE = "`wharfage credentials rotate` makes a new one"


def export_keys(config: Config) -> list[dict[str, str]]:
    """All master keys, the active first. `CommandRefused` if there are none yet."""
    data = existing(config)
    if config.keys.provider == "kms" and not os.path.lexists(data.master_keys):
        raise CommandRefused(
            "the keys of this registry are in KMS, which gives none away; any reader may ask it to Decrypt"
        )
    return MasterKeys.load(data.master_keys).export()


def fresh_key() -> dict[str, str]:
    """A new master key, in the format of a key file."""
    return as_json(new_key())


def save_key(config: Config) -> tuple[str, Path]:
    """A fresh key at the end of the key file, or in a new one: its name, and where that is. KeyFileError."""
    path = existing(config).master_keys
    if os.path.lexists(path):
        return MasterKeys.load(path).add().name, path
    return MasterKeys.load_or_create(path).active.name, path


def token(config: Config) -> str:
    """The administrator's password for `docker login`: asked of the running server like any client, else made here."""
    data = existing(config)
    key = administrator_key(config, data)
    if key is None:
        raise CommandRefused(
            f"{data.credentials} is not there; give WHARFAGE_ACCESS_KEY_ID and WHARFAGE_SECRET_ACCESS_KEY"
        )
    if data_directory.is_locked(data) and data.address.exists():
        with contextlib.suppress(OSError, ValueError):  # not answering, or not to be verified: then without it
            return _ask_for_token(config, data, key)

    async def run(own: WorkerContext) -> str:
        await own.agreement.begin(moving=True)
        found = await own.metadata.access_key(key[0])
        if found is None:
            raise CommandRefused(f"the access key {key[0]} of {data.credentials} is not known to this registry")
        issued, region, now = tokens.Tokens(own.agreement.sealer(tokens.PURPOSE)), config.registry.region, time.time()
        if found.expires is not None and now >= found.expires:
            raise CommandRefused(f"the access key {key[0]} is older than [identity] key_days allows: {ROTATE}")
        return issued.issue(found.principal, config.registry.account, region, now, None, found.access_key_id)[0]

    return asyncio.run(visiting(config, run))


def administrator_key(config: Config, data: DataDirectory) -> tuple[str, str] | None:
    """(access key id, secret): what the settings give, else the data directory's; None where it has none."""
    if config.keys.access_key_id:
        return config.keys.access_key_id, config.keys.secret_access_key
    return data_directory.read_credentials(data.credentials)


def _ask_for_token(config: Config, data: DataDirectory, key: tuple[str, str]) -> str:
    from botocore.auth import SigV4Auth  # loaded by this command only
    from botocore.awsrequest import AWSRequest
    from botocore.credentials import Credentials

    url = data.address.read_text()
    target = "AmazonEC2ContainerRegistry_V20150921.GetAuthorizationToken"
    headers = {"Content-Type": "application/x-amz-json-1.1", "X-Amz-Target": target}
    request = AWSRequest("POST", f"{url}/", data=b"{}", headers=headers)
    SigV4Auth(Credentials(*key), "ecr", config.registry.region).add_auth(request)
    context = None
    if url.startswith("https:"):
        ca = data.tls / "ca.crt"
        context = ssl.create_default_context(cafile=str(ca) if ca.exists() else config.server.tls_cert or None)
    asked = urllib.request.Request(request.url, data=b"{}", headers=dict(request.headers), method="POST")  # noqa: S310  # http(s), from our own file
    with urllib.request.urlopen(asked, timeout=10, context=context) as answer:  # noqa: S310
        found = json.load(answer)["authorizationData"][0]["authorizationToken"]
    return base64.b64decode(found).decode().partition(":")[2]
