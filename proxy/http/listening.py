"""Closing a listening socket so that nobody is turned away who was let in.

A close resets every connection that the kernel has made and nobody has accepted yet, and every handshake under way:
a client sees its request lost, and a load balancer must not send a POST twice. So, in this order: `refuse` has the
kernel drop new SYNs (dropped, not refused: the client tries again a second later, and is refused then, before it has
sent anything); handshakes under way end within HANDSHAKE_SECONDS; `is_awaited` says whether connections still wait to
be accepted; then the close resets nobody. The socket may be shared by processes: the first `refuse` counts for all.
Must not know who accepts.
"""

from __future__ import annotations

import ctypes
import select
import socket
import struct

from proxy import observe

HANDSHAKE_SECONDS = 0.1
"""From our SYN-ACK to the client's ACK: a round trip, which between a load balancer and its nodes is a millisecond."""

_SO_ATTACH_FILTER = 26  # Linux; the socket module does not name it
# Classic BPF over the TCP header: its byte 13 has the flags. Drop what has SYN (2) and not ACK (16), take all else.
_DROP_SYN = (
    (0x30, 0, 0, 13),  # load the byte at 13
    (0x54, 0, 0, 0x12),  # keep SYN and ACK of it
    (0x15, 0, 1, 0x02),  # SYN alone?
    (0x06, 0, 0, 0),  # yes: no byte of the packet
    (0x06, 0, 0, 0xFFFFFFFF),  # no: all of it
)


def refuse(sock: socket.socket) -> None:
    """Let no new connection begin. Connections that were accepted inherit the filter, which then matches nothing."""
    program = b"".join(struct.pack("HBBI", *instruction) for instruction in _DROP_SYN)
    kept = ctypes.create_string_buffer(program, len(program))  # the kernel copies it during the call
    try:
        sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("HL", len(_DROP_SYN), ctypes.addressof(kept)))
    except OSError as error:  # no Linux, or one that forbids filters: the window stays, a millisecond wide
        observe.log.debug("new connections cannot be held off before the close", why=error.strerror)


def is_awaited(sock: socket.socket) -> bool:
    """Whether a connection waits to be accepted."""
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    return bool(poll.poll(0))
