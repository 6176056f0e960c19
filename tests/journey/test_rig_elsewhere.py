"""The rig where registries send their clients elsewhere: to a realm for tokens, and to S3 for layers."""

from __future__ import annotations

import base64
import http.client
import json
import time
import urllib.parse
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from harness.issuer import public_key, sign
from harness.programs import Daemon
from harness.rigs import Place
from harness.seaweed import Seaweed
from harness.server import Server, free_port
from proxy.rig import content
from proxy.rig.plan import ImageShape
from proxy.rig.sizes import parse_sizes

BASIC = "Basic " + base64.b64encode(b"me:hunter2").decode()


class Realm(ThreadingHTTPServer):
    """Gives whoever is `me` tokens for what they ask for (distribution's "token authentication implementation")."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Asked)
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.asked: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/token"

    def token(self, scopes: list[str]) -> str:
        parts = [scope.split(":") for scope in scopes]
        access = [{"type": kind, "name": name, "actions": what.split(",")} for kind, name, what in parts]
        now = int(time.time())
        times = {"iat": now, "nbf": now - 5, "exp": now + 300}
        claims = {"iss": "realm", "sub": "me", "aud": "far", "jti": uuid.uuid4().hex, "access": access, **times}
        return sign(claims, self.key, "ES256", kid="one")


class _Asked(BaseHTTPRequestHandler):
    server: Realm

    def do_GET(self) -> None:
        asked = urllib.parse.parse_qs(urllib.parse.urlsplit(self.path).query)
        known = self.headers.get("Authorization") == BASIC and asked.get("service") == ["far"]
        self.server.asked += asked.get("scope", [])
        body = json.dumps({"token": self.server.token(asked.get("scope", [])), "expires_in": 300}) if known else "{}"
        self.send_response(200 if known else 401)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *said: Any) -> None:
        """Nothing: what was asked is in `asked`."""


@contextmanager
def realm() -> Iterator[Realm]:
    started = Realm()
    thread = Thread(target=started.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield started
    finally:
        started.shutdown()
        thread.join()
        started.server_close()


@pytest.mark.needs("registry")
def test_tokens_of_a_realm_push_and_pull_at_distribution(tmp_path: Path) -> None:
    with realm() as tokens:
        keys = tmp_path / "keys.json"
        keys.write_text(json.dumps({"keys": [public_key(tokens.key, kid="one")]}))
        address = f"127.0.0.1:{free_port()}"
        asks = {"realm": tokens.url, "service": "far", "issuer": "realm", "jwks": str(keys)}
        settings = {
            "version": "0.1",
            "log": {"level": "error"},
            "storage": {"filesystem": {"rootdirectory": str(tmp_path / "far")}},
            "http": {"addr": address},
            "auth": {"token": asks},
        }
        file = tmp_path / "far.yml"
        file.write_text(json.dumps(settings))  # which is YAML
        daemon = Daemon.start(["registry", "serve", file], tmp_path / "far.log", {"OTEL_TRACES_EXPORTER": "none"})
        try:
            far = Place(address, ("--username", "me", "--password-stdin"), "hunter2")
            daemon.wait_until(lambda: "404" in far.rig("pull", "--repository", "none", ok=False).stderr)
            tokens.asked.clear()
            words = ["--repositories", "2", "--layers", "2", "--size", "10KiB", "--shared", "0.5", "--count", "4"]
            told = far.report("push", *words, "--concurrency", "1", into=tmp_path / "push.json")
            assert told["operations"]["push"]["count"] == 4
            assert told["requests"]["mount"]["count"] == 1
            told = far.report("pull", "--repositories", "2", "--images", "4", "--verify", into=tmp_path / "pull.json")
            assert told["operations"]["pull"]["count"] == 4
            assert told["requests"]["token"]["count"] == 2
            assert set(tokens.asked) == {
                f"repository:rig/s0-r{n}:{what}" for n in (0, 1) for what in ("pull", "pull,push")
            }
            wrong = Place(address, far.words, "other").rig("pull", "--images", "1", ok=False)
            assert (
                "pull failed: token 401 × 1 (the realm of tokens gives none; look at user and password)" in wrong.stdout
            )
        finally:
            daemon.stop()


@pytest.fixture
def redirecting(start_server: Callable[..., Server], seaweed: Seaweed) -> Server:
    """A server of ours that answers a layer's GET with a link into S3."""
    settings = {
        **seaweed.settings(f"{uuid.uuid4().hex[:8]}/"),
        "WHARFAGE_STORAGE_SEALING": "none",
        "WHARFAGE_STORAGE_REDIRECT": "true",
    }
    return start_server(workers=1, extra=settings)


@pytest.mark.needs("weed")
def test_layers_are_followed_to_s3(redirecting: Server, tmp_path: Path) -> None:
    place = Place(redirecting.address, ("--username", "AWS", "--password-stdin"), redirecting.password())
    place.rig("push", "--layers", "2", "--size", "300KiB", "--count", "2")
    layer = ImageShape(seed=0, layers=2, sizes=parse_sizes("300KiB")).layer(0, 0)
    assert _status_of(place, f"/v2/rig/s0-r0/blobs/{content.digest_of(layer.key, layer.size)}") == 307
    told = place.report("pull", "--images", "2", "--verify", into=tmp_path / "pull.json")
    assert (told["operations"]["pull"]["count"], told["operations"]["pull"]["failed"]) == (2, 0)
    told = place.report("pull", "--images", "2", "--ranges", "1KiB", into=tmp_path / "ranges.json")
    assert (told["operations"]["range"]["count"], told["operations"]["range"]["failed"]) == (2, 0)


def _status_of(place: Place, path: str) -> int:
    line = http.client.HTTPConnection(place.address, timeout=30)
    try:
        basic = base64.b64encode(f"AWS:{place.password}".encode()).decode()
        line.request("GET", path, headers={"Authorization": f"Basic {basic}"})
        return line.getresponse().status
    finally:
        line.close()
