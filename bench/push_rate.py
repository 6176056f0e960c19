"""How many images a minute a server takes, by its database and how far that is.

    python bench/push_rate.py [--databases sqlite,postgresql] [--delays 0,2.4] [--pushers 32] [--seconds 15]

An image has `--layers` layers of 10 KiB and a config, all of its own, pushed as crane does: HEAD, POST, PATCH and PUT
of each, then the manifest by a tag of its own. For each database and delay a server of its own starts; the delay, in
ms, is a round trip's, added by a line between server and database (SQLite has none). Printed: pushes a minute, p50 and
p99 of a manifest's PUT in ms, CPU seconds of the server and of PostgreSQL per 1,000 pushes, and how busy the machine's
cores were: where they are full, pushers and database share them with the server.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT)]  # run as a script: `support` is in tests

from figures import machine  # noqa: E402 - once the path above is set

from support.connections import Connection  # noqa: E402 - as above
from support.postgresql import Cluster  # noqa: E402 - as above
from support.registry import OCI_MANIFEST, digest_of, image_manifest  # noqa: E402 - as above
from support.server import Server  # noqa: E402 - as above

LAYER = 10 * 1024
REPOSITORIES = 8
WARM_SECONDS = 2.0  # of pushes that are not counted


@dataclass(slots=True)
class Pushed:
    """Manifests, in seconds that their PUTs took; by which second of the run."""

    took: list[float] = field(default_factory=list)
    ends: list[float] = field(default_factory=list)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--databases", default="sqlite,postgresql")
    parser.add_argument("--delays", default="0,2.4", help="ms, of a round trip")
    parser.add_argument("--pushers", type=int, default=32)
    parser.add_argument("--layers", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=15.0)
    asked = parser.parse_args()
    print(f"{machine()}; {asked.pushers} pushers, {asked.layers} layers of 10 KiB\n")
    print("| database | round trip + ms | pushes a minute | PUT p50, ms | p99 | CPU-s per 1,000 | cores busy |")
    print("|---|---|---|---|---|---|---|")
    for database in asked.databases.split(","):
        for delay in [0.0] if database == "sqlite" else [float(each) for each in asked.delays.split(",")]:
            with _server(database, delay / 1000) as server:
                print(_row(database, delay, server, asked.pushers, asked.layers, asked.seconds), flush=True)


def _row(database: str, delay: float, server: Server, pushers: int, layers: int, seconds: float) -> str:
    pushed = [Pushed() for _ in range(pushers)]
    password, begun = server.password(), time.monotonic()
    counted, over = begun + WARM_SECONDS, begun + WARM_SECONDS + seconds
    threads = [
        threading.Thread(target=_push, args=(server, password, number, layers, over, each))
        for number, each in enumerate(pushed)
    ]
    for thread in threads:
        thread.start()
    time.sleep(max(0.0, counted - time.monotonic()))
    busy = _busy()
    time.sleep(max(0.0, over - time.monotonic()))
    busy = _busy() - busy
    for thread in threads:
        thread.join()
    took = sorted(t for each in pushed for t, end in zip(each.took, each.ends, strict=True) if counted <= end < over)
    minute, cores = len(took) * 60 / seconds, os.cpu_count() or 1
    p99 = took[int(len(took) * 0.99)]
    return (
        f"| {database} | {delay:g} | {minute:,.0f} | {statistics.median(took) * 1000:.0f} | {p99 * 1000:.0f}"
        f" | {busy / len(took) * 1000:.0f} | {busy / seconds / cores:.0%} |"
    )


def _push(server: Server, password: str, number: int, layers: int, over: float, pushed: Pushed) -> None:
    kind = {"Content-Type": OCI_MANIFEST}
    repository, image = f"team/app-{number % REPOSITORIES}", 0
    with contextlib.closing(Connection(server, password)) as line:
        while time.monotonic() < over:
            contents = [os.urandom(LAYER) for _ in range(layers)]
            config = b'{"image": "%d of %d"}' % (image, number)
            for content in (*contents, config):
                _push_layer(line, repository, content)
            path = f"/v2/{repository}/manifests/build-{number}-{image}"
            began = time.monotonic()
            line.ask("PUT", path, image_manifest(config, contents), kind).expect(201)
            pushed.ends.append(time.monotonic())
            pushed.took.append(pushed.ends[-1] - began)
            image += 1


def _push_layer(line: Connection, repository: str, content: bytes) -> None:
    digest = digest_of(content)
    kind = {"Content-Type": "application/octet-stream"}
    line.ask("HEAD", f"/v2/{repository}/blobs/{digest}").expect(404)
    begun = line.ask("POST", f"/v2/{repository}/blobs/uploads/").expect(202)
    sent = line.ask("PATCH", begun.headers["Location"], content, kind).expect(202)
    where = sent.headers["Location"]
    line.ask("PUT", f"{where}{'&' if '?' in where else '?'}digest={digest}").expect(201)


def _busy() -> float:
    """CPU seconds that the machine's cores were busy for, since it started."""
    first = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
    user, nice, system, _idle, _wait, irq, soft, *_ = map(int, first)
    return (user + nice + system + irq + soft) / os.sysconf("SC_CLK_TCK")


@contextlib.contextmanager
def _server(database: str, delay: float) -> Iterator[Server]:
    with contextlib.ExitStack() as ends, tempfile.TemporaryDirectory(prefix="wharfage-bench-") as home:
        extra = {"WHARFAGE_LOG_LEVEL": "error"}
        if database == "postgresql":
            cluster = Cluster.start()
            ends.callback(cluster.remove)
            port = ends.enter_context(_delayed(cluster.port, delay)) if delay else cluster.port
            name = cluster.database("pushes").rpartition("/")[2]
            extra["WHARFAGE_METADATA_DATABASE"] = f"postgresql://postgres@127.0.0.1:{port}/{name}"
        server = Server.start(Path(home) / "data", workers=1, extra=extra)
        ends.callback(server.daemon.stop)
        yield server


@contextlib.contextmanager
def _delayed(port: int, seconds: float) -> Iterator[int]:
    """A line to `port` in a thread, which delivers what it takes half of `seconds` later; its own port."""
    loop, ready = asyncio.new_event_loop(), threading.Event()
    found: list[int] = []

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(1 << 16):
                loop.call_later(seconds / 2, writer.write, data)
        loop.call_later(seconds, writer.close)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        back, out = await asyncio.open_connection("127.0.0.1", port)
        await asyncio.gather(carry(reader, out), carry(back, writer))

    async def listen() -> None:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        found.append(server.sockets[0].getsockname()[1])
        ready.set()

    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    asyncio.run_coroutine_threadsafe(listen(), loop)
    ready.wait()
    yield found[0]
    loop.call_soon_threadsafe(loop.stop)
    thread.join()


if __name__ == "__main__":
    main()
