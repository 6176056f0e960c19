"""Blobs over HTTP: HEAD, GET with ranges, DELETE.

Called by `routes`; `http.blob_response` sends the bytes. Source: OCI Distribution 1.1.1 "Pulling blobs".
"""

from __future__ import annotations

from aiohttp import web

from proxy.http import blob_response
from proxy.http.blob_response import Pull
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


async def _pull(call: Call) -> Pull:
    blobs = call.services.blobs
    blob = await blobs.find(call.account, call.repository, str(parse_digest(call.reference)))
    return Pull(call.request, blobs, blob, call.record, call.services.stall_seconds, API_VERSION)
