"""Further accounts of a running server, each with an administrator whose key only the caller has.

Made as `wharfage account create` makes them: beside the server, with its master key, through its metadata socket.
"""

from __future__ import annotations

import asyncio

from harness.server import Server
from proxy.auth.envelope import SmallSealer
from proxy.auth.secrets import PURPOSE, seal_secret
from proxy.blob.masterfile import MasterKeys
from proxy.metadata.client import MetadataClient
from proxy.process.datadir import new_access_key

Key = tuple[str, str]


def open_account(server: Server, account: str) -> Key:
    """Access key id and secret of the new account's user `administrator`. Blocks."""
    key = new_access_key()
    masters = MasterKeys.load(server.data / "keys" / "master.json")
    sealed = seal_secret(SmallSealer(masters.derive(PURPOSE), PURPOSE), *key)

    async def create() -> None:
        metadata = MetadataClient(f"unix:{server.data}/run/metadata.sock")
        try:
            await metadata.create_account(account, key[0], sealed, "administrator")
        finally:
            await metadata.close()

    asyncio.run(create())
    return key
