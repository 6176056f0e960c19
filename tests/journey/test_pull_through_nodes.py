"""A pull through a rule from three nodes over PostgreSQL and S3: one of them asks the upstream, the others ask it."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import boto3
import pytest

from support import postgresql
from support.cluster import ACCESS_KEY_ID, SECRET_ACCESS_KEY, Cluster
from support.images import MIB
from support.other_registry import FarRegistry
from support.seaweed import Seaweed

LAYER = os.urandom(48 * MIB)
PATH = f"far/team/app/blobs/sha256:{hashlib.sha256(LAYER).hexdigest()}"
PULLERS = 16  # a node


@dataclass
class Upstream:
    """Sends a layer by MiB; the first `quick` MiB at once, the rest when `go_on` is set. `sent` counts all bytes."""

    far: FarRegistry = field(default_factory=FarRegistry)
    go_on: asyncio.Event = field(default_factory=asyncio.Event)
    quick: int = 8
    sent: int = 0

    async def pieces(self, content: bytes) -> AsyncIterator[bytes]:
        for at in range(0, len(content), MIB):
            if at >= self.quick * MIB:
                await self.go_on.wait()
            piece = content[at : at + MIB]
            self.sent += len(piece)
            yield piece


@dataclass
class World:
    cluster: Cluster
    upstream: Upstream
    session: aiohttp.ClientSession

    async def pull(self, node: int, begun: asyncio.Event | None = None, enough: int = 1) -> bytes:
        """The layer from that node; `begun` is set when `enough` of it has come."""
        body = bytearray()
        async with self.session.get(f"{self.cluster.nodes[node].url}/v2/{PATH}") as answer:
            assert answer.status == 200
            async for chunk in answer.content.iter_any():
                body += chunk
                if begun is not None and len(body) >= enough:
                    begun.set()
        return bytes(body)


@asynccontextmanager
async def world(folder: Path, seaweed: Seaweed) -> AsyncIterator[World]:
    upstream = Upstream()
    upstream.far.pieces = upstream.pieces
    async with upstream.far.serving() as address:
        given = {"WHARFAGE_PULL_THROUGH_UPSTREAMS": f"http://{address}"}
        cluster = await asyncio.to_thread(
            Cluster.begin, folder, postgresql.shared(), seaweed, nodes=3, services=1, workers=2, of_nodes=given
        )
        try:
            upstream.far.add_image("team/app", "1", LAYER)
            await asyncio.to_thread(make_rule, cluster.url, address)
            auth = {"Authorization": aiohttp.encode_basic_auth("AWS", await asyncio.to_thread(cluster.password))}
            connector = aiohttp.TCPConnector(limit=0, force_close=True)
            async with aiohttp.ClientSession(connector=connector, headers=auth, auto_decompress=False) as session:
                session._retry_connection = False  # aiohttp would ask again, and hide what became of a cut request
                async with session.get(f"{cluster.url}/v2/far/team/app/manifests/1") as answer:
                    assert answer.status == 200
                yield World(cluster, upstream, session)
        finally:
            await asyncio.to_thread(cluster.abandon)


def make_rule(url: str, address: str) -> None:
    ecr = boto3.client(
        "ecr",
        endpoint_url=url,
        region_name="us-east-1",
        aws_access_key_id=ACCESS_KEY_ID,
        aws_secret_access_key=SECRET_ACCESS_KEY,
    )
    ecr.create_pull_through_cache_rule(ecrRepositoryPrefix="far", upstreamRegistryUrl=address)


async def test_cold_pullers_on_three_nodes_cost_the_upstream_one_pull(tmp_path: Path, seaweed: Seaweed) -> None:
    async with world(tmp_path, seaweed) as there:
        pulls = [asyncio.create_task(there.pull(number % 3)) for number in range(3 * PULLERS)]
        there.upstream.go_on.set()
        for body in await asyncio.gather(*pulls):
            assert body == LAYER
        assert there.upstream.sent <= 1.05 * len(LAYER)


async def test_a_node_that_is_killed_while_it_fetches_is_replaced_from_the_byte_that_another_has(
    tmp_path: Path, seaweed: Seaweed
) -> None:
    async with world(tmp_path, seaweed) as there:
        there.upstream.quick = 32
        begun = [asyncio.Event() for _ in range(3)]
        first = asyncio.create_task(there.pull(0, begun[0]))
        await begun[0].wait()
        others = [asyncio.create_task(there.pull(node, begun[node], enough=30 * MIB)) for node in (1, 2)]
        await asyncio.gather(begun[1].wait(), begun[2].wait())
        there.cluster.kill_node(0)
        with pytest.raises(aiohttp.ClientError):
            await first
        there.upstream.go_on.set()
        for body in await asyncio.gather(*others):
            assert body == LAYER
        assert there.upstream.sent <= 1.3 * len(LAYER)
