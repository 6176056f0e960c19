"""What is refused before a door is asked, the form of every answer that no door gives, and the headers of all answers.

The form is the registry's own error body, or the control plane's where that door failed. Promises: nothing of what was
sent comes back but one short line; a bug's text stays in the log. Must not know how a connection is held.
"""

from __future__ import annotations

import http
import json
import re

from aiohttp import web

from proxy import observe

HEADER_BYTES = 32 * 1024
"""All of a request's header lines. podman asks for 1,024 ranges in one line (22 KiB), beside a token of 4 KiB."""

AUTHORIZATION_BYTES = 16 * 1024

BROWSER_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'; sandbox",
}
"""Of every answer. A pusher chooses a manifest's media type, `text/html` too: a browser that is led to it takes it for
nothing else, runs nothing of it and gives it no origin."""
RETRY_SECONDS = 2
"""Retry-After of what is refused for the number of connections."""

BUSY_TEXT = "The server has as many connections as it may hold. Try again."

_QUOTED = re.compile(r""":?\s*\bb['"]""")


def add_common_headers(response: web.StreamResponse) -> None:
    """The program's name without a version, and `BROWSER_HEADERS` but for those that the door set: a page for browsers
    brings a policy of its own."""
    response.headers["Server"] = "wharfage"
    for name, value in BROWSER_HEADERS.items():
        response.headers.setdefault(name, value)


def over_limit(request: web.Request) -> web.Response | None:
    if sum(len(name) + len(value) + 4 for name, value in request.raw_headers) > HEADER_BYTES:
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
    """An error as it stands on the wire, and the end of its connection, for who never sent a whole request."""
    body, words = error_body(message), http.HTTPStatus(status).phrase
    head = f"HTTP/1.1 {status} {words}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    more = "".join(f"{name}: {value}\r\n" for name, value in BROWSER_HEADERS.items())
    again = f"Retry-After: {RETRY_SECONDS}\r\n" if status in (429, 503) else ""
    return f"{head}{more}{again}Connection: close\r\n\r\n".encode() + body


def busy(door: str, request: web.BaseRequest) -> web.Response:
    """503 with Retry-After: more connections or requests than the limits allow."""
    response = _failed(door, request, 503, "ServiceUnavailable", "UNAVAILABLE", BUSY_TEXT)
    response.headers["Retry-After"] = str(RETRY_SECONDS)
    return response


def internal_error(door: str, request: web.BaseRequest) -> web.Response:
    """What is told of a bug."""
    message = f"The server failed; its log has the reason under request id {observe.request_id()}."
    return _failed(door, request, 500, "InternalFailure", "UNKNOWN", message, json_name="ServerException")


def _failed(
    door: str, request: web.BaseRequest, status: int, name: str, code: str, message: str, *, json_name: str = ""
) -> web.Response:
    """In the form that the door's clients can read: the query protocol's is XML, and who speaks JSON names a target."""
    if door == "ecr" and "X-Amz-Target" not in request.headers:
        told = f"<Error><Type>Receiver</Type><Code>{name}</Code><Message>{message}</Message></Error>"
        xml = f"<ErrorResponse>{told}<RequestId>{observe.request_id()}</RequestId></ErrorResponse>".encode()
        return web.Response(status=status, body=xml, content_type="text/xml")
    if door == "ecr":
        body = json.dumps({"__type": json_name or name, "message": message}).encode()
        return web.Response(status=status, body=body, content_type="application/x-amz-json-1.1")
    return web.Response(status=status, body=error_body(message, code), content_type="application/json")


def short(what: object) -> str:
    """One line of at most 200 characters, without what a parser's error quotes of what it was sent: there may be a
    password in that line, or a pre-signed query."""
    return " ".join(_QUOTED.split(str(what), maxsplit=1)[0].split())[:200]
