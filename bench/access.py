"""What policies cost a pull: manifests by tag, CPU of the server per request, for two users of one server in turn.

One user has AdministratorAccess alone, the other twenty statements in five policies, of which the last allows. Each
round asks the same of both, the order turned each round, and the first round is not kept; printed is the median over
rounds of the server's CPU (user and kernel, all its processes) per 1,000 GETs, and of the ratio. Mark: 1.15.

    python bench/access.py [--rounds 7] [--requests 5000] [--connections 4]
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT)]  # run as a script: `support` is in tests

from figures import Figure, machine, measure  # noqa: E402 - once the path above is set
from load import Line, expect, together  # noqa: E402 - as above
from peers import Peer, wharfage  # noqa: E402 - as above
from people import KIND, PATH, as_user, client, put_image, twenty_statement_policies  # noqa: E402 - as above

from proxy.auth.managed import ADMINISTRATOR_ACCESS  # noqa: E402 - as above

MARK = 1.15
ADMINISTRATOR = "AdministratorAccess"


def users(peer: Peer) -> list[Peer]:
    iam, narrow = client(peer, "iam"), "twenty-statements"
    return [
        replace(as_user(peer, iam, ADMINISTRATOR, [ADMINISTRATOR_ACCESS]), name=ADMINISTRATOR),
        replace(as_user(peer, iam, narrow, twenty_statement_policies(iam)), name=narrow),
    ]


def manifests(user: Peer, requests: int, connections: int) -> Figure:
    def one(line: Line, number: int) -> None:
        expect(line.ask("GET", PATH, more=f"Accept: {KIND}\r\n"), 200)

    return measure(user, requests / 1000, lambda: together(connections, user.address, user.headers, one, requests))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--requests", type=int, default=5000)
    parser.add_argument("--connections", type=int, default=4)
    asked = parser.parse_args()
    home = Path(tempfile.mkdtemp(prefix="wharfage-bench-"))
    peer = wharfage(home)
    try:
        put_image(peer)
        both = users(peer)
        figures: dict[str, list[float]] = {user.name: [] for user in both}
        for number in range(asked.rounds + 1):
            for user in both if number % 2 else reversed(both):
                figure = manifests(user, asked.requests, asked.connections)
                if number:
                    figures[user.name].append(figure.cpu)
            print(f"round {number} of {asked.rounds}{' (warming)' if not number else ''}", file=sys.stderr)
    finally:
        peer.daemon.stop()
        shutil.rmtree(home, ignore_errors=True)
    wide, narrow = figures.values()
    ratios = [one / other for one, other in zip(narrow, wide, strict=True)]
    print(machine())
    for name, spent in figures.items():
        middle = statistics.median(spent)
        print(f"{name}: {middle:.3f} CPU-s per 1,000 GETs ({min(spent):.3f} to {max(spent):.3f})")
    print(f"ratio {statistics.median(ratios):.3f} ({min(ratios):.2f} to {max(ratios):.2f}), mark {MARK}")
    return 0 if statistics.median(ratios) <= MARK else 1


if __name__ == "__main__":
    sys.exit(main())
