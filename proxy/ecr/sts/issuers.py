"""Fetches the keys of OpenID Connect issuers by discovery, from addresses that the configuration allows.

    <issuer>/.well-known/openid-configuration  →  jwks_uri  →  keys

Each address (the issuer's, that of its keys, and redirects of either) must be on the list: neither a token nor an
issuer's document can choose another. https only; 256 KiB a response; 5 seconds in all. Keys are cached for 10 minutes;
an unknown key causes a new fetch at most every 30 seconds, so that rotated keys are found and invented ones cost an
issuer little; a failure is repeated for 5 seconds. One fetch at a time for an issuer. Called by `assume`.
Source: OpenID Connect Discovery 1.0, 4. Must not know tokens' claims.
"""

from __future__ import annotations

import asyncio
import json
import re
import ssl
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urljoin

import aiohttp
from yarl import URL

from proxy import observe
from proxy.auth.web_identity import IdToken, key_fits, read_keys
from proxy.model.errors import Code, Failure
from proxy.model.lru import Lru

ANSWER_MAX = 256 * 1024
SECONDS = 5.0
KEPT_SECONDS = 600.0
ANEW_SECONDS = 30.0
FAILED_SECONDS = 5.0
REDIRECTS = 3
ISSUERS_MAX = 256

UNVERIFIABLE = (
    "Couldn't retrieve verification key from your identity provider,  please reference AssumeRoleWithWebIdentity "
    "documentation for requirements"
)

_ADDRESS = re.compile(
    r"https://(?P<host>[a-z0-9](?:[a-z0-9.-]*[a-z0-9])?)(?::(?P<port>\d{1,5}))?(?P<path>(?:/[\w.~!$&'()*+,;=:@%-]*)*)"
    r"(?:\?[\w.~!$&'()*+,;=:@%/?-]*)?",
    re.ASCII | re.IGNORECASE,
)
Keys = Sequence[Mapping[str, Any]]


def is_allowed(address: str, patterns: Sequence[str]) -> bool:
    """Whether one of `patterns` covers `address`: its host (`*.` matches one or more labels), port, and a prefix of its
    path in whole segments."""
    found = _ADDRESS.fullmatch(address)
    if found is None or re.search(r"/\.{1,2}(/|\?|$)|%2e|%2f|%5c|//", address.partition("://")[2], re.IGNORECASE):
        return False
    host, path = found["host"].lower(), found["path"].rstrip("/") + "/"
    for pattern in patterns:
        authority, _, beginning = pattern.partition("://")[2].partition("/")
        name, _, port = authority.lower().partition(":")
        whole = name.removeprefix("*")
        same_host = host.endswith(whole) and host != whole[1:] if name.startswith("*.") else host == name
        if (
            same_host
            and int(port or 443) == int(found["port"] or 443)
            and path.startswith(f"/{beginning.rstrip('/')}/".replace("//", "/"))
        ):
            return True
    return False


@dataclass(slots=True)
class _Kept:
    """The cached keys of an issuer. Times are the clock's; `failed` is the failure of the last fetch, if it failed."""

    keys: Keys = ()
    fetched: float = float("-inf")
    tried: float = float("-inf")
    failed: Code | None = None
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)

    def is_current(self, now: float) -> bool:
        return now - self.fetched < KEPT_SECONDS

    def fitting(self, token: IdToken, now: float) -> Keys:
        return [key for key in self.keys if key_fits(key, token)] if self.is_current(now) else []


