"""Several metadata services set up as docs/cluster.md says: they can ask each other, and so there is a grace.

The page's commands make the role, the database, the bucket and the certificates, with names that lead to this machine.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import shutil
import ssl
import sys
import time
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from support import postgresql
from support.cut_connection import CutLine
from support.programs import ROOT, TOOLS, Daemon, run
from support.seaweed import ACCESS_KEY, SECRET_KEY, Seaweed
from support.server import Server, free_port

pytestmark = pytest.mark.needs(postgresql.PROGRAM)

SECRET = "a-shared-secret-of-some-length"
_PAGE = (ROOT / "docs" / "cluster.md").read_text()
SERVICE, NODE = re.findall(r"```toml\n(.*?)```", _PAGE, re.DOTALL)
"""What the page shows of a service's wharfage.toml and of a node's."""
ROLE_AND_DATABASE, BUCKET, CERTIFICATES = re.findall(r"```sh\n(.*?)```", _PAGE, re.DOTALL)


def typed(commands: str, folder: Path, **variables: str) -> None:
    run("bash", "-euo", "pipefail", "-c", commands, cwd=folder, extra=variables)


@dataclass(frozen=True, slots=True)
class Place:
    """Two services and a node, each with the file that the page shows, but for names, ports and paths."""

    services: list[Daemon]
    ports: list[int]
    node: Server
    ca: Path

    def ask(self, path: str, service: int | None = None) -> tuple[int, bytes]:
        line: http.client.HTTPConnection
        if service is None:
            line = http.client.HTTPConnection(self.node.address, timeout=10)
        else:
            tls = ssl.create_default_context(cafile=self.ca)
            line = http.client.HTTPSConnection("127.0.0.1", self.ports[service], timeout=10, context=tls)
        with contextlib.closing(line):
            line.request("GET", path)
            response = line.getresponse()
            return response.status, response.read()

    def ready(self, service: int | None = None) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.ask("/readyz", service)[1])
        return found

    def said(self, event: str) -> list[str]:
        return [line for daemon in self.services for line in daemon.log.read_text().splitlines() if event in line]


@pytest.fixture
def database(tmp_path: Path) -> Iterator[CutLine]:
    """To a database that the page's commands made."""
    cluster = postgresql.Cluster.start()
    try:
        typed(ROLE_AND_DATABASE.replace("db.internal", "127.0.0.1"), tmp_path, PGPORT=str(cluster.port))
        line = CutLine(cluster.port)
        yield line
        line.close()
    finally:
        cluster.stop()
        cluster.remove()


