"""Closes a listening socket without losing a request: requests already accepted by the kernel are answered first.

Closing a listening socket resets every connection in its accept queue and every TCP handshake under way. Clients lose
their requests, and a load balancer must not repeat a POST. `draining` therefore goes in this order:

    drop_new_connections     the kernel drops new SYNs (dropped, not refused: the client repeats its SYN a second later,
                             and is refused then, before it has sent a request)
    wait HANDSHAKE_SECONDS   handshakes under way complete
    has_pending              until it is False, the loop accepts what is queued
    close                    resets nothing

Processes may share the socket: the first `drop_new_connections` takes effect for all. Must not know the server.
"""

from __future__ import annotations

import ctypes
import select
import socket
import struct

from proxy import observe

HANDSHAKE_SECONDS = 0.1
"""From our SYN-ACK to the client's ACK: one round trip, a millisecond between a load balancer and its nodes."""

_SO_ATTACH_FILTER = 26  # Linux; the socket module does not name it
# Classic BPF over the TCP header: byte 13 holds the flags. Drop a packet with SYN (2) and without ACK (16).
_DROP_SYN = (
    (0x30, 0, 0, 13),  # load the byte at 13
    (0x54, 0, 0, 0x12),  # mask SYN and ACK
    (0x15, 0, 1, 0x02),  # SYN alone?
    (0x06, 0, 0, 0),  # yes: accept 0 bytes of the packet
    (0x06, 0, 0, 0xFFFFFFFF),  # no: accept all of it
)


def drop_new_connections(sock: socket.socket) -> None:
    """Have the kernel drop new SYNs. Connections accepted earlier inherit the filter, which never matches them."""
    program = b"".join(struct.pack("HBBI", *instruction) for instruction in _DROP_SYN)
    buffer = ctypes.create_string_buffer(program, len(program))  # the kernel copies it during the call
    option = struct.pack("HL", len(_DROP_SYN), ctypes.addressof(buffer))
    try:
        sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, option)
    except OSError as error:  # not Linux, or filters are forbidden: a window of a millisecond stays open
        observe.log.debug("new connections cannot be held off before the close", why=error.strerror)


def has_pending(sock: socket.socket) -> bool:
    """Whether a connection waits to be accepted."""
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    return bool(poll.poll(0))
