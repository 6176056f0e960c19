"""A trial pull from an upstream, step by step with times, for `wharfage pull-through test` (`admin.pull_through`).

    login      GET /v2/: the realm that issues tokens, if any
    manifest   the image's; of an index also its first child's
    layer      the first byte of the first layer

A step that fails is the last. Nothing is stored. Must not know rules or rows.
"""

from __future__ import annotations

import json
import time
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass

from proxy.upstream.client import UpstreamClient
from proxy.upstream.errors import UpstreamFailed


@dataclass(frozen=True, slots=True)
class Step:
    """`said` is the result, or the reason of a failure."""

    name: str
    seconds: float
    said: str
    failed: bool = False


async def steps(
    client: UpstreamClient, repository: str, reference: str, clock: Callable[[], float] = time.monotonic
) -> AsyncGenerator[Step, None]:
    began = clock()
    try:
        await client.ping()
        realm = client.realm
        yield Step("login", clock() - began, f"tokens from {realm}" if realm else "without a token")
        for _ in range(2):  # an index, and a child of it
            began = clock()
            found = await client.manifest(repository, reference)
            yield Step("manifest", clock() - began, f"{found.digest}, {found.media_type}, {len(found.content)} bytes")
            document = json.loads(found.content)
            if not document.get("manifests"):
                break
            reference = document["manifests"][0]["digest"]
        if not document.get("layers"):
            return
        began = clock()
        digest = document["layers"][0]["digest"]
        async with client.layer(repository, digest) as body:
            async for chunk in body.chunks():
                yield Step("layer", clock() - began, f"{digest}, first {len(chunk)} of {body.total} bytes")
                return
    except UpstreamFailed as failure:
        yield Step(failure.reason, clock() - began, f"{failure.kind}: {failure.said}".rstrip(": "), failed=True)
    except (ValueError, LookupError, TypeError, AttributeError):
        yield Step("wrong", clock() - began, "the manifest is not what it says it is", failed=True)
