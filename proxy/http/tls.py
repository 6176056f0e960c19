"""TLS: the context, and its reload when the files change.

Promises: a changed certificate is taken within `RELOAD_SECONDS` by new connections, without a restart; a broken pair on
disk is told in the log and the old one stays. Must not know where certificates come from (`selfsigned` makes some).
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
    """TLS 1.2 or newer. Raises OSError (unreadable) or ssl.SSLError (not a certificate, or not its key)."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    context.load_cert_chain(cert, key)
    return context


async def reload_on_change(context: ssl.SSLContext, cert: Path, key: Path, *, seconds: float = RELOAD_SECONDS) -> None:
    """For ever: have the live context hand new connections to one of the new pair when either file has changed, since
    the live one was made or later: a worker that is started again has that of its server's start.

    The live one is not loaded anew: a handshake in that instant would see the new certificate with the old key."""
    loaded: tuple[_State, ...] | None = None
    told: tuple[_State, ...] | None = None
    while True:
        found = await asyncio.to_thread(_states, cert, key)
        if found != loaded and None not in found:  # a file that is being replaced may be missing for a moment
            try:
                fresh = await asyncio.to_thread(server_context, cert, key)
            except (OSError, ssl.SSLError) as error:  # one of the pair may have come first: tried again until they fit
                if found != told:
                    observe.log.warning("the new certificate does not fit yet; the old one stays", why=str(error))
                told = found
            else:
                if loaded is not None:
                    observe.log.info("the certificate was read again", file=str(cert))
                loaded = found
                context.sni_callback = partial(_hand_over, fresh)
        await asyncio.sleep(seconds)


def _hand_over(to: ssl.SSLContext, connection: ssl.SSLSocket | ssl.SSLObject, name: str | None, live: object) -> None:
    """Asked at each handshake, whether the client named a server or not."""
    connection.context = to


def _states(*files: Path) -> tuple[_State, ...]:
    return tuple(_state(file) for file in files)


def _state(file: Path) -> _State:
    try:
        found = file.stat()
    except FileNotFoundError:
        return None
    return found.st_mtime_ns, found.st_size
