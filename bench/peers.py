"""The two servers of a comparison, started alike on free ports, and the CPU that each has used.

Ours runs as users run it: sealed, authenticated, one worker a core. The peer is CNCF distribution on its filesystem
driver, plain and without authentication, its logs at error level as ours are.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil

from harness.programs import Daemon
from harness.server import Server, free_port
from proxy.storage.bucket import Place

LARGE = 1 << 20  # of layers, not of links, configs or manifests


@dataclass(frozen=True, slots=True)
class Peer:
    """A running server: `headers` are the header lines that each request to it carries."""

    name: str
    address: str
    headers: str
    daemon: Daemon
    stored: Path

    def forget(self) -> None:
        """Remove what lies in its store, behind its back, so that the page cache of a small machine serves every round
        alike: what is pushed later has digests of its own and misses nothing."""
        for path in self.stored.rglob("*"):
            if path.is_file() and path.stat().st_size > LARGE:
                path.unlink()

    def cpu(self) -> tuple[float, float]:
        """Seconds so far (user, kernel), of the process that was started and of all its living descendants."""
        first = psutil.Process(self.daemon.process.pid)
        times = [process.cpu_times() for process in (first, *first.children(recursive=True))]
        return sum(each.user for each in times), sum(each.system for each in times)


def wharfage(
    home: Path, name: str = "wharfage", more: Mapping[str, str] | None = None, *, workers: int | None = None
) -> Peer:
    """Ours with the settings in `more`, under a name of its own; `workers` None: one a core."""
    settings = {"WHARFAGE_LOG_LEVEL": "error", **(more or {})}
    server = Server.start(home / name, workers=workers or psutil.cpu_count() or 1, extra=settings)
    basic = base64.b64encode(f"AWS:{server.password()}".encode()).decode()
    headers = f"Authorization: Basic {basic}\r\n"
    return Peer(name, server.address, headers, server.daemon, server.data / "objects")


def distribution(home: Path, storage: str = "") -> Peer:
    """CNCF distribution; `storage` is what its file says under that key, its filesystem driver when empty."""
    address = f"127.0.0.1:{free_port()}"
    settings = home / "distribution.yml"
    settings.write_text(
        "version: 0.1\n"
        "log: {level: error, accesslog: {disabled: true}}\n"
        f"storage: {storage or _files(home / 'distribution')}\n"
        f'http: {{addr: "{address}"}}\n'
    )
    daemon = Daemon.start(["registry", "serve", settings], home / "distribution.log", {"OTEL_TRACES_EXPORTER": "none"})
    peer = Peer("distribution", address, "", daemon, home / "distribution")
    daemon.wait_until(lambda: _answers(address))
    return peer


def _files(root: Path) -> str:
    return f"{{filesystem: {{rootdirectory: {root}}}, delete: {{enabled: true}}}}"


def distribution_on_s3(home: Path, place: Place) -> Peer:
    """With its defaults for S3, but for redirects: what is compared is a registry that carries its bytes itself."""
    driver = {
        "region": place.region,
        "regionendpoint": place.endpoint,
        "bucket": place.bucket,
        "accesskey": place.access_key_id,
        "secretkey": place.secret_access_key,
        "rootdirectory": "/distribution",
        "forcepathstyle": True,
        "secure": False,
    }
    return distribution(home, json.dumps({"s3": driver, "redirect": {"disable": True}, "delete": {"enabled": True}}))


def _answers(address: str) -> bool:
    from load import Line

    try:
        line = Line(address)
    except OSError:
        return False
    try:
        return line.ask("GET", "/v2/")[0] == 200
    finally:
        line.close()
