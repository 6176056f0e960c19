"""Renders failures as AWS does: the only place with error names, statuses and wire forms of the AWS APIs.

JSON 1.1 for `ecr`: `{"__type": name, "message": text}`. The query protocol for `sts` and `iam`: `<ErrorResponse>`, or
the same as JSON. SDKs go by the name; people read the text. Statuses: 400, 403 for AccessDenied (the query protocol:
those of its models), 500 for our faults, which SDKs retry. Our faults are logged here, once, with their hint, which no
client gets. Used by `routes`, `query` and `json_services`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from aiohttp import web

from proxy import observe
from proxy.auth.sigv4 import SignatureReason, SignatureRefused
from proxy.awsmodel.query import namespace, text
from proxy.model.errors import Code, Failure

JSON_TYPE = "application/x-amz-json-1.1"
XML_TYPE = "text/xml"
QUERY_JSON_TYPE = "application/json"

# Errors of `sts` and `iam` only, with the statuses of their models.
_OF_QUERY = {
    Code.DELETE_CONFLICT: 409,
    Code.ENTITY_ALREADY_EXISTS: 409,
    Code.IAM_LIMIT_EXCEEDED: 409,
    Code.IDP_COMMUNICATION: 400,
    Code.INVALID_IDENTITY_TOKEN: 400,
    Code.INVALID_INPUT: 400,
    Code.MALFORMED_INPUT: 400,
    Code.MALFORMED_POLICY_DOCUMENT: 400,
    Code.NO_SUCH_ENTITY: 404,
    Code.PACKED_POLICY_TOO_LARGE: 400,
    Code.UNMODIFIABLE_ENTITY: 400,
    Code.VALIDATION_ERROR: 400,
}

_UNREADABLE = {400: "MalformedInput", 408: "RequestTimeout", 429: Code.THROTTLING.value}

TRY_AGAIN = "The service is temporarily unavailable. Please try again."

# Our codes without a name in the API. Codes neither here nor in the API model become InvalidParameter.
_OUR_FAULT = frozenset(
    {
        Code.SERVER,
        Code.METADATA_UNAVAILABLE,
        Code.STORE_UNAVAILABLE,
        Code.STORE_FULL,
        Code.BLOB_CORRUPT,
        Code.ENCRYPTION_DIFFERS,
    }
)
_PARAMETER = frozenset(
    {
        Code.DIGEST_INVALID,
        Code.IMAGE_REFERENCED,
        Code.LAYER_IN_USE,
        Code.MANIFEST_INVALID,
        Code.MANIFEST_TOO_LARGE,
        Code.NAME_INVALID,
        Code.OBJECT_TOO_LARGE,
        Code.RANGE_NOT_SATISFIABLE,
        Code.SIZE_INVALID,
        Code.TAG_INVALID,
        Code.UNSUPPORTED,
    }
)

_UPSTREAM = frozenset({Code.UPSTREAM_ACCESS_DENIED, Code.UPSTREAM_TOO_MANY_REQUESTS, Code.UPSTREAM_UNAVAILABLE})

_ECR_NAMES = {
    SignatureReason.MISSING: (400, "MissingAuthenticationTokenException"),
    SignatureReason.INCOMPLETE: (400, "IncompleteSignatureException"),
    SignatureReason.UNKNOWN_KEY: (400, "UnrecognizedClientException"),
    SignatureReason.MISMATCH: (400, "InvalidSignatureException"),
    SignatureReason.EXPIRED: (400, "ExpiredTokenException"),
}
_QUERY_NAMES = {
    SignatureReason.MISSING: (403, "MissingAuthenticationToken"),
    SignatureReason.INCOMPLETE: (400, "IncompleteSignature"),
    SignatureReason.UNKNOWN_KEY: (403, "InvalidClientTokenId"),
    SignatureReason.MISMATCH: (403, "SignatureDoesNotMatch"),
    SignatureReason.EXPIRED: (403, "ExpiredToken"),
}


@dataclass(frozen=True, slots=True)
class WireError:
    """An error as the client gets it."""

    status: int
    name: str
    message: str
    fields: Mapping[str, object] = field(default_factory=dict)  # other members of the error's shape
    retry_after: int = 0  # seconds; 0: not said


class UnreadableRequest(Exception):
    """The request is malformed; `error` is the answer."""

    def __init__(self, error: WireError) -> None:
        super().__init__(error)
        self.error = error


def not_readable(why: str) -> UnreadableRequest:
    """The failure for a body that violates the protocol."""
    return UnreadableRequest(WireError(400, "SerializationException", why))


def encoded() -> UnreadableRequest:
    """The failure for a body with a Content-Encoding."""
    return UnreadableRequest(WireError(415, "SerializationException", "The request body must not be encoded."))


def too_slow() -> UnreadableRequest:
    return UnreadableRequest(WireError(408, "RequestTimeoutException", "The request body did not come in time."))


def too_large(limit: int) -> UnreadableRequest:
    return UnreadableRequest(
        WireError(413, "RequestEntityTooLargeException", f"The request body is larger than {limit} bytes.")
    )


def throttled(message: str, seconds: float) -> UnreadableRequest:
    """429 with Retry-After: the client is refused before its request is read. SDKs retry."""
    return UnreadableRequest(WireError(429, Code.THROTTLING.value, message, retry_after=max(1, math.ceil(seconds))))


def unknown_operation(name: str) -> Failure:
    """The failure for an operation that is not served or does not exist."""
    shown = name if len(name) <= 64 and name.isascii() and name.isalnum() else "named in X-Amz-Target"
    return Failure(Code.UNKNOWN_OPERATION, f"The operation {shown} is not supported by this registry.")


def ecr_error(error: Failure | SignatureRefused | UnreadableRequest) -> WireError:
    """A failure as an error of the ECR API."""
    if isinstance(error, UnreadableRequest):
        return error.error
    if isinstance(error, SignatureRefused):
        status, name = _ECR_NAMES[error.reason]
        return WireError(status, name, error.message)
    if error.code in _OF_QUERY:
        return WireError(400, Code.VALIDATION.value, error.message)
    return _failure(error)


def query_error(error: Failure | SignatureRefused | UnreadableRequest) -> WireError:
    """A failure as an error of STS or IAM."""
    if isinstance(error, UnreadableRequest):
        return replace(error.error, name=_UNREADABLE.get(error.error.status, "RequestEntityTooLarge"))
    if isinstance(error, SignatureRefused):
        status, name = _QUERY_NAMES[error.reason]
        return WireError(status, name, error.message)
    wire = _failure(error)
    spelled = {"ServerException": "InternalFailure", "AccessDeniedException": "AccessDenied"}
    spelled |= {Code.UNKNOWN_OPERATION: "InvalidAction", Code.INVALID_PARAMETER: Code.VALIDATION_ERROR}
    status = _OF_QUERY.get(error.code, wire.status)
    return WireError(status, spelled.get(wire.name, wire.name), wire.message)


def render_json(error: WireError, request_id: str) -> web.Response:
    body = json.dumps({"__type": error.name, "message": error.message, **error.fields})
    return _with_retry(json_answer(body.encode(), request_id, error.status), error)


def render_xml(error: WireError, service: str, request_id: str) -> web.Response:
    """`service` is `sts` or `iam`, whose namespace the answer is in."""
    side = "Sender" if error.status < 500 else "Receiver"
    document = (
        f'<ErrorResponse xmlns="{namespace(service)}"><Error><Type>{side}</Type><Code>{text(error.name)}</Code>'
        f"<Message>{text(error.message)}</Message></Error><RequestId>{request_id}</RequestId></ErrorResponse>"
    )
    return _with_retry(xml_answer(document, request_id, error.status), error)


def render_query_json(error: WireError, request_id: str) -> web.Response:
    """The same as `render_xml`, for clients that accept JSON."""
    side = "Sender" if error.status < 500 else "Receiver"
    said = {"Error": {"Type": side, "Code": error.name, "Message": error.message}, "RequestId": request_id}
    return _with_retry(query_json_answer(json.dumps(said), request_id, error.status), error)


def json_answer(body: bytes, request_id: str, status: int = 200) -> web.Response:
    return _with_id(web.Response(status=status, body=body, headers={"Content-Type": JSON_TYPE}), request_id)


def xml_answer(document: str, request_id: str, status: int = 200) -> web.Response:
    return _with_id(web.Response(status=status, body=document.encode(), headers={"Content-Type": XML_TYPE}), request_id)


def query_json_answer(document: str, request_id: str, status: int = 200) -> web.Response:
    return _with_id(
        web.Response(status=status, body=document.encode(), headers={"Content-Type": QUERY_JSON_TYPE}), request_id
    )


def _with_retry(response: web.Response, error: WireError) -> web.Response:
    if error.retry_after:
        response.headers["Retry-After"] = str(error.retry_after)
    return response


def _with_id(response: web.Response, request_id: str) -> web.Response:
    response.headers["x-amzn-RequestId"] = request_id
    return response


def _failure(failure: Failure) -> WireError:
    if failure.code in _OUR_FAULT:
        observe.log.error("request failed on our side", code=failure.code, message=failure.message, hint=failure.hint)
        # The text is for the operator: it may name addresses and files of the inside.
        record = failure.message if failure.code is Code.SERVER else TRY_AGAIN
        return WireError(500, Code.SERVER.value, record)
    if failure.code is Code.KMS:
        # The sender may be told which of KMS's errors it was; what it means is for the operator.
        tell = observe.log.info if "chosen" in failure.fields else observe.log.error
        tell("KMS failed", code=failure.code, message=failure.message, hint=failure.hint)
        if "unavailable" in failure.fields:
            return WireError(500, Code.SERVER.value, TRY_AGAIN)
        kms_error = failure.fields.get("kmsError")
        return WireError(
            400, failure.code.value, failure.message, {"kmsError": str(kms_error)} if kms_error is not None else {}
        )
    if failure.code in (Code.UPLOAD_CONFLICT, Code.UPLOAD_IN_USE):  # until the other request, or its lease, has ended
        return WireError(500, Code.SERVER.value, TRY_AGAIN)
    if failure.code is Code.INVALID_LAYER_PART:
        return WireError(400, failure.code.value, failure.message, _where(failure))
    name = Code.INVALID_PARAMETER if failure.code in _PARAMETER else failure.code
    if failure.code in _UPSTREAM:
        name = Code.UNABLE_TO_GET_UPSTREAM_IMAGE
    return WireError(403 if failure.code is Code.ACCESS_DENIED else 400, name.value, failure.message)


def _where(failure: Failure) -> Mapping[str, object]:
    """The upload's members: its id and the last received byte, if any."""
    last = failure.fields.get("lastValidByteReceived")
    found = {name: failure.fields.get(name) for name in ("registryId", "repositoryName", "uploadId")}
    return found | ({"lastValidByteReceived": last} if isinstance(last, int) and last >= 0 else {})
