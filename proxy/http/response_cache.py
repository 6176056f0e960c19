"""Small answers, kept to be given again at once: to the same request, byte for byte, from the same peer.

Who pulls, polls or load-tests sends one header over and over. To parse it, find its door, look up who asks and lay out
the answer anew is nearly all that such a request costs. So what a door answered to a request without a body is kept
under a hash of all bytes of that request (its password among them, which is not kept itself) and its peer's address,
once the same has come twice, where the door leaves an `Again` beside the answer: only the door knows what it hung on,
and it is asked each time.

    socket → whole request known? → Again.give: does it all still stand? note it → one write
                    no ↓                            no ↓
                         aiohttp's parser, the door, as ever; from the second time on the answer is kept

Promises: the same bytes as by the long way, but for `Date`; counted and logged as any other, though never as running,
and at most `SETTLE_SECONDS` later, of which a kill loses what is left; bounded in number and bytes. Must not know any
door's protocol, or how a connection is held.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections import OrderedDict
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Protocol

from aiohttp import web
from aiohttp.helpers import rfc822_formatted_time

from proxy import observe
from proxy.http import access_log

REQUEST_MAX = 8 * 1024  # bytes of a request that is looked up: a token of 4 KiB and what goes with it
BODY_MAX = 64 * 1024  # bytes of an answer's body: it is copied once each time
ANSWERS_KEPT = 4096
BYTES_KEPT = 12 * 1024 * 1024
EACH_BYTES = 2048  # what an answer takes beside its bytes, and those of its request that log and trail hold
SETTLE_SECONDS = 0.05  # by which counts and log lines lag behind the answers
ONCE_KEPT = 8192  # names of requests that came once: some 150 bytes each
_METHODS = (b"GET ", b"HEAD")


class Again(Protocol):
    """What a door leaves beside an answer that may be given again."""

    def give(self, request_id: str) -> bool:
        """Whether the answer is still what the long way would give. If so, all that such a request leaves behind has
        been noted (audit trail, times of pulls), under this id. Must not wait, nor raise."""


KEEP = web.RequestKey("keep", partial[None])
"""A request has it whose answer is to be kept, if it may be given again."""

AGAIN = web.ResponseKey("again", Again)
"""Under this key a door leaves its `Again` in a response (`response[AGAIN]`)."""


@dataclass(frozen=True, slots=True)
class _Answer:
    head: bytes  # to where the date goes
    body: bytes
    again: Again
    tally: observe.Tally
    line: observe.RequestLine
    size: int


class KeptAnswers:
    """One worker's. A request is known by `name`, which its connection makes once for `find` and `keep`."""

    def __init__(self, counts: access_log.Counts, answers: int = ANSWERS_KEPT, room: int = BYTES_KEPT) -> None:
        self._counts = counts
        self._most = answers
        self._room = room
        self._held: OrderedDict[bytes, _Answer] = OrderedDict()
        self._once: dict[bytes, None] = {}
        self._unsettled: list[observe.Tally] = []
        self._settling: asyncio.TimerHandle | None = None

    def came_before(self, name: bytes) -> bool:
        """Whether a request is worth keeping: most come once, and are not to push out those that come again."""
        if name in self._held or name in self._once:
            return True
        self._once[name] = None
        if len(self._once) > ONCE_KEPT:
            del self._once[next(iter(self._once))]
        return False

    def find(self, name: bytes) -> bytes | None:
        """The answer's bytes, all noted as if it had been worked out; None when the request has to go the long way."""
        kept = self._held.get(name)
        if kept is None:
            return None
        begun = time.perf_counter()
        request_id = observe.new_request_id()
        if not kept.again.give(request_id):
            self._drop(name)
            return None
        self._held.move_to_end(name)
        seconds = time.perf_counter() - begun
        if kept.tally.add(seconds):
            self._unsettled.append(kept.tally)
        if observe.is_info_written():
            kept.line.leave(request_id, seconds)
        if self._settling is None:
            self._settling = asyncio.get_running_loop().call_later(SETTLE_SECONDS, self.settle)
        return b"%bDate: %b\r\n\r\n%b" % (kept.head, _date(int(time.time())), kept.body)

    def settle(self) -> None:
        """Count and log what was given since: several at once, since each for itself costs more than all the rest."""
        if self._settling is not None:
            self._settling.cancel()
            self._settling = None
        tallies, self._unsettled = self._unsettled, []
        for tally in tallies:
            tally.settle()
        observe.write_left()

    def keep(self, name: bytes, door: str, request: web.Request, response: web.StreamResponse) -> None:
        """What is about to go out as the answer to it, where that may be given again. Its headers are complete."""
        again = response.get(AGAIN)
        if again is None or not response.keep_alive or request.version != (1, 1) or response.chunked:
            return
        whole = isinstance(response, web.Response) and request.method != "HEAD" and response.status != 304
        body = response.body if isinstance(response, web.Response) and whole else b""
        if not isinstance(body, bytes) or len(body) > BODY_MAX:
            return
        lines = [f"{name}: {value}\r\n" for name, value in response.headers.items() if name != "Date"]
        if any(line.count("\n") != 1 or line.count("\r") != 1 for line in lines):
            return  # aiohttp will refuse it
        head = f"HTTP/1.1 {response.status} {response.reason}\r\n{''.join(lines)}".encode()
        facts = access_log.facts(door, request, response, response.status)
        size = EACH_BYTES + len(head) + len(body) + 2 * (len(facts["path"]) + len(facts["agent"]))
        tally = self._counts.of(door, request, response.status).again
        self._drop(name)
        self._room -= size
        self._held[name] = _Answer(head, body, again, tally, observe.RequestLine(facts), size)
        while self._room < 0 or len(self._held) > self._most:
            self._drop(next(iter(self._held)))

    def _drop(self, name: bytes) -> None:
        gone = self._held.pop(name, None)
        if gone is not None:
            self._room += gone.size


def name_of(request: bytes, peer: bytes) -> bytes | None:
    """Under what an answer to these bytes from that peer is kept; None for what is none of ours to know."""
    if len(request) > REQUEST_MAX or request[:4] not in _METHODS:
        return None
    return hashlib.sha256(request).digest() + peer


@lru_cache(2)
def _date(now: int) -> bytes:
    """`now` is the epoch second, by which it is kept."""
    return rfc822_formatted_time().encode()
