"""Uploads over HTTP: POST, PATCH, PUT, GET, DELETE under `blobs/uploads/`.

Called by `routes`. Every check that needs no body comes before the body is requested (100-continue is sent last). Bytes
answered with 202 are recorded. Locations are relative, so that they work behind any proxy.
Source: OCI Distribution 1.1.1 and main, "Pushing blobs", "Mounting a blob", "Cancel a blob upload".
"""

from __future__ import annotations

from collections.abc import Sequence

from aiohttp import web

from proxy import observe
from proxy.model.errors import Code, Failure
from proxy.model.names import Digest, check_repository, parse_digest
from proxy.model.ranges import parse_content_range
from proxy.model.records import Mounted, Upload
from proxy.oci.call import BodyCut, Call, check_encoding, client_closed, receive
from proxy.oci.errors import API_VERSION
from proxy.registry.append import Append
from proxy.storage.off_loop import run_to_completion

POSITIONAL = (Code.INVALID_LAYER_PART, Code.UPLOAD_CONFLICT, Code.UPLOAD_IN_USE)
"""Failures whose response gives the upload's current size."""

PULL = ("ecr:BatchCheckLayerAvailability", "ecr:GetDownloadUrlForLayer")
"""The actions that a mount requires on the source repository."""

UPLOAD = ("ecr:UploadLayerPart", "ecr:CompleteLayerUpload")
"""The actions, beside the route's own, that adding a blob to a repository in one request requires."""


async def post(call: Call) -> web.StreamResponse:
    """end-4a, end-4b (monolithic), end-11 (mount).

    A mount adds a blob to the repository as an upload does, and requires the same actions there. Without the right to
    pull from the source it becomes an upload."""
    check_encoding(call.request)
    mount = call.query.get("mount")
    if mount:
        digest = parse_digest(mount)
        await call.require(*UPLOAD)
        if await _mount(call, digest):
            return created(call, digest)
        return await _begin(call, digest.algorithm)
    if "digest" in call.query:
        return await _post_whole(call, parse_digest(call.query["digest"]))
    return await _begin(call, call.query.get("digest-algorithm") or "sha256")


async def patch(call: Call) -> web.StreamResponse:
    """end-5: append a chunk at its Content-Range, or without one at the upload's end."""
    check_encoding(call.request)
    start, length = _declared_range(call.request)
    append = await _append(call, start, length)
    async with append:
        try:
            await _receive(call, append)
        except BodyCut:
            # The client is gone; the bytes that arrived are valid, and a resumed upload continues after them.
            await append.keep()
            return client_closed()
        if length is not None and append.received != length:
            raise Failure(Code.SIZE_INVALID, f"{append.received} of {length} declared bytes came")
        upload = await append.keep(whole=start is None)
    return web.Response(status=202, headers=position(call, upload))


async def put(call: Call) -> web.StreamResponse:
    """end-6: close the session as the blob `?digest=`, with a last chunk or without."""
    check_encoding(call.request)
    if "digest" not in call.query:
        raise Failure(Code.DIGEST_INVALID, "the closing PUT names no digest", hint="add ?digest=sha256:…")
    digest = parse_digest(call.query["digest"])
    call.record.layer = str(digest)
    start, length = _declared_range(call.request)
    if not call.request.body_exists and start is None:
        principal = call.caller.principal.principal_id
        await call.services.uploads.close(call.account, call.repository, call.reference, digest, opened_by=principal)
        return created(call, digest)
    if call.request.body_exists:
        await call.require("ecr:UploadLayerPart")  # a sender of images has no such right: its bytes come by PATCH
    async with await _append(call, start, length, digest) as append:
        try:
            await _receive(call, append)
        except BodyCut:
            await append.keep()
            return client_closed()
        await append.commit_blob(digest)
    return created(call, digest)


async def get(call: Call) -> web.StreamResponse:
    """end-13: the upload's current size."""
    upload = await call.services.uploads.status(call.account, call.repository, call.reference)
    if upload.committed is not None:
        raise Failure(Code.UPLOAD_NOT_FOUND, "this upload is complete", uploadId=upload.upload_id)
    return web.Response(status=204, headers=position(call, upload))


async def delete(call: Call) -> web.StreamResponse:
    """end-14: cancel."""
    await call.services.uploads.cancel(call.account, call.repository, call.reference)
    return web.Response(status=204, headers=API_VERSION)


def position(call: Call, upload: Upload) -> dict[str, str]:
    """Headers with an upload's size in docker's form: no unit, last byte inclusive, and 0-0 also for no byte."""
    return position_at(call, upload.upload_id, upload.sealed.plain_size)


