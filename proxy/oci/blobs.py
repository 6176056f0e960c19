"""Blobs over HTTP: HEAD, GET with ranges, DELETE.

Called by `routes`; `http.blob_response` sends the bytes. Source: OCI Distribution 1.1.1 "Pulling blobs".
"""

from __future__ import annotations

from aiohttp import web

from proxy.http import blob_response
from proxy.http.blob_response import BlobRequest
from proxy.model.errors import Code, Failure
from proxy.model.names import parse_digest
from proxy.oci.call import Call
from proxy.oci.errors import API_VERSION


async def head(call: Call) -> web.StreamResponse:
    return blob_response.head(await _pull(call))


async def get(call: Call) -> web.StreamResponse:
    return await blob_response.get(await _pull(call))


async def delete(call: Call) -> web.StreamResponse:
    await call.services.blobs.delete(call.account, call.repository, str(parse_digest(call.reference)))
    return web.Response(status=202, headers=API_VERSION)


async def _pull(call: Call) -> BlobRequest:
    blobs, mirror = call.services.blobs, call.services.mirror
    digest = str(parse_digest(call.reference))
    try:
        blob = await blobs.find(call.account, call.repository, digest)
    except Failure as failure:
        if failure.code is not Code.LAYERS_NOT_FOUND or mirror is None:
            raise
        coming = await mirror.coming(call.account, call.repository, digest)
        if coming is not None:
            if call.validity is not None:
                call.validity.most = 0.0  # the response changes once the blob is stored
            return BlobRequest(
                call.request, coming, coming.blob, call.record, call.services.stall_seconds, call.headers
            )
        if not await mirror.covers(call.account, call.repository):
            raise
        blob = await blobs.find(call.account, call.repository, digest)  # it may have been stored between the look-ups
    return BlobRequest(call.request, blobs, blob, call.record, call.services.stall_seconds, call.headers, blobs.content)
