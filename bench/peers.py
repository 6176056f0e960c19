"""The servers of a comparison, started alike on free ports, and what each has used.

Ours runs as users run it: sealed, authenticated, one worker a core. The peers' settings lie in `peers/`, each file
saying what they are: CNCF distribution, zot where `ZOT` names its binary (untried: it was at hand on no machine that
this ran on), and nginx, which is no registry and serves files that are laid before it.
"""

from __future__ import annotations

import base64
import contextlib
import os
import string
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil
from load import Line

from proxy.storage.s3.bucket import S3Location
from support.programs import Daemon
from support.server import Server, free_port

SETTINGS = Path(__file__).resolve().parent / "peers"
LARGE = 64 * 1024  # of layers, not of links, configs or manifests
OURS, DISTRIBUTION, ZOT, NGINX = "wharfage", "distribution", "zot", "nginx"


@dataclass(frozen=True, slots=True)
class Used:
    """Since the start: seconds of CPU, and bytes that its reads returned (`read`) and fetched from a disk (`disk`)."""

    user: float
    kernel: float
    read: int
    disk: int


@dataclass(frozen=True, slots=True)
class Peer:
    """A running server: `headers` are the header lines that each request to it carries."""

    name: str
    address: str
    headers: str
    daemon: Daemon
    stored: Path

    @property
    def takes_pushes(self) -> bool:
        return self.name != NGINX

    def layers(self) -> list[Path]:
        """What of its store is worth emptying, or forgetting from the page cache; nothing where the store is S3."""
        if not self.stored.is_dir():
            return []
        return [path for path in self.stored.rglob("*") if path.is_file() and path.stat().st_size > LARGE]

    def forget(self) -> None:
        """Remove what lies in its store, behind its back, so that the page cache of a small machine serves every round
        alike: what is pushed later has digests of its own and misses nothing."""
        for path in self.layers():
            path.unlink()

    def chill(self) -> None:
        """Drop its layers from the page cache. What is dirty stays there, so that a `sync` must have been."""
        for path in self.layers():
            file = os.open(path, os.O_RDONLY)
            try:
                os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(file)

    def processes(self) -> list[psutil.Process]:
        """The one that was started and all its living descendants."""
        return self.as_server().processes()

    def as_server(self) -> Server:
        """The form that the tests' helpers take; its data directory is right for ours alone."""
        return Server(self.daemon, self.address, self.stored.parent)

    def used(self) -> Used:
        user = kernel = 0.0
        read = disk = 0
        for process in self.processes():
            with contextlib.suppress(psutil.NoSuchProcess):
                times, counted = process.cpu_times(), process.io_counters()
                user, kernel = user + times.user, kernel + times.system
                read, disk = read + counted.read_chars, disk + counted.read_bytes
        return Used(user, kernel, read, disk)


def wharfage(
    home: Path, name: str = OURS, more: Mapping[str, str] | None = None, *, workers: int | None = None
) -> Peer:
    """Ours with the settings in `more`, under a name of its own; `workers` None: one a core."""
    settings = {"WHARFAGE_LOG_LEVEL": "error", **(more or {})}
    server = Server.start(home / name, workers=workers or psutil.cpu_count() or 1, extra=settings)
    basic = base64.b64encode(f"AWS:{server.password()}".encode()).decode()
    headers = f"Authorization: Basic {basic}\r\n"
    return Peer(name, server.address, headers, server.daemon, server.data / "objects")


def distribution(home: Path) -> Peer:
    """CNCF distribution on its filesystem driver."""
    return _distribution(home, "distribution.yml", root=str(home / "distribution-data"))


def distribution_on_s3(home: Path, location: S3Location) -> Peer:
    return _distribution(
        home,
        "distribution-s3.yml",
        region=location.region,
        endpoint=location.endpoint,
        bucket=location.bucket,
        access_key_id=location.access_key_id,
        secret_access_key=location.secret_access_key,
    )


def _distribution(home: Path, settings: str, **values: str) -> Peer:
    address = f"127.0.0.1:{free_port()}"
    written = _written(home, settings, address=address, **values)
    daemon = Daemon.start(["registry", "serve", written], home / "distribution.log", {"OTEL_TRACES_EXPORTER": "none"})
    return _once_up(Peer(DISTRIBUTION, address, "", daemon, home / "distribution-data"), "/v2/", 200)


def zot(home: Path, binary: str) -> Peer:
    address = f"127.0.0.1:{free_port()}"
    host, _, port = address.partition(":")
    written = _written(home, "zot.json", root=str(home / "zot-data"), host=host, port=port)
    daemon = Daemon.start([binary, "serve", written], home / "zot.log")
    return _once_up(Peer(ZOT, address, "", daemon, home / "zot-data"), "/v2/", 200)


def nginx(home: Path) -> Peer:
    """Its root is what is `stored`; a blob lies there under the path that it is asked for by."""
    address, folder, root = f"127.0.0.1:{free_port()}", home / "nginx", home / "nginx-data"
    folder.mkdir()
    root.mkdir()
    user = "user root;" if os.geteuid() == 0 else ""  # else its workers may not read a folder closed to others
    written = _written(folder, "nginx.conf", address=address, folder=str(folder), root=str(root), user=user)
    command: list[str | Path] = ["nginx", "-p", folder, "-e", folder / "errors", "-c", written]
    return _once_up(Peer(NGINX, address, "", Daemon.start(command, home / "nginx.log"), root), "/v2/", 404)


def _written(folder: Path, settings: str, /, **values: str) -> Path:
    """The settings of `peers/`, filled in."""
    written = folder / settings
    written.write_text(string.Template((SETTINGS / settings).read_text()).substitute(values))
    return written


def _once_up(peer: Peer, path: str, status: int) -> Peer:

    def answers() -> bool:
        try:
            line = Line(peer.address)
        except OSError:
            return False
        try:
            return line.ask("GET", path)[0] == status
        finally:
            line.close()

    try:
        peer.daemon.wait_until(answers)
    except BaseException:
        peer.daemon.kill()
        raise
    return peer
