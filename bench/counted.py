"""A line to an S3 store that counts: requests and bytes of each server that has a door of its own here.

It is an nginx that passes everything on unbuffered, signatures and all, and writes down what it passed; it costs
little, and what it costs is nobody's CPU in a comparison. Bytes are whole messages, headers with bodies, both ways.
"""

from __future__ import annotations

import os
import socket
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from support.programs import Daemon
from support.server import free_port

_QUIET_SECONDS = 0.05  # nginx writes a request down once its last byte is out: a moment after the client has it
_DOOR = """
  server {{
    listen 127.0.0.1:{port};
    access_log {folder}/{name}.requests counted;
    location / {{
      proxy_pass http://store;
    }}
  }}"""
_SETTINGS = """
{user}daemon off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/errors warn;
events {{ worker_connections 2048; }}
http {{
  log_format counted '$request_method $status $request_length $bytes_sent $request_uri';
  client_max_body_size 0;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  keepalive_requests 1000000;
  proxy_http_version 1.1;
  proxy_set_header Connection "";
  proxy_set_header Host $http_host;
  proxy_request_buffering off;
  proxy_buffering off;
  proxy_buffer_size 64k;
  proxy_buffers 8 64k;
  proxy_read_timeout 300s;
  client_body_buffer_size 256k;
  upstream store {{
    server 127.0.0.1:{store};
    keepalive 64;
    keepalive_requests 1000000;
  }}{doors}
}}
"""


@dataclass(frozen=True, slots=True)
class Count:
    """What went over a line: `up` and `down` in bytes; `refused` are answers from 400 on."""

    requests: int = 0
    refused: int = 0
    up: int = 0
    down: int = 0
    by_kind: Counter[str] = field(default_factory=Counter)


@dataclass(slots=True)
class CountedLine:
    """`url` is one server's door; `take` what went through it since the last time."""

    daemon: Daemon
    folder: Path
    ports: dict[str, int]
    read: dict[str, int] = field(default_factory=dict)

    @classmethod
    def start(cls, folder: Path, store: int, names: Sequence[str]) -> CountedLine:
        folder.mkdir()
        ports = {name: free_port() for name in names}
        doors = "".join(_DOOR.format(port=port, folder=folder, name=name) for name, port in ports.items())
        user = "user root;\n" if os.geteuid() == 0 else ""  # its temporary files lie in a folder closed to others
        (folder / "nginx.conf").write_text(_SETTINGS.format(user=user, folder=folder, store=store, doors=doors))
        command: list[str | Path] = ["nginx", "-p", folder, "-e", folder / "errors", "-c", folder / "nginx.conf"]
        daemon = Daemon.start(command, folder / "log")
        daemon.wait_until(lambda: all(_listens(port) for port in ports.values()))
        return cls(daemon, folder, ports)

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self.ports[name]}"

    def take(self, name: str) -> Count:
        log = self.folder / f"{name}.requests"
        size = -1
        while size != (size := log.stat().st_size):
            time.sleep(_QUIET_SECONDS)
        with log.open() as lines:
            lines.seek(self.read.get(name, 0))
            rows = [line.split(" ", 4) for line in lines]
        self.read[name] = size
        return Count(
            requests=len(rows),
            refused=sum(int(status) >= 400 for _, status, *_ in rows),
            up=sum(int(row[2]) for row in rows),
            down=sum(int(row[3]) for row in rows),
            by_kind=Counter(_kind(method, target) for method, *_, target in rows),
        )


def _kind(method: str, target: str) -> str:
    """What S3 calls it, as far as method and query tell."""
    query = target.strip().partition("?")[2]
    for mark, name in (("partNumber=", "part"), ("uploads", "begin"), ("uploadId=", "complete"), ("list-type", "list")):
        if mark in query:
            return f"{method} {name}"
    return method


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
