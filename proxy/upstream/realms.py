"""Where an upstream may send its pullers: redirects, and realms of tokens.

Stricter than `address.Reach`, which serves a person who named the registry by hand: here a tenant's rule did, and a
server's answer must neither collect the rule's password nor lead into the operator's network.

- realm: the upstream's own host, or one of the same registrable domain (publicsuffixlist, a list that comes with the
  package); an IP address or `localhost` only if equal. https, or http where the upstream itself is plain and the host
  is the same.
- redirect: https, or http where the upstream is plain. Without credentials, unless it leads to the very origin.
  Which addresses it may reach is `guard`'s to say.
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
        """Where tokens are given out."""
        url = joined(text, self.base)
        plain = self.base.scheme == "http" and url.host == self.base.host
        if (url.scheme == "https" or plain) and is_same_site(url.host or "", self.base.host or ""):
            return url
        raise _refused("the realm of tokens", url)

    def redirected(self, location: str, asked: URL) -> URL:
        """Where something lies."""
        url = joined(location, asked)
        if url.scheme == "http" and (asked.scheme == "https" or self.base.scheme == "https"):
            raise _refused("a redirect", url)
        return url


def is_same_site(host: str, other: str) -> bool:
    """Equal, or of one registrable domain."""
    host, other = host.lower().rstrip("."), other.lower().rstrip(".")
    if host == other:
        return bool(host)
    mine = _registrable(host)
    return mine is not None and mine == _registrable(other)


def joined(text: str, asked: URL) -> URL:
    """As `address` has it; WRONG where it is no address."""
    try:
        return joined_address(text, asked)
    except RequestFailed as error:
        raise UpstreamFailed(UpstreamReason.WRONG, error.kind, error.said) from None


@cache
def _suffixes() -> PublicSuffixList:
    """Read at the first question: 3 MB of memory, 30 ms."""
    return PublicSuffixList(accept_unknown=False)


def _registrable(host: str) -> str | None:
    """None for addresses and for names that are, or end in, no public suffix."""
    if host.replace(".", "").isdigit() or ":" in host:
        return None
    found: str | None = _suffixes().privatesuffix(host)
    return found


def _refused(what: str, url: URL) -> UpstreamFailed:
    return UpstreamFailed(UpstreamReason.DENIED, REFUSED, f"{what} leads to {url.scheme}://{(url.host or '')[:100]}")
