"""What the log line and the metrics of a request say of it and of its answer."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from proxy import observe


class Counts:
    """Of one server: what counts a request, by how it was answered. Finding a labelled row is most of counting, and
    there are few of them: so many as doors, methods and statuses."""

    def __init__(self) -> None:
        self._held: dict[tuple[str, str, int], _Count] = {}

    def of(self, door: str, request: web.Request, status: int) -> _Count:
        labels = (door, method(request.method), status)
        return self._held.get(labels) or self._held.setdefault(labels, _Count(*labels))


class _Count:
    """Of requests that were answered alike."""

    def __init__(self, door: str, method: str, status: int) -> None:
        self._answered = observe.metrics.http_requests.labels(door, method, status)
        self._took = observe.metrics.http_request_seconds.labels(door)
        self.again = observe.Tally((self._answered, observe.metrics.http_answered_again), self._took)

    def one(self, seconds: float) -> None:
        """One more, that took so long."""
        self._answered.inc()
        self._took.observe(seconds)


def facts(door: str, request: web.Request, response: web.StreamResponse | None, status: int) -> dict[str, Any]:
    """The line, with what was noted meanwhile, but for the time it took; to be asked before the answer goes out."""
    return {
        **observe.noted(),
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


def write(door: str, request: web.Request, response: web.StreamResponse | None, status: int, seconds: float) -> None:
    said = facts(door, request, response, status)
    observe.RequestLine(said).write(said["request_id"], seconds)


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
