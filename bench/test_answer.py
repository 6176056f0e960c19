"""What docker's door does for one small request, without HTTP: `python -m pytest bench/test_answer.py`.

Who asks (a token that was opened before), may they, the rows from the worker's cache, the answer and its event; no
byte is parsed and none is written. One round is a hundred requests.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import uvloop
from aiohttp import web
from aiohttp.test_utils import make_mocked_request
from load import Content

from proxy.audit.trail import NoTrail
from proxy.auth.access import Access
from proxy.auth.callers import Callers
from proxy.auth.identity import BasicAuthenticator
from proxy.metadata.client.cache import CachedMetadata
from proxy.metadata.client.epochs import Epochs
from proxy.model.hosts import Hosts
from proxy.oci import routes
from support.whole_registry import ACCOUNT, REGION, WholeRegistry, whole_registry

HUNDRED = 100
KIND = "application/vnd.oci.image.manifest.v1+json"
MANIFEST = "/v2/bench/app/manifests/v1"
BLOB = Content(1024).fresh()


async def put_image(registry: WholeRegistry) -> None:
    blob = b"".join(BLOB.pieces())
    described = {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": BLOB.digest, "size": len(blob)}
    manifest = {"schemaVersion": 2, "mediaType": KIND, "config": described, "layers": [described]}
    async with registry.client() as client:
        to = f"/v2/bench/app/blobs/uploads/?digest={BLOB.digest}"
        async with client.post(to, data=blob, headers={"Content-Type": "application/octet-stream"}) as answer:
            assert answer.status == 201
        async with client.put(MANIFEST, data=json.dumps(manifest), headers={"Content-Type": KIND}) as answer:
            assert answer.status == 201


@pytest.fixture
def door(tmp_path: Path) -> Iterator[tuple[Any, asyncio.Runner, str]]:
    """The door over rows of its own, the loop in which it lives, and what a request authenticates with."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        opened = contextlib.AsyncExitStack()

        async def begin() -> tuple[Any, str]:
            registry = await opened.enter_async_context(
                whole_registry(
                    tmp_path, wrap_metadata=lambda rows: CachedMetadata.wrap(rows, Epochs(tmp_path / "epochs"))
                )
            )
            await put_image(registry)
            found = routes.handler(
                uploads=registry.uploads,
                blobs=registry.blobs,
                images=registry.images,
                identity=BasicAuthenticator(Callers(registry.metadata), registry.tokens, time.time, region=REGION),
                access=Access(registry.metadata),
                hosts=Hosts(ACCOUNT, REGION, ""),
                clock=time.time,
                trail=NoTrail(),
            )
            return found, registry.authorization

        found, authorization = runner.run(begin())
        yield found, runner, authorization
        runner.run(opened.aclose())


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", MANIFEST), ("HEAD", MANIFEST), ("HEAD", f"/v2/bench/app/blobs/{BLOB.digest}"), ("GET", "/v2/")],
    ids=["manifest-get", "manifest-head", "blob-head", "base"],
)
def test_answering(benchmark: Any, door: tuple[Any, asyncio.Runner, str], method: str, path: str) -> None:
    answer, runner, authorization = door
    headers = {"Host": "127.0.0.1", "Authorization": authorization, "Accept": KIND}
    asked = make_mocked_request(method, path, headers)

    def made() -> tuple[tuple[list[web.BaseRequest]], dict[str, Any]]:
        return ([asked.clone() for _ in range(HUNDRED)],), {}

    async def answer_all(requests: list[web.BaseRequest]) -> None:
        for request in requests:
            response = await answer(request)
            assert response.status == 200

    benchmark.pedantic(lambda requests: runner.run(answer_all(requests)), setup=made, rounds=50, warmup_rounds=3)
    benchmark.extra_info["microseconds a request"] = round(benchmark.stats.stats.median / HUNDRED * 1e6, 1)
