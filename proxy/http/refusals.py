"""Refuses requests before a handler runs, renders every error that no handler renders, and sets the common headers.

Called by `server`. Errors have the form that the handler's clients read: OCI's, or that of the AWS protocols. Promises:
a response repeats at most one short line of the request; a bug's text stays in the log. Must not know how a connection
is implemented.
"""

from __future__ import annotations

import http
import json
import re

from aiohttp import web

from proxy import observe

HEADER_BYTES = 32 * 1024
"""Of all header lines together. podman sends 1,024 ranges in one line (22 KiB), beside a token of 4 KiB."""

AUTHORIZATION_BYTES = 16 * 1024

BROWSER_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'; sandbox",
}
"""On every response. A pusher chooses a manifest's media type, `text/html` too: a browser that opens it must not guess
another type, run its scripts or give it an origin."""
RETRY_SECONDS = 2
"""Retry-After when a limit on connections refuses a request."""

BUSY_TEXT = "The server has as many connections as it may hold. Try again."

_QUOTED = re.compile(r""":?\s*\bb['"]""")


def add_common_headers(response: web.StreamResponse) -> None:
    """Set the program's name without its version, and those `BROWSER_HEADERS` that the handler did not set: a page for
    browsers has a policy of its own."""
    response.headers["Server"] = "wharfage"
    for name, value in BROWSER_HEADERS.items():
        response.headers.setdefault(name, value)


def over_limit(request: web.Request) -> web.Response | None:
    size = 0
    for name, value in request.raw_headers:  # a generator takes twice as long, on each request
        size += len(name) + len(value) + 4
    if size > HEADER_BYTES:
        refusal = error(431, "The request's header is larger than 32 KiB.")
    elif len(request.headers.get("Authorization", "")) > AUTHORIZATION_BYTES:
        refusal = error(431, "The Authorization header is larger than 16 KiB.")
    else:
        return None
    observe.metrics.http_rejected.labels("header too large").inc()
    refusal.force_close()
    return refusal


def error_body(message: str, code: str = "UNSUPPORTED") -> bytes:
    return json.dumps({"errors": [{"code": code, "message": message}]}).encode()


def error(status: int, message: str) -> web.Response:
    return web.Response(status=status, body=error_body(message), content_type="application/json")


def raw(status: int, message: str) -> bytes:
    """The bytes of an error response that ends its connection, for a client that sent no complete request."""
    body, words = error_body(message), http.HTTPStatus(status).phrase
    head = f"HTTP/1.1 {status} {words}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    more = "".join(f"{name}: {value}\r\n" for name, value in BROWSER_HEADERS.items())
    retry = f"Retry-After: {RETRY_SECONDS}\r\n" if status in (429, 503) else ""
    return f"{head}{more}{retry}Connection: close\r\n\r\n".encode() + body


def busy(handler: str, request: web.BaseRequest) -> web.Response:
    """503 with Retry-After: there are more connections or requests than the limits allow."""
    response = _failed(handler, request, 503, "ServiceUnavailable", "UNAVAILABLE", BUSY_TEXT)
    response.headers["Retry-After"] = str(RETRY_SECONDS)
    return response


def internal_error(handler: str, request: web.BaseRequest) -> web.Response:
    """The response after an unexpected exception of a handler."""
    message = f"The server failed; its log has the reason under request id {observe.request_id()}."
    return _failed(handler, request, 500, "InternalFailure", "UNKNOWN", message, json_name="ServerException")


def _failed(
    handler: str, request: web.BaseRequest, status: int, name: str, code: str, message: str, *, json_name: str = ""
) -> web.Response:
    """In the form of the handler's clients: clients of AWS JSON name a target, those of the query protocol read XML."""
    if handler == "ecr" and "X-Amz-Target" not in request.headers:
        element = f"<Error><Type>Receiver</Type><Code>{name}</Code><Message>{message}</Message></Error>"
        xml = f"<ErrorResponse>{element}<RequestId>{observe.request_id()}</RequestId></ErrorResponse>".encode()
        return web.Response(status=status, body=xml, content_type="text/xml")
    if handler == "ecr":
        body = json.dumps({"__type": json_name or name, "message": message}).encode()
        return web.Response(status=status, body=body, content_type="application/x-amz-json-1.1")
    return web.Response(status=status, body=error_body(message, code), content_type="application/json")


def short(what: object) -> str:
    """One line of at most 200 characters, without what a parser's error quotes of the request: that may hold a password
    or a pre-signed query."""
    return " ".join(_QUOTED.split(str(what), maxsplit=1)[0].split())[:200]
