"""A receiver of events: an HTTP server that notes what comes and answers what a test says."""

from __future__ import annotations

import hashlib
import hmac
import json
import ssl
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any


@dataclass(frozen=True, slots=True)
class Received:
    path: str
    headers: Mapping[str, str]
    body: bytes
    status: int  # what it was answered

    @property
    def event(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.body)
        return found

    @property
    def tag(self) -> str:
        return str(self.event["detail"].get("image-tag"))

    def signed_by(self, secret: str) -> bool:
        """As a receiver checks it."""
        timestamp = self.headers["X-Wharfage-Timestamp"]
        expected = "v1=" + hmac.new(secret.encode(), f"{timestamp}.".encode() + self.body, hashlib.sha256).hexdigest()
        fresh = abs(time.time() - int(timestamp)) < 300
        return fresh and expected in self.headers["X-Wharfage-Signature"].split(",")


@dataclass
class Webhook:
    """`status` is answered to paths that `statuses` does not name; `stall` seconds pass before, on paths of `slow`."""

    status: int = 204
    statuses: dict[str, int] = field(default_factory=dict)
    slow: dict[str, float] = field(default_factory=dict)
    received: list[Received] = field(default_factory=list)
    tls: ssl.SSLContext | None = None

    def __enter__(self) -> Webhook:
        owner = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                owner._gone.wait(owner.slow.get(self.path, 0.0))
                status = owner.statuses.get(self.path, owner.status)
                with owner._changed:
                    owner.received.append(Received(self.path, dict(self.headers), body, status))
                    owner._changed.notify_all()
                self.send_response(status)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None: ...

        self._changed = threading.Condition()
        self._gone = threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        if self.tls is not None:
            self._server.socket = self.tls.wrap_socket(self._server.socket, server_side=True)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._gone.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def url(self) -> str:
        return f"http{'s' if self.tls else ''}://127.0.0.1:{self._server.server_address[1]}"

    def accepted(self, path: str = "") -> list[Received]:
        """What was answered with success, in order."""
        with self._changed:
            return [each for each in self.received if each.status < 300 and each.path.startswith(path)]

    def wait_for(self, count: int, *, path: str = "", accepted: bool = True, seconds: float = 60.0) -> list[Received]:
        """Until so many have come."""

        def found() -> list[Received]:
            return [
                each for each in self.received if each.path.startswith(path) and (each.status < 300 or not accepted)
            ]

        with self._changed:
            assert self._changed.wait_for(lambda: len(found()) >= count, seconds), f"{len(found())} of {count} came"
            return found()
