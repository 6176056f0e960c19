"""Authorizes requests as a registry's 401 demands: by Basic, by tokens of a Bearer challenge, or not at all.

Source: distribution's "token authentication specification": 401 with `WWW-Authenticate: Bearer realm, service`, a GET
of the realm with service, scope and the user's Basic credentials, JSON with `token` (or `access_token`) and
`expires_in`. One token for each set of scopes is cached until four fifths of its lifetime are over, at most 4,096 of
them; concurrent requests share one fetch. Nothing here is ever logged or reported. Used by `client` and `rig`.
"""

from __future__ import annotations

import asyncio
import base64
import json
import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from yarl import URL

from proxy.upstream.errors import RequestFailed

Scopes = tuple[str, ...]  # "repository:<name>:pull,push" each
Fetch = Callable[[URL, dict[str, str]], Awaitable[bytes]]  # a GET's body, bounded; `RequestFailed` when it is not 200

_KEPT_TOKENS = 4096
_LIFE = 60.0  # seconds, if the server gives none: the specification's default
_LIFE_MOST = 24 * 3600.0
_HEADER_MOST = 8192
_PARAMETER = re.compile(r'([A-Za-z]+)\s*=\s*(?:"((?:[^"\\]|\\.){0,4096})"|([^\s,"]{1,1024}))', re.ASCII)
_TOKEN = re.compile(r"[\x21-\x7e]{1,16384}", re.ASCII)


class Realms(Protocol):
    """Decides where tokens may be requested: `address.Reach`, `realms.UpstreamReach`."""

    def realm(self, text: str) -> URL:
        """The realm's address. `RequestFailed` if credentials must not go there."""


@dataclass(slots=True)
class _Token:
    value: str
    until: float


class RegistryAuthorizer:
    """Makes the Authorization of requests to one registry, as its challenges demand. `clock` counts seconds."""

    def __init__(self, username: str, password: str, realms: Realms, fetch: Fetch, clock: Callable[[], float]) -> None:
        self._basic = "Basic " + base64.b64encode(f"{username}:{password}".encode()).decode() if username else ""
        self._realms = realms
        self._fetch = fetch
        self._clock = clock
        self._scheme = ""
        self._realm: tuple[str, str] = ("", "")  # (realm, service) of the last challenge
        self._tokens: dict[Scopes, _Token] = {}
        self._fetching: dict[Scopes, asyncio.Lock] = {}

    def __repr__(self) -> str:
        return f"<RegistryAuthorizer {self._scheme or 'unasked'}, {len(self._tokens)} tokens>"

    @property
    def realm(self) -> str:
        """The realm of the last challenge, as the server wrote it; empty before the first."""
        return self._realm[0]

    async def header(self, scopes: Scopes) -> str:
        """The value of Authorization, "" for none. `RequestFailed` if no token is issued."""
        if self._scheme == "basic":
            return self._basic
        if self._scheme == "bearer":
            return f"Bearer {await self._token(scopes)}"
        return ""

    async def learn(self, challenges: Sequence[str], sent: str, scopes: Scopes) -> bool:
        """Read the challenges of a 401 to a request with the Authorization `sent`. Whether a retry can succeed."""
        found = parse_challenges(challenges)
        if "bearer" in found:
            realm, service = found["bearer"].get("realm", ""), found["bearer"].get("service", "")
            if not realm:
                return False
            known = self._tokens.get(scopes)
            if known is not None and sent == f"Bearer {known.value}":
                del self._tokens[scopes]  # refused before it expired
            self._scheme, self._realm = "bearer", (realm, service)
            return True
        if "basic" in found and self._basic and sent != self._basic:
            self._scheme = "basic"
            return True
        return False

    async def _token(self, scopes: Scopes) -> str:
        lock = self._fetching.setdefault(scopes, asyncio.Lock())
        try:
            async with lock:
                known = self._tokens.get(scopes)
                if known is None or known.until <= self._clock():
                    known = await self._fetched(scopes)
                    while len(self._tokens) >= _KEPT_TOKENS:
                        del self._tokens[next(iter(self._tokens))]
                    self._tokens[scopes] = known
                return known.value
        finally:
            if not lock.locked():
                self._fetching.pop(scopes, None)

    async def _fetched(self, scopes: Scopes) -> _Token:
        realm, service = self._realm
        url = self._realms.realm(realm)
        asked = [("service", service)] if service else []
        url = url.extend_query([*asked, *(("scope", scope) for scope in scopes)])
        began = self._clock()
        body = await self._fetch(url, {"Authorization": self._basic} if self._basic else {})
        try:
            facts: Any = json.loads(body)
            value = facts.get("token") or facts.get("access_token")
            life = float(facts.get("expires_in") or _LIFE)
        except (ValueError, AttributeError, TypeError, RecursionError):
            raise RequestFailed("bad-token", "the realm's answer is not the JSON of a token") from None
        if not isinstance(value, str) or not _TOKEN.fullmatch(value):
            raise RequestFailed("bad-token", "the realm's answer holds no token")
        return _Token(value, began + 0.8 * min(max(life, 0.0), _LIFE_MOST))


def parse_challenges(headers: Sequence[str]) -> dict[str, dict[str, str]]:
    """Scheme to its parameters, all names in lower case, of WWW-Authenticate headers (RFC 9110 11.6.1)."""
    found: dict[str, dict[str, str]] = {}
    for header in headers:
        text = header[:_HEADER_MOST]
        current: dict[str, str] = {}
        while text := text.lstrip(" \t,"):
            if pair := _PARAMETER.match(text):
                value = pair[3] if pair[2] is None else re.sub(r"\\(.)", r"\1", pair[2])
                current.setdefault(pair[1].lower(), value)
                text = text[pair.end() :]
            else:
                scheme, _, text = text.partition(" ")
                current = found.setdefault(scheme.rstrip(",").lower(), {})
    return found
