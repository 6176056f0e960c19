"""Is a registry of ECR's own size as quick as a small one: a million images in 100,000 repositories beside 200.

    python bench/registry_size.py [--database sqlite|postgresql] [--shape both|wide|deep] [--rounds 40] [--small]

Fills (`fill`) two databases, the full one at the migration before the newest; migrates that while a reader goes on
(its seconds, and the longest that the reader waited); serves both and asks the same of each by turns, through the real
doors (`walks`): ECR operations by name, the first, a middle and the last page of each list (50 a page), a push and a
pull through docker's door, all rows in the kernel's memory. Both lie in one PostgreSQL, with `BUFFERS` of
shared_buffers, and what a migration left dead is vacuumed first, as autovacuum does within minutes.

Printed are p50 and p99 of each, the full registry's ratio to the small one's, and the bounds that the answers set to it
(`ratios`); the same of `docker push` and `docker pull` by a real docker, where one is at hand; then what the server's
memory grows by while `aws ecr describe-images` walks the large repository, and how long writes wait while that is
deleted. Marks: every p50 and p99 at most 1.2 times the small registry's. A mark is held or missed where the bounds say
so; of how many questions they say neither is told. Exit status 1 where one is missed. Reads are asked four times as
often as writes, most of which take longer. `--small` is the whole of it with some hundred rows.
"""

from __future__ import annotations

import argparse
import random
import shutil
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT)]  # run as a script: `support` is in tests

import psutil  # noqa: E402 - once the path above is set
import psycopg  # noqa: E402 - as above
from by_docker import by_docker  # noqa: E402 - as above
from figures import machine  # noqa: E402 - as above
from fill import ACCOUNT, BEFORE, DEEP, SMALL, Size, fill, tag_of  # noqa: E402 - as above
from questions import reads, writes  # noqa: E402 - as above
from ratios import Ratio  # noqa: E402 - as above
from sqlalchemy import text  # noqa: E402 - as above
from walks import PARTS, Figures, Side, measure, table  # noqa: E402 - as above

from proxy.jobs.sweep import ROWS  # noqa: E402 - as above
from proxy.metadata.db import schema  # noqa: E402 - as above
from proxy.metadata.db.postgresql import PostgresqlDatabase, reading_engine  # noqa: E402 - as above
from proxy.metadata.db.sqlite import SqliteDatabase, sqlite_engine  # noqa: E402 - as above
from proxy.metadata.db.transaction import Registry, Transaction  # noqa: E402 - as above
from proxy.metadata.operations.removal import remove_deleted  # noqa: E402 - as above
from proxy.metadata.operations.repositories import delete_repository  # noqa: E402 - as above
from support.aws_command import Aws  # noqa: E402 - as above
from support.postgresql import Cluster  # noqa: E402 - as above
from support.programs import find  # noqa: E402 - as above
from support.programs import run as run_command  # noqa: E402 - as above
from support.server import Server  # noqa: E402 - as above

MARK = 1.2
SHAPES = {
    "both": Size(100_000, 10, 100_000, 1000),
    "wide": Size(100_000, 10, 200, 1000),
    "deep": Size(200, 10, 100_000, 1000),
}
BUFFERS = "1GB"
"""PostgreSQL's default is 128 MB, and its manual advises a quarter of the memory: a server of 4 GB. It holds what
is asked for again and again, and not all rows of the full registry."""
READ_BLOCKS, WRITE_BLOCKS = 4, 1
IN_A_ROW = 5  # with 40 rounds: 1,600 answers to a question, 400 to one that writes
DOCKER_ROUNDS = 20
FEW = Size(300, 2, 400, 60)
FEWER = Size(200, 2, 200, 60)


@dataclass(frozen=True, slots=True)
class Migrated:
    """Seconds: the migration, and the longest that one read of a reader took meanwhile."""

    seconds: float
    stall: float
    reads: int


def migrate(database: Path | str) -> Migrated:
    reading, ended = threading.Event(), threading.Event()
    waits: list[float] = []

    def read() -> None:
        engine = reading_engine(database, "reader") if isinstance(database, str) else sqlite_engine(database)
        with engine.connect() as connection:
            while not ended.is_set():
                began = time.perf_counter()
                with connection.begin():
                    connection.execute(_PULL, {"account": ACCOUNT, "name": DEEP, "tag": tag_of(0)}).one()
                waits.append(time.perf_counter() - began)
                reading.set()
                time.sleep(0.005)  # a reader among others, not a load
        engine.dispose()

    reader = threading.Thread(target=read)
    reader.start()
    try:
        reading.wait(60)
        waits.clear()
        began = time.perf_counter()
        (PostgresqlDatabase(database) if isinstance(database, str) else SqliteDatabase(database)).close()
        return Migrated(time.perf_counter() - began, max(waits, default=0.0), len(waits))
    finally:
        ended.set()
        reader.join()


