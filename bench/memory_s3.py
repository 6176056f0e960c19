"""The memory of a server on S3 while many large layers are pushed at once, and whether all of them move.

    python bench/memory_s3.py [--streams 64] [--mib 256] [--workers 2] [--buffers-mib N]

Starts a SeaweedFS and a server of its own, pushes layers by POST, PATCH and PUT, and prints a table. The mark: 64
pushes of 256 MiB within 500 MB of anonymous and shared memory, summed over all the server's processes. They need
streams x mib of disk under the temporary directory.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from support.pushes import MIB, push_many
from support.seaweed import Seaweed
from support.server import Server

MARK = 500 * 10**6


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, default=64)
    parser.add_argument("--mib", type=int, default=256)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--buffers-mib", type=int, help="[storage] buffers_mib, instead of its default")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="wharfage-memory-") as folder:
        seaweed = Seaweed.start(Path(folder) / "seaweed")
        settings = seaweed.settings("memory/") | {"WHARFAGE_LOG_LEVEL": "error"}
        if asked.buffers_mib:
            settings["WHARFAGE_STORAGE_BUFFERS_MIB"] = str(asked.buffers_mib)
        server = Server.start(Path(folder) / "data", workers=asked.workers, extra=settings)
        try:
            password = server.password()
            asyncio.run(push_many(server, password, streams=2 * asked.workers, mib=16))  # what is loaded once
            run = asyncio.run(push_many(server, password, streams=asked.streams, mib=asked.mib))
        finally:
            server.stop()
            seaweed.stop()
    ended = sorted(push.seconds for push in run.pushes)
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, {time.strftime('%Y-%m-%d')}")
    print("| | |\n|---|---|")
    print(f"| pushes | {asked.streams} of {asked.mib} MiB, {asked.workers} workers |")
    print(f"| memory idle, peak | {run.idle / 1e6:.0f} MB, {run.peak / 1e6:.0f} MB (mark {MARK / 1e6:.0f}) |")
    print(f"| first, median, last push done | {ended[0]:.1f}, {ended[len(ended) // 2]:.1f}, {ended[-1]:.1f} s |")
    print(f"| longest standstill of one stream | {max(push.standstill for push in run.pushes):.1f} s |")
    print(f"| together | {asked.streams * asked.mib * MIB / run.seconds / 1e6:.0f} MB/s |")
    return 0 if run.peak <= MARK else 1


if __name__ == "__main__":
    sys.exit(main())
