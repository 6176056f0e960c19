"""One authenticated request at this door, and what every function of the door may use.

`Rooms` is the same for all requests. `Call` is one of them: names are within their grammar, the principal is known and
allowed the route's action. Nothing here decides or does anything of the protocol but reading a body as it should be.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from multidict import MultiMapping

from proxy.auth.administrators import decide, require
from proxy.model.errors import Code, Failure
from proxy.model.identity import Principal
from proxy.model.names import repository_arn
from proxy.registry.blobs import Blobs
from proxy.registry.images import Images
from proxy.registry.uploads import Uploads


@dataclass(frozen=True, slots=True)
class Rooms:
    """`stall_seconds`: how long a client may not take a byte of a blob before its connection is cut."""

    uploads: Uploads
    blobs: Blobs
    images: Images
    account: str
    region: str
    stall_seconds: float


@dataclass(frozen=True, slots=True)
class Call:
    """`repository` is empty for `/v2/` and the catalog; `reference` is the last part: tag, digest or upload id."""

    request: web.Request
    rooms: Rooms
    principal: Principal
    repository: str
    reference: str

    @property
    def account(self) -> str:
        return self.rooms.account

    @property
    def query(self) -> MultiMapping[str]:
        return self.request.query

    def may(self, action: str, repository: str | None = None) -> bool:
        """Whether the principal may do `action` on this repository, or another."""
        return decide(self.principal, action, self._arn(repository)).allowed

    def require(self, *actions: str) -> None:
        """Failure AccessDenied unless the principal may do all of them on this repository."""
        for action in actions:
            require(self.principal, action, self._arn(None))

    def _arn(self, repository: str | None) -> str:
        return repository_arn(self.rooms.region, self.rooms.account, repository or self.repository)


class BodyCut(Exception):
    """The client went away, or was cut, before its body was whole."""


def gone() -> web.Response:
    """The answer that nobody will read: for log and metrics, with the number that nginx gives it."""
    response = web.Response(status=499, reason="Client Closed Request")
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
    if expects_continue(request):
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0  # as aiohttp does: the answer itself has not begun
    while True:
        try:
            chunk = await request.content.readany()
        except OSError as error:
            raise BodyCut from error
        except (web.RequestPayloadError, HttpProcessingError) as error:
            if request.transport is None or request.transport.is_closing():
                raise BodyCut from error
            raise Failure(Code.SIZE_INVALID, "the body is not framed as HTTP wants") from error
        if not chunk:
            return
        yield chunk


def expects_continue(request: web.Request) -> bool:
    return request.version >= (1, 1) and request.headers.get("Expect", "").strip().lower() == "100-continue"
