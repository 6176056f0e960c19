"""Connections to addresses that tenants choose: to public ones, and to networks that the operator listed.

A tenant names a host in a rule or target, and the owner of its DNS can change the address at any time (rebinding). So
the address is checked when its socket is made; no name is looked up twice for one connection. Requests with TLS may go
to public and to listed addresses, plain ones (`plain=True`) to listed ones only.

    connector = guarded_connector(parse_networks(["10.0.0.0/8"]), tls=context)
    async with aiohttp.ClientSession(connector=connector) as session:
        await session.post(url, allow_redirects=False)

Used by `client` and `jobs.event_targets`. Must not know what is sent.
"""

from __future__ import annotations

import errno
import ipaddress
import socket
import ssl
from collections.abc import Callable, Sequence
from typing import Any

import aiohttp
from yarl import URL

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
AddressInfo = tuple[Any, Any, int, str, tuple[Any, ...]]  # as of `socket.getaddrinfo`

_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


class AddressRefused(OSError):
    """`address` is neither public nor listed."""

    def __init__(self, address: str) -> None:
        super().__init__(errno.EACCES, f"{address} is not an address that requests may go to")
        self.address = address


def parse_networks(texts: Sequence[str]) -> tuple[Network, ...]:
    """The networks of CIDRs or single addresses. ValueError."""
    return tuple(ipaddress.ip_network(text, strict=False) for text in texts)


def is_public(address: str) -> bool:
    """Whether a literal address is public; for IPv4 inside IPv6 (mapped, 6to4, Teredo, NAT64) the inner one counts."""
    ip = _parse(address)
    return ip is not None and ip.is_global and not ip.is_multicast


def is_allowed(address: str, allowed: Sequence[Network], *, plain: bool = False) -> bool:
    """Whether a request may go to this literal address; `plain`: without TLS."""
    ip = _parse(address)
    if ip is None:
        return False
    return any(ip in network for network in allowed) or (not plain and is_public(address))


def check_literal(url: URL, allowed: Sequence[Network]) -> None:
    """AddressRefused if the URL's host is an address, or `localhost`, to which no request may go. Other names are
    checked when they are connected to."""
    host = (url.host or "").rstrip(".").lower()
    if host == "localhost" or host.endswith(".localhost"):
        addresses = ["127.0.0.1"]
    else:
        addresses = [host] if _is_numeric(host) else []
    if any(not is_allowed(address, allowed, plain=url.scheme == "http") for address in addresses):
        raise AddressRefused(host)


def guarded_connector(
    allowed: Sequence[Network],
    *,
    plain: bool = False,
    tls: ssl.SSLContext | None = None,
    limit: int = 100,
    limit_per_host: int = 0,
) -> aiohttp.TCPConnector:
    """Refused addresses fail as `aiohttp.ClientConnectorError`. Create it inside a running loop; a `plain` one is for
    http:// only. aiohttp follows redirects through it too, unless the caller forbids them."""
    return aiohttp.TCPConnector(
        ssl=tls or True,
        socket_factory=socket_factory(allowed, plain=plain),
        limit=limit,
        limit_per_host=limit_per_host,
        use_dns_cache=False,
    )


def socket_factory(allowed: Sequence[Network], *, plain: bool = False) -> Callable[[AddressInfo], socket.socket]:
    """A function that makes a socket for an allowed address. It raises AddressRefused for others."""

    def make(info: AddressInfo) -> socket.socket:
        family, kind, protocol, _, address = info
        if not is_allowed(str(address[0]), allowed, plain=plain):
            raise AddressRefused(str(address[0]))
        return socket.socket(family, kind, protocol)

    return make


def _parse(address: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """The address that packets go to; None if the text is no address."""
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return None
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour or (ip.teredo[1] if ip.teredo else None)
        if inner is None and ip in _NAT64:
            inner = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        return inner or ip
    return ip


def _is_numeric(host: str) -> bool:
    """Whether a host is an address in any spelling that resolvers accept, such as 127.1, 2130706433 or 0x7f000001."""
    if _parse(host) is not None:
        return True
    try:
        socket.inet_aton(host)
    except OSError:
        return False
    return True
