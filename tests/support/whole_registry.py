"""A whole registry in this process: the real doors, journeys, sealing, store and HTTP; on the loopback, for one test.

Docker's door is under `/v2/`, the AWS one at `/`; further accounts can be opened, each with its administrator.

Metadata is the real service over its socket and the store the filesystem's, or whatever is given; both can be wrapped
(`support/faulty.py`).
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import socket
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web

from proxy.audit.trail import NoTrail, Trail
from proxy.auth import layer_links as auth_layer_links
from proxy.auth import secrets, sessions, tokens
from proxy.auth.access import Access
from proxy.auth.callers import Callers
from proxy.auth.envelope import SmallSealer
from proxy.auth.failed_logins import FailedLogins
from proxy.auth.identity import BasicAuthenticator
from proxy.auth.layer_links import LayerLinks
from proxy.auth.pull_through import UpstreamCredentials
from proxy.auth.rates import RateLimiter
from proxy.auth.secrets import seal_secret
from proxy.blob.buffers import BufferPool
from proxy.blob.format import FRAME_LENGTH
from proxy.blob.keys import Provider, Providers
from proxy.blob.local_keys import LocalKeys
from proxy.blob.master_file import MasterKeys
from proxy.ecr import downloads
from proxy.ecr import routes as ecr
from proxy.ecr.authorization import Endpoints
from proxy.ecr.iam import Iam
from proxy.ecr.layers import LayerOperations
from proxy.ecr.pull_through import PullThrough
from proxy.ecr.query import QueryHandlers
from proxy.ecr.secretsmanager import SecretsManager
from proxy.ecr.signed_request import Signatures
from proxy.ecr.sts import Sts
from proxy.ecr.sts.issuers import Issuers
from proxy.http.request_info import path_of
from proxy.http.server import Handler, HttpServer, Limits
from proxy.metadata.client.client import MetadataClient
from proxy.metadata.client.epochs import Epochs
from proxy.metadata.db.transaction import Registry
from proxy.metadata.service.service import start_service
from proxy.model.hosts import Hosts
from proxy.model.pull_through import PullThroughRule
from proxy.model.quotas import ECR_QUOTAS, Quotas, Rate
from proxy.model.records import Sealing
from proxy.oci import routes
from proxy.registry.blobs import Blobs
from proxy.registry.images import Images
from proxy.registry.pull_times import PullTimes
from proxy.registry.uploads import Uploads
from proxy.storage.base import SignedLinks
from proxy.storage.filesystem.store import FilesystemStore

ACCOUNT = "123456789012"
REGION = "us-east-1"


class GoodUpstream:
    """Every upstream answers, and takes what it is shown."""

    async def probe(self, rule: PullThroughRule) -> str:
        return ""


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
    secrets: SmallSealer
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

    async def open_account(self, account: str) -> tuple[str, str]:
        """A further account; the key of its administrator."""
        key = f"AKIA{account}ROOT", f"secret/of+{account}"
        await self.metadata.create_account(account, key[0], seal_secret(self.secrets, *key), "administrator")
        return key

    async def give_key(self, account: str, user: str) -> tuple[str, str]:
        """A key of a user that is there."""
        key = f"AKIA{account[:8]}{user.upper():A<8}", f"secret/of+{user}"
        await self.metadata.create_access_key(account, user, key[0], seal_secret(self.secrets, *key))
        return key

    async def quiet(self) -> None:
        """Return once no request runs and no buffer is lent: what a client that left had begun is over."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + 10
        while self.pool.in_use or any(connection._current_request for connection in self.server.connections):
            assert loop.time() < deadline, f"a request still runs, {self.pool.in_use} buffers are lent"
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
    suffix: str = "",
    access: Access | None = None,
    issuers: Issuers | None = None,
    database: str = "",
    trail: Trail | None = None,
    rates: Mapping[str, Rate] | None = None,
    quotas: Quotas = ECR_QUOTAS,
    kms: Provider | None = None,
    pulls: PullTimes | None = None,
    clock: Callable[[], float] = time.time,
    now: Callable[[], float] = time.time,
    allowed_keys: Sequence[str] = (),
    logins: FailedLogins | None = None,
    senders: Sequence[str] = (),
) -> AsyncIterator[WholeRegistry]:
    """`clock` is that of links to layers, `now` docker's door's. With metadata of its own, docker's door gives answers
    again as in a worker."""
    async with contextlib.AsyncExitStack() as stack:
        masters = await asyncio.to_thread(MasterKeys.load_or_create, folder / "master.json")
        epochs: Epochs | None = None
        if metadata is None:
            service = await start_service(
                database=database or folder / "rows.db",
                listen=f"unix:{folder}/m.sock",
                epochs=folder / "epochs",
                registry=Registry(quotas=quotas, peer_regions=frozenset({"eu-west-1"})),
            )
            stack.push_async_callback(service.close)
            epochs = await asyncio.to_thread(Epochs, folder / "epochs")
            stack.callback(epochs.close)
            bootstrapped = await service.bootstrap(ACCOUNT)
            assert bootstrapped.administrator is not None
            principal_id = bootstrapped.administrator.principal_id
            metadata = MetadataClient.connect(f"unix:{folder}/m.sock")
            stack.push_async_callback(metadata.close)
        else:
            principal_id = metadata.administrator.principal_id
        metadata = wrap_metadata(metadata)
        if store is None:
            store = FilesystemStore(folder / "objects")
            stack.push_async_callback(store.close)
        store = wrap_store(store)
        local, pool = LocalKeys(masters), BufferPool()
        keys = Providers(local, local=local, kms=kms)
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
            counts_bytes=bool(quotas.repository_bytes or quotas.account_bytes),
        )
        blobs = Blobs(metadata, store, keys, pool, links, create_on_push=create_on_push)
        callers, hosts = Callers(metadata), Hosts(ACCOUNT, REGION, suffix)
        access = access or Access(metadata)
        trail = trail or NoTrail()
        limited = RateLimiter(rates, metadata) if rates else None
        key_secrets = SmallSealer(masters.derive(secrets.PURPOSE), secrets.PURPOSE)
        values = SmallSealer(masters.derive(secrets.VALUE_PURPOSE), secrets.VALUE_PURPOSE)
        opened = sessions.Sessions(SmallSealer(masters.derive(sessions.PURPOSE), sessions.PURPOSE))
        endpoints = Endpoints(hosts)
        layer_links = LayerLinks(
            SmallSealer(masters.derive(auth_layer_links.PURPOSE), auth_layer_links.PURPOSE), REGION
        )
        linked = downloads.handler(
            links=layer_links,
            callers=callers,
            metadata=metadata,
            blobs=blobs,
            trail=trail,
            account=ACCOUNT,
            region=REGION,
            clock=clock,
            stall_seconds=stall_seconds,
        )
        aws = ecr.handler(
            metadata=metadata,
            access=access,
            signatures=Signatures(metadata, key_secrets, opened, region=REGION, clock=time.time, callers=callers),
            keys=keys,
            tokens=issued,
            endpoints=endpoints,
            trail=trail,
            query_handlers=QueryHandlers(
                Sts(metadata, opened, access, issuers or Issuers([], tls=None, clock=time.monotonic), time.time),
                Iam(metadata, access, key_secrets),
            ),
            layers=LayerOperations(uploads, metadata, layer_links, endpoints, folder),
            clock=time.time,
            rates=limited,
            pulls=pulls,
            allowed_keys=allowed_keys,
            json_services={"secretsmanager": SecretsManager(metadata, access, values, region=REGION)},
            pull_through=PullThrough(
                metadata, UpstreamCredentials(metadata, values, region=REGION), (), GoodUpstream()
            ),
        )
        images = Images(metadata, keys, region=REGION, create_on_push=create_on_push, pulls=pulls)
        door = routes.handler(
            uploads=uploads,
            blobs=blobs,
            images=images,
            identity=BasicAuthenticator(callers, issued, now, region=REGION),
            access=access,
            hosts=hosts,
            clock=now,
            trail=trail,
            stall_seconds=stall_seconds,
            rates=limited,
            epochs=epochs,
            logins=logins,
            senders=senders,
        )

        def route(request: web.Request) -> tuple[str, Handler]:
            path = path_of(request)
            if path.startswith(downloads.PATH):
                return "layers", linked
            return ("oci", door) if path.startswith("/v2") else ("ecr", aws)

        server = HttpServer(route, limits or Limits())
        listening = socket.create_server(("127.0.0.1", port))
        await server.begin(sock=listening)
        principal = await metadata.principal(principal_id)
        password, _ = issued.issue(principal, ACCOUNT, REGION, time.time())
        host, bound = listening.getsockname()
        try:
            yield WholeRegistry(
                f"{host}:{bound}", password, metadata, store, pool, uploads, blobs, images, issued, key_secrets, server
            )
        finally:
            await server.finish(5.0)