def position_at(call: Call, upload_id: str, size: int) -> dict[str, str]:
    return {
        "Location": f"/v2/{call.repository}/blobs/uploads/{upload_id}",
        "Range": f"0-{max(size - 1, 0)}",
        "Docker-Upload-UUID": upload_id,
        **API_VERSION,
    }


def stored_size(failure: Failure) -> int | None:
    """The upload's size in a positional failure; None if the failure has none."""
    last, offset = failure.fields.get("lastValidByteReceived"), failure.fields.get("offset")
    if isinstance(last, int):
        return last + 1
    return offset if isinstance(offset, int) else None


async def _append(call: Call, start: int | None, length: int | None, closing: Digest | None = None) -> Append:
    return await call.services.uploads.append(
        call.account,
        call.repository,
        call.reference,
        start=start,
        length=length,
        closing=closing,
        opened_by=call.caller.principal.principal_id,
    )


async def _begin(call: Call, algorithm: str) -> web.StreamResponse:
    upload = await _opened(call, algorithm)
    return web.Response(status=202, headers=position(call, upload))


async def _opened(call: Call, algorithm: str) -> Upload:
    upload = await call.services.uploads.begin(
        call.account,
        call.repository,
        algorithm=algorithm,
        may_create=await call.may("ecr:CreateRepository"),
        opened_by=call.caller.principal.principal_id,
    )
    call.record.created_repository = upload.created_repository
    return upload


async def _post_whole(call: Call, digest: Digest) -> web.StreamResponse:
    call.record.layer = str(digest)
    await call.require(*UPLOAD)
    upload = await _opened(call, digest.algorithm)
    try:
        append = await call.services.uploads.append(
            call.account,
            call.repository,
            upload.upload_id,
            length=call.request.content_length,
            closing=digest,
            opened_by=call.caller.principal.principal_id,
        )
        async with append:
            await _receive(call, append)
            await append.commit_blob(digest)
    except BodyCut:
        await run_to_completion(_forget(call, upload))
        return client_closed()
    except BaseException:
        # The client does not know this session: it ends with the request.
        await run_to_completion(_forget(call, upload))
        raise
    return created(call, digest)


async def _forget(call: Call, upload: Upload) -> None:
    """Cancel the upload. One that began without a row may have one by now, if it took long: the sweep ends that."""
    if not upload.has_row:
        return
    try:
        await call.services.uploads.cancel(call.account, call.repository, upload.upload_id)
    except Failure as failure:
        if failure.code is not Code.UPLOAD_NOT_FOUND:
            observe.log.warning(
                "an upload nobody knows of stays for the sweep", upload=upload.upload_id, error=str(failure)
            )


async def _mount(call: Call, digest: Digest) -> bool:
    """Whether the blob was linked: the account has mounts enabled, and the caller may pull the blob from a repository
    that has it. Otherwise the client uploads it, and learns nothing about whether it exists."""
    blobs = call.services.blobs
    call.record.layer = str(digest)
    if not await blobs.may_be_mounted(call.account):
        return False
    named = call.query.get("from")
    if named:
        try:
            sources: Sequence[str] = (check_repository(named),)
        except Failure:
            return False
    else:
        sources = await blobs.holders(call.account, call.repository, str(digest))
    for source in sources:
        if await call.may(*PULL, repository=source):
            call.record.sources = (source,)
            mounted = await blobs.mount(
                call.account,
                call.repository,
                str(digest),
                source,
                may_create=await call.may("ecr:CreateRepository"),
            )
            call.record.created_repository = mounted is Mounted.CREATED
            return mounted is not Mounted.NO
    return False


async def _receive(call: Call, append: Append) -> None:
    before = append.received
    try:
        await receive(call.request, append)
    finally:
        call.record.bytes_in = append.received - before
        observe.metrics.blob_bytes.labels("in").inc(call.record.bytes_in)


def _declared_range(request: web.Request) -> tuple[int | None, int | None]:
    """A chunk's declared start and length, None where not declared. Content-Range and Content-Length must agree."""
    length = request.content_length
    if "Content-Range" not in request.headers:
        return None, length
    start, stop = parse_content_range(request.headers["Content-Range"])
    if length is not None and length != stop - start:
        raise Failure(Code.SIZE_INVALID, f"Content-Range holds {stop - start} bytes, Content-Length says {length}")
    return start, stop - start


def created(call: Call, digest: Digest) -> web.StreamResponse:
    """The repository has the blob."""
    observe.note(digest=str(digest))
    return web.Response(
        status=201,
        headers={
            "Location": f"/v2/{call.repository}/blobs/{digest}",
            "Docker-Content-Digest": str(digest),
            **API_VERSION,
        },
    )
