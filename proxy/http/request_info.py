"""A request's path, and its `RequestInfo` for policies and audit events. Called by `app.router`, `oci` and `ecr`.

The source address is the peer's, or the one that a trusted proxy forwards (`forwarded`); TLS and time are the server's
own. The user agent is the client's claim, as at AWS, cut to `USER_AGENT_MAX`.
"""

from __future__ import annotations

import ipaddress
from functools import lru_cache

from aiohttp import web

from proxy.auth.policy.context import RequestInfo

# A policy of 10 KiB can hold 160 patterns, and each may scan every character: half a second for an agent of 16 KiB.
USER_AGENT_MAX = 1024


def path_of(request: web.Request) -> str:
    """The raw path without its query; of an absolute target (`GET http://host/v2/`) the part after the host."""
    path = request.raw_path.partition("?")[0].partition("#")[0]
    if not path.startswith("/") and "://" in path:
        path = "/" + path.partition("://")[2].partition("/")[2]
    return path


def request_info_of(request: web.Request, *, now: float, region: str) -> RequestInfo:
    """`now` is epoch seconds, `region` the requested region."""
    agent = request.headers.get("User-Agent", "")[:USER_AGENT_MAX]
    return RequestInfo(now, _address(request.remote), request.secure, agent, region)


@lru_cache(4096)
def _address(remote: str | None) -> str:
    """The address without its zone, which has a meaning on this machine only; empty if it is no IP address."""
    text = (remote or "").partition("%")[0]
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return ""
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return str(mapped or address)
