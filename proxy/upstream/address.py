"""Decides where requests may go: to the named registry, and to addresses that it sends, if the rules here allow them.

A server chooses addresses in four places, each with a rule (RFC 9110 "Location", OCI distribution-spec "pushing a blob
in chunks", "listing tags"; distribution's token specification):

- Location of an upload, and Link of a listing: the registry's own origin. Credentials go there.
- a redirect of a layer's GET: https anywhere, or http if the registry itself is plain and the host is the same or a
  loopback. Without credentials, unless it leads to the registry itself.
- realm of a Bearer challenge: https, or http on the registry's own host if that is plain. The user name and password
  are sent there, as docker does, so a registry with TLS must not have a plain realm.

Hosts that the caller allows by name are allowed in all of them, over https or http; credentials go there as a realm
only. No address may contain credentials. Used by `peer`, `realms` and `rig`.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

from yarl import URL

from proxy.upstream.errors import RequestFailed

REFUSED = "refused-address"


@dataclass(frozen=True, slots=True)
class Reach:
    """`base`: the registry's origin. `allowed`: host or host:port, in lower case."""

    base: URL
    allowed: frozenset[str] = frozenset()

    def own(self, url: URL) -> bool:
        """The registry itself: requests to it carry credentials."""
        return (url.scheme, url.host, url.port) == (self.base.scheme, self.base.host, self.base.port)

    def upload(self, location: str, asked: URL) -> URL:
        """The address at which an upload continues."""
        return self._own_or_allowed(location, asked, "the upload's Location")

    def page(self, link: str, asked: URL) -> URL:
        """The address of a listing's next page."""
        return self._own_or_allowed(link, asked, "the listing's Link")

    def redirected(self, location: str, asked: URL) -> URL:
        """The address to which a layer's GET is redirected."""
        url = joined_address(location, asked)
        plain = self.base.scheme == "http" and (url.host == self.base.host or is_loopback(url.host or ""))
        if url.scheme == "https" or plain or self._is_allowed(url):
            return url
        raise _refused("the redirect of a layer", url)

    def realm(self, text: str) -> URL:
        """The address that issues tokens."""
        url = joined_address(text, self.base)
        plain = self.base.scheme == "http" and url.host == self.base.host
        if url.scheme == "https" or plain or self._is_allowed(url):
            return url
        raise _refused("the realm of tokens", url)

    def _own_or_allowed(self, text: str, asked: URL, what: str) -> URL:
        url = joined_address(text, asked)
        if self.own(url) or self._is_allowed(url):
            return url
        raise _refused(what, url)

    def _is_allowed(self, url: URL) -> bool:
        host = (url.host or "").lower()
        return host in self.allowed or f"{host}:{url.port}" in self.allowed


def parse_address(text: str, *, plain_http: bool = False, trusted: bool = False) -> URL:
    """The origin of `[http://|https://]host[:port]`: https, unless `plain_http`, or it is a loopback address (and has
    no CA of its own, `trusted`). `ValueError` with the reason, which repeats no user information."""
    scheme, separator, rest = text.strip().partition("://")
    if not separator:
        scheme, rest = "", scheme
    if "@" in rest:
        raise ValueError("user and password are no part of the address: take --username and --password-stdin")
    if scheme not in ("", "http", "https"):
        raise ValueError(f"{scheme[:16]!r} is no scheme of registries: write HOST[:PORT], or https://HOST[:PORT]")
    try:
        url = URL(f"https://{rest.rstrip('/')}")
        host, path = url.host, url.raw_path_qs
        written = url.explicit_port
    except ValueError:
        host, path, written = None, "", None
    if not host or path not in ("", "/") or url.fragment:
        raise ValueError(f"{rest[:64]!r} is no address: write HOST[:PORT], without a path")
    if not scheme:
        scheme = "http" if plain_http or (is_loopback(host) and not trusted) else "https"
    if scheme == "http" and not plain_http and not is_loopback(host):
        raise ValueError("everything would go unencrypted: take https, or --plain-http when that is meant")
    return URL.build(scheme=scheme, host=host, port=written or (80 if scheme == "http" else 443)).origin()


def parse_host(text: str) -> str:
    """A host or host:port for `Reach.allowed`, without the [ ] of IPv6; `ValueError` if it is neither."""
    try:
        url = URL(f"https://{text}")
        fine = bool(url.host) and not set(text) & set("/@?# \t") and url.port is not None
    except ValueError:
        fine = False
    if not fine:
        raise ValueError(f"{text[:64]!r} is no HOST or HOST:PORT")
    return f"{url.host}:{url.explicit_port}" if url.explicit_port else str(url.host)


def is_loopback(host: str) -> bool:
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def joined_address(text: str, asked: URL) -> URL:
    """A server's address as an absolute http or https URL, its escapes unchanged. `RequestFailed`."""
    try:
        written = text.isascii() and text.isprintable() and " " not in text
        url = asked.join(URL(text, encoded=True)).with_fragment(None)
        bare = url.user is None and url.password is None
        fine = written and bare and url.scheme in ("http", "https") and bool(url.host) and url.port is not None
    except ValueError:
        fine = False
    if not fine:
        raise RequestFailed(REFUSED, "the server named an address that is none, or that carries credentials")
    return url


def _refused(what: str, url: URL) -> RequestFailed:
    host = f"{url.host}:{url.port}"
    return RequestFailed(
        REFUSED, f"{what} leads to {url.scheme}://{host[:100]}; --allow-host {host[:100]} lets it through"
    )
