"""Real clients through a rule, and real registries as its upstream: CNCF distribution, and another Wharfage."""

from __future__ import annotations

import asyncio
import base64
import json
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from yarl import URL

from proxy.metadata.client.client import MetadataClient
from proxy.upstream.client import Upstream, UpstreamClient, UpstreamLogin
from support.distribution import distribution
from support.images import Layout, check_layout
from support.programs import Daemon, run
from support.server import Server, free_port

pytestmark = [pytest.mark.clients]


@pytest.fixture
def upstream(tmp_path: Path) -> Iterator[tuple[str, Daemon]]:
    """CNCF distribution: its address, and what stops it."""
    port = free_port()
    with distribution(tmp_path, port) as daemon:
        yield f"127.0.0.1:{port}", daemon


async def make_rule(server: Server, upstream: str) -> None:
    rows = MetadataClient.connect(f"unix:{server.data}/run/metadata.sock")
    account = (await rows.accounts())[0].account
    rule = {"ecrRepositoryPrefix": "far", "upstreamRegistryUrl": upstream}
    await rows.call(account, "CreatePullThroughCacheRule", rule)
    await rows.close()


@pytest.fixture
def cache(upstream: tuple[str, Daemon], tmp_path: Path) -> Iterator[Server]:
    """A server of ours with the rule `far` for it."""
    settings = {"WHARFAGE_PULL_THROUGH_UPSTREAMS": f"http://{upstream[0]}"}
    server = Server.start(tmp_path / "data", workers=2, extra=settings)
    try:
        asyncio.run(make_rule(server, upstream[0]))
        auth = base64.b64encode(f"AWS:{server.password()}".encode()).decode()
        (tmp_path / "login").mkdir()
        (tmp_path / "login" / "config.json").write_text(json.dumps({"auths": {server.address: {"auth": auth}}}))
        yield server
    finally:
        server.stop()


@pytest.mark.needs("crane", "registry")
def test_crane_pulls_all_platforms_of_distribution_through_us_and_again_without_it(
    upstream: tuple[str, Daemon], cache: Server, small_image: Layout, multi_arch: Layout, tmp_path: Path
) -> None:
    login = {"DOCKER_CONFIG": str(tmp_path / "login")}
    address, daemon = upstream
    for layout, name in ((small_image, "team/small"), (multi_arch, "team/many")):
        run("crane", "push", layout.path, f"{address}/{name}:1", "--insecure")
    small, many = (f"{cache.address}/far/team/{name}:1" for name in ("small", "many"))
    assert run("crane", "digest", many, "--insecure", extra=login).stdout.strip() == multi_arch.digest
    run("crane", "pull", "--format=oci", small, tmp_path / "back", "--insecure", extra=login)
    check_layout(tmp_path / "back", small_image)
    run("crane", "validate", "--remote", many, "--insecure", extra=login)
    trial: list[str | Path] = [
        sys.executable,
        "-m",
        "proxy",
        "pull-through",
        "test",
        "far",
        "team/many:1",
        "--data",
        cache.data,
    ]
    listed = {"WHARFAGE_PULL_THROUGH_UPSTREAMS": f"http://{address}"}
    shown = run(*trial, extra=listed).stdout
    assert [line.split()[0] for line in shown.splitlines()[1:]] == ["login", "manifest", "manifest", "layer"]
    assert multi_arch.digest in shown
    daemon.stop()
    assert "unavailable" in run(*trial, extra=listed, ok=False).stdout
    shutil.rmtree(tmp_path / "back")
    run("crane", "pull", "--format=oci", small, tmp_path / "back", "--insecure", extra=login)
    check_layout(tmp_path / "back", small_image)
    run("crane", "validate", "--remote", many, "--insecure", extra=login)
    missing = run(
        "crane", "pull", f"{cache.address}/far/team/other:1", tmp_path / "x", "--insecure", extra=login, ok=False
    )
    assert "503" in missing.stderr or "UNAVAILABLE" in missing.stderr
    cache.stop()
    run(sys.executable, "-m", "proxy", "check", "--data", cache.data)  # succeeds: what is absent is no fault


@pytest.mark.needs("crane")
def test_another_wharfage_is_asked_with_its_own_login(
    server: Server, docker_login: Path, repository: str, small_image: Layout
) -> None:
    run("crane", "push", small_image.path, f"{server.address}/{repository}:1", "--insecure",
        extra={"DOCKER_CONFIG": str(docker_login)})  # fmt: skip
    base = URL(server.url)

    async def ask() -> None:
        credential = UpstreamLogin("AWS", await asyncio.to_thread(server.password))
        upstream = Upstream(base, frozenset({base}))
        async with UpstreamClient(upstream, credential, clock=time.monotonic, note=lambda *_: None) as client:
            found = await client.manifest(repository, "1")
            assert found.digest == small_image.digest
            [layer, *_] = json.loads(found.content)["layers"]
            async with client.layer(repository, layer["digest"], 10) as body:
                assert body.total == layer["size"]
                assert len(b"".join([chunk async for chunk in body.chunks()])) == layer["size"] - 10

    asyncio.run(ask())
