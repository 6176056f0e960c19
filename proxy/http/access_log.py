"""The log line and the metrics of one request.

`server` calls `RequestCounters.begin` and `end`, and `write`, for each request; `response_cache` stores a `RequestLine`
and a `Tally` with each cached response.
"""

from __future__ import annotations

import asyncio
from typing import Any

from aiohttp import web

from proxy import observe

SETTLE_SECONDS = 0.05  # by which counts and log lines lag behind the responses


class RequestCounters:
    """One server's counts of requests, by handler, method and status, and of those that are running.

    They are summed for `SETTLE_SECONDS` before they are put into the metrics, each of which takes a microsecond; a kill
    loses them. Call it inside the running loop."""

    def __init__(self) -> None:
        self._tallies: dict[tuple[str, str, int, bool], observe.Tally] = {}
        self._unsettled: list[observe.Tally] = []
        self._settling: asyncio.TimerHandle | None = None
        self._running = 0
        self._running_shown = 0

    def begin(self) -> None:
        """One more request is running."""
        self._running += 1
        self.settle_later()

    def end(self, handler: str, method: str, status: int, seconds: float) -> None:
        """A request ended, and took `seconds`."""
        self._running -= 1
        self.add(self.tally(handler, method, status), seconds)

    def tally(self, handler: str, method: str, status: int, *, cached: bool = False) -> observe.Tally:
        """The tally of requests of this kind; `cached`: those that `response_cache` answered."""
        name = (handler, method, status, cached)
        found = self._tallies.get(name)
        if found is None:
            labels = (handler, method_label(method), status)
            counters = [observe.metrics.http_requests.labels(*labels)]
            if cached:
                counters.append(observe.metrics.http_answered_again)
            found = observe.Tally(counters, observe.metrics.http_request_seconds.labels(handler))
            if method_label(method) == method:  # clients must not create entries
                self._tallies[name] = found
        return found

    def add(self, tally: observe.Tally, seconds: float) -> None:
        if tally.add(seconds):
            self._unsettled.append(tally)
        self.settle_later()

    def settle_later(self) -> None:
        if self._settling is None:
            self._settling = asyncio.get_running_loop().call_later(SETTLE_SECONDS, self.settle)

    def settle(self) -> None:
        """Put all counts into the metrics, and write the pending log lines."""
        if self._settling is not None:
            self._settling.cancel()
            self._settling = None
        tallies, self._unsettled = self._unsettled, []
        for tally in tallies:
            tally.settle()
        observe.metrics.http_requests_running.inc(self._running - self._running_shown)
        self._running_shown = self._running
        observe.write_left()


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
    """Write the log line of a request that took `seconds`, when `RequestCounters` settles."""
    fields = line_fields(handler, request, response, status)
    observe.RequestLine(fields).leave(fields["request_id"], seconds)


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
