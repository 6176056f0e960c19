"""What is measured of a server while it works, and where a figure comes from: machine, date, commit, command."""

from __future__ import annotations

import json
import os
import platform
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from peers import Peer

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "bench" / "results"
GB = 1e9


@dataclass(frozen=True, slots=True)
class Figure:
    """For one unit (a GB, or 1,000 requests): the server's CPU-seconds in user and kernel, wall seconds, the client's
    CPU-seconds; bytes that the server's reads returned, and that came from a disk (both a byte where the unit is GB);
    CPU-seconds of all that ran on the machine."""

    user: float
    kernel: float
    wall: float
    client: float = 0.0
    read: float = 0.0
    disk: float = 0.0
    machine: float = 0.0

    @property
    def cpu(self) -> float:
        return self.user + self.kernel

    def told(self) -> dict[str, float]:
        kept = {name: getattr(self, name) for name in ("cpu", "kernel", "wall", "client", "read", "disk", "machine")}
        return {name: round(value, 4) for name, value in kept.items()}


def measure(peer: Peer, units: float, work: Callable[[], None]) -> Figure:
    os.sync()  # what others left dirty is not to be written on this one's time
    before, machine = peer.used(), busy()
    client, began = time.process_time(), time.perf_counter()
    work()
    wall, client = time.perf_counter() - began, time.process_time() - client
    after, machine = peer.used(), busy() - machine
    return Figure(
        (after.user - before.user) / units,
        (after.kernel - before.kernel) / units,
        wall / units,
        client / units,
        (after.read - before.read) / units / GB,
        (after.disk - before.disk) / units / GB,
        machine / units,
    )


def busy() -> float:
    """CPU-seconds that all cores of the machine have worked since it started."""
    spent = psutil.cpu_times()
    return float(spent.user + spent.nice + spent.system + spent.irq + spent.softirq)


def use_pages(folder: Path, mib: int) -> None:
    """Let `mib` MiB that come into the page cache next lie in pages that were used before: in a virtual machine the
    first use of a page costs its user 2.5 CPU-s/GB, whoever that is. Twice as many as are needed, and just before:
    others take some, and a host may take back what lies free for two seconds."""
    os.sync()  # so that the measurement's own takes no time
    used = folder / "used-pages"
    with used.open("wb", buffering=0) as file:
        for _ in range(2 * mib):
            file.write(bytes(2**20))
    used.unlink()


@dataclass(frozen=True, slots=True)
class Source:
    """Where figures come from."""

    machine: str
    date: str
    commit: str
    command: str

    def line(self) -> str:
        return f"{self.machine}; {self.date}; commit {self.commit}; `{self.command}`"


def source() -> Source:
    """Of this process. A commit with changes that are in none ends in `-dirty`."""
    model = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.processor(),
    )
    asked = ["git", "describe", "--always", "--dirty", "--exclude", "*"]
    commit = subprocess.run(asked, capture_output=True, text=True, cwd=ROOT, check=False).stdout.strip()
    command = shlex.join(["python", f"bench/{Path(sys.argv[0]).name}", *sys.argv[1:]])
    return Source(
        f"{model}, {len(os.sched_getaffinity(0))} cores, Linux {platform.release()}",
        time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        commit,
        command,
    )


def machine() -> str:
    """One line for a table's head, without the command."""
    here = source()
    return f"{here.machine}; {here.date}; commit {here.commit}"


def write(name: str, document: dict[str, Any], folder: Path = RESULTS) -> Path:
    """`document` as `<folder>/<name>.json`."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    path.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n")
    return path
