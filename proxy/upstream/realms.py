"""Decides where an upstream may send our requests: redirects, and realms of tokens. Used by `client`.

Stricter than `address.Reach`, which is for a registry that the operator named: here a tenant's rule names it, and a
server's response must neither get the rule's password nor lead into the operator's network.

- realm: the upstream's own host, or one of the same registrable domain (by the package publicsuffixlist, which contains
  the list); an IP address or `localhost` only if equal. https, or http if the upstream itself is plain and the host is
  the same.
- redirect: https, or http if the upstream is plain. Without credentials, unless it leads to the upstream's origin.
  `guarded_connector` decides which addresses it may reach.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from publicsuffixlist import PublicSuffixList
from yarl import URL

from proxy.upstream.address import REFUSED, joined_address
from proxy.upstream.errors import RequestFailed, UpstreamFailed, UpstreamReason


@dataclass(frozen=True, slots=True)
class UpstreamReach:
    """`base` is the upstream's origin."""

    base: URL

    def own(self, url: URL) -> bool:
        """The upstream itself: requests to it carry credentials."""
        return url.origin() == self.base.origin()

    def realm(self, text: str) -> URL:
        """The address that issues tokens."""
        url = joined(text, self.base)
        plain = self.base.scheme == "http" and url.host == self.base.host
        if (url.scheme == "https" or plain) and is_same_site(url.host or "", self.base.host or ""):
            return url
        raise _refused("the realm of tokens", url)

    def redirected(self, location: str, asked: URL) -> URL:
        """The address of a redirect."""
        url = joined(location, asked)
        if url.scheme == "http" and (asked.scheme == "https" or self.base.scheme == "https"):
            raise _refused("a redirect", url)
        return url


def is_same_site(host: str, other: str) -> bool:
    """Whether the hosts are equal, or of one registrable domain."""
    host, other = host.lower().rstrip("."), other.lower().rstrip(".")
    if host == other:
        return bool(host)
    mine = _registrable(host)
    return mine is not None and mine == _registrable(other)


def joined(text: str, asked: URL) -> URL:
    """As `address.joined_address`; UpstreamFailed (WRONG) if it is no address."""
    try:
        return joined_address(text, asked)
    except RequestFailed as error:
        raise UpstreamFailed(UpstreamReason.WRONG, error.kind, error.said) from None


@cache
def _suffixes() -> PublicSuffixList:
    """The list, read at the first use: 3 MB of memory, 30 ms."""
    return PublicSuffixList(accept_unknown=False)


def _registrable(host: str) -> str | None:
    """The registrable domain; None for addresses, for public suffixes, and for names that end in none."""
    if host.replace(".", "").isdigit() or ":" in host:
        return None
    found: str | None = _suffixes().privatesuffix(host)
    return found


def _refused(what: str, url: URL) -> UpstreamFailed:
    return UpstreamFailed(UpstreamReason.DENIED, REFUSED, f"{what} leads to {url.scheme}://{(url.host or '')[:100]}")