class Issuers:
    """One worker's cache of issuers' keys. Each fetch has its own connection: fetches are rare."""

    def __init__(
        self,
        allowed: Sequence[str],
        *,
        tls: ssl.SSLContext | None,
        clock: Callable[[], float],
        seconds: float = SECONDS,
    ) -> None:
        """`allowed` are patterns of `[sts] oidc_issuers`; `tls` has the CAs, None: the system's. `clock` is monotonic,
        in seconds; `seconds` bounds discovery and keys together.
        """
        self._allowed = tuple(allowed)
        self._tls = tls
        self._clock = clock
        self._seconds = seconds
        self._cache = Lru[str, _Kept](ISSUERS_MAX)

    async def keys(self, token: IdToken) -> Keys:
        """The keys of the token's issuer that may have signed it, at least one.

        Failure: InvalidIdentityToken if there is none, or if the issuer is not allowed or its response is invalid;
        IDPCommunicationError if it does not answer, which clients retry.
        """
        if not is_allowed(token.issuer, self._allowed):
            raise _unverifiable(f"{token.issuer[:200]} is not in [sts] oidc_issuers")
        kept = self._of(token.issuer)
        found = kept.fitting(token, self._clock())
        if found:
            return found  # without waiting for a fetch that another token has started
        async with kept.turn:
            now = self._clock()
            current = kept.is_current(now)
            found = kept.fitting(token, now)
            if not found and now - kept.tried >= (ANEW_SECONDS if current else FAILED_SECONDS):
                await self._fetch(token.issuer, kept)
                found = kept.fitting(token, kept.fetched)
            elif not found and kept.failed is not None:
                raise _unverifiable(f"{token.issuer} did not answer a moment ago", kept.failed)
        if not found:
            raise _unverifiable(f"{token.issuer} has no key that fits the token's kid and algorithm")
        return found

    def _of(self, issuer: str) -> _Kept:
        return self._cache.setdefault(issuer, _Kept())

    async def _fetch(self, issuer: str, kept: _Kept) -> None:
        kept.tried = self._clock()
        try:
            async with asyncio.timeout(self._seconds):
                kept.keys = await self._discover(issuer)
        except Failure as failure:
            kept.failed = failure.code
            raise
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            kept.failed = Code.IDP_COMMUNICATION
            raise _unverifiable(f"{issuer}: {type(error).__name__}: {error}", kept.failed) from None
        kept.fetched, kept.failed = kept.tried, None

    async def _discover(self, issuer: str) -> Keys:
        async with aiohttp.ClientSession(
            auto_decompress=False,  # so that the bound holds for what is read
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"Accept": "application/json", "Accept-Encoding": "identity"},
        ) as session:
            document = await self._get(session, issuer.rstrip("/") + "/.well-known/openid-configuration")
            if not isinstance(document, dict) or document.get("issuer") != issuer:
                raise _unverifiable(f"the discovery document of {issuer} is not one, or names another issuer")
            address = document.get("jwks_uri")
            if not isinstance(address, str):
                raise _unverifiable(f"the discovery document of {issuer} has no jwks_uri")
            try:
                return read_keys(await self._get(session, address))
            except ValueError:
                raise _unverifiable(f"what {issuer} has at its jwks_uri is no set of keys") from None

    async def _get(self, session: aiohttp.ClientSession, address: str) -> Any:
        for _ in range(REDIRECTS + 1):
            if not is_allowed(address, self._allowed):
                raise _unverifiable(f"{address[:200]} is not in [sts] oidc_issuers")
            async with session.get(
                URL(address, encoded=True), allow_redirects=False, ssl=True if self._tls is None else self._tls
            ) as response:
                if response.status in (301, 302, 303, 307, 308):
                    address = urljoin(address, response.headers.get("Location", ""))
                    continue
                if response.status != 200:
                    code = Code.IDP_COMMUNICATION if response.status >= 500 else Code.INVALID_IDENTITY_TOKEN
                    raise _unverifiable(f"{address} answers {response.status}", code)
                return _document(await _bounded(response, address), address)
        raise _unverifiable(f"more than {REDIRECTS} redirects, the last to {address[:200]}")


async def _bounded(response: aiohttp.ClientResponse, address: str) -> bytes:
    body = bytearray()
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) > ANSWER_MAX:
            raise _unverifiable(f"{address} answers more than {ANSWER_MAX} bytes")
    return bytes(body)


def _document(body: bytes, address: str) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        raise _unverifiable(f"{address} does not answer in JSON") from None


def _unverifiable(why: str, code: Code = Code.INVALID_IDENTITY_TOKEN) -> Failure:
    """`why` is for the operator: the sender of the token learns nothing of addresses."""
    observe.log.warning("no key to verify a web identity with", why=why)
    return Failure(code, UNVERIFIABLE, hint=why)
