"""Manifests, tags, catalog and referrers over HTTP.

Called by `routes`. Bytes and Content-Type are returned as they were pushed. Pages are keyed by the last name, so a list
costs what it returns.
Source: OCI Distribution 1.1.1 and main, "Pulling manifests", "Pushing manifests", "Listing tags", "Listing referrers".
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any
from urllib.parse import quote, urlencode

from aiohttp import web

from proxy.http.blob_response import etag_matches
from proxy.model.errors import Code, Failure
from proxy.model.manifests import MANIFEST_MAX, OCI_INDEX
from proxy.model.names import check_tag, is_digest_like, parse_digest
from proxy.model.records import Page, Referrer, StoredManifest
from proxy.oci.call import BodyCut, Call, body, check_encoding, client_closed
from proxy.oci.errors import API_VERSION

PAGE_DEFAULT = 100  # as ECR
PAGE_MAX = 1000  # larger values are clamped: ECR refuses them, which breaks clients that send 10,000
TAGS_MAX = 10  # `?tag=` of one PUT; each is a row moved in one transaction
STALE = '110 wharfage "the upstream cannot be asked: this is what it last said"'
REFERRERS_PAGE = 500  # descriptors with their annotations; the spec sets no size


async def head(call: Call) -> web.StreamResponse:
    """end-3."""
    found, special = await _resolve(call)
    if etag_matches(call.request.headers.get("If-None-Match"), found.digest):
        return web.Response(status=304, headers=_headers(call, found) | special)
    response = web.StreamResponse(headers=_headers(call, found) | special)
    response.content_length = len(found.content)
    return response


async def get(call: Call) -> web.StreamResponse:
    """end-3. Counts as a pull, unlike HEAD, by which clients check for a new image."""
    images, principal = call.services.images, call.caller.principal.arn
    found, special = await _resolve(call)
    images.note_pull(call.account, call.repository, found.digest, principal)
    if call.validity is not None:
        call.validity.pulled = partial(images.note_pull, call.account, call.repository, found.digest, principal)
    if etag_matches(call.request.headers.get("If-None-Match"), found.digest):
        return web.Response(status=304, headers=_headers(call, found) | special)
    call.record.bytes_out = len(found.content)
    return web.Response(body=found.content, headers=_headers(call, found) | special)


async def put(call: Call) -> web.StreamResponse:
    """end-7a, end-7b (`?tag=`)."""
    request = call.request
    check_encoding(request)
    if is_digest_like(call.reference):
        digest, tags = parse_digest(call.reference), []
    else:
        digest, tags = None, [check_tag(call.reference)]
    named = list(dict.fromkeys(check_tag(tag) for tag in call.query.getall("tag", [])))
    if len(named) > TAGS_MAX:
        raise Failure(Code.TOO_MANY_TAGS, f"{len(named)} tags in one push; at most {TAGS_MAX} are taken")
    try:
        content = await read_manifest(request)
    except BodyCut:
        return client_closed()
    call.record.bytes_in, call.record.tags = len(content), tuple(named)
    pushed = await call.services.images.push(
        call.account,
        call.repository,
        content=content,
        media_type=request.headers.get("Content-Type"),
        digest=digest,
        tags=list(dict.fromkeys([*tags, *named])),
        may_create=await call.may("ecr:CreateRepository"),
    )
    call.record.created_repository = pushed.created_repository
    response = web.Response(
        status=201,
        headers={
            "Location": f"/v2/{call.repository}/manifests/{pushed.digest}",
            "Docker-Content-Digest": pushed.digest,
            **API_VERSION,
        },
    )
    if pushed.subject is not None:
        response.headers["OCI-Subject"] = pushed.subject
    for tag in named:
        response.headers.add("OCI-Tag", tag)
    return response


async def delete(call: Call) -> web.StreamResponse:
    """end-9: a tag, or a manifest with all its tags."""
    if is_digest_like(call.reference):
        await call.services.images.delete(call.account, call.repository, str(parse_digest(call.reference)))
    else:
        await call.services.images.delete_tag(call.account, call.repository, _known_tag(call.reference))
    return web.Response(status=202, headers=API_VERSION)


async def tags(call: Call) -> web.StreamResponse:
    """end-8a, end-8b."""
    limit = _limit(call.query)
    page = await _page(
        limit, lambda n: call.services.images.tags(call.account, call.repository, last=_last(call), limit=n)
    )
    return _listed(call, f"/v2/{call.repository}/tags/list", {"name": call.repository, "tags": list(page.names)}, page)


async def catalog(call: Call) -> web.StreamResponse:
    """Docker's `_catalog`, which the spec reserves."""
    limit = _limit(call.query)
    page = await _page(limit, lambda n: call.services.images.repositories(call.account, last=_last(call), limit=n))
    return _listed(call, "/v2/_catalog", {"repositories": list(page.names)}, page)


