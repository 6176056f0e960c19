"""CPU per GB against CNCF distribution: pull, push and manifest requests, interleaved on this machine.

Each round does the same to both, one after the other, the order turned each round; what is printed is the median over
rounds of server CPU-seconds (user and system, all processes of a server) per GB, or per 1,000 requests, and the ratio
of ours to theirs. Ours is sealed and authenticated, theirs plain and open.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT)]  # run as a script: `harness` lies in tests

from load import Content, Line, expect, push_blob, together  # noqa: E402 - once the path above is set
from peers import Peer, distribution, wharfage  # noqa: E402 - as above

MARKS = {"pull": 1.3, "push": 1.0}
GB = 1e9


@dataclass(frozen=True, slots=True)
class Figure:
    """CPU-seconds (user and kernel) and wall seconds for one GB (or 1,000 requests)."""

    user: float
    kernel: float
    wall: float

    @property
    def cpu(self) -> float:
        return self.user + self.kernel


def measure(peer: Peer, units: float, work: Callable[[], None]) -> Figure:
    os.sync()  # what others left dirty is not to be written on this one's time
    (user, kernel), began = peer.cpu(), time.perf_counter()
    work()
    wall = time.perf_counter() - began
    user_after, kernel_after = peer.cpu()
    return Figure((user_after - user) / units, (kernel_after - kernel) / units, wall / units)


class Bench:
    """What one server is asked to do; layers of a push stay for the pull that follows."""

    def __init__(self, peer: Peer, layer_bytes: int, layers: int, connections: int) -> None:
        self.peer = peer
        self.layers = layers
        self.connections = connections
        self.repository = "bench/app"
        self.contents = [Content(layer_bytes) for _ in range(layers)]
        self.units = layer_bytes * layers / GB
        self.digests: list[str] = []

    def push(self) -> Figure:
        fresh = [content.fresh(1)[0] for content in self.contents]
        self.digests = [digest for _, digest in fresh]

        def one(line: Line, number: int) -> None:
            push_blob(line, self.repository, memoryview(self.contents[number].buffer), self.digests[number])

        return measure(self.peer, self.units, lambda: self._together(one, self.layers))

    def pull(self, times: int = 3) -> Figure:
        def one(line: Line, number: int) -> None:
            path = f"/v2/{self.repository}/blobs/{self.digests[number % self.layers]}"
            expect(line.ask("GET", path), 200)

        return measure(self.peer, self.units * times, lambda: self._together(one, self.layers * times))

    def manifests(self, requests: int = 3000) -> Figure:
        """GET of a manifest by tag, each with its authentication."""
        config = b"{}"
        line = Line(self.peer.address, self.peer.headers)
        digest = "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"
        push_blob(line, self.repository, memoryview(config), digest)
        kind = "application/vnd.oci.image.manifest.v1+json"
        descriptor = {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": digest, "size": len(config)}
        body = json.dumps({"schemaVersion": 2, "mediaType": kind, "config": descriptor, "layers": []}).encode()
        path = f"/v2/{self.repository}/manifests/v1"
        expect(line.ask("PUT", path, body, f"Content-Type: {kind}\r\n"), 201)
        line.close()

        def one(line: Line, number: int) -> None:
            expect(line.ask("GET", path, more=f"Accept: {kind}\r\n"), 200)

        return measure(self.peer, requests / 1000, lambda: self._together(one, requests))

    def _together(self, work: Callable[[Line, int], None], count: int) -> None:
        together(self.connections, self.peer.address, self.peer.headers, work, count)


def compare(benches: Sequence[Bench], rounds: int) -> dict[str, dict[str, list[Figure]]]:
    """figures[operation][server] over rounds; the first round warms both and is not kept."""
    figures: dict[str, dict[str, list[Figure]]] = {}
    for number in range(rounds + 1):
        order = benches if number % 2 else list(reversed(benches))
        for operation in ("push", "pull", "manifests"):
            for bench in order:
                figure: Figure = getattr(bench, operation)()
                if number:
                    figures.setdefault(operation, {}).setdefault(bench.peer.name, []).append(figure)
        for bench in benches:
            bench.peer.forget()
        print(f"round {number} of {rounds}{' (warming)' if not number else ''}", file=sys.stderr)
    return figures


def table(figures: dict[str, dict[str, list[Figure]]]) -> str:
    """Markdown, one row an operation."""
    lines = [
        "| operation | wharfage, CPU-s (kernel) | distribution, CPU-s (kernel) | ratio of CPU | rounds' ratios "
        "| wharfage, wall s | distribution, wall s |",
        "|---|---|---|---|---|---|---|",
    ]
    for operation, by_server in figures.items():
        ours, theirs = by_server["wharfage"], by_server["distribution"]
        ratios = [mine.cpu / its.cpu for mine, its in zip(ours, theirs, strict=True)]
        cpu = [statistics.median(figure.cpu for figure in each) for each in (ours, theirs)]
        kernel = [statistics.median(figure.kernel for figure in each) for each in (ours, theirs)]
        wall = [statistics.median(figure.wall for figure in each) for each in (ours, theirs)]
        unit = "1,000 GETs" if operation == "manifests" else "GB"
        mark = f" (mark {MARKS[operation]})" if operation in MARKS else ""
        spent = [f"{each:.3f} ({inside:.2f})" for each, inside in zip(cpu, kernel, strict=True)]
        lines.append(
            f"| {operation}, per {unit} | {spent[0]} | {spent[1]} | **{statistics.median(ratios):.2f}**{mark} "
            f"| {min(ratios):.2f} to {max(ratios):.2f} | {wall[0]:.2f} | {wall[1]:.2f} |"
        )
    return "\n".join(lines)


def machine() -> str:
    model = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.processor(),
    )
    asked = ["git", "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(asked, capture_output=True, text=True, cwd=ROOT, check=False).stdout.strip()
    when = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
    return f"{model}, {len(os.sched_getaffinity(0))} cores, {platform.platform()}; {when}; commit {commit}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--layer-mib", type=int, default=256)
    parser.add_argument("--connections", type=int, default=4)
    asked = parser.parse_args()
    home = Path(tempfile.mkdtemp(prefix="wharfage-bench-"))
    peers: list[Peer] = []
    try:
        for start in (wharfage, distribution):
            peers.append(start(home))
        benches = [Bench(peer, asked.layer_mib << 20, asked.layers, asked.connections) for peer in peers]
        figures = compare(benches, asked.rounds)
        print(machine())
        print(f"`python bench/compare.py {' '.join(sys.argv[1:])}`".replace(" `", "`"))
        print(table(figures))
    finally:
        for peer in peers:
            peer.daemon.stop()
        shutil.rmtree(home, ignore_errors=True)


if __name__ == "__main__":
    main()
