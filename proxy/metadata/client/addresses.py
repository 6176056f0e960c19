"""Addresses of metadata services, and HTTP sessions to them for what is not an operation (subscriptions, `REACHES`).

An address is a unix socket, or TCP, mostly with TLS. Sessions carry the shared secret. Used by `endpoints` and
`cluster`. Must not know any request.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from urllib.parse import urlsplit

import aiohttp

from proxy.metadata import wire

KEEPALIVE_SECONDS = 15.0
CONNECT_SECONDS = 2.0  # a machine that is gone answers nothing at all


@dataclass(frozen=True, slots=True)
class Address:
    """`shown` is for logs. Paths of HTTP requests are appended to `base`. Frames go to `socket`, or to `host` and
    `port`; if `is_tls`, over TLS with `tls`, by default the system's authorities."""

    shown: str
    base: str
    socket: str = ""
    tls: ssl.SSLContext | None = None
    host: str = ""
    port: int = 0
    is_tls: bool = False


def parse(text: str, tls: ssl.SSLContext | None = None) -> tuple[Address, ...]:
    """Parse `unix:<path>` and `http(s)://host:port`, one or several, separated by commas."""
    return tuple(_one(each.strip(), tls) for each in text.split(",") if each.strip())


def connect(
    address: Address, secret: str | None, *, connections: int, timeout: float | None = None
) -> aiohttp.ClientSession:
    """Call it inside a running loop. `timeout` bounds each request, in seconds; None: unbounded."""
    connector: aiohttp.BaseConnector
    if address.socket:
        connector = aiohttp.UnixConnector(path=address.socket, limit=connections, keepalive_timeout=KEEPALIVE_SECONDS)
    else:
        connector = aiohttp.TCPConnector(
            limit=connections, keepalive_timeout=KEEPALIVE_SECONDS, ssl=address.tls or True, ttl_dns_cache=10
        )
    return aiohttp.ClientSession(
        connector=connector,
        timeout=aiohttp.ClientTimeout(total=timeout, sock_connect=CONNECT_SECONDS),
        headers={wire.SECRET_HEADER: secret} if secret else {},
        cookie_jar=aiohttp.DummyCookieJar(),
    )


def _one(text: str, tls: ssl.SSLContext | None) -> Address:
    if text.startswith("unix:"):
        return Address(text, "http://metadata/v1/", socket=text[5:])
    url = urlsplit(text)
    is_tls = url.scheme == "https"
    port = url.port or (443 if is_tls else 80)
    base = text.rstrip("/") + "/v1/"
    return Address(text, base, tls=tls if is_tls else None, host=url.hostname or "", port=port, is_tls=is_tls)