def vacuum(url: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("VACUUM ANALYZE")


_PULL = text(
    "SELECT i.digest, b.content FROM repositories r JOIN tags t ON t.repository_id = r.repository_id"
    " JOIN images i ON i.image_id = t.image_id JOIN manifest_bytes b ON b.digest = i.digest"
    " WHERE r.account = :account AND r.name = :name AND t.name = :tag"
)
"""What a pull asks, in any release."""


@contextmanager
def databases(
    kind: str, home: Path, sizes: dict[str, Size], quiet: bool
) -> Iterator[tuple[dict[str, tuple[Path, str]], Path]]:
    """Each registry's data directory and the URL of its database, empty for the file in it; and where all rows lie."""
    with ExitStack() as stack:
        cluster = None
        if kind == "postgresql":
            cluster = Cluster.start(shared_buffers=BUFFERS)
            stack.callback(cluster.remove)
        made = {}
        for name, size in sizes.items():
            data = home / name
            data.mkdir(mode=0o700)
            url = cluster.database(name) if cluster else ""
            began = time.perf_counter()
            fill(url or data / "metadata.db", size, revision=BEFORE, quiet=quiet)
            print(f"{name}: {size.images:,} images written in {time.perf_counter() - began:.0f} s", file=sys.stderr)
            made[name] = data, url
        yield made, cluster.folder if cluster else home


@contextmanager
def serving(data: Path, url: str) -> Iterator[Server]:
    """What rows are refused without, a key and a store, is made for them."""
    run_command(sys.executable, "-m", "proxy", "key", "new", "--save", "--data", data)
    (data / "objects").mkdir(mode=0o700)
    (data / "objects" / "wharfage-store").write_text("0" * 32 + "\n")
    quotas = {f"WHARFAGE_QUOTAS_{what}": "1000000" for what in ("REPOSITORIES", "IMAGES")}  # it is full to ECR's own
    extra = {"WHARFAGE_LOG_LEVEL": "error", "WHARFAGE_REGISTRY_ACCOUNT": ACCOUNT, **quotas}
    server = Server.start(data, workers=1, extra=extra | ({"WHARFAGE_METADATA_DATABASE": url} if url else {}))
    try:
        yield server
    finally:
        server.daemon.stop()


def read_through(folder: Path) -> None:
    """So that the kernel has it all in memory: it is the registry's size that is measured, not a disk, and a machine
    that takes idle pages back would have read the small registry's more often."""
    buffer = bytearray(1 << 20)
    for path in folder.rglob("*"):
        if path.is_file():
            with suppress(FileNotFoundError), path.open("rb", buffering=0) as file:
                while file.readinto(buffer):
                    pass


def walked(server: Server, folder: Path, images: int, page: int) -> tuple[float, int]:
    """(seconds, bytes by which the server grew at most) of `aws ecr describe-images` over the large repository."""
    before, most, ended = resident(server), 0, threading.Event()

    def watch() -> None:
        nonlocal most
        while not ended.wait(0.05):
            most = max(most, resident(server))

    watcher = threading.Thread(target=watch)
    watcher.start()
    began = time.perf_counter()
    try:
        aws = Aws(server.url, folder, server.credentials())
        asked = f"--repository-name {DEEP} --page-size {page} --query length(imageDetails) --output text"
        counted = aws.text(f"aws ecr describe-images {asked}")
    finally:
        ended.set()
        watcher.join()
    found = sum(map(int, counted.split()))
    if found != images:
        raise RuntimeError(f"{found} images came, not {images}")
    return time.perf_counter() - began, max(most - before, 0)


@dataclass(frozen=True, slots=True)
class Removed:
    """Seconds: DeleteRepository itself, and the longest of the transactions that then removed its rows."""

    seconds: float
    longest: float
    rows: int
    calls: int


def remove(database: Path | str) -> Removed:
    """Delete the large repository, past the service, as that and upkeep do it."""
    opened = PostgresqlDatabase(database) if isinstance(database, str) else SqliteDatabase(database)

    def timed(run: Callable[[Transaction], Any]) -> tuple[float, Any]:
        began = time.perf_counter()
        answer = opened.write(lambda connection: run(Transaction(connection, time.time(), Registry(account=ACCOUNT))))
        return time.perf_counter() - began, answer

    asked = {"repositoryName": DEEP, "force": True}
    seconds, _ = timed(lambda tx: delete_repository(tx, ACCOUNT, asked))
    calls: list[tuple[float, int]] = []
    while not calls or calls[-1][1]:
        calls.append(timed(lambda tx: remove_deleted(tx, ROWS)))
    opened.close()
    return Removed(seconds, max(took for took, _ in calls), sum(gone for _, gone in calls), len(calls))


def verdict(figures: Sequence[Figures]) -> str:
    """Of how many questions the mark is shown to be held or missed, and those whose ratio by itself is over it."""
    lines = ["", f"Answers of each registry: {' or '.join(map(str, sorted({len(each.small) for each in figures})))}."]
    for place, part in enumerate(PARTS):
        shown = [(figure, figure.shown[place]) for figure in figures]
        counted = Counter(ratio.shown(MARK) for _, ratio in shown)
        middle = statistics.median(ratio.value for _, ratio in shown)
        told = ", ".join(f"{said} of {count}" for said, count in counted.most_common())
        lines.append(f"p{part * 100:.0f} of {len(shown)} questions: {told}; the median of the ratios is {middle:.2f}.")
        for figure, ratio in shown:
            if ratio.missed(MARK) or ratio.value > MARK:
                bounds = f"{ratio.value:.2f} ({ratio.low:.2f}–{ratio.high:.2f})"
                lines.append(f"- {figure.name}, {figure.page or 'one answer'}: {bounds}, {ratio.shown(MARK)}")
    return "\n".join([*lines, ""])


def resident(server: Server) -> int:
    return sum(process.memory_info().rss for process in server.processes() if psutil.pid_exists(process.pid))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--database", choices=("sqlite", "postgresql"), default="sqlite")
    parser.add_argument("--shape", choices=tuple(SHAPES), default="both")
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--small", action="store_true", help="some hundred rows: whether the bench works")
    asked = parser.parse_args()
    full, small = (FEW, FEWER) if asked.small else (SHAPES[asked.shape], SMALL)
    home = Path(tempfile.mkdtemp(prefix="wharfage-bench-"))
    try:
        figures, by = run(asked.database, home, {"small": small, "full": full}, asked.rounds)
        shown = [*by.values(), *(each for figure in figures for each in figure.shown)]
    finally:
        shutil.rmtree(home, ignore_errors=True)
    slow = any(each.missed(MARK) for each in shown)
    return 1 if slow and not asked.small else 0


def run(
    kind: str,
    home: Path,
    sizes: dict[str, Size],
    rounds: int,
    in_a_row: int = IN_A_ROW,
    blocks: tuple[int, int] = (READ_BLOCKS, WRITE_BLOCKS),
    docker: int = DOCKER_ROUNDS,
) -> tuple[list[Figures], dict[str, Ratio]]:
    """All of it, and by docker; what was found is printed."""
    with ExitStack() as rows:
        made, lie = rows.enter_context(databases(kind, home, sizes, quiet=not sys.stderr.isatty()))
        data, url = made["full"]
        moved = migrate(url or data / "metadata.db")
        if url:
            vacuum(url)
        with ExitStack() as stack:
            servers = {name: stack.enter_context(serving(*where)) for name, where in made.items()}
            small, full = (Side(name, servers[name], sizes[name], random.Random(1)) for name in ("small", "full"))
            figures = [
                each
                for cases, often in zip((reads, writes), blocks, strict=True)
                for each in measure(small, full, list(cases()), rounds, often, in_a_row, lambda: read_through(lie))
            ]
            pushed = by_docker(servers, docker) if find("dockerd") else {}
            seconds, grown = walked(servers["full"], home, sizes["full"].deep, min(1000, sizes["full"].deep // 4))
        gone = remove(url or data / "metadata.db")
    print(machine() + (f"; shared_buffers = {BUFFERS}" if url else ""))
    print(f"`python bench/registry_size.py {' '.join(sys.argv[1:])}`".replace(" `", "`"))
    print(table(figures, MARK))
    print(verdict(figures))
    print(
        f"{kind}: migration {BEFORE} to {schema.HEAD} of"
        f" {sizes['full'].images:,} images in {moved.seconds:.1f} s; of {moved.reads} reads meanwhile the longest took"
        f" {moved.stall * 1000:.0f} ms"
    )
    for does, of in pushed.items():
        print(
            f"docker {does} of an image of 1 MiB, {docker} of each: {of.small * 1000:.0f} ms and"
            f" {of.full * 1000:.0f} in the full one, {of.value:.2f} ({of.low:.2f}–{of.high:.2f}), {of.shown(MARK)}"
        )
    print(f"aws ecr describe-images of {sizes['full'].deep:,} images: {seconds:.1f} s, server +{grown / 1e6:.0f} MB")
    print(
        f"DeleteRepository of them: {gone.seconds * 1000:.0f} ms; {gone.rows:,} rows in {gone.calls} transactions, of"
        f" which the longest took {gone.longest * 1000:.0f} ms"
    )
    return figures, pushed


if __name__ == "__main__":
    sys.exit(main())
