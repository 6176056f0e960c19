"""Rows of small answers: CPU of each with its authentication and policies, and how long they take beside pushes."""

from __future__ import annotations

import multiprocessing
import os
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Event

from asks import Request, closed_loop, open_loop
from bars import Bar, Group, Measured, Row
from figures import measure
from layers import REPOSITORY, blob_path
from load import Content, Layer, Line, expect, push_blob, together
from peers import OURS, Peer
from people import KIND, PATH, narrow_user, put_image

MIB = 1 << 20
CONNECTIONS = 32
SENT_AT_ONCE = 256 * 1024
MANIFEST = "manifest GET by tag"
OTHER_BYTES = ", each of other bytes"  # ours gives an answer again to the same bytes, at a fraction of the cost
ANOTHER = "bench/another"


@dataclass(frozen=True, slots=True)
class Asked:
    """A server as its pulling user sees it (`peer`) and as who may push does, and what is asked of it, by name."""

    peer: Peer
    pusher: Peer
    requests: dict[str, Request]

    @classmethod
    def of(cls, peer: Peer) -> Asked:
        """An image is pushed; of ours, a user of twenty statements asks for it, and the repository has a policy."""
        image = put_image(peer)
        as_seen = narrow_user(peer) if peer.name == OURS else peer
        accept, (digest, size) = f"Accept: {KIND}\r\n", image.layer
        line = Line(as_seen.address, as_seen.headers)
        base = int(expect(line.ask("GET", "/v2/"), 200)["content-length"])
        line.close()
        requests = {
            MANIFEST: Request("GET", PATH, image.size, accept),
            MANIFEST + OTHER_BYTES: Request("GET", PATH, image.size, accept, differs=True),
            "HEAD manifest": Request("HEAD", PATH, image.size, accept),
            "HEAD blob": Request("HEAD", blob_path(digest), size),
            "/v2/": Request("GET", "/v2/", base),
            f"/v2/{OTHER_BYTES}": Request("GET", "/v2/", base, differs=True),
        }
        return cls(as_seen, peer, requests)


class Small(Group):
    """Requests that move next to nothing, over kept-alive connections."""

    name = "small"

    def __init__(self, asked: Sequence[Asked], *, quick: bool) -> None:
        self._asked = {each.peer.name: each for each in asked}
        self._count = 500 if quick else 8000
        self.rows = [
            Row(
                f"{name}, c = {CONNECTIONS}",
                "cpu-s/1,000",
                "cpu",
                Bar(0.35 if request.differs else 0.25),
                list(self._asked),
                partial(self._ask, name),
            )
            for name, request in asked[0].requests.items()
        ]

    def _ask(self, name: str, server: str) -> Measured:
        peer, units = self._asked[server].peer, self._count / 1000
        request = self._asked[server].requests[name]
        figure = measure(peer, units, lambda: closed_loop(peer, request, CONNECTIONS, self._count))
        told = {kind: value for kind, value in figure.told().items() if kind not in ("read", "disk")}
        return {**told, "rate": round(1000 / figure.wall)}


class Latency(Group):
    """Manifest GETs at 500 a second, due whether or not those before are answered, while four pushes go on."""

    name = "latency"
    rate = 500.0
    pushes = 4
    pace = 30e6  # bytes a second of each push

    def __init__(self, asked: Sequence[Asked], *, quick: bool) -> None:
        self._asked = {each.peer.name: each for each in asked}
        self._seconds = 2.0 if quick else 6.0
        self._content = Content(32 * MIB)
        what = f"manifest GET at {self.rate:.0f}/s beside {self.pushes} pushes at {self.pace / 1e6:.0f} MB/s each"
        self.rows = [
            Row(f"{what} to {where}: p99", "ms", "p99", Bar(1.0), list(self._asked), partial(self._ask, repository))
            for where, repository in (("its repository", REPOSITORY), ("another", ANOTHER))
        ]

    def _ask(self, repository: str, server: str) -> Measured:
        asked = self._asked[server]
        peer = asked.peer
        # A process of its own, so that the pushes' threads take no turn of the thread whose clock counts. It is forked:
        # no thread of ours is alive here, and what it sends is there already.
        own = multiprocessing.get_context("fork")
        begun, over = own.Event(), own.Event()
        told, tells = own.Pipe(duplex=False)
        pushing = own.Process(target=self._push, args=(asked.pusher, repository, begun, over, tells), daemon=True)
        os.sync()
        pushing.start()
        try:
            begun.wait(60)
            before = peer.used()
            took = open_loop(peer, asked.requests[MANIFEST], rate=self.rate, seconds=self._seconds)
            after = peer.used()
        finally:
            over.set()
        pushed = told.recv() if told.poll(120) else 0.0
        pushing.join()
        peer.forget()
        cuts = statistics.quantiles(took, n=1000)
        spent = after.user + after.kernel - before.user - before.kernel
        figures = {name: round(cuts[at - 1] * 1000, 3) for name, at in (("p50", 500), ("p90", 900), ("p99", 990))}
        return {**figures, "most": round(max(took) * 1000, 3), "cpu": round(spent, 3), "pushed MB/s": round(pushed, 1)}

    def _push(self, peer: Peer, repository: str, begun: Event, over: Event, tells: Connection) -> None:
        """Layers, one after the other on each connection, until it is over; tells how many MB/s were taken."""
        began, sizes = time.perf_counter(), []

        def one(line: Line, number: int) -> None:
            while not over.is_set():
                layer = self._content.fresh()
                push_blob(line, repository, Paced(layer, self.pace, begun), layer.digest)
                sizes.append(layer.size)

        together(self.pushes, peer.address, peer.headers, one, self.pushes)
        tells.send(sum(sizes) / (time.perf_counter() - began) / 1e6)


@dataclass(frozen=True, slots=True)
class Paced:
    """A layer that comes at `pace` bytes a second; `begun` is set once half a second of it has gone out."""

    layer: Layer
    pace: float
    begun: Event

    @property
    def size(self) -> int:
        return self.layer.size

    def pieces(self) -> Iterator[memoryview | bytes]:
        began, sent = time.perf_counter(), 0
        for whole in self.layer.pieces():
            for at in range(0, len(whole), SENT_AT_ONCE):
                piece = whole[at : at + SENT_AT_ONCE]
                yield piece
                sent += len(piece)
                if sent > self.pace / 2:
                    self.begun.set()
                time.sleep(max(0.0, began + sent / self.pace - time.perf_counter()))
