"""A whole registry in this process: the real doors, journeys, sealing, store and HTTP; on the loopback, for one test.

Metadata is the real service over its socket and the store the filesystem's, or whatever is given; both can be wrapped
(`fakes/faulty.py`).
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import socket
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from proxy.auth import tokens
from proxy.auth.envelope import SmallSealer
from proxy.auth.identity import Identity
from proxy.blob.buffers import BufferPool
from proxy.blob.format import FRAME_LENGTH
from proxy.blob.localkeys import LocalKeys
from proxy.blob.masterfile import MasterKeys
from proxy.metadata.client import MetadataClient
from proxy.metadata.service import start_service
from proxy.model.records import Sealing
from proxy.oci import routes
from proxy.process.http import HttpServer, Limits
from proxy.registry.blobs import Blobs
from proxy.registry.images import Images
from proxy.registry.uploads import Uploads
from proxy.storage.base import SignedLinks
from proxy.storage.filesystem import FilesystemStore

ACCOUNT = "123456789012"
REGION = "us-east-1"


@dataclass
class WholeRegistry:
    address: str
    password: str
    metadata: Any
    store: Any
    pool: BufferPool
    uploads: Uploads
    blobs: Blobs
    images: Images
    tokens: tokens.Tokens
    server: HttpServer

    @property
    def url(self) -> str:
        return f"http://{self.address}"

    @property
    def authorization(self) -> str:
        return "Basic " + base64.b64encode(f"AWS:{self.password}".encode()).decode()

    def client(self) -> aiohttp.ClientSession:
        """A session that authenticates and follows nothing by itself."""
        return aiohttp.ClientSession(self.url, headers={"Authorization": self.authorization})

    async def quiet(self) -> None:
        """Return once no request runs and no buffer is lent: what a client that left had begun is over."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + 10
        while self.pool.lent or any(connection._current_request for connection in self.server.connections):
            assert loop.time() < deadline, f"a request still runs, {self.pool.lent} buffers are lent"
            await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def whole_registry(
    folder: Path,
    *,
    metadata: Any = None,
    store: Any = None,
    wrap_metadata: Callable[[Any], Any] = lambda metadata: metadata,
    wrap_store: Callable[[Any], Any] = lambda store: store,
    frame_length: int = FRAME_LENGTH,
    create_on_push: bool = True,
    stall_seconds: float = 60.0,
    limits: Limits | None = None,
    port: int = 0,
    sealing: Sealing = Sealing.AES_GCM,
    links: SignedLinks | None = None,
) -> AsyncIterator[WholeRegistry]:
    async with contextlib.AsyncExitStack() as stack:
        masters = await asyncio.to_thread(MasterKeys.load_or_create, folder / "master.json")
        if metadata is None:
            service = await start_service(
                database=folder / "rows.db", listen=f"unix:{folder}/m.sock", epochs=folder / "epochs"
            )
            stack.push_async_callback(service.close)
            bootstrapped = await service.bootstrap(ACCOUNT)
            assert bootstrapped.administrator is not None
            principal_id = bootstrapped.administrator.principal_id
            metadata = MetadataClient(f"unix:{folder}/m.sock")
            stack.push_async_callback(metadata.close)
        else:
            principal_id = metadata.administrator.principal_id
        metadata = wrap_metadata(metadata)
        if store is None:
            store = FilesystemStore(folder / "objects")
            stack.push_async_callback(store.close)
        store = wrap_store(store)
        keys, pool = LocalKeys(masters), BufferPool()
        issued = tokens.Tokens(SmallSealer(masters.derive(tokens.PURPOSE), tokens.PURPOSE))
        uploads = Uploads(
            metadata,
            store,
            keys,
            SmallSealer(masters.derive("upload-state"), "upload-state"),
            region=REGION,
            frame_length=frame_length,
            create_on_push=create_on_push,
            pool=pool,
            sealing=sealing,
        )
        blobs = Blobs(metadata, store, keys, pool, links)
        images = Images(metadata, create_on_push=create_on_push)
        door = routes.door(
            uploads=uploads,
            blobs=blobs,
            images=images,
            identity=Identity(metadata.principal, issued, time.time, region=REGION),
            account=ACCOUNT,
            region=REGION,
            stall_seconds=stall_seconds,
        )
        server = HttpServer(lambda request: ("oci", door), limits or Limits())
        listening = socket.create_server(("127.0.0.1", port))
        await server.begin(sock=listening)
        principal = await metadata.principal(principal_id)
        password, _ = issued.issue(principal, ACCOUNT, REGION, time.time())
        host, bound = listening.getsockname()
        try:
            yield WholeRegistry(
                f"{host}:{bound}", password, metadata, store, pool, uploads, blobs, images, issued, server
            )
        finally:
            await server.finish(5.0)
