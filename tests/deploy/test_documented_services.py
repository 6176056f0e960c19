"""Several metadata services set up as deploy/README.md says: they can ask each other, and so there is a grace."""

from __future__ import annotations

import contextlib
import http.client
import json
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
from fakes.cut_line import CutLine

from harness import postgresql
from harness.metadata import postgresql_database
from harness.programs import ROOT, Daemon
from harness.server import Server, free_port
from proxy.http.selfsigned import make_self_signed

pytestmark = pytest.mark.needs(postgresql.PROGRAM)

SECRET = "a-shared-secret-of-some-length"
_BLOCKS = re.findall(r"```toml\n(.*?)```", (ROOT / "deploy" / "README.md").read_text(), re.DOTALL)
SERVICE, NODE = _BLOCKS
"""What the page shows of a service's wharfage.toml and of a node's."""


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
def database() -> Iterator[CutLine]:
    line = CutLine(postgresql.shared().port)
    yield line
    line.close()


@pytest.fixture
def place(tmp_path: Path, database: CutLine, request: pytest.FixtureRequest) -> Iterator[Place]:
    """`request.param`: keys that services do not get after all."""
    ca, cert, key = make_self_signed(tmp_path / "tls", "127.0.0.1")
    ports = [free_port(), free_port()]
    paths = {"/etc/wharfage/tls.crt": cert, "/etc/wharfage/tls.key": key, "/etc/wharfage/ca.crt": ca}

    def written(text: str, name: str, port: int = 0, without: tuple[str, ...] = ()) -> Path:
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

    url = f"postgresql://postgres@127.0.0.1:{database.port}/{postgresql_database(tmp_path).rpartition('/')[2]}"
    secrets = {"WHARFAGE_METADATA_SECRET": SECRET, "WHARFAGE_STORAGE_PATH": str(tmp_path / "objects")}
    services: list[Daemon] = []

    def run(name: str, command: str, file: Path, more: dict[str, str], *words: str) -> tuple[Daemon, Path]:
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
            daemon, _ = run(f"service{number}", "metadata", file, {"WHARFAGE_METADATA_DATABASE": url})
            ends.callback(daemon.kill)
            services.append(daemon)
            daemon.wait_until(lambda: "is ready" in daemon.log.read_text())  # noqa: B023  # waited for here
        address = f"127.0.0.1:{free_port()}"
        words = ("--listen", address, "--workers", "1")
        daemon, data = run("node", "proxy", written(NODE, "node"), {}, *words)
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
