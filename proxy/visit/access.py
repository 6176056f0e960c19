"""token and key export: what opens the registry, or what lies in it."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import ssl
import time
import urllib.request

from proxy import server
from proxy.auth import tokens
from proxy.blob.keys import MasterKeys
from proxy.process import datadir
from proxy.process.datadir import DataDirectory
from proxy.settings import Config
from proxy.visit.visiting import CannotVisit, existing, visiting


def export_keys(config: Config) -> list[dict[str, str]]:
    """All master keys, the active first. `CannotVisit` if there are none yet."""
    data = existing(config)
    return MasterKeys.load_or_create(data.master_keys).export()


def token(config: Config) -> str:
    """The administrator's password for `docker login`: asked of the running server like any client, else made here."""
    data = existing(config)
    key = _administrator(config, data)
    if key is None:
        raise CannotVisit(
            f"{data.credentials} is not there; give WHARFAGE_ACCESS_KEY_ID and WHARFAGE_SECRET_ACCESS_KEY"
        )
    if datadir.is_held(data) and data.address.exists():
        with contextlib.suppress(OSError, ValueError):  # not answering, or not to be verified: then without it
            return _ask_for_token(config, data, key)

    async def run(own: server.Rooms, masters: MasterKeys) -> str:
        found = await own.metadata.access_key(key[0])
        if found is None:
            raise CannotVisit(f"the access key {key[0]} of {data.credentials} is not known to this registry")
        issued = tokens.Tokens(server.sealer(masters, tokens.PURPOSE))
        return issued.issue(found.principal, config.registry.account, config.registry.region, time.time())[0]

    return asyncio.run(visiting(config, run))


def _administrator(config: Config, data: DataDirectory) -> tuple[str, str] | None:
    if config.keys.access_key_id:
        return config.keys.access_key_id, config.keys.secret_access_key
    return datadir.read_credentials(data.credentials)


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
