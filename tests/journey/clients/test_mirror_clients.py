"""Real clients through a mirror: images under their upstreams' own names, without a login of the client's.

The upstreams are CNCF distribution behind a server of tokens, in the place of Docker Hub, and another Wharfage.
"""

from __future__ import annotations

import asyncio
import base64
import json
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from proxy.metadata.client.client import MetadataClient
from support.aws_command import Aws
from support.distribution import distribution
from support.engines import Docker, containerd, docker_engine
from support.images import Layout
from support.programs import ROOT, run
from support.server import Server, free_port
from support.token_server import TokenServer

pytestmark = [pytest.mark.clients, pytest.mark.needs("registry", "crane")]

ACCOUNT, LOGIN, TEAM = "123456789012", "me:s3cret", "team/app"
PAGE = ROOT / "docs" / "pull-through.md"


@dataclass(frozen=True, slots=True)
class World:
    """`mirror` serves docker.io from distribution, and wharfage.example from the other Wharfage."""

    mirror: Server
    tokens: TokenServer
    image: Layout


def role_commands() -> list[str]:
    """The aws commands of the page that make the mirror's role, for the rules of this test."""
    [block] = [
        each for each in re.findall(r"^```sh\n(.*?)^```", PAGE.read_text(), re.M | re.S) if "--role-name" in each
    ]
    block = block.replace("repository/docker-hub/*", "repository/*").replace("\\\n", " ").replace("\n  ", " ")
    return [line for line in block.splitlines() if line]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, server: Server, multi_arch: Layout) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("mirror")
    port = free_port()
    far = f"127.0.0.1:{port}"
    login = folder / "login"
    login.mkdir()
    auth = base64.b64encode(f"AWS:{server.password()}".encode()).decode()
    (login / "config.json").write_text(json.dumps({"auths": {server.address: {"auth": auth}}}))
    with TokenServer(folder, LOGIN).serving() as tokens:
        with distribution(folder, port):  # crane takes no tokens of a realm at a loopback address
            run("crane", "push", multi_arch.path, f"{far}/library/app:1", "--insecure")
        reference = f"{server.address}/{TEAM}:1"
        run("crane", "push", multi_arch.path, reference, "--insecure", extra={"DOCKER_CONFIG": str(login)})
        mirror: Server | None = None
        with distribution(folder, port, auth=tokens.settings()):
            try:
                (folder / "wharfage.toml").write_text(_settings(far, server.address))
                mirror = Server.start(folder / "data", workers=2, flags=["--config", str(folder / "wharfage.toml")])
                aws = Aws(mirror.url, folder, mirror.credentials())
                for command in role_commands():
                    aws(command)
                for prefix, upstream, (user, password) in (
                    ("docker-hub", far, LOGIN.split(":")),
                    ("other", server.address, ("AWS", server.password())),
                ):
                    put = f"-m proxy secret put {prefix} --username {user} --password-stdin"
                    arn = run(
                        *(sys.executable, *put.split()),
                        *("--data", mirror.data, "--config", folder / "wharfage.toml"),
                        stdin=password,
                    ).stdout.strip()
                    aws(
                        f"aws ecr create-pull-through-cache-rule --ecr-repository-prefix {prefix} "
                        f"--upstream-registry-url {upstream} --credential-arn {arn}"
                    )
                yield World(mirror, tokens, multi_arch)
            finally:
                if mirror is not None:
                    mirror.stop()


def _settings(far: str, other: str) -> str:
    principal = f'principal = "arn:aws:iam::{ACCOUNT}:role/mirror"\nnetworks = ["127.0.0.0/8"]'
    return f"""
        [registry]
        account = "{ACCOUNT}"
        [pull_through]
        upstreams = ["http://{far}", "http://{other}"]
        [[mirror]]
        host = "127.0.0.1"
        rule = "docker-hub"
        ns = ["docker.io"]
        {principal}
        [[mirror]]
        host = "127.0.0.1"
        rule = "other"
        ns = ["wharfage.example"]
        {principal}
        [[mirror]]
        host = "localhost"
        rule = "other"
        {principal}
    """


async def imported(mirror: Server) -> set[str]:
    rows = MetadataClient.connect(f"unix:{mirror.data}/run/metadata.sock")
    found = await rows.call(ACCOUNT, "DescribeRepositories", {})
    await rows.close()
    return {each["repositoryName"] for each in found["repositories"]}


