"""A real nginx over the nodes of a cluster, as deploy/nginx.conf has it, and its word on who got what.

What differs from that file: it takes plain HTTP, as it is on loopback, and writes down each request. Nodes that are
equally busy take turns, so that the requests of one upload go to different ones.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from support.deployed_nginx import rendered
from support.programs import Daemon
from support.server import free_port, listens

PROGRAM = "nginx"
START_SECONDS = 20
_LINE = re.compile(r"^(\S+) (\d+) (\S+) (\S+) (\S+(?:, \S+)*)$", re.MULTILINE)
_LOG_OFF = "access_log off;  # the nodes log each request, with the client's address"
_LOG = "log_format sent '$request_method $status $request_uri $sent_http_location $upstream_addr'; access_log {} sent;"
_NOWHERE = Path("/nowhere")


@dataclass(frozen=True, slots=True)
class Passed:
    """One request as nginx wrote it down; `nodes` are the addresses it was given to, the last one answered, and
    `location` is what it said, or "-"."""

    method: str
    status: int
    target: str
    location: str
    nodes: tuple[str, ...]


def start(folder: Path, port: int, nodes: Sequence[int], *, as_root: bool) -> Daemon:
    """An nginx on `port` of loopback over those ports, ready; what it writes lies in `folder`."""
    changes = {
        _LOG_OFF: _LOG.format(folder / "nginx-access.log"),
        f"listen 127.0.0.1:{port} ssl;": f"listen 127.0.0.1:{port};",
    }
    addresses = [f"127.0.0.1:{node}" for node in nodes]
    text = rendered(folder, addresses, http=free_port(), https=port, certificate=_NOWHERE, key=_NOWHERE, more=changes)
    text = re.sub(r"^ *ssl_.*\n", "", text, flags=re.MULTILINE)
    user = "user root;\n" if as_root else ""  # its temporary files lie in a folder of ours, closed to others
    settings = folder / "nginx.conf"
    settings.write_text(f"{user}daemon off;\n{text}")
    command: list[str | Path] = [PROGRAM, "-p", folder, "-e", "stderr", "-c", settings]
    daemon = Daemon.start(command, folder / "nginx.log")
    daemon.wait_until(lambda: listens(port), START_SECONDS)
    return daemon


def passed(folder: Path) -> list[Passed]:
    """Every request that has been answered so far, in the order of their ends."""
    return [
        Passed(method, int(status), target, location, tuple(nodes.split(", ")))
        for method, status, target, location, nodes in _LINE.findall((folder / "nginx-access.log").read_text())
    ]
