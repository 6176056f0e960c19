"""What readers that take a few KiB a second cost a server: its memory, its threads, and a fast pull beside them.

    python bench/slow_readers.py [--readers 1000,5000] [--mib 256] [--workers 2] [--pulls 8] [--s3] [--no-cache]
                                  [--tls] [--finish]

Starts a server of its own (with --s3 a SeaweedFS behind it, and the local cache unless --no-cache), pushes one layer,
and pulls it fast alone, then beside each number of readers. The marks: 1,000 readers within 500 MB of anonymous and
shared memory, summed over all the server's processes, and 5,000 within 1.5 GB; each is answered 200 and gets right
bytes in every period; with --finish each then takes the whole layer (choose a small one: `--mib 8`). A fast pull beside
1,000 is slowed by no more than a tenth, which only a machine at rest can show; of CPU-s/GB the slow readers' own part
is taken off. TCP is what the kernel says all sockets of the machine hold, both ends. Needs two descriptors a reader.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import platform
import ssl
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT)]  # run as a script: `support` is in tests

from load import Line  # noqa: E402 - once the path above is set

from support.pushes import MIB, memory_of  # noqa: E402 - as above
from support.seaweed import Seaweed  # noqa: E402 - as above
from support.server import START_SECONDS, Server, password_at  # noqa: E402 - as above
from support.slow_readers import Content, SlowReaders, raise_file_limit  # noqa: E402 - as above

MARKS = {1000: 500 * 10**6, 5000: 1500 * 10**6}
TAKEN, EVERY = 2048, 0.5  # bytes that a reader takes at a time, and seconds between: 4 KiB a second
SETTLE = 8.0  # seconds after the last reader has its first byte, before anything is measured
FINISH_SECONDS = 300.0
PATH = "/v2/slow/readers"


@dataclass(frozen=True, slots=True)
class Measured:
    memory: int
    tcp: int
    threads: int
    rate: float  # GB/s of fast pulls, the median
    cpu: float  # CPU seconds per GB of them, the slow readers' taken off
    served: int
    starved: int  # readers that got nothing in all that time
    finished: int  # readers that took the whole, where they were asked to


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--readers", default="1000,5000")
    parser.add_argument("--mib", type=int, default=256)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--pulls", type=int, default=8, help="fast pulls beside each number of readers")
    parser.add_argument("--s3", action="store_true")
    parser.add_argument("--no-cache", action="store_true", help="with --s3: each read is the store's")
    parser.add_argument("--tls", action="store_true")
    parser.add_argument("--finish", action="store_true")
    asked = parser.parse_args()
    raise_file_limit()
    content = Content(asked.mib * MIB)
    with tempfile.TemporaryDirectory(prefix="wharfage-slow-") as folder, _server(Path(folder), asked) as server:
        rows = [(0, _measure(server, content, 0, asked))]
        for count in map(int, asked.readers.split(",")):
            rows.append((count, _measure(server, content, count, asked)))
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, {time.strftime('%Y-%m-%d')}")
    store = ("S3" if asked.no_cache else "S3 and cache") if asked.s3 else "filesystem"
    tls = ", TLS" if asked.tls else ""
    print(f"one layer of {asked.mib} MiB, {store}{tls}, {asked.workers} workers")
    print("| readers | memory | each | TCP | threads | fast pull | CPU-s/GB | served | starved | finished |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    idle, failed = rows[0][1].memory, False
    for count, row in rows:
        each = f"{(row.memory - idle) / count / 1e3:.0f} KB" if count else ""
        mark = f" (mark {MARKS[count] / 1e6:.0f})" if count in MARKS else ""
        failed = failed or row.memory > MARKS.get(count, row.memory) or row.served < count or row.starved > 0
        failed = failed or (asked.finish and row.finished < count)
        print(
            f"| {count} | {row.memory / 1e6:.0f} MB{mark} | {each} | {row.tcp / 1e6:.0f} MB | {row.threads} "
            f"| {row.rate:.2f} GB/s | {row.cpu:.2f} | {row.served} | {row.starved} "
            f"| {row.finished if asked.finish else '–'} |"
        )
    return 1 if failed else 0


@contextlib.contextmanager
def _server(folder: Path, asked: argparse.Namespace) -> Iterator[Server]:
    with contextlib.ExitStack() as stack:
        settings = {"WHARFAGE_LOG_LEVEL": "error"}
        if asked.s3:
            seaweed = Seaweed.start(folder / "seaweed")
            stack.callback(seaweed.stop)
            settings |= seaweed.settings("slow/") | ({"WHARFAGE_CACHE_MIB": "0"} if asked.no_cache else {})
        if not asked.tls:
            server = Server.start(folder / "data", workers=asked.workers, extra=settings)
        else:
            server = Server.begin(folder / "data", workers=asked.workers, extra=settings, flags=["--tls-self-signed"])
        stack.callback(server.stop)
        if asked.tls:
            server.daemon.wait_until(lambda: _is_ready(server), START_SECONDS)
            os.environ["AWS_CA_BUNDLE"] = str(server.data / "tls" / "ca.crt")  # for boto3
        yield server


def _is_ready(server: Server) -> bool:
    try:
        line = Line(server.address, tls=_context(True))
        with contextlib.closing(line):
            return line.ask("GET", "/readyz")[0] == 200
    except OSError:
        return False


def _context(is_tls: bool) -> ssl.SSLContext | None:
    """Of a client that trusts this machine."""
    if not is_tls:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _measure(server: Server, content: Content, count: int, asked: argparse.Namespace) -> Measured:
    tls = _context(asked.tls)
    password = password_at(f"{'https' if asked.tls else 'http'}://{server.address}", *server.credentials())
    headers = _headers(password)
    line = Line(server.address, headers, tls=tls)
    if not count:
        line.ask("POST", f"{PATH}/blobs/uploads/?digest={content.digest}", _Body(content))
    path = f"{PATH}/blobs/{content.digest}"
    line.ask("GET", path)
    line.close()
    readers = SlowReaders(server.address, path, password, content, hashes=asked.finish, tls=tls)
    going = threading.Event()
    failures: list[BaseException] = []

    def read() -> None:
        try:
            for _ in range(0, count, 50):
                readers.open(min(50, count - len(readers.taken())))
                readers.step(TAKEN)
            while not going.is_set():
                readers.step(TAKEN)
                going.wait(EVERY)
        except BaseException as error:
            failures.append(error)

    reading = threading.Thread(target=read)
    reading.start()
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        try:
            pool.submit(
                _pull, server.address, path, headers, content.size, asked.tls
            ).result()  # started, connected once
            deadline = time.monotonic() + 120
            while readers.served() < count and time.monotonic() < deadline and not failures:
                time.sleep(0.2)
            before = readers.taken()
            time.sleep(SETTLE)
            began, cpu = time.monotonic(), _cpu(server)
            time.sleep(5.0)
            slow_rate = (_cpu(server) - cpu) / (time.monotonic() - began)
            memory, tcp = memory_of(server), _tcp()
            threads = sum(process.num_threads() for process in server.processes())
            seconds, costs = [], []
            for _ in range(asked.pulls):
                cpu, began = _cpu(server), time.monotonic()
                seconds.append(pool.submit(_pull, server.address, path, headers, content.size, asked.tls).result())
                costs.append(_cpu(server) - cpu - slow_rate * (time.monotonic() - began))
                memory = max(memory, memory_of(server))
        finally:
            going.set()
            reading.join()
    after, served = readers.taken(), readers.served()
    finished = readers.finish(FINISH_SECONDS) if asked.finish and not failures else 0
    readers.close()
    if failures:
        raise failures[0]
    time.sleep(1.0)
    gb = content.size / 1e9
    starved = sum(now <= then for then, now in zip(before, after, strict=True))
    rate, cost = gb / statistics.median(seconds), statistics.median(costs) / gb
    return Measured(memory, tcp, threads, rate, cost, served, starved, finished)


class _Body:
    def __init__(self, content: Content) -> None:
        self.size = content.size
        self._content = content

    def pieces(self) -> Iterator[memoryview | bytes]:
        yield from self._content.pieces()


def _headers(password: str) -> str:
    import base64

    return f"Authorization: Basic {base64.b64encode(f'AWS:{password}'.encode()).decode()}\r\n"


def _pull(address: str, path: str, headers: str, size: int, is_tls: bool) -> float:
    """Seconds that a client as fast as the kernel takes for the layer."""
    line = Line(address, headers, tls=_context(is_tls))
    began = time.perf_counter()
    for _ in line.drops("GET", path, size):
        pass
    took = time.perf_counter() - began
    line.close()
    return took


def _cpu(server: Server) -> float:
    return sum(times.user + times.system for times in (process.cpu_times() for process in server.processes()))


def _tcp() -> int:
    """Bytes of all TCP sockets' buffers in this network namespace (proc_pid_net(5))."""
    line = next(line for line in Path("/proc/net/sockstat").read_text().splitlines() if line.startswith("TCP:"))
    return int(line.split()[-1]) * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    sys.exit(main())