@pytest.fixture
def home() -> Iterator[Path]:
    """A short path, for sockets."""
    path = Path(tempfile.mkdtemp(prefix="wharfage-"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.mark.needs("dockerd", "docker")
def test_dockerd_pulls_and_builds_from_docker_hub_through_registry_mirrors(world: World, home: Path) -> None:
    """Its login for Docker Hub is not the mirror's business: a wrong one changes nothing."""
    with docker_engine(home / "engine", flags=("--registry-mirror", world.mirror.url)) as address:
        docker = Docker(address, home / "config")
        docker("pull", "app:1")
        image = docker.image_id("app:1")
        assert image.removeprefix("sha256:") in "".join(world.image.blobs)
        (home / "config").mkdir(exist_ok=True)
        auths = {"auths": {"https://index.docker.io/v1/": {"auth": "bWU6bm90aGluZw=="}}}
        (home / "config" / "config.json").write_text(json.dumps(auths))
        docker("image", "rm", "app:1")
        docker("pull", "app:1")
        assert docker.image_id("app:1") == image
        docker("image", "rm", "app:1")
        (home / "context").mkdir()
        (home / "context" / "Dockerfile").write_text("FROM app:1\nLABEL built=here\n")
        Docker(address, home / "none", extra={"DOCKER_BUILDKIT": "0"})("build", "--tag", "built", str(home / "context"))
        assert docker("image", "inspect", "--format", "{{.Config.Labels.built}}", "built").stdout.strip() == "here"
    assert "docker-hub/library/app" in asyncio.run(imported(world.mirror))
    assert any("repository:library/app:pull" in each for each in world.tokens.asked)


@pytest.mark.needs("containerd", "ctr")
@pytest.mark.parametrize("folder", ["docker.io", "_default"])
def test_containerd_pulls_every_registry_through_hosts_toml(world: World, home: Path, folder: str) -> None:
    """The mirror tells registries apart by `ns`."""
    (home / "hosts" / folder).mkdir(parents=True)
    table = f'[host."{world.mirror.url}"]\n  capabilities = ["pull", "resolve"]\n'
    (home / "hosts" / folder / "hosts.toml").write_text(table)
    names = {
        "docker.io": ["docker.io/library/app:1"],
        "_default": ["docker.io/library/app:1", f"wharfage.example/{TEAM}:1"],
    }
    with containerd(home / "engine") as address:
        command = ("ctr", "--address", address, "--namespace", "test", "images")
        for name in names[folder]:
            run(*command, "pull", "--hosts-dir", home / "hosts", "--snapshotter", "native", name)
            assert world.image.digest in run(*command, "ls", f"name=={name}").stdout
        refused = run(*command, "pull", "--hosts-dir", home / "hosts", "nobody.invalid/app:1", ok=False)
        assert world.image.digest not in refused.stdout
    if folder == "_default":
        assert f"other/{TEAM}" in asyncio.run(imported(world.mirror))


@pytest.mark.needs("podman", "skopeo")
def test_podman_and_skopeo_pull_through_registries_conf(world: World, home: Path) -> None:
    def entry(registry: str, mirror: str) -> str:
        return f'[[registry]]\nlocation = "{registry}"\n[[registry.mirror]]\nlocation = "{mirror}"\ninsecure = true\n'

    port = world.mirror.port
    conf = home / "registries.conf"
    conf.write_text(entry("docker.io", f"127.0.0.1:{port}") + entry("wharfage.example", f"localhost:{port}"))
    settings = {"CONTAINERS_REGISTRIES_CONF": str(conf)}
    storage = ("--root", home / "root", "--runroot", home / "run", "--storage-driver", "vfs")
    for name in ("docker.io/library/app:1", f"wharfage.example/{TEAM}:1"):
        run("podman", *storage, "pull", name, extra=settings)
        shown = run("podman", *storage, "image", "inspect", "--format", "{{.Digest}}", name, extra=settings)
        assert shown.stdout.strip() in (*world.image.blobs, world.image.digest)
        found = run("skopeo", "--registries-conf", conf, "inspect", "--raw", f"docker://{name}").stdout
        assert json.loads(found)["manifests"]
