"""Speed against measured peers: every bar of local storage, in interleaved rounds on this machine.

    python bench/compare.py [--rows pull,push] [--rounds 5] [--home /dev/shm] [--quick]

Each round does the same to all servers, one after the other, the order turned each round, and the first round warms all
up and is not kept. Told are medians over rounds, lowest and highest, of what a server used: user and kernel, all its
processes. Ours is sealed and authenticated, asks its policies and writes its audit log; the peers are plain and open. A
row whose bar is missed says so, and the exit status is 0 all the same. Each group of rows goes to a file of its own
under bench/results (with --quick, whose figures are of small sizes, to none).

Groups: pull, ranges, push, images, small, fleet, latency, memory, scale; and storms, which must be asked for: 16 GiB,
minutes.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT)]  # run as a script: `support` is in tests

from answergroups import Asked, Latency, Small  # noqa: E402 - once the path above is set
from bars import Group, Row, document, table  # noqa: E402 - as above
from bytesgroups import Images, Pulls, Pushes, Ranges  # noqa: E402 - as above
from figures import RESULTS, source, write  # noqa: E402 - as above
from fleet import Fleet  # noqa: E402 - as above
from ownservers import Memory, Scale, Storms  # noqa: E402 - as above
from peers import Peer, distribution, nginx, wharfage, zot  # noqa: E402 - as above

from proxy.storage.filesystem.nowait import in_memory  # noqa: E402 - as above
from support.programs import find  # noqa: E402 - as above

GROUPS = ("pull", "ranges", "push", "images", "small", "fleet", "latency", "memory", "scale")
ON_REQUEST = ("storms",)


class Comparison:
    """Servers that run as long as it does, started when a group first asks for them."""

    def __init__(self, home: Path, *, quick: bool) -> None:
        self._home = home
        self._quick = quick
        self._peers: list[Peer] = []
        self._asked: list[Asked] = []
        self.on_disk = not lies_in_memory(home)

    def end(self) -> None:
        for peer in self._peers:
            peer.daemon.stop()

    def group(self, name: str) -> Group:
        quick = self._quick
        made: dict[str, Callable[[], Group]] = {
            "pull": lambda: Pulls(self._servers(), on_disk=self.on_disk, quick=quick),
            "ranges": lambda: Ranges(self._servers(), quick=quick),
            "push": lambda: Pushes(self._servers(), quick=quick),
            "images": lambda: Images(self._servers(), self._home, quick=quick),
            "small": lambda: Small(self._users(), quick=quick),
            "fleet": lambda: Fleet(self._servers(), quick=quick),
            "latency": lambda: Latency(self._users(), quick=quick),
            "memory": lambda: Memory(self._home),
            "scale": lambda: Scale(self._home, quick=quick),
            "storms": lambda: Storms(self._home, quick=quick),
        }
        return made[name]()

    def _servers(self) -> list[Peer]:
        if not self._peers:
            starts = [wharfage, distribution, *([nginx] if find("nginx") else [])]
            if binary := os.environ.get("ZOT"):
                starts.append(lambda home: zot(home, binary))
            for start in starts:
                self._peers.append(start(self._home))
        return self._peers

    def _users(self) -> list[Asked]:
        if not self._asked:
            self._asked = [Asked.of(peer) for peer in self._servers() if peer.takes_pushes]
        return self._asked


def run_rounds(group: Group, rounds: int) -> None:
    """Each row keeps its rounds."""
    rounds = min(rounds, group.most_rounds or rounds)
    for number in range(0 if group.warms else 1, rounds + 1):
        try:
            group.begin()
            for row in group.rows:
                for server in row.servers if number % 2 else reversed(row.servers):
                    measured = row.work(server)
                    if number:
                        row.keep(server, measured)
        finally:
            group.end()
        print(f"{group.name}: round {number} of {rounds}{'' if number else ' (warming)'}", file=sys.stderr)


def lies_in_memory(folder: Path) -> bool:
    opened = os.open(folder, os.O_RDONLY)
    try:
        return in_memory(opened)
    finally:
        os.close(opened)


def arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", default=",".join(GROUPS), help="groups of rows, joined by commas")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--home", help="where all data lie; /dev/shm for a tmpfs, where nothing is cold")
    parser.add_argument("--quick", action="store_true", help="small sizes and one round: does it work?")
    parser.add_argument("--results", type=Path, default=RESULTS, help="the folder of the files")
    asked = parser.parse_args(words)
    asked.rows = asked.rows.split(",")
    if unknown := set(asked.rows) - {*GROUPS, *ON_REQUEST}:
        parser.error(f"no such rows: {', '.join(sorted(unknown))}")
    if asked.quick:
        asked.rounds = 1
    return asked


def main() -> None:
    asked = arguments()
    home = Path(tempfile.mkdtemp(prefix="wharfage-bench-", dir=asked.home))
    compared = Comparison(home, quick=asked.quick)
    rows: list[Row] = []
    try:
        for name in asked.rows:
            group = compared.group(name)
            here = source()
            run_rounds(group, asked.rounds)
            rows += group.rows
            if not asked.quick:
                where = "disk" if compared.on_disk else "tmpfs"
                found = document(group.rows, where, here)
                write(name if compared.on_disk else f"{name}-tmpfs", found, asked.results)
        print(f"{source().line()}; data on {'a disk' if compared.on_disk else 'a tmpfs'}\n")
        print(table(rows))
    finally:
        compared.end()
        shutil.rmtree(home, ignore_errors=True)


if __name__ == "__main__":
    main()
