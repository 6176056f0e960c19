"""The client of one upstream registry, with one credential: fetches manifests and layers, and checks the responses.

Promises: credentials go to the upstream's own origin and, for tokens, to a realm that `realms` allows; at most `HOPS`
redirects are followed, without credentials; only hosts that the operator listed may have private addresses
(`guarded_connector`). A manifest's bytes match the requested digest and `Docker-Content-Digest`. A layer's body is
streamed unverified, from any byte; its reader verifies it. Each failure is an `UpstreamFailed` with a reason. An
upstream that has not answered for a while is not called (`Breaker`), nor is one whose 429 is not over (`Budget`).
Called by `registry.mirror`, `referrers` and `trial`. Must not know rules, rows or pulling clients.
Sources: OCI Distribution 1.1.1 "Pulling manifests", "Pulling blobs"; Docker Hub's pages on pull limits.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import re
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Self

import aiohttp
from yarl import URL

from proxy.model.errors import Failure
from proxy.model.manifests import DOCKER_IMAGE, DOCKER_LIST, MANIFEST_MAX, OCI_ARTIFACT, OCI_IMAGE, OCI_INDEX
from proxy.model.names import parse_digest
from proxy.storage.s3.circuit_breaker import Breaker
from proxy.upstream.challenge import RegistryAuthorizer, Scopes
from proxy.upstream.errors import RequestFailed, UpstreamFailed, UpstreamReason
from proxy.upstream.guarded_connector import AddressRefused, check_literal, socket_factory
from proxy.upstream.limits import Budget, Throttle, retry_after
from proxy.upstream.realms import UpstreamReach, joined

ACCEPT = ", ".join((OCI_INDEX, DOCKER_LIST, OCI_IMAGE, DOCKER_IMAGE, OCI_ARTIFACT, "*/*;q=0.1"))
"""Indexes first: a registry that converts manifests must not choose a platform for us."""

DOCKER_HUB = frozenset({"registry-1.docker.io", "docker.io", "index.docker.io"})
HOPS = 5
CONNECT_SECONDS = 10.0
STALL_SECONDS = 30.0  # without a byte
MANIFEST_SECONDS = 60.0  # for a complete response that is no layer
READ_BYTES = 1 << 20  # that aiohttp buffers of a body whose reader is behind
_SMALL = 64 << 10  # bytes of a token's response, and of the response to a ping
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_CONTENT_RANGE = re.compile(r"bytes (\d{1,19})-(\d{1,19})/(\d{1,19})", re.ASCII)
_MEDIA_TYPE = re.compile(r"[A-Za-z0-9!#$&^_.+-]{1,127}/[A-Za-z0-9!#$&^_.+-]{1,127}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Upstream:
    """`base`: its origin. `listed`: origins that the operator named, which may have private addresses. `proxy`: for all
    requests; if it is empty, `proxy_of` returns that of each URL."""

    base: URL
    listed: frozenset[URL] = frozenset()
    connections: int = 16
    requests_per_second: float = 0.0
    trust: ssl.SSLContext | None = None
    proxy: str = ""
    proxy_of: Callable[[URL], str] = lambda _: ""

    def path_of(self, repository: str) -> str:
        """The repository's name at the upstream: Docker Hub's official images are under `library/`."""
        if self.base.host in DOCKER_HUB and "/" not in repository:
            return f"library/{repository}"
        return repository


@dataclass(frozen=True, slots=True)
class UpstreamLogin:
    username: str
    password: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class UpstreamManifest:
    """`content` is empty after a HEAD; then `digest` is empty too if the upstream sent none."""

    digest: str
    media_type: str
    content: bytes


class LayerBody:
    """The body of a layer from a byte on; `total` is the layer's size if the upstream gives it. If the upstream serves
    no ranges (`skips`), it sends the bytes before that too, and they are skipped."""

    def __init__(
        self, answer: aiohttp.ClientResponse, skip: int, total: int | None, received: Callable[[int], None]
    ) -> None:
        self.total = total
        self.skips = skip > 0
        self._answer = answer
        self._skip = skip
        self._received = received

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """`UpstreamFailed` (UNAVAILABLE) if the connection breaks off."""
        with translated():
            async for chunk in self._answer.content.iter_any():
                self._received(len(chunk))
                if self._skip:
                    taken = min(self._skip, len(chunk))
                    self._skip -= taken
                    chunk = chunk[taken:]
                if chunk:
                    yield chunk


class UpstreamClient:
    """Open with `async with`. `clock` counts seconds; `note(kind, outcome, seconds)` is called for each request, and
    `received` with the size of each piece of a layer."""

    def __init__(
        self,
        upstream: Upstream,
        credential: UpstreamLogin | None,
        *,
        clock: Callable[[], float],
        note: Callable[[str, str, float], None],
        received: Callable[[int], None] = lambda _: None,
    ) -> None:
        self.upstream = upstream
        self.reach = UpstreamReach(upstream.base)
        self.budget = Budget(clock)
        self.breaker = Breaker(clock)
        self._clock = clock
        self._note = note
        self._received = received
        self._login = credential
        name, password = (credential.username, credential.password) if credential is not None else ("", "")
        self._credentials = RegistryAuthorizer(name, password, self.reach, self._fetch_token, clock)
        self._throttle = Throttle(upstream.connections, upstream.requests_per_second, clock)
        self._sessions: dict[bool, aiohttp.ClientSession] = {}

    def __repr__(self) -> str:
        return f"<UpstreamClient of {self.upstream.base.host}, {self.breaker!r}>"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *raised: object) -> None:
        for session in self._sessions.values():
            await session.close()
        self._sessions.clear()

    async def manifest(self, repository: str, reference: str, *, look: bool = False) -> UpstreamManifest:
        """A manifest by tag or digest; `look` sends a HEAD, which Docker Hub does not count. `UpstreamFailed`."""
        kind, method = ("look", "HEAD") if look else ("manifest", "GET")
        path = f"/v2/{self.upstream.path_of(repository)}/manifests/{reference}"
        async with (
            self._asked(kind, method, path, repository, {"Accept": ACCEPT}) as answer,
            asyncio.timeout(MANIFEST_SECONDS),
        ):
            content = b"" if look else await _bounded(answer, MANIFEST_MAX)
            return _checked(reference, answer.headers, content)

    async def document(self, kind: str, path: str, repository: str) -> tuple[bytes, str]:
        """A document at a path of the registry, of a manifest's size at most, and its Link. `UpstreamFailed`."""
        async with (
            self._asked(kind, "GET", path, repository, {"Accept": OCI_INDEX}) as answer,
            asyncio.timeout(MANIFEST_SECONDS),
        ):
            return await _bounded(answer, MANIFEST_MAX), answer.headers.get("Link", "")

    def own_path(self, link: str, path: str) -> str:
        """Path and query of a link in the response to `path`. `UpstreamFailed` if it leads to another origin."""
        url = joined(link, self._url(path))
        if not self.reach.own(url):
            raise UpstreamFailed(UpstreamReason.WRONG, "refused-address", "the next page of a list is on another host")
        return url.raw_path_qs

    @contextlib.asynccontextmanager
    async def layer(
        self, repository: str, digest: str, start: int = 0, stop: int | None = None
    ) -> AsyncIterator[LayerBody]:
        """A layer's body from byte `start` on, up to `stop` if given, for a `with` block. `UpstreamFailed`, WRONG for
        another range. An upstream that serves no ranges sends all."""
        path = f"/v2/{self.upstream.path_of(repository)}/blobs/{digest}"
        until = "" if stop is None else str(stop - 1)
        headers = {"Range": f"bytes={start}-{until}"} if start or until else {}
        async with self._asked("layer", "GET", path, repository, headers) as answer:
            if answer.status == 206:
                found = _CONTENT_RANGE.fullmatch(answer.headers.get("Content-Range", ""))
                last = int(found[3]) - 1 if found is not None and stop is None else (stop or 0) - 1
                if found is None or (int(found[1]), int(found[2])) != (start, last):
                    raise UpstreamFailed(
                        UpstreamReason.WRONG, "wrong-range", "it answered another range than was asked for"
                    )
                yield LayerBody(answer, 0, int(found[3]), self._received)
            else:
                yield LayerBody(answer, start, answer.content_length, self._received)

    @property
    def realm(self) -> str:
        """The realm of its last challenge; empty before the first."""
        return self._credentials.realm

    async def ping(self) -> None:
        """`UpstreamFailed` unless it answers as a registry, and accepts the credentials."""
        async with self._asked("ping", "GET", "/v2/", "", {}) as answer:
            await _bounded(answer, _SMALL)

    # ---- one request -------------------------------------------------------------------------------------------------
    @contextlib.asynccontextmanager
    async def _asked(
        self, kind: str, method: str, path: str, repository: str, headers: Mapping[str, str]
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """The response with status 200 (or 206 to a Range), within our limits and the upstream's."""
        self.budget.require()
        if not self.breaker.may_ask():
            raise UpstreamFailed(UpstreamReason.UNAVAILABLE, "circuit-open", "it has not answered lately", seconds=2.0)
        scopes = (f"repository:{self.upstream.path_of(repository)}:pull",) if repository else ()
        began, outcome = self._clock(), "cut"
        try:
            async with self._throttle.turn(layer=kind == "layer"):
                with translated():
                    async with self._followed(method, self._url(path), scopes, headers) as answer:
                        await self._judge(answer, ranged="Range" in headers)
                        outcome = "ok"
                        yield answer
            self.breaker.succeeded()
        except UpstreamFailed as failure:
            outcome, failure.asked_as = str(failure.reason), self._login
            # Only lost connections and server errors count: a server that refuses is up.
            if failure.reason is UpstreamReason.UNAVAILABLE:
                self.breaker.failed()
            else:
                self.breaker.succeeded()
            raise
        finally:
            self._note(kind, outcome, self._clock() - began)

    @contextlib.asynccontextmanager
    async def _followed(
        self, method: str, url: URL, scopes: Scopes, headers: Mapping[str, str]
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        for _ in range(HOPS + 1):
            async with self._sent(method, url, scopes, headers) as answer:
                if answer.status in _REDIRECTS:
                    url = self.reach.redirected(answer.headers.get("Location", ""), url)
                    continue
                yield answer
                return
        raise UpstreamFailed(UpstreamReason.WRONG, "redirects", f"more than {HOPS} redirects")

    @contextlib.asynccontextmanager
    async def _sent(
        self, method: str, url: URL, scopes: Scopes, headers: Mapping[str, str]
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """The response of one origin; after a 401 of the upstream's own, a request with its challenge's credentials."""
        own = self.reach.own(url)
        for again in (False, True):
            authorization = await self._credentials.header(scopes) if own else ""
            more = {"Authorization": authorization} if authorization else {}
            async with self._request(method, url, {**headers, **more}) as answer:
                if own and answer.status == 401 and not again:
                    challenges = answer.headers.getall("WWW-Authenticate", [])
                    if await self._credentials.learn(challenges, authorization, scopes):
                        continue
                yield answer
                return

    def _request(
        self, method: str, url: URL, headers: Mapping[str, str]
    ) -> contextlib.AbstractAsyncContextManager[aiohttp.ClientResponse]:
        trusted = self._is_listed(url)
        if not trusted:
            check_literal(url, ())
        proxy = self.upstream.proxy or self.upstream.proxy_of(url)
        return self._session(trusted or bool(proxy)).request(
            method, url, headers=headers, allow_redirects=False, proxy=proxy or None
        )

    async def _judge(self, answer: aiohttp.ClientResponse, *, ranged: bool) -> None:
        self.budget.note(answer.status, answer.headers)
        if answer.status == 200 or (answer.status == 206 and ranged):
            return
        kind = str(answer.status)
        if answer.status == 404:
            raise UpstreamFailed(UpstreamReason.MISSING, kind)
        if answer.status in (401, 403):
            raise UpstreamFailed(UpstreamReason.DENIED, kind, "it refuses the rule's credentials, or wants some")
        if answer.status == 429:
            raise UpstreamFailed(UpstreamReason.LIMITED, kind, "too many requests", seconds=retry_after(answer.headers))
        if answer.status >= 500:
            seconds = retry_after(answer.headers) if "Retry-After" in answer.headers else 0.0
            raise UpstreamFailed(UpstreamReason.UNAVAILABLE, kind, seconds=seconds)
        raise UpstreamFailed(UpstreamReason.WRONG, kind, "an answer that no registry gives")

    async def _fetch_token(self, url: URL, headers: dict[str, str]) -> bytes:
        """The realm's response, for `RegistryAuthorizer`."""
        began, outcome = self._clock(), "failed"
        try:
            async with asyncio.timeout(MANIFEST_SECONDS), self._request("GET", url, headers) as answer:
                self.budget.note(answer.status, {"Retry-After": answer.headers.get("Retry-After", "")})
                if answer.status == 429:
                    raise UpstreamFailed(
                        UpstreamReason.LIMITED, "429", "its realm", seconds=retry_after(answer.headers)
                    )
                if answer.status >= 500:
                    raise UpstreamFailed(UpstreamReason.UNAVAILABLE, f"token {answer.status}")
                if answer.status != 200:
                    raise UpstreamFailed(UpstreamReason.DENIED, f"token {answer.status}", "its realm gives no token")
                body = await _bounded(answer, _SMALL)
            outcome = "ok"
            return body
        finally:
            self._note("token", outcome, self._clock() - began)

    def _is_listed(self, url: URL) -> bool:
        """Whether the operator listed this origin, or it is another port of a listed upstream's host (for tokens)."""
        origin, base = url.origin(), self.upstream.base
        return origin in self.upstream.listed or (base in self.upstream.listed and url.host == base.host)

    def _url(self, path: str) -> URL:
        return self.upstream.base.join(URL(path, encoded=True))

    def _session(self, trusted: bool) -> aiohttp.ClientSession:
        session = self._sessions.get(trusted)
        if session is None:
            # The socket factory checks each address that is connected to, so rebinding a name does not help.
            connector = aiohttp.TCPConnector(
                limit=0, ssl=self.upstream.trust or True, socket_factory=None if trusted else socket_factory(())
            )
            session = self._sessions[trusted] = aiohttp.ClientSession(
                connector=connector,
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS, sock_read=STALL_SECONDS),
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                read_bufsize=READ_BYTES,
                headers={"User-Agent": "wharfage", "Accept-Encoding": "identity"},
            )
        return session


def _checked(reference: str, headers: Mapping[str, str], content: bytes) -> UpstreamManifest:
    said = headers.get("Docker-Content-Digest", "")
    wanted = reference if ":" in reference else said
    try:
        algorithm = parse_digest(wanted).algorithm if wanted else "sha256"
    except Failure:
        if wanted is reference:
            raise
        raise UpstreamFailed(UpstreamReason.WRONG, "wrong-digest", "its Docker-Content-Digest is no digest") from None
    digest = f"{algorithm}:{hashlib.new(algorithm, content).hexdigest()}" if content else said
    for named in (reference if ":" in reference else "", said):
        if named and digest and named != digest and named.partition(":")[0] == algorithm:
            raise UpstreamFailed(UpstreamReason.WRONG, "wrong-digest", "a manifest that does not hash to its digest")
    media_type = headers.get("Content-Type", "").partition(";")[0].strip()
    return UpstreamManifest(digest, media_type if _MEDIA_TYPE.fullmatch(media_type) else "", content)


async def _bounded(answer: aiohttp.ClientResponse, most: int) -> bytes:
    """The body. `UpstreamFailed` (WRONG) if it has more than `most` bytes."""
    parts, length = [], 0
    async for part in answer.content.iter_any():
        length += len(part)
        if length > most:
            raise UpstreamFailed(UpstreamReason.WRONG, "too-large", f"an answer of more than {most:,} bytes")
        parts.append(part)
    return b"".join(parts)


@contextlib.contextmanager
def translated() -> Iterator[None]:
    """Turn exceptions of connections into `UpstreamFailed`."""
    try:
        yield
    except UpstreamFailed:
        raise
    except RequestFailed as error:
        raise UpstreamFailed(UpstreamReason.WRONG, error.kind, error.said) from None
    except AddressRefused as error:
        raise UpstreamFailed(UpstreamReason.DENIED, "private-address", _PRIVATE) from error
    except aiohttp.ClientConnectorError as error:
        if isinstance(error.os_error, AddressRefused) or error.os_error.errno == _REFUSED_NUMBER:
            raise UpstreamFailed(UpstreamReason.DENIED, "private-address", _PRIVATE) from None
        raise UpstreamFailed(UpstreamReason.UNAVAILABLE, _kind(error)) from None
    except (aiohttp.ClientError, TimeoutError, OSError, asyncio.IncompleteReadError) as error:
        raise UpstreamFailed(UpstreamReason.UNAVAILABLE, _kind(error)) from None


_PRIVATE = "it is no public address; [pull_through] upstreams lists those that are meant"
_REFUSED_NUMBER = AddressRefused("").errno


def _kind(error: BaseException) -> str:
    named: tuple[tuple[type[BaseException], str], ...] = (
        (aiohttp.ClientConnectorDNSError, "dns"),
        (aiohttp.ClientSSLError, "tls"),
        (aiohttp.ClientConnectorError, "connect"),
        (aiohttp.ClientPayloadError, "cut-short"),
        (aiohttp.ServerDisconnectedError, "connection-reset"),
        (TimeoutError, "timeout"),
        (aiohttp.ClientResponseError, "not-http"),
    )
    return next((name for kind, name in named if isinstance(error, kind)), "connection-reset")
