"""The metadata services of the settings: their addresses, a client, and the wait for one at start. Called by `app`."""

from __future__ import annotations

import asyncio
import secrets
import socket
import ssl
import time
from functools import cache

from proxy.config.loader import ConfigError
from proxy.config.settings import Config
from proxy.metadata.client import addresses
from proxy.metadata.client.addresses import Address
from proxy.metadata.client.client import MetadataClient
from proxy.metadata.client.epochs import Epochs
from proxy.metadata.contract import Metadata
from proxy.model.errors import Code, Failure
from proxy.runtime.data_directory import DataDirectory

METADATA_START_SECONDS = 60.0  # a migration of a large database takes long


def metadata_addresses(config: Config, data: DataDirectory) -> tuple[Address, ...]:
    """The addresses of the metadata services: those in the settings, or this server's own. ConfigError."""
    url = config.metadata.url or f"unix:{data.metadata_socket}"
    return addresses.parse(url, trusted_authorities(config))


def metadata_client(config: Config, data: DataDirectory, page: Epochs | None = None) -> MetadataClient:
    """Call it inside a running loop. Of several services a process calls the one that its node's epoch page names, or
    without a page a random one, until it fails."""
    client = MetadataClient.connect(
        metadata_addresses(config, data), secret=config.metadata.secret or None, first=secrets.randbelow(2**16)
    )
    if page is not None:
        client.follow(page.service)
    return client


def node_name(config: Config) -> str:
    """This node's name for metadata services: its host name, and the port, which distinguishes servers of one host."""
    return f"{socket.gethostname()}:{config.server.listen.rpartition(':')[2]}"


def trusted_authorities(config: Config) -> ssl.SSLContext | None:
    """The TLS context for services and nodes with https addresses; None if there are none. ConfigError."""
    settings = config.metadata
    asked = (settings.url, settings.advertise, config.server.advertise)
    over_tls = settings.tls_cert or any("https:" in each for each in asked)
    return _trusted(settings.ca_bundle) if over_tls else None


@cache
def _trusted(ca_bundle: str) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=ca_bundle or None)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"[metadata] ca_bundle {ca_bundle}: cannot be used: {error}") from error


async def wait_for_metadata(metadata: Metadata, stop: asyncio.Event) -> bool:
    """Wait until a service answers. False if `stop` was set before."""
    deadline = time.monotonic() + METADATA_START_SECONDS
    stopping = asyncio.create_task(stop.wait())
    try:
        while True:
            asking = asyncio.create_task(metadata.ping())
            await asyncio.wait({asking, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if stopping.done():
                asking.cancel()
                await asyncio.gather(asking, return_exceptions=True)
                return False
            try:
                await asking
            except Failure as failure:
                if failure.code is not Code.METADATA_UNAVAILABLE or time.monotonic() > deadline:
                    raise
                await asyncio.sleep(0.1)  # a service without its database refuses at once
            else:
                return True
    finally:
        stopping.cancel()
