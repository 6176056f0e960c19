"""TLS: the server's context, and its reload when the certificate's files change.

Called by `app` for the HTTP server and the metadata service. Promises: new connections get a changed certificate within
`RELOAD_SECONDS`, without a restart; a pair on disk that does not fit is logged, and the old one stays in use. Must not
know where certificates come from (`selfsigned` makes one).
"""

from __future__ import annotations

import asyncio
import ssl
from functools import partial
from pathlib import Path

from proxy import observe

RELOAD_SECONDS = 2.0

_State = tuple[int, int] | None


def server_context(cert: Path, key: Path) -> ssl.SSLContext:
    """A context for TLS 1.2 or newer. Raises OSError (unreadable) or ssl.SSLError (no certificate, or not its key)."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    context.load_cert_chain(cert, key)
    return context


async def reload_on_change(context: ssl.SSLContext, cert: Path, key: Path, *, seconds: float = RELOAD_SECONDS) -> None:
    """Runs until cancelled: when either file has changed, `context` passes new connections to a context of the new
    pair. The first pass counts as a change, since a restarted worker inherits the context of its server's start.

    `context` itself is not reloaded: a handshake at that moment would see the new certificate with the old key."""
    loaded: tuple[_State, ...] | None = None
    reported: tuple[_State, ...] | None = None
    while True:
        found = await asyncio.to_thread(_states, cert, key)
        if found != loaded and None not in found:  # a file that is being replaced may be missing for a moment
            try:
                fresh = await asyncio.to_thread(server_context, cert, key)
            except (OSError, ssl.SSLError) as error:  # one file may be replaced before the other: try until they fit
                if found != reported:
                    observe.log.warning("the new certificate does not fit yet; the old one stays", why=str(error))
                reported = found
            else:
                if loaded is not None:
                    observe.log.info("the certificate was read again", file=str(cert))
                loaded = found
                context.sni_callback = partial(_switch, fresh)
        await asyncio.sleep(seconds)


def _switch(fresh: ssl.SSLContext, connection: ssl.SSLSocket | ssl.SSLObject, name: str | None, live: object) -> None:
    """The SNI callback: OpenSSL calls it at each handshake, also if the client names no server."""
    connection.context = fresh


def _states(*files: Path) -> tuple[_State, ...]:
    return tuple(_state(file) for file in files)


def _state(file: Path) -> _State:
    try:
        found = file.stat()
    except FileNotFoundError:
        return None
    return found.st_mtime_ns, found.st_size
