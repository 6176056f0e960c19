"""A login by GetAuthorizationToken: what is sent, how often, and what becomes of answers that hold no password."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from aiohttp import web
from yarl import URL

from proxy.upstream.access_key import CACHED_SECONDS
from proxy.upstream.client import Upstream, UpstreamClient, UpstreamLogin
from proxy.upstream.errors import UpstreamFailed, UpstreamReason
from support.other_registry import FarRegistry

KEY = UpstreamLogin("AKIDEXAMPLE", "the-secret-key")
ONE, TWO = "QVdTOm9uZQ==", "QVdTOnR3bw=="  # AWS:one, AWS:two


@asynccontextmanager
async def asking(far: FarRegistry, now: list[float]) -> AsyncIterator[UpstreamClient]:
    async with far.serving() as address:
        base = URL(f"http://{address}")
        upstream = Upstream(base, frozenset({base}), region="eu-north-1")
        async with UpstreamClient(upstream, KEY, clock=lambda: now[0], note=lambda *_: None) as client:
            yield client


def issuing(far: FarRegistry, *passwords: str) -> None:
    """These, one after the other, and no other."""

    async def issue(request: web.Request) -> web.Response:
        token = passwords[len(far.paths("POST")) - 1]
        data = {"authorizationToken": token, "expiresAt": time.time() + 43200}
        return web.json_response({"authorizationData": [data]})

    far.answers["POST /"] = issue


async def test_a_password_is_fetched_once_by_a_signature_and_again_once_it_is_refused_or_old() -> None:
    far, now = FarRegistry(basic="AWS:one"), [100.0]
    issuing(far, ONE, TWO, TWO)
    far.add_image("team/app", "1", b"layer")
    async with asking(far, now) as client:
        await asyncio.gather(*(client.manifest("team/app", "1") for _ in range(5)))
        assert far.paths("POST") == ["/"]
        signed = far.asked[0].authorization
        assert signed.startswith("AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/")
        assert "/eu-north-1/ecr/aws4_request" in signed
        far.basic = "AWS:two"  # the first one is revoked
        await client.manifest("team/app", "1")
        assert len(far.paths("POST")) == 2
        assert all(KEY.password not in each.authorization for each in far.asked)
        now[0] += CACHED_SECONDS
        await client.manifest("team/app", "1")
        assert len(far.paths("POST")) == 3


@pytest.mark.parametrize(
    ("status", "body", "reason"),
    [
        (400, {"__type": "UnrecognizedClientException", "message": "no"}, UpstreamReason.DENIED),
        (403, {"__type": "com.amazonaws#AccessDeniedException"}, UpstreamReason.DENIED),
        (429, {}, UpstreamReason.LIMITED),
        (400, {"__type": "ThrottlingException"}, UpstreamReason.LIMITED),
        (500, {}, UpstreamReason.UNAVAILABLE),
        (307, {}, UpstreamReason.UNAVAILABLE),
        (200, {"authorizationData": []}, UpstreamReason.WRONG),
        (200, {"authorizationData": [{"authorizationToken": "a\r\nb", "expiresAt": 1}]}, UpstreamReason.WRONG),
        (200, {"authorizationData": "x" * (65 << 10)}, UpstreamReason.WRONG),
    ],
)
async def test_an_answer_without_a_password_is_a_failure_of_the_upstream(
    status: int, body: object, reason: UpstreamReason
) -> None:
    far = FarRegistry()

    async def answer(request: web.Request) -> web.Response:
        return web.Response(status=status, body=json.dumps(body).encode(), headers={"Location": "http://127.0.0.2/"})

    far.answers["POST /"] = answer
    async with asking(far, [0.0]) as client:
        with pytest.raises(UpstreamFailed) as raised:
            await client.manifest("team/app", "1")
        assert raised.value.reason is reason
        assert {each.method for each in far.asked} == {"POST"}
