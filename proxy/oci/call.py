"""One authenticated request at this door, and what every function of the door may use.

`Rooms` is the same for all requests. `Call` is one of them: names are within their grammar, the caller is known and
allowed the route's action. Nothing here decides or does anything of the protocol but reading a body as it should be.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from multidict import MultiMapping

from proxy.auth.access import Access
from proxy.auth.policy.context import RequestFacts
from proxy.auth.rates import Rates
from proxy.http import server
from proxy.http.bounded_reads import BODY_BYTES
from proxy.metadata.contract import Looks
from proxy.model.errors import Code, Failure
from proxy.model.hosts import Hosts
from proxy.model.identity import Caller
from proxy.model.names import repository_arn
from proxy.oci.audit_record import Told
from proxy.oci.cacheability import SECONDS, Standing
from proxy.registry.append import Append
from proxy.registry.blobs import Blobs
from proxy.registry.images import Images
from proxy.registry.mirror.mirror import Mirror
from proxy.registry.uploads import Uploads


@dataclass(frozen=True, slots=True)
class Rooms:
    """`stall_seconds`: how long a client may not take a byte of a blob before its connection is cut. `rates` is None
    where no operation has one, `epochs` where nothing may be kept, `mirror` where
    nothing is pulled through."""

    uploads: Uploads
    blobs: Blobs
    images: Images
    access: Access
    hosts: Hosts
    stall_seconds: float
    rates: Rates | None = None
    epochs: Looks | None = None
    mirror: Mirror | None = None


@dataclass(frozen=True, slots=True)
class Call:
    """`account` is the registry's, whoever calls. `repository` is empty for `/v2/` and the catalog; `reference` is the
    last part: tag, digest or upload id. `told` is what the audit trail will be told of it."""

    request: web.Request
    rooms: Rooms
    caller: Caller
    facts: RequestFacts
    account: str
    repository: str
    reference: str
    told: Told
    standing: Standing | None = None

    @property
    def query(self) -> MultiMapping[str]:
        return self.request.query

    async def lasts(self, action: str | None, until: float) -> None:
        """The answer, found and allowed, may be given again until then (epoch seconds), unless it hangs on what may
        change by itself."""
        rates = self.rooms.rates
        if self.standing is None or (rates is not None and rates.limits(self.told.operation)):
            return
        if action is not None and self.rooms.access.is_timed(self.caller, action, self._arn("")):
            return
        if self.repository and await self.rooms.images.hangs_on_key(self.account, self.repository):
            return
        self.standing.until = min(until, self.facts.now + SECONDS, self.standing.most)

    async def may(self, *actions: str, repository: str = "") -> bool:
        """Whether the caller may do all `actions` on this repository, or another of this registry."""
        resource = self._arn(repository)
        for action in actions:
            if not (await self.rooms.access.decide(self.caller, action, resource, self.facts)).allowed:
                return False
        return True

    async def require(self, *actions: str) -> None:
        """Failure AccessDenied unless the caller may do all of them on this repository, or on all for the catalog."""
        resource = self._arn("")
        for action in actions:
            decision = await self.rooms.access.decide(self.caller, action, resource, self.facts)
            if not decision.allowed:
                raise Failure(Code.ACCESS_DENIED, decision.message, hint=self._elsewhere())

    def _arn(self, repository: str) -> str:
        return repository_arn(self.rooms.hosts.region, self.account, repository or self.repository or "*")

    def _elsewhere(self) -> str:
        if self.caller.account == self.account or self.rooms.hosts.suffix:
            return ""
        return (
            f"this address is the registry of account {self.account}; "
            f"with [registry] suffix set, that of {self.caller.account} has one of its own"
        )


GONE_STATUS = 499  # nginx's number for it


class BodyCut(Exception):
    """The client went away, or was cut, before its body was whole."""


def gone() -> web.Response:
    """The answer that nobody will read: for log, metrics and audit trail."""
    response = web.Response(status=GONE_STATUS, reason="Client Closed Request")
    response.force_close()
    return response


def check_encoding(request: web.Request) -> None:
    """Bodies are what they are: nothing is inflated, so nothing inflates past a limit."""
    if request.headers.get("Content-Encoding", "identity").strip().lower() not in ("", "identity"):
        raise Failure(
            Code.UNSUPPORTED, "a body with a Content-Encoding is not taken", hint="send the bytes that the digest names"
        )


async def body(request: web.Request) -> AsyncIterator[bytes]:
    """The body as it comes, unbounded. Sends 100-continue first: call it when all that can be refused has been.

    BodyCut when it ends too early; SizeInvalid when its chunks are not framed as HTTP wants.
    """
    await _invite(request)
    while chunk := await _next_chunk(request):
        yield chunk


async def receive(request: web.Request, append: Append) -> None:
    """As `body`, all of it into an append: what is long, straight into the append's own buffer."""
    await _invite(request)
    while True:
        if append.upload.committed is None and (straight := server.straight(request)) is not None:
            straight.begin()
            try:
                whole = await straight.read_all(append)
            finally:
                straight.end()
            if not whole:
                raise BodyCut
            return
        if not (chunk := await _next_chunk(request)):
            return
        await append.write(chunk)


async def _invite(request: web.Request) -> None:
    server.want_body(request, BODY_BYTES)
    if expects_continue(request):
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0  # as aiohttp does: the answer itself has not begun


async def _next_chunk(request: web.Request) -> bytes:
    """Empty at the end."""
    try:
        return await request.content.readany()
    except OSError as error:
        raise BodyCut from error
    except (web.RequestPayloadError, HttpProcessingError) as error:
        if request.transport is None or request.transport.is_closing():
            raise BodyCut from error
        raise Failure(Code.SIZE_INVALID, "the body is not framed as HTTP wants") from error


def expects_continue(request: web.Request) -> bool:
    return request.version >= (1, 1) and request.headers.get("Expect", "").strip().lower() == "100-continue"
