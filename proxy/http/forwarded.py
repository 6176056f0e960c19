"""Whom to believe about the client: X-Forwarded headers, from trusted proxies only.

Promises: read from the right, the nearest hop first, since anybody may have written what stands further left, in lines
of their own too (HAProxy adds a line, nginx a value); what is not an address, a scheme or a host is not taken. Must not
know what the answers are used for.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any

from multidict import MultiMapping

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def networks(trusted: Iterable[str]) -> list[Network]:
    """From addresses and networks such as 10.0.0.0/8."""
    return [ipaddress.ip_network(network, strict=False) for network in trusted]


@lru_cache(4096)
def client_of(address: str | None) -> str:
    """How a client is counted against limits: its IPv4 address, or the /64 of its IPv6 one, of which a host has all.
    Empty for what is no IP address, as of a unix socket."""
    try:
        found = ipaddress.ip_address((address or "").partition("%")[0])
    except ValueError:
        return ""
    if isinstance(found, ipaddress.IPv4Address):
        return str(found)
    if found.ipv4_mapped is not None:
        return str(found.ipv4_mapped)
    return str(ipaddress.ip_network((found, 64), strict=False))


def is_in(peer: Any, trusted: Sequence[Network]) -> bool:
    """Whether a peer (a socket's address, or the text of one) lies in one of the networks."""
    try:
        address = ipaddress.ip_address(peer[0] if isinstance(peer, tuple) else str(peer))
    except (ValueError, IndexError, TypeError):
        return False
    return any(address in network for network in trusted)


def told(headers: MultiMapping[str], trusted: Sequence[Network]) -> dict[str, str]:
    """`scheme`, `host` and `remote` (the client's address) as the nearest untrusted hop had them, if they are told."""
    found: dict[str, str] = {}
    proto = _values(headers, "X-Forwarded-Proto")
    if proto and proto[-1].lower() in ("http", "https"):
        found["scheme"] = proto[-1].lower()
    host = _values(headers, "X-Forwarded-Host")
    if host:
        found["host"] = host[-1]
    for hop in reversed(_values(headers, "X-Forwarded-For")):
        address = _without_port(hop)
        if not _is_address(address):
            break  # whoever is behind it, the nearest that is known is the one before
        found["remote"] = address
        if not is_in(address, trusted):
            break
    return found


def _values(headers: MultiMapping[str], name: str) -> list[str]:
    return [value.strip() for line in headers.getall(name, []) for value in line.split(",") if value.strip()]


def _without_port(hop: str) -> str:
    """Some proxies write 192.0.2.1:4711, or [2001:db8::1]:4711."""
    if hop.startswith("["):
        return hop[1:].partition("]")[0]
    return hop.partition(":")[0] if hop.count(":") == 1 else hop


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
