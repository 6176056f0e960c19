"""One client of one registry: requests with a name, a time and a bounded answer; only a 401 is asked again.

(And, by aiohttp, a GET, HEAD or PUT whose kept connection turns out to be closed, as every HTTP client does.)

Promises: an answer's body is read up to a limit, or given on piece by piece; redirects are followed only for a layer's
GET, under `address`' rules and without credentials; what goes wrong is a `RequestFailed` whose kind is the status and
the OCI error code, or a word for what the connection did. Each answered request is passed to `note` with its seconds,
the body's included.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import re
import ssl
import time
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Self

import aiohttp
from multidict import CIMultiDictProxy
from yarl import URL

from proxy.upstream.address import Reach
from proxy.upstream.challenge import RegistryAuthorizer, Scopes
from proxy.upstream.errors import RequestFailed

ERROR_MOST = 64 << 10  # bytes of an error's body, and of a token's
BODY_MOST = 4 << 20  # bytes of a manifest or a page: what the specification asks registries to take
HOPS = 5
CONNECT_SECONDS = 20.0

_CODE = re.compile(r"[A-Z][A-Z0-9_]{0,39}", re.ASCII)
_REDIRECTS = frozenset({301, 302, 303, 307, 308})


@dataclass(frozen=True, slots=True)
class Response:
    """A whole answer, and the URL that gave it."""

    status: int
    headers: CIMultiDictProxy[str]
    body: bytes
    url: URL


class Client:
    """Open with `async with`; `note(name, seconds)` hears of each request."""

    def __init__(
        self,
        reach: Reach,
        *,
        username: str = "",
        password: str = "",
        trust: ssl.SSLContext | None = None,
        note: Callable[[str, float], None],
    ) -> None:
        self.reach = reach
        self._trust = trust
        self._note = note
        self._credentials = RegistryAuthorizer(username, password, reach, self._fetch, time.monotonic)
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, ssl=self._trust or True),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS),  # an operation has its own limit
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            headers={"User-Agent": "wharfage-rig", "Accept-Encoding": "identity"},
        )
        return self

    async def __aexit__(self, *raised: object) -> None:
        if self._session is not None:
            await self._session.close()

    async def greet(self) -> None:
        """Ask `/v2/` once, so that not every first request is answered 401; what is wrong there the load will meet."""
        assert self._session is not None, "open the client first"  # noqa: S101  # a mistake in the code
        with contextlib.suppress(aiohttp.ClientError, TimeoutError, OSError):
            async with (
                asyncio.timeout(CONNECT_SECONDS),
                self._session.get(self._url("/v2/"), allow_redirects=False) as answer,
            ):
                if answer.status == 401:
                    await self._credentials.learn(answer.headers.getall("WWW-Authenticate", []), "", ())

    async def ask(
        self,
        name: str,
        method: str,
        to: str | URL,
        *,
        scopes: Scopes,
        expect: frozenset[int],
        headers: Mapping[str, str] | None = None,
        body: bytes | Callable[[], AsyncIterable[bytes]] | None = None,
    ) -> Response:
        """One request and its whole answer, whose status is one of `expect`. `to`: a path, or a URL that `reach` let
        through. A `body` that is called is a stream; it is called again when the request is."""
        url = self._url(to)
        began = time.monotonic()
        with _translated():
            async with self._sent(method, url, scopes, headers or {}, body) as answer:
                if answer.status not in expect:
                    raise await _refusal(answer)
                content = await _bounded(answer, BODY_MOST)
            self._note(name, time.monotonic() - began)
            return Response(answer.status, answer.headers, content, url)

    @contextlib.asynccontextmanager
    async def layer(
        self, name: str, path: str, *, scopes: Scopes, headers: Mapping[str, str]
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """A GET of a blob, its redirects followed; the caller reads the body. 200 or 206, else `RequestFailed`."""
        url = self._url(path)
        began = time.monotonic()
        with _translated():
            for _ in range(HOPS):
                async with self._sent("GET", url, scopes, headers, None) as answer:
                    if answer.status in _REDIRECTS:
                        url = self.reach.redirected(answer.headers.get("Location", ""), url)
                        continue
                    if answer.status not in (200, 206):
                        raise await _refusal(answer)
                    yield answer
                    self._note(name, time.monotonic() - began)
                    return
        raise RequestFailed("redirects", f"more than {HOPS} redirects of one layer")

    def _url(self, to: str | URL) -> URL:
        return to if isinstance(to, URL) else self.reach.base.join(URL(to, encoded=True))

    @contextlib.asynccontextmanager
    async def _sent(
        self,
        method: str,
        url: URL,
        scopes: Scopes,
        headers: Mapping[str, str],
        body: bytes | Callable[[], AsyncIterable[bytes]] | None,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """The answer to a request; a 401 of the registry's own is asked once more when its challenge helps."""
        assert self._session is not None, "open the client first"  # noqa: S101  # a mistake in the code
        own = self.reach.own(url)
        for again in (False, True):
            authorization = await self._credentials.header(scopes) if own else ""
            more = {"Authorization": authorization} if authorization else {}
            data = body() if callable(body) else body
            async with self._session.request(
                method, url, data=data, headers={**headers, **more}, allow_redirects=False
            ) as answer:
                if own and answer.status == 401 and not again:
                    challenges = answer.headers.getall("WWW-Authenticate", [])
                    if await self._credentials.learn(challenges, authorization, scopes):
                        with contextlib.suppress(RequestFailed):
                            await _bounded(answer, ERROR_MOST)  # so that the connection can be used again
                        continue
                yield answer
                return

    async def _fetch(self, url: URL, headers: dict[str, str]) -> bytes:
        """For `RegistryAuthorizer`: a token's JSON."""
        assert self._session is not None, "open the client first"  # noqa: S101  # a mistake in the code
        began = time.monotonic()
        async with self._session.get(url, headers=headers, allow_redirects=False) as answer:
            if answer.status != 200:
                raise RequestFailed(
                    f"token {answer.status}", "the realm of tokens gives none; look at user and password"
                )
            body = await _bounded(answer, ERROR_MOST)
        self._note("token", time.monotonic() - began)
        return body


