"""A real nginx that runs deploy/nginx.conf as it stands, but for addresses, ports and paths.

What is changed is changed by exact words, each of which must be there: a file that was edited in a way that this does
not know fails here rather than being tested as something else.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from support.programs import ROOT, Daemon
from support.server import free_port

CONFIGURATION = ROOT / "deploy" / "nginx.conf"


def rendered(
    home: Path, nodes: Sequence[str], *, http: int, https: int, certificate: Path, key: Path, more: Mapping[str, str]
) -> str:
    """deploy/nginx.conf for these nodes (HOST:PORT), on loopback, with everything that it writes under `home`."""
    text = CONFIGURATION.read_text()
    servers = re.findall(r"server proxy\d:5000( [^;]+);\n", text)
    assert len(servers) == 3
    assert len(set(servers)) == 1
    block = re.search(r"( +server proxy\d:5000[^\n]+\n)+", text)
    assert block
    changes = {
        block.group(): "".join(f"        server {node}{servers[0]};\n" for node in nodes),
        "pid /run/nginx.pid;": f"pid {home}/nginx.pid;",
        "listen 80;": f"listen 127.0.0.1:{http};",
        "listen 443 ssl;": f"listen 127.0.0.1:{https} ssl;",
        "listen [::]:80;": "",
        "listen [::]:443 ssl;": "",
        "/etc/nginx/tls/tls.crt": str(certificate),
        "/etc/nginx/tls/tls.key": str(key),
        " /run/nginx-": f" {home}/nginx-",
        **more,
    }
    for old, new in changes.items():
        assert old in text, f"{CONFIGURATION} says {old!r} no more"
        text = text.replace(old, new)
    return text


@dataclass(slots=True)
class DeployedNginx:
    """A running nginx; `port` takes TLS, `certificate` is what vouches for it."""

    daemon: Daemon
    port: int
    certificate: Path
    log: Path

    @classmethod
    def start(
        cls,
        home: Path,
        nodes: Sequence[str],
        certificate: Path,
        key: Path,
        *,
        more: Mapping[str, str] | None = None,
    ) -> DeployedNginx:
        home.mkdir()
        http, https = free_port(), free_port()
        written = home / "nginx.conf"
        written.write_text(
            rendered(home, nodes, http=http, https=https, certificate=certificate, key=key, more=more or {})
        )
        # In the foreground: nginx as a daemon of its own would outlive its test.
        command: list[str | Path] = ["nginx", "-p", home, "-e", "stderr", "-c", written, "-g", "daemon off;"]
        started = cls(Daemon.start(command, home / "log"), https, certificate, home / "log")
        started.daemon.wait_until(started.is_up)
        return started

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    def is_up(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self.port), timeout=5).close()
        except OSError:
            return False
        return True

    def stop(self) -> int:
        return self.daemon.stop()
