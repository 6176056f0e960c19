"""What the audit trail costs: CPU of manifest GETs by `[audit] to = "file"` against `"none"`, interleaved.

Each round asks both servers for the same, one after the other, the order turned each round; what is printed is the
median over rounds of server CPU-seconds (user and system, all processes) per 1,000 GETs, and of the rounds' ratios. One
worker each: which of several gets which connection changes a round's CPU by more than the trail does.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT)]  # run as a script: `support` is in tests

from access import manifests  # noqa: E402 - once the path above is set
from figures import machine  # noqa: E402 - as above
from peers import Peer, wharfage  # noqa: E402 - as above
from people import put_image  # noqa: E402 - as above


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--requests", type=int, default=6000)
    parser.add_argument("--connections", type=int, default=4)
    asked = parser.parse_args()
    home = Path(tempfile.mkdtemp(prefix="wharfage-bench-"))
    peers: list[Peer] = []
    try:
        for to in ("none", "file"):
            peers.append(wharfage(home, to, {"WHARFAGE_AUDIT_TO": to}, workers=1))
            put_image(peers[-1])
        spent: dict[str, list[float]] = {peer.name: [] for peer in peers}
        for number in range(asked.rounds + 1):
            for peer in peers if number % 2 else reversed(peers):
                cpu = manifests(peer, asked.requests, asked.connections).cpu
                if number:  # the first warms both
                    spent[peer.name].append(cpu)
        ratios = [file / none for none, file in zip(spent["none"], spent["file"], strict=True)]
        print(machine())
        for name, figures in spent.items():
            print(f"{name}: {statistics.median(figures):.4f} CPU-s per 1,000 GETs")
        print(f"file / none: {statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})")
    finally:
        for peer in peers:
            peer.daemon.stop()
        shutil.rmtree(home, ignore_errors=True)


if __name__ == "__main__":
    main()
