"""What a request says of itself, to the policies and to the table of doors, read off it in the same way everywhere.

Only what the peer cannot make up: the address it comes from, or what a trusted proxy tells of it (`forwarded`), whether
it came over TLS, the moment. The user agent is what the client says it is, as at AWS; its beginning, if it is long.
"""

from __future__ import annotations

import ipaddress
from functools import lru_cache

from aiohttp import web

from proxy.auth.policy.context import RequestFacts

# A policy of 10 KiB can hold 160 patterns, and each may look at every letter: half a second for one of 16 KiB.
USER_AGENT_MAX = 1024


def path_of(request: web.Request) -> str:
    """As sent, without query; of an absolute target (`GET http://host/v2/`) what follows the host."""
    path = request.raw_path.partition("?")[0].partition("#")[0]
    if not path.startswith("/") and "://" in path:
        path = "/" + path.partition("://")[2].partition("/")[2]
    return path


def facts_of(request: web.Request, *, now: float, region: str) -> RequestFacts:
    """`now` is epoch seconds, `region` the one that the request asks."""
    agent = request.headers.get("User-Agent", "")[:USER_AGENT_MAX]
    return RequestFacts(now, _address(request.remote), request.secure, agent, region)


@lru_cache(4096)
def _address(remote: str | None) -> str:
    """Empty where the peer is no IP address, as on a unix socket; the zone of a link-local one is of this machine."""
    text = (remote or "").partition("%")[0]
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return ""
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return str(mapped or address)
