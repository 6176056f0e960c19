"""Whom to believe about the client: X-Forwarded headers, from trusted proxies only.

Promises: read from the right, the nearest hop first, since anybody may have written what stands further left; what is
not an address, a scheme or a host is not taken. Must not know what the answers are used for.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def networks(trusted: Iterable[str]) -> list[Network]:
    """From addresses and networks such as 10.0.0.0/8."""
    return [ipaddress.ip_network(network, strict=False) for network in trusted]


def is_in(peer: Any, trusted: Sequence[Network]) -> bool:
    """Whether a peer (a socket's address, or the text of one) lies in one of the networks."""
    try:
        address = ipaddress.ip_address(peer[0] if isinstance(peer, tuple) else str(peer))
    except (ValueError, IndexError, TypeError):
        return False
    return any(address in network for network in trusted)


def told(headers: Mapping[str, str], trusted: Sequence[Network]) -> dict[str, str]:
    """`scheme`, `host` and `remote` (the client's address) as the nearest untrusted hop had them, if they are told."""
    found: dict[str, str] = {}
    proto = headers.get("X-Forwarded-Proto", "").rpartition(",")[2].strip().lower()
    if proto in ("http", "https"):
        found["scheme"] = proto
    host = headers.get("X-Forwarded-Host", "").rpartition(",")[2].strip()
    if host:
        found["host"] = host
    hops = [hop.strip() for hop in headers.get("X-Forwarded-For", "").split(",") if hop.strip()]
    while len(hops) > 1 and is_in(hops[-1], trusted):
        hops.pop()
    if hops:
        found["remote"] = hops[-1]
    return found