async def referrers(call: Call) -> web.StreamResponse:
    """end-12a, end-12b. An empty index for an unknown repository or digest."""
    digest = str(parse_digest(call.reference))
    special: dict[str, str] = {}
    if (mirror := call.services.mirror) is not None:
        looked = await mirror.look_for_referrers(call.account, call.repository, digest, call.may)
        special = {"Warning": STALE} if looked.is_stale else {}
        if call.validity is not None:
            call.validity.most = looked.good_until
    wanted = call.query.get("artifactType") or None
    limit = min(_limit(call.query, REFERRERS_PAGE), REFERRERS_PAGE) or 1
    found, more = await call.services.images.referrers(
        call.account, call.repository, digest, artifact_type=wanted, last=_last(call), limit=limit
    )
    index = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [_descriptor(item) for item in found]}
    headers = {"Content-Type": OCI_INDEX, **call.headers, **special}
    if wanted is not None:
        headers["OCI-Filters-Applied"] = "artifactType"
    if more and found:
        query = {"n": str(limit), "last": found[-1].digest} | ({"artifactType": wanted} if wanted else {})
        name = call.mirrored_name or call.repository
        query |= {"ns": call.namespace} if call.namespace else {}
        headers["Link"] = _next(f"/v2/{name}/referrers/{digest}", query)
    return web.Response(body=json.dumps(index).encode(), headers=headers)


def _manifest_named(call: Call) -> str:
    if is_digest_like(call.reference):
        return str(parse_digest(call.reference))
    return _known_tag(call.reference)


def _known_tag(tag: str) -> str:
    """An invalid tag is answered as not found, as the conformance suite requires."""
    try:
        return check_tag(tag)
    except Failure:
        raise Failure(Code.IMAGE_NOT_FOUND, "Requested image not found") from None


async def read_manifest(request: web.Request) -> bytes:
    """The manifest's bytes, at most `MANIFEST_MAX`."""
    if (request.content_length or 0) > MANIFEST_MAX:
        raise _too_large()
    content = bytearray()
    async for chunk in body(request):
        content += chunk
        if len(content) > MANIFEST_MAX:
            raise _too_large()
    return bytes(content)


def _too_large() -> Failure:
    return Failure(Code.MANIFEST_TOO_LARGE, f"a manifest has at most {MANIFEST_MAX} bytes")


async def _resolve(call: Call) -> tuple[StoredManifest, dict[str, str]]:
    """The manifest, stored or through a pull-through rule, and the Warning header of a stale one (RFC 7234 5.5.1)."""
    name, mirror = _manifest_named(call), call.services.mirror
    if mirror is None:
        return await call.services.images.resolve(call.account, call.repository, name), {}
    pulled = await mirror.resolve(call.account, call.repository, name, call.may)
    call.record.imported, call.record.created_repository = pulled.imported, pulled.created_repository
    if call.validity is not None:
        call.validity.most = pulled.good_until
    return pulled.manifest, {"Warning": STALE} if pulled.is_stale else {}


def _headers(call: Call, found: StoredManifest) -> dict[str, str]:
    return {
        "Content-Type": found.media_type,
        "Docker-Content-Digest": found.digest,
        "ETag": f'"{found.digest}"',
        **call.headers,
    }


def _descriptor(item: Referrer) -> dict[str, Any]:
    described: dict[str, Any] = {"mediaType": item.media_type, "digest": item.digest, "size": item.size}
    if item.artifact_type is not None:
        described["artifactType"] = item.artifact_type
    if item.annotations is not None:
        described["annotations"] = item.annotations
    return described


def _limit(query: Mapping[str, str], default: int = PAGE_DEFAULT) -> int:
    text = query.get("n")
    if not text:
        return default
    if not text.isascii() or not text.isdigit() or len(text) > 9:
        raise Failure(Code.INVALID_PARAMETER, f"n={text[:20]!r} is not a number of entries", hint="n is 0 to 1000")
    return min(int(text), PAGE_MAX)


def _last(call: Call) -> str:
    return call.query.get("last", "")[:256]


async def _page(limit: int, ask: Callable[[int], Awaitable[Page]]) -> Page:
    """The page; empty for `n=0` (the spec's MUST), after a look-up that fails if the repository is missing."""
    page = await ask(limit or 1)
    return page if limit else Page((), False)


def _listed(call: Call, path: str, document: Mapping[str, Any], page: Page) -> web.StreamResponse:
    headers = {"Content-Type": "application/json", **API_VERSION}
    if page.more and page.names:
        headers["Link"] = _next(path, {"n": str(_limit(call.query)), "last": page.names[-1]})
    return web.Response(body=json.dumps(document).encode(), headers=headers)


def _next(path: str, query: Mapping[str, str]) -> str:
    return f'<{quote(path, safe="/:")}?{urlencode(query)}>; rel="next"'
