"""A peer from the settings: whom its TLS is believed, and a file that cannot be used."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from proxy.app.replication import peer_of
from proxy.config.loader import ConfigError
from proxy.config.peer_settings import PeerSetting
from proxy.http.selfsigned import make_self_signed
from proxy.http.tls import server_context
from proxy.upstream.errors import UpstreamFailed
from proxy.upstream.peer import PeerClient


async def test_a_peer_is_asked_over_tls_that_the_bundle_vouches_for_and_no_other(tmp_path: Path) -> None:
    ca, certificate, key = await asyncio.to_thread(make_self_signed, tmp_path, "127.0.0.1")

    async def answer(request: web.Request) -> web.Response:
        data = {"authorizationToken": "QVdTOng=", "expiresAt": time.time() + 100}
        return web.json_response({"authorizationData": [data]})

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    server = TestServer(app, scheme="https")
    await server.start_server(ssl=server_context(certificate, key))
    entry = PeerSetting("eu-west-1", f"https://127.0.0.1:{server.port}", "AKIA", "secret", ca_bundle=str(ca))
    for setting, fine in ((entry, True), (replace(entry, ca_bundle=""), False)):
        client = PeerClient(peer_of(setting), clock=time.monotonic)
        if fine:
            assert (await client.ask("HEAD", "/v2/", {})).status == 200
        else:
            with pytest.raises(UpstreamFailed, match="tls"):
                await client.ask("HEAD", "/v2/", {})
        await client.close()
    await server.close()


def test_a_bundle_that_is_none_is_named(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("none")
    entry = PeerSetting("eu-west-1", "https://peer.example", "AKIA", "secret", ca_bundle=str(tmp_path / "ca.pem"))
    with pytest.raises(ConfigError, match=r"eu-west-1: ca_bundle .*ca\.pem"):
        peer_of(entry)
