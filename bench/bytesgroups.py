"""Rows of bytes on local storage: pulls, warm and cold, ranges, pushes, and whole images by crane."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from bars import Bar, Group, Measured, Row
from figures import use_pages
from layers import Layers, touched
from load import Content
from peers import OURS, Peer

from support.images import write_layout
from support.programs import run

MIB = 1 << 20
CONNECTIONS = (1, 4, 16)
PUSH_BARS = {1: 0.8, 4: 0.9, 16: 0.8}


class Laid(Group):
    """Rows that read what was laid before each round."""

    _sides: dict[str, Layers]

    def begin(self) -> None:
        for side in self._sides.values():
            side.lay()

    def end(self) -> None:
        for side in self._sides.values():
            side.peer.forget()


class Pulls(Laid):
    """Of 256 MiB. Cold: no byte of them in the page cache before each row, which a tmpfs cannot show; with c = 16, four
    pullers share each layer, and one of them finds it cold."""

    name = "pull"
    layers = 4

    def __init__(self, peers: Sequence[Peer], *, on_disk: bool, quick: bool) -> None:
        content = Content((16 if quick else 256) * MIB)
        self._sides = {peer.name: Layers(peer, content, self.layers) for peer in peers}
        self.rows = [
            Row(
                f"pull {content.size // MIB} MiB, {state}, c = {connections}",
                *("cpu-s/GB", "cpu", Bar(1.0), list(self._sides)),
                partial(self._pull, connections, state == "cold"),
            )
            for state in (("warm", "cold") if on_disk else ("warm",))
            for connections in CONNECTIONS
        ]

    def _pull(self, connections: int, cold: bool, server: str) -> Measured:
        side = self._sides[server]
        if cold:
            os.sync()
            side.peer.chill()
            use_pages(side.peer.stored.parent, self.layers * side.size // MIB)
        return side.pull(connections, max(self.layers, connections)).told()


class Ranges(Laid):
    """1 MiB at random offsets of one blob of 1 GiB."""

    name = "ranges"
    connections = 16

    def __init__(self, peers: Sequence[Peer], *, quick: bool) -> None:
        content = Content((64 if quick else 1024) * MIB)
        self._count = 64 if quick else 1024
        self._touched = touched(content.size, self._count)
        self._sides = {peer.name: Layers(peer, content, 1) for peer in peers}
        name = f"ranges of 1 MiB of {content.size // MIB} MiB, c = {self.connections}"
        self.rows = [
            Row(name, "cpu-s/GB", "cpu", Bar(1.0), list(self._sides), self._pull),
            # a hundredth for what else is read meanwhile: the requests themselves, above all
            Row(f"{name}: bytes read", "of frames touched", "touched", Bar(1.01, relative=False), [OURS], self._pull),
        ]

    def _pull(self, server: str) -> Measured:
        figure = self._sides[server].pull_ranges(self.connections, self._count)
        return {**figure.told(), "touched": figure.read / self._touched}


class Pushes(Group):
    """Of 64 MiB, each by POST, one PATCH and PUT."""

    name = "push"
    least = 8  # layers

    def __init__(self, peers: Sequence[Peer], *, quick: bool) -> None:
        content = Content((8 if quick else 64) * MIB)
        self._content = content
        self._peers = {peer.name: peer for peer in peers if peer.takes_pushes}
        self.rows = [
            Row(
                f"push {content.size // MIB} MiB, c = {connections}",
                *("cpu-s/GB", "cpu", Bar(PUSH_BARS[connections]), list(self._peers)),
                partial(self._push, connections),
            )
            for connections in CONNECTIONS
        ]

    def _push(self, connections: int, server: str) -> Measured:
        peer = self._peers[server]
        try:
            return Layers(peer, self._content, max(self.least, connections)).push(connections).told()
        finally:
            peer.forget()


class Images(Group):
    """Ten of ten layers of 1 MiB, pushed by crane one after the other; the same images to each server in a round."""

    name = "images"

    def __init__(self, peers: Sequence[Peer], home: Path, *, quick: bool) -> None:
        self._count = 2 if quick else 10
        self._home = home
        self._made = 0
        self._peers = {peer.name: peer for peer in peers if peer.takes_pushes}
        self._logins = {"DOCKER_CONFIG": str(_logins(home, list(self._peers.values())))}
        name = f"push of {self._count} images of ten 1 MiB layers by crane"
        self.rows = [Row(name, "wall s", "wall", Bar(0.7), list(self._peers), self._push)]

    def begin(self) -> None:
        self._made += 1
        for number in range(self._count):
            write_layout(self._layout(number), 100 * self._made + number, [MIB] * 10)

    def end(self) -> None:
        for number in range(self._count):
            shutil.rmtree(self._layout(number), ignore_errors=True)
        for peer in self._peers.values():
            peer.forget()

    def _layout(self, number: int) -> Path:
        return self._home / f"image-{number}"

    def _push(self, server: str) -> Measured:
        peer = self._peers[server]
        os.sync()
        before, began = peer.used(), time.perf_counter()
        for number in range(self._count):
            reference = f"{peer.address}/bench/image-{self._made}-{number}:v1"
            run("crane", "push", self._layout(number), reference, "--insecure", extra=self._logins)
        wall, after = time.perf_counter() - began, peer.used()
        cpu = after.user + after.kernel - before.user - before.kernel
        return {"wall": round(wall, 3), "cpu": round(cpu, 3)}


def _logins(home: Path, peers: Sequence[Peer]) -> Path:
    """A folder with docker's file of passwords."""
    folder = home / "docker"
    folder.mkdir(exist_ok=True)
    auths = {
        peer.address: {"auth": peer.headers.partition("Basic ")[2].strip()}
        for peer in peers
        if "Basic " in peer.headers
    }
    (folder / "config.json").write_text(json.dumps({"auths": auths}))
    return folder
