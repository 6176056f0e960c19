"""What refers to an image upstream: by the API in pages, by the fallback tag, and what a bad answer is taken for."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from aiohttp import web
from yarl import URL

from proxy.model.names import Digest, parse_digest
from proxy.upstream.client import Upstream, UpstreamClient
from proxy.upstream.errors import UpstreamFailed, UpstreamReason
from proxy.upstream.referrers import PAGES, referrers_of
from support.other_registry import INDEX, FarRegistry

SUBJECT = parse_digest("sha256:" + "a" * 64)
PATH = f"GET /v2/team/app/referrers/{SUBJECT}"
TAG = f"GET /v2/team/app/manifests/sha256-{'a' * 64}"


@asynccontextmanager
async def asking(far: FarRegistry) -> AsyncIterator[UpstreamClient]:
    async with far.serving() as address:
        base = URL(f"http://{address}")
        upstream = Upstream(base, frozenset({base}))
        async with UpstreamClient(upstream, None, clock=time.monotonic, note=lambda *_: None) as client:
            yield client


async def found(far: FarRegistry, subject: Digest = SUBJECT) -> list[str]:
    async with asking(far) as client:
        return await referrers_of(client, "team/app", subject)


async def reason(far: FarRegistry) -> UpstreamReason:
    with pytest.raises(UpstreamFailed) as raised:
        await found(far)
    return raised.value.reason


def answering(far: FarRegistry, name: str, content: object, status: int = 200, link: str = "") -> None:
    async def answer(request: web.Request) -> web.Response:
        text = content if isinstance(content, str) else json.dumps(content)
        return web.Response(status=status, text=text, headers={"Link": link} if link else {})

    far.answers[name] = answer


async def test_all_pages_are_read_and_each_digest_counts_once() -> None:
    far = FarRegistry(page=3)
    wanted = sorted(far.add_referrer("team/app", str(SUBJECT), "a/b", bytes([number])) for number in range(8))
    assert await found(far) == wanted
    assert len(far.asked) == 3


async def test_a_list_without_end_is_read_for_a_while() -> None:
    far = FarRegistry()
    link = f'<{PATH.partition(" ")[2]}>; rel="next"'
    answering(far, PATH, {"manifests": [{"digest": "sha256:" + "b" * 64}]}, link=link)
    assert await found(far) == ["sha256:" + "b" * 64]
    assert len(far.asked) == PAGES


@pytest.mark.parametrize("status", [400, 401, 403, 404, 405])
async def test_a_registry_that_refuses_the_api_is_asked_for_the_fallback_tag(status: int) -> None:
    far = FarRegistry()
    answering(far, PATH, {}, status)
    assert await found(far) == []
    far.add_manifest("team/app", f"sha256-{'a' * 64}", INDEX, json.dumps({"manifests": [{"digest": str(SUBJECT)},
        {"digest": "sha256:" + "c" * 64}]}).encode())  # fmt: skip
    assert await found(far) == ["sha256:" + "c" * 64]


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"manifests": [1]}', '{"manifests": [{"digest": "x:y"}]}'])
async def test_a_list_that_is_none_is_wrong(content: str) -> None:
    far = FarRegistry(no_referrers=True)
    answering(far, TAG, content)
    assert await reason(far) is UpstreamReason.WRONG


async def test_an_upstream_that_is_down_is_not_asked_twice() -> None:
    far = FarRegistry()
    answering(far, PATH, {}, 500)
    assert await reason(far) is UpstreamReason.UNAVAILABLE
    assert len(far.asked) == 1


async def test_the_next_page_of_a_stranger_is_not_asked_for() -> None:
    far = FarRegistry()
    answering(far, PATH, {"manifests": []}, link='<https://evil.example/v2/x>; rel="next"')
    assert await found(far) == []  # what the fallback tag has
    assert [each.path for each in far.asked] == [PATH.partition(" ")[2], TAG.partition(" ")[2]]
