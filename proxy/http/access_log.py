"""The log line and the metrics of one request.

`server` calls `write` and `RequestCounters.get` after each request; `response_cache` keeps both for a cached response.
"""

from __future__ import annotations

from typing import Any

from aiohttp import web

from proxy import observe


class RequestCounters:
    """One server's counters of requests, by handler, method and status: one entry for each combination in use.

    Looking up a labelled row is most of what counting costs, so the rows found are cached."""

    def __init__(self) -> None:
        self._counters: dict[tuple[str, str, int], _Counter] = {}

    def get(self, handler: str, request: web.Request, status: int) -> _Counter:
        labels = (handler, method_label(request.method), status)
        return self._counters.get(labels) or self._counters.setdefault(labels, _Counter(*labels))


class _Counter:
    """Counts requests of one handler, method and status. `cached` counts those that `response_cache` answered."""

    def __init__(self, handler: str, method: str, status: int) -> None:
        self._requests = observe.metrics.http_requests.labels(handler, method, status)
        self._seconds = observe.metrics.http_request_seconds.labels(handler)
        self.cached = observe.Tally((self._requests, observe.metrics.http_answered_again), self._seconds)

    def count(self, seconds: float) -> None:
        """Count one request that took `seconds`."""
        self._requests.inc()
        self._seconds.observe(seconds)


def line_fields(handler: str, request: web.Request, response: web.StreamResponse | None, status: int) -> dict[str, Any]:
    """The log line's fields but its duration, with those that `observe.note` added. Call it before the body is sent."""
    return {
        **observe.noted(),
        "door": handler,
        "method": request.method,
        "path": request.path,
        "status": status,
        **_digest(response),
        "received": request.content.total_bytes,
        "sent": _sent(request, response),
        "client": request.remote,
        "agent": request.headers.get("User-Agent", ""),
    }


def write(handler: str, request: web.Request, response: web.StreamResponse | None, status: int, seconds: float) -> None:
    """Write the log line of a request that took `seconds`."""
    fields = line_fields(handler, request, response, status)
    observe.RequestLine(fields).write(fields["request_id"], seconds)


def method_label(method: str) -> str:
    """The method as a metric label; `other` for unknown ones, so that clients cannot create label values."""
    return method if method in {"GET", "HEAD", "PUT", "POST", "PATCH", "DELETE", "OPTIONS"} else "other"


def _sent(request: web.Request, response: web.StreamResponse | None) -> int:
    if isinstance(response, web.Response) and request.writer.output_size == 0:  # its body is sent after this line
        return response.content_length or 0
    return request.writer.output_size


def _digest(response: web.StreamResponse | None) -> dict[str, str]:
    digest = response.headers.get("Docker-Content-Digest") if response is not None else None
    return {"digest": digest} if digest else {}
