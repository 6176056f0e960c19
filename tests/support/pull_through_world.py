"""A real server with two workers and a rule `far` for an upstream that the test holds, for journeys of pulls."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import boto3

from proxy.metadata.client.client import MetadataClient
from proxy.registry.mirror.spool import FRAME
from support.other_registry import INDEX, FarRegistry
from support.programs import ROOT
from support.server import Server

LAYER = os.urandom(3 * FRAME + 12345)
WAIT_SECONDS = 60.0


def digest_of(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


@dataclass
class World:
    """A server with a rule `far` for an upstream that the test holds. `config` is its file of settings."""

    far: FarRegistry
    server: Server
    session: aiohttp.ClientSession
    rows: MetadataClient
    account: str
    config: Path

    async def get(self, path: str, method: str = "GET", **headers: str) -> tuple[int, dict[str, str], bytes]:
        async with self.session.request(method, f"{self.server.url}/v2/{path}", headers=headers) as answer:
            return answer.status, {name.lower(): value for name, value in answer.headers.items()}, await answer.read()

    async def rule(self, prefix: str = "far", url: str = "") -> None:
        given = {"ecrRepositoryPrefix": prefix, "upstreamRegistryUrl": url or self.far.address}
        await self.rows.call(self.account, "CreatePullThroughCacheRule", given)

    def asked(self, word: str, method: str = "GET") -> list[str]:
        return [path for path in self.far.paths(method) if f"/{word}/" in path]

    async def images(self, repository: str) -> list[dict[str, Any]]:
        found = await self.rows.call(self.account, "DescribeImages", {"repositoryName": repository})
        images: list[dict[str, Any]] = found["imageDetails"]
        return images

    async def command(self, *words: str) -> tuple[int, str]:
        """`wharfage` beside the running server: its exit status, and what it printed."""
        done = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "proxy",
            *words,
            "--data",
            str(self.server.data),
            "--config",
            str(self.config),
            cwd=ROOT,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        said, _ = await asyncio.wait_for(done.communicate(), 100)
        return done.returncode or 0, said.decode()

    async def client(self, service: str = "ecr") -> Any:
        key, secret = self.server.credentials()
        return await asyncio.to_thread(
            boto3.client,
            service,
            endpoint_url=self.server.url,
            region_name="us-east-1",
            aws_access_key_id=key,
            aws_secret_access_key=secret,
        )

    async def is_here(self, repository: str, digest: str) -> bool:
        """Whether the layer is stored, not only known of."""
        return await self.rows.absent_blob(self.account, repository, digest) is None

    async def until(self, holds: Callable[[], Any]) -> None:
        """Wait for a condition, which may be asynchronous."""
        async with asyncio.timeout(WAIT_SECONDS):
            while True:
                found = holds()
                if await found if asyncio.iscoroutine(found) else found:
                    return
                await asyncio.sleep(0.05)


@asynccontextmanager
async def world(
    folder: Path,
    far: FarRegistry | None = None,
    extra: Mapping[str, str] | None = None,
    upstreams: str = "",
    **rule: Any,
) -> AsyncIterator[World]:
    """`rule` are keys of its settings; `extra` the server's environment; `upstreams` the setting, in the place of the
    upstream's address, which has no rule then."""
    far = far or FarRegistry()
    settings = folder / "wharfage.toml"
    async with far.serving() as address:
        listed = upstreams or f'["http://{address}"]'
        lines = [f"[pull_through]\nupstreams = {listed}\n", '[pull_through.rules."far"]\n']
        settings.write_text("".join([*lines, *(f"{key} = {json.dumps(value)}\n" for key, value in rule.items())]))
        server = await asyncio.to_thread(
            Server.start, folder / "data", workers=2, flags=["--config", str(settings)], extra=extra, watched=True
        )
        try:
            password = await asyncio.to_thread(server.password)
            rows = MetadataClient.connect(f"unix:{server.data}/run/metadata.sock")
            account = (await rows.accounts())[0].account
            connector = aiohttp.TCPConnector(limit=0, force_close=True)  # a connection each: both workers are asked
            auth = {"Authorization": aiohttp.encode_basic_auth("AWS", password)}
            async with aiohttp.ClientSession(connector=connector, headers=auth, auto_decompress=False) as session:
                session._retry_connection = False  # aiohttp would ask again, and hide what became of a cut request
                there = World(far, server, session, rows, account, settings)
                if not upstreams:
                    await there.rule()
                yield there
            await rows.close()
        finally:
            await asyncio.to_thread(server.stop)


def add_index(far: FarRegistry, repository: str, tag: str, **children: bytes) -> dict[str, str]:
    """An index with an image for each architecture of linux; their digests by it, the index's own by ''."""
    listed, found = [], {}
    for architecture, layer in children.items():
        found[architecture] = far.add_image(repository, f"{tag}-{architecture}", layer)
        media_type, content = far.manifests[repository, found[architecture]]
        platform = {"os": "linux", "architecture": architecture}
        listed.append(
            {"mediaType": media_type, "digest": found[architecture], "size": len(content), "platform": platform}
        )
    index = {"schemaVersion": 2, "mediaType": INDEX, "manifests": listed}
    return found | {"": far.add_manifest(repository, tag, INDEX, json.dumps(index).encode())}
