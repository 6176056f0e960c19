"""Layers through the API: InitiateLayerUpload, UploadLayerPart, CompleteLayerUpload, GetDownloadUrlForLayer.

    UploadLayerPart {"layerPartBlob": base64, "partFirstByte": 0, "partLastByte": 10485759, "uploadId": "…", …}

Sessions, sealing and store are those of OCI uploads (`registry.uploads`), so a layer is the same whichever way it came.
A part is decoded, hashed for its signature and put into an `encrypted_temp_file` as it comes, with its members in any
order. It is used only after the signature, the caller's permission and the parameters were checked.
Sources: botocore's `ecr` model; Amazon ECR API Reference, the operations' pages.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from aiohttp import web

from proxy import observe
from proxy.auth.layer_links import LayerLinks
from proxy.awsmodel import models
from proxy.awsmodel.validation import invalid, validate
from proxy.ecr.authorization import Endpoints
from proxy.ecr.body_limiter import BodyLimiter
from proxy.ecr.downloads import link
from proxy.ecr.encrypted_temp_file import EncryptedTempFile
from proxy.ecr.parameters import Ask
from proxy.ecr.services import ECR
from proxy.ecr.signed_request import Signatures, claim_of
from proxy.ecr.streaming_json import StreamedObject
from proxy.metadata.contract import Metadata
from proxy.model.errors import Code, Failure
from proxy.model.identity import Caller
from proxy.model.names import parse_digest
from proxy.registry.uploads import Uploads, invalid_part

UPLOAD_PART = "UploadLayerPart"
BLOB = "layerPartBlob"
BLOB_MAX: int = models.shape("ecr", "LayerPartBlob")["max"]  # read before the server forks
PARTS_AT_ONCE = 128  # set aside by one worker: 2.5 GiB of this machine's disk, when all are of 20 MiB

_PART = replace(ECR, body_max=BLOB_MAX * 3 // 2)
"""Base64 makes four bytes of three; the rest is for escapes (`\\/`) and the other members."""


@dataclass(frozen=True, slots=True)
class Part:
    """An authenticated UploadLayerPart: caller, members without the bytes, and the bytes; None if it has none."""

    caller: Caller
    parameters: dict[str, Any]
    content: EncryptedTempFile | None


@contextlib.asynccontextmanager
async def taken_part(
    request: web.Request, signatures: Signatures, folder: Path, limiter: BodyLimiter
) -> AsyncIterator[Part]:
    """The part that a request brings, for a `with` block. Refused, Unreadable, and as `EncryptedTempFile` has it."""
    reader = StreamedObject(BLOB, BLOB_MAX)
    async with contextlib.AsyncExitStack() as held:
        async with signatures.stream(request, claim_of(request), _PART) as body:
            proven = await held.enter_async_context(limiter.admit(body.account, lambda: body.received))
            spool = await held.enter_async_context(EncryptedTempFile(folder))
            async for chunk in body:
                await spool.write(reader.feed(chunk))
            caller = await body.prove()
            proven()
        yield Part(caller, reader.finish(), spool if reader.length is not None else None)


class LayerOperations:
    """One worker's layer operations, for callers that are allowed."""

    def __init__(
        self, uploads: Uploads, metadata: Metadata, links: LayerLinks, endpoints: Endpoints, folder: Path
    ) -> None:
        """Parts are set aside in `folder`, at most as many at once as there are `limiter`; `endpoints` is where links
        lead."""
        self._uploads = uploads
        self._metadata = metadata
        self._links = links
        self._endpoints = endpoints
        self.folder = folder
        self.limiter = BodyLimiter(PARTS_AT_ONCE, PARTS_AT_ONCE * 3 // 4)

    async def initiate(self, ask: Ask) -> Mapping[str, Any]:
        """As `Uploads.begin_parts`."""
        validate(ask.operation, ask.parameters)
        upload_id, size = await self._uploads.begin_parts(
            ask.account, ask.parameters["repositoryName"], opened_by=ask.caller.principal.principal_id
        )
        return {"uploadId": upload_id, "partSize": size}

    async def add_part(self, ask: Ask, content: EncryptedTempFile | None) -> Mapping[str, Any]:
        """As `Uploads.add_part`."""
        given = ask.parameters
        validate(ask.operation, {**given, BLOB: ""} if content is not None else given)  # its length has been checked
        if content is None:
            raise invalid(BLOB, "Member must not be null")
        first, last = given["partFirstByte"], given["partLastByte"]
        name, upload_id = given["repositoryName"], given["uploadId"]
        if content.length != last - first + 1 or not content.length:
            upload = await self._uploads.status(ask.account, name, upload_id)
            raise invalid_part(upload, f"{content.length} bytes are not those from {first} to {last}")
        upload = await self._uploads.add_part(
            ask.account, name, upload_id, first=first, length=content.length, content=content.content()
        )
        observe.metrics.blob_bytes.labels("in").inc(content.length)
        return _about(ask) | {"lastByteReceived": upload.sealed.plain_size - 1}

    async def complete(self, ask: Ask) -> Mapping[str, Any]:
        """As `Uploads.complete`. LayerAlreadyExists once the layer's digest was checked; clients go on as if done."""
        given = ask.parameters
        validate(ask.operation, given)
        named = set(given["layerDigests"])
        if len(named) > 1:
            raise invalid("layerDigests", "Member must name one layer")
        try:
            digest = parse_digest(named.pop())
        except Failure as failure:
            raise invalid("layerDigests", failure.message) from failure
        observe.note(digest=str(digest))
        name = given["repositoryName"]
        if not await self._uploads.complete(ask.account, name, given["uploadId"], digest):
            raise Failure(
                Code.LAYER_ALREADY_EXISTS,
                f"The layer with digest '{digest}' already exists in the repository with name '{name}'"
                f" in the registry with id '{ask.account}'",
            )
        return _about(ask) | {"layerDigest": str(digest)}

    async def download_url(self, ask: Ask, request: web.Request) -> Mapping[str, Any]:
        """LayersNotFound, LayerInaccessible; `downloads` is where the link leads."""
        found = await self._metadata.call(ask.account, ask.operation, ask.parameters)
        digest: str = found["layerDigest"]
        token = self._links.issue(ask.caller, ask.account, ask.parameters["repositoryName"], digest, ask.info.now)
        base = self._endpoints.of_links(ask.account, request)
        return found | {"downloadUrl": link(base, digest, token)}


def _about(ask: Ask) -> dict[str, Any]:
    given = ask.parameters
    return {"registryId": ask.account, "repositoryName": given["repositoryName"], "uploadId": given["uploadId"]}
