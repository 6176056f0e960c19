"""The rig where registries send their clients elsewhere: to a realm for tokens, and to S3 for layers."""

from __future__ import annotations

import base64
import http.client
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

from proxy.rig import content
from proxy.rig.plan import ImageShape
from proxy.rig.sizes import parse_sizes
from support.distribution import distribution
from support.rig_command import Place
from support.seaweed import Seaweed
from support.server import Server, free_port
from support.token_server import TokenServer


@pytest.mark.needs("registry")
def test_tokens_of_a_realm_push_and_pull_at_distribution(tmp_path: Path) -> None:
    port = free_port()
    address = f"127.0.0.1:{port}"
    with TokenServer(tmp_path, "me:hunter2").serving() as tokens, distribution(tmp_path, port, auth=tokens.settings()):
        far = Place(address, ("--username", "me", "--password-stdin"), "hunter2")
        tokens.asked.clear()
        words = ["--repositories", "2", "--layers", "2", "--size", "10KiB", "--shared", "0.5", "--count", "4"]
        told = far.report("push", *words, "--concurrency", "1", into=tmp_path / "push.json")
        assert told["operations"]["push"]["count"] == 4
        assert told["requests"]["mount"]["count"] == 1
        told = far.report("pull", "--repositories", "2", "--images", "4", "--verify", into=tmp_path / "pull.json")
        assert told["operations"]["pull"]["count"] == 4
        assert told["requests"]["token"]["count"] == 2
        assert set(tokens.asked) == {f"repository:rig/s0-r{n}:{what}" for n in (0, 1) for what in ("pull", "pull,push")}
        wrong = Place(address, far.words, "other").rig("pull", "--images", "1", ok=False)
        assert "pull failed: token 401 × 1 (the realm of tokens gives none; look at user and password)" in wrong.stdout


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
