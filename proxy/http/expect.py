"""`Expect: 100-continue`: a client that waits for permission before it sends its body.

The server answers no `Expect` by itself: `oci` and `ecr` call `send_continue` after all checks that need no body.
Source: RFC 9110 section 10.1.1.
"""

from __future__ import annotations

from aiohttp import web


def expects_continue(request: web.Request) -> bool:
    return request.version >= (1, 1) and request.headers.get("Expect", "").strip().lower() == "100-continue"


async def send_continue(request: web.Request) -> None:
    """Send 100 Continue if the client waits for it."""
    if expects_continue(request):
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0  # as aiohttp does: an interim response does not begin the final one
