"""Where a metadata service is, and HTTP sessions to it: a unix socket, or TCP, mostly TLS, with the shared secret.

Must not know what is asked there.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass

import aiohttp

from proxy.metadata import wire

KEEPALIVE_SECONDS = 15.0
CONNECT_SECONDS = 2.0  # a machine that is gone answers nothing at all


@dataclass(frozen=True, slots=True)
class Address:
    """`base` is what operations' names are appended to; `shown` is for people."""

    shown: str
    base: str
    socket: str = ""
    tls: ssl.SSLContext | None = None


def parse(text: str, tls: ssl.SSLContext | None = None) -> tuple[Address, ...]:
    """Of `unix:<path>` and `http(s)://host:port`, one or several, separated by commas."""
    return tuple(_one(each.strip(), tls) for each in text.split(",") if each.strip())


def connect(
    address: Address, secret: str | None, *, connections: int, timeout: float | None = None
) -> aiohttp.ClientSession:
    """Make it inside a running loop. `timeout` is of each request, in seconds; None: for ever."""
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
    return Address(text, text.rstrip("/") + "/v1/", tls=tls if text.startswith("https:") else None)
