"""GET and HEAD /layers/<digest>?token=…: serves the links of GetDownloadUrlForLayer.

The holder of a link may fetch the layer, with ranges, as through OCI: the token names principal and repository, and is
valid here only. Each fetch is an audit event of the principal that requested the link. No answer tells why a link is
refused; no log has the token, which is in the query. Made by `app.router`.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping

from aiohttp import web

from proxy import observe
from proxy.audit.events import AuditEvent
from proxy.audit.trail import Trail
from proxy.auth.callers import Callers
from proxy.auth.layer_links import LayerLinks, LinkInvalid
from proxy.auth.policy.context import RequestInfo
from proxy.http import blob_response
from proxy.http.blob_response import BlobRequest
from proxy.http.request_info import path_of, request_info_of
from proxy.metadata.contract import Metadata
from proxy.model.errors import Code, Failure
from proxy.model.identity import Caller
from proxy.model.names import repository_arn
from proxy.registry.blobs import Blobs
from proxy.registry.mirror.mirror import Mirror

PATH = "/layers/"
REFUSED_TEXT = "This link does not open a layer, or its time is over."
_ROUTE = "/layers/<digest>"
_CUT_STATUS = 499  # for log and audit, as in `oci`; no client gets it
_STATUS: Mapping[Code, int] = {
    Code.ACCESS_DENIED: 403,
    Code.BLOB_CORRUPT: 404,
    Code.LAYERS_NOT_FOUND: 404,
    Code.RANGE_NOT_SATISFIABLE: 416,
    Code.REPOSITORY_NOT_FOUND: 404,
    Code.UPSTREAM_ACCESS_DENIED: 403,
    Code.UPSTREAM_TOO_MANY_REQUESTS: 429,
    Code.UPSTREAM_UNAVAILABLE: 503,
}


def link(base: str, digest: str, token: str) -> str:
    """The URL of a layer; `base` is this server's address, as scheme://host:port."""
    return f"{base}{PATH}{digest}?token={token}"


class _DownloadRecord:
    """One fetch, filled in while it is answered."""

    def __init__(self, info: RequestInfo, account: str) -> None:
        self.info = info
        self.account = account
        self.caller: Caller | None = None
        self.repository = ""
        self.error = "InternalFailure"
        self.message = ""
        self.bytes_out = 0


def handler(
    *,
    links: LayerLinks,
    callers: Callers,
    metadata: Metadata,
    blobs: Blobs,
    trail: Trail,
    account: str,
    region: str,
    clock: Callable[[], float],
    stall_seconds: float = 60.0,
    mirror: Mirror | None = None,
) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    """What answers under `PATH`. `account` is the default one, for links that name none; `stall_seconds` as in
    `BlobRequest`; `clock` returns epoch seconds; `mirror` has layers that are not here yet."""

    async def handle(request: web.Request) -> web.StreamResponse:
        digest = path_of(request).removeprefix(PATH).replace("%3A", ":").replace("%3a", ":")
        record, status = _DownloadRecord(request_info_of(request, now=clock(), region=region), account), 500
        try:
            response = await answer(request, digest, record)
            status = response.status
        except (ConnectionError, asyncio.CancelledError):
            record.error, record.message, status = "RequestCut", "the connection ended before the answer", _CUT_STATUS
            raise
        finally:
            await trail.note(_event(request.method, digest, record, status))
        return response

    async def answer(request: web.Request, digest: str, record: _DownloadRecord) -> web.StreamResponse:
        if request.method not in ("GET", "HEAD"):
            record.error = record.message = "MethodNotAllowed"
            return _refusal(405, "A layer is fetched by GET.", {"Allow": "GET, HEAD"})
        try:
            pull = await opened(request, digest, record)
            response = blob_response.head(pull) if request.method == "HEAD" else await blob_response.get(pull)
            record.error = ""
            return response
        except Failure as failure:
            record.error, record.message = failure.code, failure.message
            status = _STATUS.get(failure.code, 503)
            if status == 503:
                observe.log.error("a layer could not be given", error=str(failure), cause=repr(failure.__cause__))
            size = failure.fields.get("size")
            more = {"Content-Range": f"bytes */{size}"} if status == 416 else {}
            return _refusal(status, failure.message if status < 500 else "Try again.", more)

    async def opened(request: web.Request, digest: str, record: _DownloadRecord) -> BlobRequest:
        given = request.query.getall("token", [])
        try:
            found = links.read(given[0] if len(given) == 1 else "", digest, record.info.now)
        except LinkInvalid:
            raise Failure(Code.ACCESS_DENIED, REFUSED_TEXT) from None
        record.account, record.repository = found.account, found.repository
        record.caller = await callers.find(
            found.principal_id,
            found.principal_account,
            session=found.session,
            access_key_id=found.access_key_id,
            issued=found.issued,
        )
        if record.caller is None or not (await metadata.registry_access(found.account)).exists:
            raise Failure(Code.ACCESS_DENIED, REFUSED_TEXT)
        observe.note(principal=record.caller.arn, repository=found.repository, digest=digest)
        try:
            blob = await blobs.find(found.account, found.repository, digest)
        except Failure as failure:
            if failure.code is not Code.LAYERS_NOT_FOUND or mirror is None:
                raise
            coming = await mirror.coming(found.account, found.repository, digest)
            if coming is not None:
                return BlobRequest(request, coming, coming.blob, record, stall_seconds, {})
            blob = await blobs.find(found.account, found.repository, digest)  # stored between the look-ups, perhaps
        return BlobRequest(request, blobs, blob, record, stall_seconds, {}, blobs.content)

    return handle


def _event(method: str, digest: str, record: _DownloadRecord, status: int) -> AuditEvent:
    info = record.info
    parameters = {"registryId": record.account, "repositoryName": record.repository, "layerDigest": digest}
    return AuditEvent(
        source="ecr",
        name="GetDownloadUrlForLayer",
        caller=record.caller,
        account=record.account,
        region=info.region,
        source_ip=info.source_ip,
        user_agent=info.user_agent,
        read_only=True,
        data=True,
        resources=(repository_arn(info.region, record.account, record.repository),) if record.repository else (),
        route=f"{method} {_ROUTE}",
        parameters=parameters if record.repository else None,
        moment=info.now,
        request_id=observe.request_id() or "",
        error=record.error,
        message=record.message,
        bytes_out=record.bytes_out,
        status=status,
    )


def _refusal(status: int, message: str, headers: Mapping[str, str]) -> web.Response:
    return web.Response(
        status=status,
        body=json.dumps({"message": message}).encode(),
        headers={"Content-Type": "application/json", "Cache-Control": "no-store", **headers},
    )
