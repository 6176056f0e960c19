"""Resolves client address and scheme from X-Forwarded headers of trusted proxies.

`server` calls `resolve` for requests of trusted proxies; every limit that counts clients calls `client_of`. Promises:
values are read from the right, the nearest hop first, as the client may have written those further left, also in header
lines of their own (HAProxy adds a line, nginx a value); a value that is no address, scheme or host is ignored. Must not
know what the results are used for.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any

from multidict import MultiMapping

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def networks(trusted: Iterable[str]) -> list[Network]:
    """Parse addresses and networks such as 10.0.0.0/8."""
    return [ipaddress.ip_network(network, strict=False) for network in trusted]


@lru_cache(4096)
def client_of(address: str | None) -> str:
    """The name that limits count a client under: its IPv4 address, or the /64 network of its IPv6 address, as one host
    may use all of it. Empty if there is no IP address, as on a unix socket."""
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
    """Whether a peer (a socket's address, or an address as text) belongs to one of the networks."""
    try:
        address = ipaddress.ip_address(peer[0] if isinstance(peer, tuple) else str(peer))
    except (ValueError, IndexError, TypeError):
        return False
    return any(address in network for network in trusted)


def resolve(headers: MultiMapping[str], trusted: Sequence[Network]) -> dict[str, str]:
    """`scheme`, `host` and `remote` (the client's address) as the nearest untrusted hop had them, where given."""
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
            break  # the hop before is the nearest known address
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
