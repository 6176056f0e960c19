"""`HTTPS_PROXY`, `HTTP_PROXY` and `NO_PROXY` of the environment, for requests to upstream registries.

In upper or lower case, as curl and Go read them. NO_PROXY is a list of hosts (and all below them), HOST:PORT,
addresses, networks such as 10.0.0.0/8, or `*`. This machine itself is never reached through a proxy. Pure; called by
`loader`.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

_PROXY = re.compile(r"https?://([^\s@/]*@)?[^\s@/]+/?", re.ASCII)


@dataclass(frozen=True, slots=True)
class OutboundProxies:
    """Each proxy with its scheme, and with user and password if it has them; empty: none."""

    https: str = field(default="", repr=False)
    http: str = field(default="", repr=False)
    exempt: tuple[str, ...] = ()

    def proxy_of(self, scheme: str, host: str, port: int) -> str:
        """The proxy of a request to that origin; empty: none."""
        proxy = self.https if scheme == "https" else self.http
        return "" if not proxy or self._is_exempt(host.lower().strip("[]").rstrip("."), port) else proxy

    def _is_exempt(self, host: str, port: int) -> bool:
        address = _address(host)
        if host == "localhost" or (address is not None and address.is_loopback):
            return True
        for entry in self.exempt:
            if entry == "*":
                return True
            if address is not None and (network := _network(entry)) is not None:
                if address in network:
                    return True
                continue
            name, colon, wanted = entry.partition(":") if entry.count(":") == 1 else (entry, "", "")
            name = name.removeprefix("*").removeprefix(".")
            if name and (not colon or wanted == str(port)) and (host == name or host.endswith(f".{name}")):
                return True
        return False


def read_proxies(environ: Mapping[str, str]) -> OutboundProxies:
    """The proxies of the environment. ValueError names an invalid variable, and repeats no password."""

    def given(name: str) -> str:
        return (environ.get(name) or environ.get(name.lower()) or "").strip()

    def proxy(name: str) -> str:
        text = given(name)
        whole = text if "://" in text or not text else f"http://{text}"
        if whole and not _PROXY.fullmatch(whole):
            raise ValueError(f"{name} must be http://[USER:PASSWORD@]HOST[:PORT]")
        return whole

    exempt = tuple(each.strip().lower() for each in given("NO_PROXY").split(",") if each.strip())
    return OutboundProxies(proxy("HTTPS_PROXY"), proxy("HTTP_PROXY"), exempt)


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _network(entry: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network | None:
    try:
        return ipaddress.ip_network(entry.strip("[]"), strict=False)
    except ValueError:
        return None
