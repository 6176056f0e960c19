"""Layers of one size pushed to a server and pulled from it, whole or by ranges, and what it used for a GB of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from random import Random

from figures import GB, Figure, measure
from load import Content, Layer, Line, expect, push_blob, together
from peers import Peer

from _speedups import FRAME_OVERHEAD
from proxy.blob.format import FRAME_LENGTH

REPOSITORY = "bench/app"
RANGE = 1 << 20
SEED = 8  # of the ranges' offsets: the same for all servers


class Layers:
    """What one server is asked to do; layers of a push stay for the pulls that follow."""

    def __init__(self, peer: Peer, content: Content, count: int) -> None:
        self.peer = peer
        self.count = count
        self.size = content.size  # bytes of one
        self.units = content.size * count / GB
        self._content = content
        self._made: Sequence[Layer] = ()

    def push(self, connections: int) -> Figure:
        """All anew, into a store that was emptied and a disk that has nothing to write."""
        self.lay(connections, only_make=True)
        return measure(self.peer, self.units, lambda: self._push(connections))

    def lay(self, connections: int = 2, *, only_make: bool = False) -> None:
        """What pulls need, unmeasured; a server that takes no pushes finds its files laid."""
        self.peer.forget()
        self._made = [self._content.fresh() for _ in range(self.count)]
        if not only_make:
            self._push(connections)

    def pull(self, connections: int, pulls: int) -> Figure:
        """Whole layers, one after the other on each connection."""

        def one(line: Line, number: int) -> None:
            layer = self._made[number % self.count]
            expect(line.ask("GET", blob_path(layer.digest)), 200, layer.size)

        units = self._content.size * pulls / GB
        return measure(self.peer, units, lambda: self._together(connections, one, pulls))

    def pull_ranges(self, connections: int, ranges: int) -> Figure:
        """1 MiB each, of the first layer."""
        layer = self._made[0]
        offsets = offsets_in(layer.size, ranges)

        def one(line: Line, number: int) -> None:
            at = offsets[number]
            more = f"Range: bytes={at}-{at + RANGE - 1}\r\n"
            expect(line.ask("GET", blob_path(layer.digest), more=more), 206, RANGE)

        return measure(self.peer, RANGE * ranges / GB, lambda: self._together(connections, one, ranges))

    def pull_slowly(self, number: int, pace: float) -> None:
        """One layer on a connection of its own, at `pace` bytes a second; with what buffers the kernel chooses."""
        layer, line = self._made[number % self.count], Line(self.peer.address, self.peer.headers)
        began = time.perf_counter()
        try:
            for taken in line.drops("GET", blob_path(layer.digest), layer.size):
                time.sleep(max(0.0, began + taken / pace - time.perf_counter()))
        finally:
            line.close()

    def _push(self, connections: int) -> None:
        def one(line: Line, number: int) -> None:
            layer = self._made[number]
            push_blob(line, REPOSITORY, layer, layer.digest)

        if self.peer.takes_pushes:
            self._together(connections, one, self.count)
            return
        for layer in self._made:
            path = self.peer.stored / blob_path(layer.digest).removeprefix("/")
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("wb") as file:
                file.writelines(layer.pieces())

    def _together(self, connections: int, work: Callable[[Line, int], None], count: int) -> None:
        together(connections, self.peer.address, self.peer.headers, work, count)


def blob_path(digest: str) -> str:
    return f"/v2/{REPOSITORY}/blobs/{digest}"


def offsets_in(size: int, ranges: int) -> list[int]:
    """Of ranges of 1 MiB in a blob of `size` bytes."""
    random = Random(SEED)
    return [random.randrange(size - RANGE + 1) for _ in range(ranges)]


def touched(size: int, ranges: int) -> float:
    """Stored bytes of the frames in which these ranges lie, a byte of them: what must be read, and no more."""
    frames = sum((at + RANGE - 1) // FRAME_LENGTH - at // FRAME_LENGTH + 1 for at in offsets_in(size, ranges))
    return frames * (FRAME_LENGTH + FRAME_OVERHEAD) / (RANGE * ranges)
