"""Finding and running programs: client tools, daemons, the project's own commands.

A program that fails says everything it printed. A daemon is started in a session of its own and stopped by its pid,
so that a test never ends what it did not start.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TOOLS = ROOT / ".tools" / "bin"
LOG_TAIL = 6000  # characters of a daemon's log that a failure shows


def find(program: str) -> str | None:
    """The path of a program: what `make tools` installed comes before the machine's own."""
    servers = sorted(map(str, Path("/usr/lib/postgresql").glob("*/bin")), reverse=True)  # where Debian puts postgres
    places = [str(TOOLS), os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin", *servers]
    return shutil.which(program, path=os.pathsep.join(places))


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """This process's environment without the settings that would steer our server or a client, plus `extra`."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("WHARFAGE_", "AWS_", "OCI_", "DOCKER_", "REGISTRY_", "CONTAINER"))
    }
    kept["PYTHONPATH"] = str(ROOT)
    kept["PYTHONWARNINGS"] = "default"
    return kept | dict(extra or {})


def run(
    *command: str | Path,
    stdin: str | bytes | None = None,
    extra: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    timeout: float = 300,
    ok: bool = True,
) -> subprocess.CompletedProcess[str]:
    """Run a program to its end. `ok` says whether it must succeed or must fail; output comes back as text."""
    words = [str(word) for word in command]
    words[0] = find(words[0]) or words[0]
    done = subprocess.run(
        words,
        input=stdin if isinstance(stdin, bytes) else None if stdin is None else stdin.encode(),
        stdin=subprocess.DEVNULL if stdin is None else None,
        capture_output=True,
        env=environment(extra),
        cwd=cwd,
        timeout=timeout,
        check=False,
    )
    text = subprocess.CompletedProcess(
        words, done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace")
    )
    if (done.returncode == 0) is not ok:
        raise AssertionError(
            f"{' '.join(words[:6])} … ended with {done.returncode}\n"
            f"--- stdout\n{text.stdout}\n--- stderr\n{text.stderr}"
        )
    return text


@dataclass(slots=True)
class Daemon:
    """A program that runs until it is stopped; `log` holds all that it printed."""

    process: subprocess.Popen[bytes]
    log: Path

    @classmethod
    def start(cls, command: Sequence[str | Path], log: Path, extra: Mapping[str, str] | None = None) -> Daemon:
        words = [str(word) for word in command]
        words[0] = find(words[0]) or words[0]
        with log.open("ab") as sink:
            process = subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=sink,
                env=environment(extra),
                start_new_session=True,
            )
        return cls(process, log)

    def wait_until(self, ready: Callable[[], bool], seconds: float = 60) -> None:
        """Poll `ready` until it holds; a daemon that has ended, or is late, fails with its log."""
        deadline = time.monotonic() + seconds
        while not ready():
            if self.process.poll() is not None:
                raise AssertionError(f"ended with {self.process.returncode} before it was ready\n{self.tail()}")
            if time.monotonic() > deadline:
                raise AssertionError(f"not ready after {seconds} s\n{self.tail()}")
            time.sleep(0.02)

    def stop(self, seconds: float = 40) -> int:
        """SIGTERM, then SIGKILL of its whole session when it is late. Returns the exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(seconds)
            except subprocess.TimeoutExpired:
                self.kill()
        return self.process.wait()

    def kill(self) -> None:
        """SIGKILL, at once, to all that it started in its session."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def tail(self) -> str:
        return f"--- {self.log}\n{self.log.read_text(errors='replace')[-LOG_TAIL:]}"
