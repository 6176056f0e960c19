"""A real nginx over the nodes of a cluster, with the settings that a registry needs, and its word on who got what.

Round robin over every node, so that the requests of one upload go to different ones. Bodies pass unbuffered both ways;
what a node did not take at all may be given to another, by nginx's own rule: never a POST or PATCH that was sent.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.programs import Daemon

PROGRAM = "nginx"
START_SECONDS = 20
_LINE = re.compile(r"^(\S+) (\d+) (\S+) (\S+) (\S+(?:, \S+)*)$", re.MULTILINE)
_SETTINGS = """
{user}daemon off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/nginx-error.log warn;
events {{ worker_connections 1024; }}
http {{
  log_format sent '$request_method $status $request_uri $sent_http_location $upstream_addr';
  access_log {folder}/nginx-access.log sent;
  client_body_temp_path {folder}/nginx-body;
  proxy_temp_path {folder}/nginx-proxy;
  fastcgi_temp_path {folder}/nginx-fastcgi;
  uwsgi_temp_path {folder}/nginx-uwsgi;
  scgi_temp_path {folder}/nginx-scgi;
  large_client_header_buffers 4 32k;
  upstream nodes {{
    {servers}
    keepalive 32;
  }}
  server {{
    listen 127.0.0.1:{port};
    client_max_body_size 0;
    location / {{
      proxy_pass http://nodes;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_set_header Host $http_host;
      proxy_set_header X-Forwarded-For $remote_addr;
      proxy_set_header X-Forwarded-Proto $scheme;
      proxy_request_buffering off;
      proxy_buffering off;
      proxy_connect_timeout 3s;
      proxy_read_timeout 300s;
      proxy_send_timeout 300s;
    }}
  }}
}}
"""


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
    servers = "\n    ".join(f"server 127.0.0.1:{node} max_fails=1 fail_timeout=1s;" for node in nodes)
    user = "user root;\n" if as_root else ""  # its temporary files lie in a folder of ours, closed to others
    settings = folder / "nginx.conf"
    settings.write_text(_SETTINGS.format(user=user, folder=folder, servers=servers, port=port))
    command: list[str | Path] = [PROGRAM, "-p", folder, "-e", folder / "nginx-error.log", "-c", settings]
    daemon = Daemon.start(command, folder / "nginx.log")
    daemon.wait_until(lambda: _listens(port), START_SECONDS)
    return daemon


def passed(folder: Path) -> list[Passed]:
    """Every request that has been answered so far, in the order of their ends."""
    return [
        Passed(method, int(status), target, location, tuple(nodes.split(", ")))
        for method, status, target, location, nodes in _LINE.findall((folder / "nginx-access.log").read_text())
    ]


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
