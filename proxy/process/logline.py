"""What the log line and the metrics of a request say of it and of its answer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from aiohttp import web

from proxy import observe


class Counts:
    """Of one server: what counts a request, by how it was answered. Finding a labelled row is most of counting, and
    there are few of them: so many as doors, methods and statuses."""

    def __init__(self) -> None:
        self._held: dict[tuple[str, str, int], Callable[[float], None]] = {}

    def of(self, door: str, request: web.Request, status: int) -> Callable[[float], None]:
        """To be called with the seconds that one more such request took."""
        labels = (door, method(request.method), status)
        return self._held.get(labels) or self._held.setdefault(labels, _counter(*labels))


def _counter(door: str, method: str, status: int) -> Callable[[float], None]:
    one_more = observe.metrics.http_requests.labels(door, method, status).inc
    took = observe.metrics.http_request_seconds.labels(door).observe

    def count(seconds: float) -> None:
        one_more()
        took(seconds)

    return count


def facts(door: str, request: web.Request, response: web.StreamResponse | None, status: int) -> dict[str, Any]:
    """The line, but for what was noted meanwhile and the time it took; to be asked before the answer goes out."""
    return {
        "door": door,
        "method": request.method,
        "path": request.path,
        "status": status,
        **_digest(response),
        "received": request.content.total_bytes,
        "sent": _sent(request, response),
        "client": request.remote,
        "agent": request.headers.get("User-Agent", ""),
    }


def method(method: str) -> str:
    """A label with few values, whatever a client sends."""
    return method if method in {"GET", "HEAD", "PUT", "POST", "PATCH", "DELETE", "OPTIONS"} else "other"


def _sent(request: web.Request, response: web.StreamResponse | None) -> int:
    if isinstance(response, web.Response) and request.writer.output_size == 0:  # its body goes out after this line
        return response.content_length or 0
    return request.writer.output_size


def _digest(response: web.StreamResponse | None) -> dict[str, str]:
    digest = response.headers.get("Docker-Content-Digest") if response is not None else None
    return {"digest": digest} if digest else {}
