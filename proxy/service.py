"""The metadata service that the settings name: where it is, a client of it, and how long a start waits for it."""

from __future__ import annotations

import asyncio
import time

from proxy.metadata.client import MetadataClient
from proxy.metadata.contract import Metadata
from proxy.model.errors import Code, Failure
from proxy.process.datadir import DataDirectory
from proxy.settings import Config

METADATA_START_SECONDS = 60.0  # a migration of a large database takes its time


def metadata_address(config: Config, data: DataDirectory) -> str:
    """Where this configuration's metadata service is: the one it names, or this server's own."""
    return config.metadata.url or f"unix:{data.metadata_socket}"


def metadata_client(config: Config, data: DataDirectory) -> MetadataClient:
    """Made inside a running loop."""
    return MetadataClient(metadata_address(config, data), secret=config.metadata.secret or None)


async def wait_for_metadata(metadata: Metadata, stop: asyncio.Event) -> bool:
    """False when told to stop meanwhile."""
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