@pytest.fixture
def place(tmp_path: Path, database: CutLine, request: pytest.FixtureRequest) -> Iterator[Place]:
    """`request.param`: keys that services do not get after all."""
    tls = tmp_path / "tls"
    tls.mkdir()
    typed(CERTIFICATES.replace("DNS:%s", "DNS:%s,IP:127.0.0.1"), tls)
    ca = tls / "ca.crt"
    ports = [free_port(), free_port()]

    def written(text: str, name: str, port: int = 0, without: tuple[str, ...] = ()) -> Path:
        own = tls / f"metadata{ports.index(port) + 1 if port else 1}.internal"
        paths = {
            "/etc/wharfage/tls.crt": f"{own}.crt",
            "/etc/wharfage/tls.key": f"{own}.key",
            "/etc/wharfage/ca.crt": ca,
        }
        for shown, path in paths.items():
            text = text.replace(shown, str(path))
        text = text.replace("0.0.0.0:5050", f"0.0.0.0:{port}")
        text = text.replace('advertise = "https://metadata1.internal:5050"', f'advertise = "https://127.0.0.1:{port}"')
        for number, each in enumerate(ports, 1):
            text = text.replace(f"metadata{number}.internal:5050", f"127.0.0.1:{each}")
        file = tmp_path / f"{name}.toml"
        file.write_text("\n".join(line for line in text.splitlines() if not line.startswith(without or ("#",))))
        assert tomllib.loads(file.read_text())["metadata"]
        return file

    url = f"postgresql://wharfage:change-me@127.0.0.1:{database.port}/wharfage"
    secrets = {"WHARFAGE_METADATA_SECRET": SECRET, "WHARFAGE_STORAGE_PATH": str(tmp_path / "objects")}
    services: list[Daemon] = []

    def started(name: str, command: str, file: Path, more: dict[str, str], *words: str) -> tuple[Daemon, Path]:
        data = tmp_path / name
        if services:
            (data / "keys").mkdir(parents=True, mode=0o700)
            for each in ("keys/master.json", "credentials"):
                shutil.copy(tmp_path / "service0" / each, data / each)
        words = (sys.executable, "-m", "proxy", command, "--config", str(file), "--data", str(data), *words)
        return Daemon.start(words, tmp_path / f"{name}.log", secrets | more), data

    with contextlib.ExitStack() as ends:
        for number, port in enumerate(ports):
            file = written(SERVICE, f"service{number}", port, getattr(request, "param", ()))
            daemon, _ = started(f"service{number}", "metadata", file, {"WHARFAGE_METADATA_DATABASE": url})
            ends.callback(daemon.kill)
            services.append(daemon)
            daemon.wait_until(lambda: "is ready" in daemon.log.read_text())  # noqa: B023  # waited for here
        address = f"127.0.0.1:{free_port()}"
        words = ("--listen", address, "--workers", "1")
        daemon, data = started("node", "proxy", written(NODE, "node"), {}, *words)
        ends.callback(daemon.kill)
        node = Server(daemon, address, data)
        daemon.wait_until(node.is_ready)
        yield Place(services, ports, node, ca)


def until(fulfilled: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not fulfilled():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_services_that_have_what_the_page_says_can_ask_each_other_and_go_on_without_the_database(
    place: Place, database: CutLine
) -> None:
    until(lambda: place.ready()["metadata"] == "ok")
    for number in range(2):
        assert place.ready(number) == {"ready": True, "database": "ok", "warnings": []}
    database.cut()
    until(lambda: str(place.ready()["metadata"]).startswith("grace: "))
    assert place.ask("/readyz")[0] == 200
    until(lambda: place.ask("/readyz", 0)[0] == 503)
    assert not place.said("there is no outage_grace")


@pytest.mark.parametrize("place", [("ca_bundle",)], indirect=True)
def test_services_without_the_authority_say_what_is_missing_in_their_log_a_metric_and_readyz(place: Place) -> None:
    """Set up as the page said once: `ca_bundle` for nodes only. A grace that is silently not there is none."""
    until(lambda: len(place.said("there is no outage_grace")) == 2)
    assert all("[metadata] ca_bundle" in line for line in place.said("there is no outage_grace"))
    until(lambda: "no outage_grace: https://127.0.0.1:" in place.ready()["metadata"])
    assert place.ask("/readyz")[0] == 200
    for number in range(2):
        [warning] = place.ready(number)["warnings"]
        assert warning.endswith("cannot be asked: its certificate is of an authority that this service does not know")
        metrics = place.ask("/metrics", number)[1].decode()
        assert "\nwharfage_metadata_unasked_services 1.0\n" in metrics
        assert "\nwharfage_metadata_clock_offset_seconds " in metrics


@pytest.mark.needs("weed", "aws")
def test_the_command_for_the_bucket_makes_it(tmp_path: Path) -> None:
    store = Seaweed.start(tmp_path / "weed")
    try:
        key = {"AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY, "AWS_DEFAULT_REGION": "us-east-1"}
        typed(
            BUCKET.replace("https://s3.internal", store.url),
            tmp_path,
            PATH=f"{TOOLS}{os.pathsep}{os.environ['PATH']}",
            **key,
        )
    finally:
        store.stop()
