"""deploy/nginx.conf, run by a real nginx before a real server: what passes through it as it came, and what does not."""

from __future__ import annotations

import base64
import http.client
import json
import random
import re
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import boto3
import pytest
from botocore.config import Config

from proxy.http.selfsigned import make_self_signed
from support.deployed_nginx import CONFIGURATION, DeployedNginx, rendered
from support.programs import run
from support.registry import Registry
from support.server import Server, free_port

pytestmark = pytest.mark.needs("nginx")


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """(what clients trust, certificate, key)."""
    return make_self_signed(tmp_path_factory.mktemp("tls"), "127.0.0.1")


@pytest.fixture(scope="module")
def nginx(
    server: Server, authority: tuple[Path, Path, Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[DeployedNginx]:
    started = DeployedNginx.start(
        tmp_path_factory.mktemp("nginx") / "home", [server.address], authority[1], authority[2]
    )
    yield started
    started.stop()


def test_nginx_finds_no_fault_in_the_file(authority: tuple[Path, Path, Path], tmp_path: Path) -> None:
    """`nginx -t`, of the file with only addresses and paths changed; no warning either."""
    file = tmp_path / "nginx.conf"
    file.write_text(
        rendered(tmp_path, ["127.0.0.1:5000"], http=80, https=443, certificate=authority[1], key=authority[2], more={})
    )
    said = run("nginx", "-t", "-e", "stderr", "-c", file).stderr
    assert "test is successful" in said
    assert "[warn]" not in said


def test_idle_connections_to_nodes_end_before_a_draining_node_closes() -> None:
    """The upstream's keepalive_timeout is shorter than the drain delay that the file asks for."""
    text = CONFIGURATION.read_text()
    upstream = re.search(r"upstream wharfage \{.*?\n    \}", text, re.DOTALL)
    assert upstream
    kept = re.search(r"keepalive_timeout (\d+)s;", upstream.group())
    delay = re.search(r"drain_delay_seconds = (\d+)", text)
    assert kept
    assert delay
    assert int(kept.group(1)) < int(delay.group(1))


def test_nothing_that_may_not_be_done_twice_is_sent_twice() -> None:
    """`non_idempotent` and the 5xx are no reasons to ask another node."""
    [reasons] = re.findall(r"^ +proxy_next_upstream ([^;]+);", CONFIGURATION.read_text(), re.MULTILINE)
    assert set(reasons.split()) == {"error", "timeout"}


async def test_a_large_layer_and_ranges_of_it_pass_through(
    nginx: DeployedNginx, authority: tuple[Path, Path, Path], password: str, repository: str
) -> None:
    """10 MiB up and down, and podman's line of 1,024 ranges, which nginx's own limits refuse."""
    content = random.Random(1).randbytes(10 * 2**20)
    ranges = ",".join(f"{place * 10_000:010}-{place * 10_000 + 5:010}" for place in range(1024))
    trust = ssl.create_default_context(cafile=str(authority[0]))
    async with Registry(nginx.url, password, trust=trust) as registry:
        digest = await registry.push_blob(repository, content)
        assert (await registry.blob(repository, digest)).expect(200).body == content
        found = (await registry.blob(repository, digest, {"Range": f"bytes={ranges}"})).expect(206)
        assert found.headers["Content-Type"].startswith("multipart/byteranges")


def test_aws_signatures_hold_behind_it(
    nginx: DeployedNginx, authority: tuple[Path, Path, Path], server: Server
) -> None:
    """The Host that a client signed is the Host that the node verifies."""
    access_key_id, secret = server.credentials()
    ecr = boto3.client(
        "ecr",
        endpoint_url=nginx.url,
        region_name="us-east-1",
        aws_access_key_id=access_key_id,
        aws_secret_access_key=secret,
        verify=str(authority[0]),
        config=Config(retries={"max_attempts": 1}),
    )
    [told] = ecr.get_authorization_token()["authorizationData"]
    assert base64.b64decode(told["authorizationToken"]).startswith(b"AWS:")


def test_a_links_token_is_in_no_log_also_when_no_node_answers(
    authority: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    """What nginx says of a node that is gone quotes the request, but not one for a layer."""
    trust = ssl.create_default_context(cafile=str(authority[0]))
    nginx = DeployedNginx.start(tmp_path / "home", [f"127.0.0.1:{free_port()}"], authority[1], authority[2])
    try:
        for target in ("/layers/sha256:0?token=secret", "/v2/?token=public"):
            line = http.client.HTTPSConnection(urlsplit(nginx.url).netloc, context=trust, timeout=10)
            line.request("GET", target)
            assert line.getresponse().status == 502
            line.close()
    finally:
        nginx.stop()
    logged = nginx.log.read_text()
    assert "token=public" in logged
    assert "token=secret" not in logged


def test_readyz_is_open_and_metrics_are_not(nginx: DeployedNginx, authority: tuple[Path, Path, Path]) -> None:
    """What stands before nginx may ask for readiness; nobody out there reads metrics."""
    trust = ssl.create_default_context(cafile=str(authority[0]))
    for path, status in (("/readyz", 200), ("/metrics", 404), ("/v2/", 401)):
        line = http.client.HTTPSConnection(urlsplit(nginx.url).netloc, context=trust, timeout=10)
        line.request("GET", path)
        assert line.getresponse().status == status
        line.close()


@pytest.fixture
def silent() -> Iterator[socket.socket]:
    """A node that answers nothing; it accepts when the test does."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        sock.settimeout(20)
        yield sock


@pytest.mark.parametrize(
    "more",
    [
        pytest.param({"limit_conn connections 1000;": "limit_conn connections 2;"}, id="at-once"),
        pytest.param({"rate=500r/s;": "rate=1r/m;", "burst=2000 nodelay;": "burst=1 nodelay;"}, id="in-a-second"),
    ],
)
def test_one_client_over_the_limits_is_429_in_the_registrys_form(
    authority: tuple[Path, Path, Path], silent: socket.socket, tmp_path: Path, more: dict[str, str]
) -> None:
    """Two requests pass, the third is refused; what asks for readiness is not counted."""
    trust = ssl.create_default_context(cafile=str(authority[0]))
    node = f"127.0.0.1:{silent.getsockname()[1]}"
    nginx = DeployedNginx.start(tmp_path / "home", [node], authority[1], authority[2], more=more)
    accepted: list[socket.socket] = []
    lines = [http.client.HTTPSConnection(urlsplit(nginx.url).netloc, context=trust, timeout=10) for _ in range(4)]
    try:
        for line, path in zip(lines, ("/readyz", "/v2/", "/v2/", "/v2/"), strict=True):
            line.request("GET", path)
            if line is not lines[-1]:
                accepted.append(silent.accept()[0])  # it has passed nginx
        answer = lines[-1].getresponse()
        assert (answer.status, answer.headers["Retry-After"]) == (429, "2")
        assert json.loads(answer.read())["errors"][0]["code"] == "TOOMANYREQUESTS"
    finally:
        for line in lines:
            line.close()
        for each in accepted:
            each.close()
        nginx.stop()
