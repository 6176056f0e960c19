"""Where our CPU goes under one kind of work: native stacks of all our processes, and Python's of one worker.

    python bench/where.py pull | push | small-push | ranges | manifest | blob | base | fleet [--seconds 10]

The work goes on while perf(1) samples what runs in user and kernel (self time by function), and then py-spy, with
native frames, one worker (self, and with all below). Shares are of the samples; idle is left out. Needs both programs
and the right to trace. Nothing is measured here: compare.py does that, undisturbed.
"""

from __future__ import annotations

import argparse
import contextlib
import shutil
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT)]  # run as a script: `support` is in tests

from answergroups import CONNECTIONS, MANIFEST, OTHER_BYTES, Asked  # noqa: E402 - once the path above is set
from asks import closed_loop  # noqa: E402 - as above
from fleet import AT_ONCE, PullerFleet  # noqa: E402 - as above
from layers import Layers  # noqa: E402 - as above
from load import Content  # noqa: E402 - as above
from peers import DISTRIBUTION, OURS, Peer, distribution, wharfage  # noqa: E402 - as above

from support.programs import run  # noqa: E402 - as above

MIB = 1 << 20
TOLD = 45  # lines of each list
STARTING = (
    "(click/core.py)",
    "(runtime/supervisor.py)",
    "(proxy/cli/main.py)",
    "(proxy/app/processes.py)",
    "(threading.py)",
)
WAITING = ("PyThread_acquire_lock_timed", "Condition.wait ", "_queue_SimpleQueue_get", "epoll_")  # for work
WORK = ("pull", "push", "small-push", "ranges", "manifest", "blob", "base", "fleet")


def work_on(peer: Peer, kind: str) -> Callable[[], object]:
    """Some seconds of it at most, to be done again and again."""
    if kind == "pull":
        side = Layers(peer, Content(256 * MIB), 4)
        side.lay()
        return lambda: side.pull(4, 8)
    if kind in ("push", "small-push"):
        pushed = Layers(peer, Content(64 * MIB), 8) if kind == "push" else Layers(peer, Content(MIB), 100)
        return lambda: pushed.push(4)
    if kind == "ranges":
        ranged = Layers(peer, Content(1024 * MIB), 1)
        ranged.lay()
        return lambda: ranged.pull_ranges(16, 512)
    if kind == "fleet":
        fleet = PullerFleet.of(peer)
        fleet.renew_tokens(20_000)  # more than a worker knows at a time: each comes as a new one
        return lambda: fleet.pull(AT_ONCE)
    asked = Asked.of(peer)
    request = asked.requests[
        {"manifest": MANIFEST + OTHER_BYTES, "blob": "HEAD blob", "base": f"/v2/{OTHER_BYTES}"}[kind]
    ]
    return lambda: closed_loop(asked.peer, request, CONNECTIONS, 4000)


@contextmanager
def going_on(work: Callable[[], object]) -> Iterator[None]:
    over = threading.Event()

    def again() -> None:
        while not over.is_set():
            work()

    going = threading.Thread(target=again)
    going.start()
    try:
        yield
    finally:
        over.set()
        going.join()


def by_function(peer: Peer, seconds: int, home: Path) -> str:
    """perf's own tables, of self time: by process and object, then by symbol."""
    pids = ",".join(str(process.pid) for process in peer.processes())
    kept = home / "perf.data"
    run("perf", "record", "-F", "997", "-p", pids, "-o", kept, "--", "sleep", str(seconds), timeout=seconds + 60)
    lines = []
    for sort in ("comm,dso", "comm,dso,symbol"):
        asked = ["--stdio", "-w", "16,40,48", "--sort", sort, "--percent-limit", "0.6"]
        told = run("perf", "report", "-i", kept, *asked).stdout
        lines += [line.rstrip() for line in told.splitlines() if line and not line.startswith("#")]
    return "\n".join(lines)


def by_stack(peer: Peer, seconds: int, home: Path, of: str) -> str:
    """The busiest of these processes: functions by what is below them, and by themselves."""
    server = peer.as_server()
    there = server.workers() if of == "worker" else [server.metadata_process()]
    busiest = max(there, key=lambda process: sum(process.cpu_times()[:2]))
    kept = home / "stacks"
    asked = ["--native", "--format", "raw", "--rate", "250", "--duration", str(seconds), "--output", str(kept)]
    run("py-spy", "record", "--pid", str(busiest.pid), *asked, timeout=seconds + 60)
    below: Counter[str] = Counter()
    alone: Counter[str] = Counter()
    total = 0
    for line in kept.read_text().splitlines():
        stack, _, count = line.rpartition(" ")
        frames = [_short(frame) for frame in stack.split(";")]
        if any(frame.startswith(WAITING) for frame in frames):
            continue
        total += int(count)
        alone[frames[-1]] += int(count)
        for frame in set(frames):
            if frame.endswith((".py)", ".pyx)")) and not frame.endswith(STARTING):
                below[frame] += int(count)
    lines = []
    for title, found in (("with all below", below), ("alone", alone)):
        lines.append(f"{title}:")
        lines += [f"  {100 * number / max(total, 1):5.1f} %  {name}" for name, number in found.most_common(TOLD)]
    return "\n".join(lines)


def _short(frame: str) -> str:
    """A Python function without its line, so that its lines count together."""
    name, _, place = frame.partition(" (")
    path = place.rstrip(")").partition(":")[0]
    return f"{name} ({'/'.join(Path(path).parts[-2:])})" if path else name


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", choices=WORK)
    parser.add_argument("--seconds", type=int, default=10, help="of each of the two profilers")
    parser.add_argument("--home", help="where the data lie")
    parser.add_argument("--server", choices=(OURS, DISTRIBUTION), default=OURS, help="the peer: perf alone")
    parser.add_argument("--of", choices=("worker", "metadata"), default="worker", help="whose stacks")
    asked = parser.parse_args()
    home = Path(tempfile.mkdtemp(prefix="wharfage-where-", dir=asked.home))
    peer = wharfage(home) if asked.server == OURS else distribution(home)
    try:
        with contextlib.ExitStack() as stack:
            stack.enter_context(going_on(work_on(peer, asked.work)))
            print(by_function(peer, asked.seconds, home))
            if asked.server == OURS:
                print(by_stack(peer, asked.seconds, home, asked.of))
    finally:
        peer.daemon.stop()
        shutil.rmtree(home, ignore_errors=True)


if __name__ == "__main__":
    main()
