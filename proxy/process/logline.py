"""What the log line and the metrics of a request say of it and of its answer."""

from __future__ import annotations

from aiohttp import web


def method(method: str) -> str:
    """A label with few values, whatever a client sends."""
    return method if method in {"GET", "HEAD", "PUT", "POST", "PATCH", "DELETE", "OPTIONS"} else "other"


def sent(request: web.Request, response: web.StreamResponse | None) -> int:
    if isinstance(response, web.Response) and request.writer.output_size == 0:  # its body goes out after this line
        return response.content_length or 0
    return request.writer.output_size


def digest(response: web.StreamResponse | None) -> dict[str, str]:
    digest = response.headers.get("Docker-Content-Digest") if response is not None else None
    return {"digest": digest} if digest else {}
