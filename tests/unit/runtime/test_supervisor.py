"""The supervisor with small roles of its own, each in a Python that does nothing else."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import proxy

ROOT = Path(proxy.__file__).parents[1]

PROGRAM = """
import os, signal, sys, time
from proxy import observe
from proxy.runtime import supervisor
from proxy.runtime.supervisor import ProcessRole, supervise
observe.configure_log("json", "info", sys.stdout)

def say(*words):
    os.write(1, (" ".join(map(str, words)) + "\\n").encode())

def steady(name, linger=0.0):
    def run(lifeline):
        stopped = []
        signal.signal(signal.SIGTERM, lambda *_: stopped.append(1))
        lifeline.signal_ready()
        say("up", name, os.getpid())
        import select
        while not stopped:
            if select.select([lifeline.parent], [], [], 0.02)[0]:
                say("orphaned", name)
                os._exit(71)
        time.sleep(linger)
        say("down", name)
    return run
"""


class Supervised:
    """A supervisor in its own process; `lines` is what it and its children have said."""

    def __init__(self, process: subprocess.Popen[str], said: Path) -> None:
        self.process = process
        self._said = said

    @property
    def lines(self) -> list[str]:
        return self._said.read_text().splitlines()

    def pids(self, name: str) -> list[int]:
        return [int(line.split()[2]) for line in self.lines if line.startswith(f"up {name} ")]

    def until(self, condition: Callable[[], object]) -> None:
        deadline = time.monotonic() + 20
        while not condition():
            assert time.monotonic() < deadline, self.lines
            time.sleep(0.01)


@contextmanager
def supervised(tmp_path: Path, roles: str, drain: float = 5.0) -> Iterator[Supervised]:
    said = tmp_path / "said"
    program = f"{PROGRAM}\nsys.exit(supervise([{roles}], drain_seconds={drain}, ready=lambda: say('ready')))"
    with said.open("w") as out:
        process = subprocess.Popen([sys.executable, "-c", program], stdout=out, stderr=out, text=True, cwd=ROOT)
        try:
            yield Supervised(process, said)
        finally:
            process.kill()
            process.wait()


WORKERS = "ProcessRole('worker0', 'worker', steady('worker0')), ProcessRole('worker1', 'worker', steady('worker1'))"


def test_ready_is_told_once_when_all_roles_are(tmp_path: Path) -> None:
    """Start-up speaks when everything works, and not again after a restart."""
    with supervised(tmp_path, WORKERS) as running:
        running.until(lambda: "ready" in running.lines)
        os.kill(running.pids("worker0")[0], signal.SIGKILL)
        running.until(lambda: len(running.pids("worker0")) == 2)
        running.process.terminate()
        assert running.process.wait(20) == 0
        assert running.lines.count("ready") == 1


def test_a_killed_role_comes_back_and_the_others_stay(tmp_path: Path) -> None:
    """One death restarts one process, with a line that names it."""
    with supervised(tmp_path, WORKERS) as running:
        running.until(lambda: "ready" in running.lines)
        os.kill(running.pids("worker0")[0], signal.SIGKILL)
        running.until(lambda: len(running.pids("worker0")) == 2)
        assert len(running.pids("worker1")) == 1
        assert any("a process died and is started again" in line and '"worker0"' in line for line in running.lines)


def test_a_role_that_keeps_dying_is_started_with_growing_pauses(tmp_path: Path) -> None:
    """After ready, a crash loop is slowed down and never given up."""
    dying = "ProcessRole('dying', 'worker', lambda lifeline: (lifeline.signal_ready(), time.sleep(0.2), os._exit(3)))"
    with supervised(tmp_path, dying) as running:
        running.until(lambda: sum('"pause": 0.4' in line for line in running.lines) == 1)
        pauses = [line.partition('"pause": ')[2].split(",")[0] for line in running.lines if '"pause"' in line]
        assert pauses[:3] == ["0.0", "0.2", "0.4"]
        assert running.process.poll() is None


def test_a_role_that_cannot_start_ends_everything_with_its_status(tmp_path: Path) -> None:
    """A mistake of set-up is told at once, not retried for ever."""
    roles = f"{WORKERS}, ProcessRole('bad', 'worker', lambda lifeline: os._exit(78))"
    with supervised(tmp_path, roles) as running:
        assert running.process.wait(20) == 78
        assert any("could not start" in line and '"bad"' in line for line in running.lines)


def test_sigterm_stops_groups_in_order_and_exits_0(tmp_path: Path) -> None:
    """Workers are gone before what they depend on is asked to stop."""
    roles = (
        "ProcessRole('base', 'metadata', steady('base'), stops=0), "
        "ProcessRole('worker0', 'worker', steady('worker0', 0.3))"
    )
    with supervised(tmp_path, roles) as running:
        running.until(lambda: "ready" in running.lines)
        running.process.terminate()
        assert running.process.wait(20) == 0
        downs = [line for line in running.lines if line.startswith("down")]
        assert downs == ["down worker0", "down base"]


def test_a_second_signal_ends_everything_at_once(tmp_path: Path) -> None:
    """Who asks twice does not wait for the drain."""
    with supervised(tmp_path, "ProcessRole('slow', 'worker', steady('slow', 60))", drain=60) as running:
        running.until(lambda: "ready" in running.lines)
        pid = running.pids("slow")[0]
        running.process.terminate()
        time.sleep(0.2)  # two signals at once may arrive as one
        begun = time.monotonic()
        running.process.terminate()
        assert running.process.wait(20) == 1
        assert time.monotonic() - begun < 5
        assert not exists(pid)


def test_children_exit_when_the_supervisor_is_killed(tmp_path: Path) -> None:
    """No orphan goes on holding the port or the database."""
    with supervised(tmp_path, WORKERS) as running:
        running.until(lambda: "ready" in running.lines)
        pids = [*running.pids("worker0"), *running.pids("worker1")]
        running.process.kill()
        running.until(lambda: not any(exists(pid) for pid in pids))


def exists(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"  # an orphan of a killed parent may wait for an init that does not reap