async def _bounded(answer: aiohttp.ClientResponse, most: int) -> bytes:
    """The body, at most so many bytes of it; `RequestFailed` when there is more."""
    parts, length = [], 0
    async for part in answer.content.iter_any():
        length += len(part)
        if length > most:
            raise RequestFailed("too-large", f"an answer of more than {most:,} bytes")
        parts.append(part)
    return b"".join(parts)


async def _refusal(answer: aiohttp.ClientResponse) -> RequestFailed:
    """Status and OCI code of an answer that was not wanted (distribution-spec "error codes")."""
    code: Any = ""
    with contextlib.suppress(RequestFailed, ValueError, LookupError, TypeError, RecursionError, aiohttp.ClientError):
        code = json.loads(await _bounded(answer, ERROR_MOST))["errors"][0]["code"]
    kind = f"{answer.status} {code}" if isinstance(code, str) and _CODE.fullmatch(code) else f"{answer.status}"
    return RequestFailed(kind, "--username and --password-stdin say who asks" if answer.status == 401 else "")


def _unconnected(number: int | None) -> RequestFailed:
    if number in (errno.EMFILE, errno.ENFILE):
        return RequestFailed("open-files", "the rig may open no more; raise `ulimit -n`, or lower --concurrency")
    return RequestFailed("connection-refused" if number == errno.ECONNREFUSED else "connect")


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    """Names what goes wrong with a connection."""
    try:
        yield
    except aiohttp.ClientConnectorCertificateError:
        raise RequestFailed("tls", "its certificate is not trusted; --ca names the authority's file") from None
    except aiohttp.ClientConnectorDNSError:
        raise RequestFailed("dns", "no such host") from None
    except aiohttp.ClientSSLError:
        raise RequestFailed("tls", "no TLS there; --plain-http when that is meant") from None
    except aiohttp.ConnectionTimeoutError:
        raise RequestFailed("connect-timeout") from None
    except aiohttp.ClientConnectorError as error:
        raise _unconnected(error.os_error.errno) from None
    except aiohttp.ClientPayloadError:
        raise RequestFailed("cut-short", "the connection ended within a body") from None
    except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError, OSError):
        raise RequestFailed("connection-reset") from None
    except (aiohttp.ClientError, asyncio.IncompleteReadError):
        raise RequestFailed("not-http", "the answer is no HTTP that can be read") from None
