"""What a start costs: CPU-seconds of all processes of `wharfage serve`, until its first answer.

    python bench/start_cost.py [--rounds N] [--workers N] [--kept DIR]

Each round starts a server on a fresh data directory (which migrates and makes keys) or, with `--kept`, on one that is
there, asks `/readyz` until it says 200, and sums user and system time over the supervisor and all its children.
The mark of the first version: at most 1.5 CPU-seconds.
"""

from __future__ import annotations

import argparse
import http.client
import os
import platform
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

MARK = 1.5
ROOT = Path(__file__).resolve().parents[1]


def measure(data: Path, workers: int) -> tuple[float, float]:
    """(CPU-seconds of all processes, wall seconds) from exec to the first 200 of /readyz."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "proxy", "serve", "--data", str(data), "--listen", f"127.0.0.1:{port}"]
    with (data.parent / "start.log").open("w") as log:
        begun = time.perf_counter()
        server = subprocess.Popen([*command, "--workers", str(workers)], stdout=log, stderr=log, cwd=ROOT)
        try:
            while not is_ready(port):
                if server.poll() is not None:
                    sys.exit(f"the server ended with {server.returncode}; see {log.name}")
                time.sleep(0.02)
            wall = time.perf_counter() - begun
            return sum(cpu_seconds(pid) for pid in family(server.pid)), wall
        finally:
            server.send_signal(signal.SIGTERM)
            server.wait(30)


def is_ready(port: int) -> bool:
    line = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
    try:
        line.request("GET", "/readyz")
        return line.getresponse().status == 200
    except OSError:
        return False
    finally:
        line.close()


def family(pid: int) -> list[int]:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(member for child in children for member in family(int(child)))]


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    told = argparse.ArgumentParser(description="CPU-seconds from exec to the first answer, over all processes")
    told.add_argument("--rounds", type=int, default=5)
    told.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    told.add_argument("--kept", type=Path, help="start on this data directory instead of fresh ones")
    asked = told.parse_args()
    costs: list[tuple[float, float]] = []
    for _ in range(asked.rounds):
        with tempfile.TemporaryDirectory(prefix="wharfage-start-") as fresh:
            costs.append(measure(asked.kept or Path(fresh) / "data", asked.workers))
    cpu = statistics.median(cost for cost, _ in costs)
    wall = statistics.median(wall for _, wall in costs)
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    print(f"start on a {'kept' if asked.kept else 'fresh'} directory, {asked.workers} workers, {asked.rounds} rounds:")
    print(f"  {cpu:.2f} CPU-seconds (median; mark {MARK}), {wall:.2f} s wall")
    sys.exit(0 if cpu <= MARK else 1)


if __name__ == "__main__":
    main()
