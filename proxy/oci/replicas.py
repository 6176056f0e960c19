"""The requests by which another installation replicates an image to this one: those of a push, and a deletion.

Such a request has the headers of `model.replica_headers`; `routes` serves it by a function of this module instead of
the route's own, under the action `ecr:ReplicateImage`. For a layer: HEAD, POST with `mount` (from any repository of the
account), PATCH, PUT without a body, and GET of the session to resume. Then the manifest's PUT by digest, or a DELETE.
All other requests, pulls too, are refused. Called by `routes`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

from aiohttp import web

from proxy.http import blob_response
from proxy.http.blob_response import BlobRequest
from proxy.model.errors import Code, Failure
from proxy.model.names import is_digest_like, parse_digest
from proxy.model.records import CreateOnPush
from proxy.model.replica_headers import FAILURE, ReplicaHeaders, read_headers
from proxy.model.replication import FAILURE_CODES
from proxy.oci import blobs, manifests, uploads
from proxy.oci.call import BodyCut, Call, check_encoding, client_closed
from proxy.oci.errors import API_VERSION

ACTION = "ecr:ReplicateImage"

Function = Callable[[Call], Awaitable[web.StreamResponse]]


def read_replica(request: web.Request, region: str) -> ReplicaHeaders | None:
    """None if the request replicates nothing. InvalidParameter, also for a request meant for another region."""
    found = read_headers(request.method, request.headers)
    if found is None:
        return None
    if found.destination.region != region:
        raise Failure(
            Code.INVALID_PARAMETER,
            f"this server is the registry of the region {region}, not of {found.destination.region}",
            hint="[[peers]] of the sender names another region than [registry] region here",
        )
    if found.source.region == region:
        raise Failure(Code.INVALID_PARAMETER, f"the sender's region is {region} too: each has one installation")
    return found


def function_of(plain: Function) -> Function:
    """The function that serves a replication instead of the route's own. AccessDenied if there is none."""
    found = _FUNCTIONS.get(plain)
    if found is None:
        raise Failure(Code.ACCESS_DENIED, "a sender of images may push and delete them, and ask for nothing else")
    return found


async def admit(call: Call, replica: ReplicaHeaders) -> CreateOnPush:
    """How the repository may be created for the caller's replicas. AccessDenied."""
    return await call.services.replication.require_sender(
        call.caller, replica.source.registry, replica.destination.registry, call.repository, call.info
    )


def failure_header(failure: Failure) -> Mapping[str, str]:
    """The header of a failed replication's response, beside the protocol's own."""
    code = FAILURE_CODES.get(failure.code)
    return {} if code is None else {FAILURE: str(code)}


async def head(call: Call) -> web.StreamResponse:
    """Whether the repository has a layer; one that is still being fetched from an upstream counts as missing."""
    services = call.services
    blob = await services.blobs.find(call.account, call.repository, str(parse_digest(call.reference)))
    return blob_response.head(
        BlobRequest(call.request, services.blobs, blob, call.record, services.stall_seconds, call.headers)
    )


async def post(call: Call) -> web.StreamResponse:
    """201 if the account has the layer and its setting BLOB_MOUNTING is on; else 202 with a new upload."""
    check_encoding(call.request)
    digest = parse_digest(call.query.get("mount", ""))
    found, services = call.need_replica(), call.services
    call.record.layer = str(digest)
    if await services.blobs.may_be_mounted(call.account):
        linked = await services.blobs.link_replica(call.account, call.repository, str(digest), create=found.create)
        call.record.created_repository = linked.created_repository
        if not linked.missing:
            return uploads.created(call, digest)
    upload = await services.uploads.begin(
        call.account,
        call.repository,
        algorithm=digest.algorithm,
        may_create=found.create is not CreateOnPush.NO,
        opened_by=call.caller.principal.principal_id,
        replica=True,
    )
    call.record.created_repository |= upload.created_repository
    return web.Response(status=202, headers=uploads.position(call, upload))


async def put(call: Call) -> web.StreamResponse:
    """A manifest, by digest; its tags are in the headers."""
    check_encoding(call.request)
    digest = parse_digest(call.reference)
    found = call.need_replica()
    try:
        content = await manifests.read_manifest(call.request)
    except BodyCut:
        return client_closed()
    call.record.bytes_in, call.record.tags = len(content), tuple(tag.name for tag in found.headers.tags)
    pushed = await call.services.images.push_replica(
        call.account,
        call.repository,
        content=content,
        media_type=call.request.headers.get("Content-Type"),
        digest=digest,
        tags=found.headers.tags,
        origin=found.headers.source.text,
        create=found.create,
    )
    call.record.created_repository = pushed.created_repository
    location = f"/v2/{call.repository}/manifests/{pushed.digest}"
    headers = {"Location": location, "Docker-Content-Digest": pushed.digest, **API_VERSION}
    return web.Response(status=201, headers=headers)


async def delete(call: Call) -> web.StreamResponse:
    """By digest: tags, and the image if no tag is left and it was not pushed again; by a tag: tags only."""
    headers = call.need_replica().headers
    digest = str(parse_digest(call.reference)) if is_digest_like(call.reference) else ""
    if digest and not headers.origin:
        raise Failure(Code.INVALID_PARAMETER, "the deletion of an image does not say where it was pushed")
    call.record.tags = tuple(tag.name for tag in headers.removed)
    await call.services.images.delete_replica(
        call.account, call.repository, digest=digest, origin=headers.origin, tags=headers.removed
    )
    return web.Response(status=202, headers=API_VERSION)


_FUNCTIONS: Mapping[Function, Function] = {
    blobs.head: head,
    uploads.post: post,
    uploads.patch: uploads.patch,
    uploads.put: uploads.put,
    uploads.get: uploads.get,
    manifests.put: put,
    manifests.delete: delete,
}
