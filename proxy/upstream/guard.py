"""Which addresses a connection may go to: public ones, unless the operator listed the host.

Whoever makes a rule, a webhook or a redirect chooses a name, and DNS answers what its owner likes, a moment later
something else (rebinding). So the check is of the address that is connected to, in the socket's making: no name is
looked up twice. Behind a proxy of the operator's the proxy connects; there only literal addresses can be checked.
Called by `client` and by whoever else sends requests to where a tenant said.
"""

from __future__ import annotations

import errno
import ipaddress
import socket
from typing import Any

from yarl import URL

AddressInfo = tuple[Any, Any, int, str, tuple[Any, ...]]  # as `socket.getaddrinfo` gives it


class AddressRefused(OSError):
    """The address is private, loopback, link-local or otherwise not public."""

    def __init__(self, address: str) -> None:
        super().__init__(errno.EACCES, f"{address} is not a public address")


def is_public(address: str) -> bool:
    """Of a literal IP address. IPv4 inside IPv6 (mapped, 6to4, Teredo, NAT64) counts as what it leads to."""
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour or (ip.teredo[1] if ip.teredo else None)
        if inner is None and ip in _NAT64:
            inner = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(str(inner))
    return ip.is_global and not ip.is_multicast


def public_socket(info: AddressInfo) -> socket.socket:
    """A `socket_factory` of `aiohttp.TCPConnector`: AddressRefused for what is not public."""
    family, kind, protocol, _, address = info
    if not is_public(str(address[0])):
        raise AddressRefused(str(address[0]))
    return socket.socket(family, kind, protocol)


def require_public_literal(url: URL) -> None:
    """AddressRefused where the URL's host is itself an address that is not public, or a name for this machine."""
    host = url.host or ""
    if host.lower() == "localhost" or (_is_literal(host) and not is_public(host)):
        raise AddressRefused(host)


_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


def _is_literal(host: str) -> bool:
    try:
        ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return True
