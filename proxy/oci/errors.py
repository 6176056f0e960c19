"""Renders every Failure as an OCI error: status, code, body and headers, from one table. Called by `routes`.

Source: OCI Distribution 1.1.1 "Error Codes"; UNAVAILABLE, UNKNOWN, TAG_INVALID and TOOMANYREQUESTS are docker's. The
bodies of 401 and 403 are ECR's own, byte for byte.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from aiohttp import web

from proxy.model.errors import Code, Failure

API_VERSION = {"Docker-Distribution-Api-Version": "registry/2.0"}
RETRY_AFTER_SECONDS = 2

_OWN: Mapping[Code, tuple[int, str]] = {
    Code.ACCESS_DENIED: (403, "DENIED"),
    Code.BLOB_CORRUPT: (404, "BLOB_UNKNOWN"),
    Code.DIGEST_INVALID: (400, "DIGEST_INVALID"),
    Code.EMPTY_UPLOAD: (400, "BLOB_UPLOAD_INVALID"),
    Code.ENCRYPTION_DIFFERS: (503, "UNAVAILABLE"),
    Code.IMAGE_ALREADY_EXISTS: (400, "TAG_INVALID"),
    Code.IMAGE_DIGEST_DOES_NOT_MATCH: (400, "DIGEST_INVALID"),
    Code.IMAGE_NOT_FOUND: (404, "MANIFEST_UNKNOWN"),
    Code.IMAGE_REFERENCED: (409, "UNSUPPORTED"),
    Code.IMAGE_TAG_ALREADY_EXISTS: (400, "TAG_INVALID"),
    Code.INVALID_LAYER: (400, "DIGEST_INVALID"),
    Code.INVALID_LAYER_PART: (416, "BLOB_UPLOAD_INVALID"),
    Code.INVALID_PARAMETER: (400, "UNSUPPORTED"),
    Code.INVALID_TAG_PARAMETER: (400, "TAG_INVALID"),
    Code.KMS: (503, "UNAVAILABLE"),
    Code.LAYERS_NOT_FOUND: (404, "BLOB_UNKNOWN"),
    Code.LAYER_IN_USE: (409, "UNSUPPORTED"),
    Code.LIMIT_EXCEEDED: (403, "DENIED"),  # as ECR: clients would retry a 429
    Code.MANIFEST_INVALID: (400, "MANIFEST_INVALID"),
    Code.MANIFEST_TOO_LARGE: (413, "MANIFEST_INVALID"),
    Code.METADATA_UNAVAILABLE: (503, "UNAVAILABLE"),
    Code.NAME_INVALID: (400, "NAME_INVALID"),
    Code.RANGE_NOT_SATISFIABLE: (416, "UNSUPPORTED"),
    Code.REFERENCED_IMAGES_NOT_FOUND: (400, "MANIFEST_BLOB_UNKNOWN"),
    Code.REPOSITORY_ALREADY_EXISTS: (409, "NAME_INVALID"),
    Code.REPOSITORY_NOT_EMPTY: (409, "UNSUPPORTED"),
    Code.REPOSITORY_NOT_FOUND: (404, "NAME_UNKNOWN"),
    Code.SERVER: (500, "UNKNOWN"),
    Code.OBJECT_TOO_LARGE: (413, "SIZE_INVALID"),
    Code.SIZE_INVALID: (400, "SIZE_INVALID"),
    Code.STORE_FULL: (507, "UNAVAILABLE"),
    Code.STORE_UNAVAILABLE: (503, "UNAVAILABLE"),
    Code.TAG_INVALID: (400, "TAG_INVALID"),
    Code.THROTTLING: (429, "TOOMANYREQUESTS"),
    Code.TOO_MANY_TAGS: (400, "TAG_INVALID"),
    Code.UNKNOWN_OPERATION: (404, "UNSUPPORTED"),
    Code.UNSUPPORTED: (415, "UNSUPPORTED"),
    # Both have causes in the server, and are temporary: 409 and 416 would say that the client's offset is wrong.
    # Not TOOMANYREQUESTS, after which docker gives up.
    Code.UPLOAD_CONFLICT: (503, "UNAVAILABLE"),
    Code.UPLOAD_IN_USE: (503, "UNAVAILABLE"),
    Code.UPLOAD_NOT_FOUND: (404, "BLOB_UPLOAD_UNKNOWN"),
    # The secret of a pull-through rule cannot be read.
    Code.SECRET_NOT_FOUND: (403, "DENIED"),
    Code.UNABLE_TO_ACCESS_SECRET: (403, "DENIED"),
    Code.UNABLE_TO_DECRYPT_SECRET: (403, "DENIED"),
    Code.UPSTREAM_ACCESS_DENIED: (403, "DENIED"),
    Code.UPSTREAM_TOO_MANY_REQUESTS: (429, "TOOMANYREQUESTS"),
    Code.UPSTREAM_UNAVAILABLE: (503, "UNAVAILABLE"),
    Code.VALIDATION: (400, "UNSUPPORTED"),
}

# Codes of the AWS protocols only. They are in the table so that one raised here by mistake is answered, not a KeyError.
_OF_OTHER_PROTOCOLS = (
    Code.DELETE_CONFLICT,
    Code.ENTITY_ALREADY_EXISTS,
    Code.EXCLUSION_ALREADY_EXISTS,
    Code.EXCLUSION_NOT_FOUND,
    Code.EXPIRED_IDENTITY,
    Code.IAM_LIMIT_EXCEEDED,
    Code.IDP_COMMUNICATION,
    Code.IMAGE_STORAGE_CLASS_UPDATE_NOT_SUPPORTED,
    Code.INVALID_IDENTITY_TOKEN,
    Code.INVALID_INPUT,
    Code.INVALID_NEXT_TOKEN,
    Code.INVALID_REQUEST,
    Code.LAYER_ALREADY_EXISTS,
    Code.LAYER_INACCESSIBLE,
    Code.LAYER_PART_TOO_SMALL,
    Code.LIFECYCLE_POLICY_NOT_FOUND,
    Code.LIFECYCLE_POLICY_PREVIEW_IN_PROGRESS,
    Code.LIFECYCLE_POLICY_PREVIEW_NOT_FOUND,
    Code.MALFORMED_INPUT,
    Code.MALFORMED_POLICY_DOCUMENT,
    Code.NO_SUCH_ENTITY,
    Code.PACKED_POLICY_TOO_LARGE,
    Code.PULL_THROUGH_RULE_ALREADY_EXISTS,
    Code.INVALID_EVENT_PATTERN,
    Code.PULL_THROUGH_RULE_NOT_FOUND,
    Code.REGISTRY_POLICY_NOT_FOUND,
    Code.REPLICATION_BACKFILL_IN_PROGRESS,
    Code.REPLICATION_BACKFILL_INVALID_STATUS,
    Code.REPLICATION_BACKFILL_NOT_FOUND,
    Code.REPOSITORY_POLICY_NOT_FOUND,
    Code.RESOURCE_EXISTS,
    Code.RESOURCE_NOT_FOUND,
    Code.SIGNING_CONFIGURATION_NOT_FOUND,
    Code.TEMPLATE_ALREADY_EXISTS,
    Code.TEMPLATE_NOT_FOUND,
    Code.UNABLE_TO_GET_UPSTREAM_IMAGE,
    Code.UNABLE_TO_LIST_UPSTREAM_REFERRERS,
    Code.UNMODIFIABLE_ENTITY,
    Code.UNSUPPORTED_UPSTREAM_REGISTRY,
    Code.VALIDATION_ERROR,
)

TABLE: Mapping[Code, tuple[int, str]] = {**_OWN, **dict.fromkeys(_OF_OTHER_PROTOCOLS, (400, "UNSUPPORTED"))}

# A manifest that names a missing blob: not a 404, which would be about the manifest's own address.
_OF_MANIFEST_PUT: Mapping[Code, tuple[int, str]] = {Code.LAYERS_NOT_FOUND: (400, "MANIFEST_BLOB_UNKNOWN")}


def answer(failure: Failure, *, pushing_manifest: bool = False) -> web.Response:
    """The response to a failed request. Its `detail` holds the hint and the failure's fields."""
    status, code = (_OF_MANIFEST_PUT if pushing_manifest else {}).get(failure.code, TABLE[failure.code])
    headers: dict[str, str] = {}
    if status in (429, 503):
        headers["Retry-After"] = str(math.ceil(float(str(failure.fields.get("seconds", RETRY_AFTER_SECONDS)))))
    if failure.code is Code.RANGE_NOT_SATISFIABLE:
        headers["Content-Range"] = f"bytes */{failure.fields['size']}"
    detail: dict[str, Any] = {key: value for key, value in failure.fields.items() if _is_plain(value)}
    if failure.hint:
        detail["hint"] = failure.hint
    return refusal(status, code, failure.message, detail=detail, headers=headers)


def refusal(
    status: int, code: str, message: str, *, detail: Mapping[str, Any] | None = None, headers: Mapping[str, str] = {}
) -> web.Response:
    error: dict[str, Any] = {"code": code, "message": message}
    if detail:
        error["detail"] = detail
    body = json.dumps({"errors": [error]}).encode()
    return web.Response(
        status=status, body=body, headers={"Content-Type": "application/json; charset=utf-8", **API_VERSION, **headers}
    )


def unauthenticated(realm: str) -> web.Response:
    """ECR's 401, byte for byte: docker login shows the body, and the challenge makes every client send Basic."""
    return web.Response(
        status=401,
        body=b"Not Authorized\n",
        headers={
            "Content-Type": "text/plain; charset=utf-8",
            "Www-Authenticate": f'Basic realm="{realm}",service="ecr.amazonaws.com"',
            **API_VERSION,
        },
    )


def _is_plain(value: object) -> bool:
    return isinstance(value, (str, int)) or (isinstance(value, list) and all(isinstance(item, str) for item in value))
