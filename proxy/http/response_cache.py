"""Caches small responses by the exact bytes of their request and the peer that sent it.

Clients that pull, poll or load-test repeat the same header. Parsing it, finding its handler, authenticating it
and rendering the response is nearly all that such a request costs. So the response to a request without a body is
stored under the SHA-256 of the request's bytes (these hold a password, and are not stored themselves) and the peer's
address, once the same request has come twice. Only the handler knows what a response depends on: it attaches a
`Revalidator`, which is called before each use.

    socket → is the request cached? → Revalidator.revalidate → one write
                     no ↓                      False ↓
                        aiohttp's parser and the handler, as always; the second response is stored

`server` calls it for each request without a body. Promises: the same bytes as without the cache, but for `Date`; the
same counts and log lines (though not in the gauge of running requests); bounded entries and bytes. Must not know any
handler's protocol, or how a connection is held.
"""

from __future__ import annotations

import hashlib
import time
from collections import OrderedDict
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

from aiohttp import web
from aiohttp.helpers import rfc822_formatted_time

from proxy import observe
from proxy.http import access_log

REQUEST_MAX = 8 * 1024  # bytes of a request that is looked up: a token of 4 KiB and the headers around it
BODY_MAX = 64 * 1024  # bytes of a response's body: each use copies it once
ENTRIES_MAX = 4096
CACHE_BYTES = 12 * 1024 * 1024
ENTRY_BYTES = 2048  # an entry's cost beside its response, and beside the request's fields in log line and audit event
SEEN_ONCE_MAX = 8192  # keys of requests that came once: some 150 bytes each
_METHODS = (b"GET ", b"HEAD")


class Revalidator(Protocol):
    """Attached by a handler to a response that may be cached (`response[REVALIDATOR]`)."""

    def revalidate(self, request_id: str) -> bool:
        """Whether the handler would give the same response now. If so, what such a request has to record (audit event,
        pull time) has been recorded under this id. Must not wait, nor raise."""


def is_wanted(request: web.Request) -> bool:
    """Whether the server wants to store the response to this request."""
    return getattr(request, "store_response", None) is not None


REVALIDATOR = web.ResponseKey("revalidator", Revalidator)
"""The key under which a handler attaches its `Revalidator` to a response."""


@dataclass(frozen=True, slots=True)
class _Entry:
    head: bytes  # without the Date line and the empty line
    body: bytes
    revalidator: Revalidator
    tally: observe.Tally
    line: observe.RequestLine
    size: int


class ResponseCache:
    """One worker's cache. Its keys are made by `cache_key`; a connection makes one and passes it to `lookup` and
    `store`."""

    def __init__(
        self, counters: access_log.RequestCounters, entries: int = ENTRIES_MAX, size: int = CACHE_BYTES
    ) -> None:
        """Holds at most `entries` responses, of `size` bytes together."""
        self._counters = counters
        self._entries_max = entries
        self._free = size
        self._entries: OrderedDict[bytes, _Entry] = OrderedDict()
        self._seen_once: dict[bytes, None] = {}

    def was_seen(self, key: bytes) -> bool:
        """Whether the request came before. Most come once, and must not evict those that repeat."""
        if key in self._entries or key in self._seen_once:
            return True
        self._seen_once[key] = None
        if len(self._seen_once) > SEEN_ONCE_MAX:
            del self._seen_once[next(iter(self._seen_once))]
        return False

    def lookup(self, key: bytes) -> bytes | None:
        """The response's bytes, counted and logged; None if the handler has to answer."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        begun = time.perf_counter()
        request_id = observe.new_request_id()
        if not entry.revalidator.revalidate(request_id):
            self._drop(key)
            return None
        self._entries.move_to_end(key)
        seconds = time.perf_counter() - begun
        self._counters.add(entry.tally, seconds)
        if observe.is_info_written():
            entry.line.leave(request_id, seconds)
        return b"%bDate: %b\r\n\r\n%b" % (entry.head, _date(int(time.time())), entry.body)

    def store(self, key: bytes, handler: str, request: web.Request, response: web.StreamResponse) -> None:
        """Store the response that is about to be sent, if it has a revalidator. Its headers are complete."""
        revalidator = response.get(REVALIDATOR)
        if revalidator is None or not response.keep_alive or request.version != (1, 1) or response.chunked:
            return
        whole = isinstance(response, web.Response) and request.method != "HEAD" and response.status != 304
        body = response.body if isinstance(response, web.Response) and whole else b""
        if not isinstance(body, bytes) or len(body) > BODY_MAX:
            return
        lines = [f"{name}: {value}\r\n" for name, value in response.headers.items() if name != "Date"]
        if any(line.count("\n") != 1 or line.count("\r") != 1 for line in lines):
            return  # aiohttp will refuse it
        head = f"HTTP/1.1 {response.status} {response.reason}\r\n{''.join(lines)}".encode()
        fields = access_log.line_fields(handler, request, response, response.status)
        size = ENTRY_BYTES + len(head) + len(body) + 2 * (len(fields["path"]) + len(fields["agent"]))
        tally = self._counters.tally(handler, request.method, response.status, cached=True)
        self._drop(key)
        self._free -= size
        self._entries[key] = _Entry(head, body, revalidator, tally, observe.RequestLine(fields), size)
        while self._free < 0 or len(self._entries) > self._entries_max:
            self._drop(next(iter(self._entries)))

    def _drop(self, key: bytes) -> None:
        dropped = self._entries.pop(key, None)
        if dropped is not None:
            self._free += dropped.size


def cache_key(request: bytes, peer: bytes) -> bytes | None:
    """The key of a request with these bytes from that peer; None for one that is never cached."""
    if len(request) > REQUEST_MAX or request[:4] not in _METHODS:
        return None
    return hashlib.sha256(request).digest() + peer


@lru_cache(2)
def _date(now: int) -> bytes:
    """The Date header of the epoch second `now`, formatted once a second."""
    return rfc822_formatted_time().encode()
