"""Runs a command and starts it anew when a file under the watched folders changes: `make dev`.

    python tests/support/reload.py FOLDER… -- COMMAND…

Looks at the times of Python files twice a second. A command that ends by itself is started again at the next change, so
that a mistake in the code can be mended. SIGTERM and Ctrl-C end the command, then this.
"""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

LOOK_SECONDS = 0.5
STOP_SECONDS = 5.0  # in which a server drains; then it is told again, which ends it at once


def times(folders: Iterable[str]) -> Mapping[Path, int]:
    found = {}
    for folder in folders:
        for path in Path(folder).rglob("*.py"):
            with contextlib.suppress(FileNotFoundError):  # an editor replaces it just now
                found[path] = path.stat().st_mtime_ns
    return found


def stop(process: subprocess.Popen[bytes]) -> None:
    for _ in range(2):
        if process.poll() is None:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(STOP_SECONDS)
    process.kill()
    process.wait()


def run(folders: Sequence[str], command: Sequence[str]) -> None:
    seen = times(folders)
    process = subprocess.Popen(command)
    try:
        while True:
            time.sleep(LOOK_SECONDS)
            now = times(folders)
            if now != seen:
                changed = sorted(str(path) for path, _ in now.items() ^ seen.items())
                sys.stderr.write(f"--- {changed[0]} changed: starting again\n")
                seen = now
                stop(process)
                process = subprocess.Popen(command)
    finally:
        stop(process)


def main(words: Sequence[str]) -> int:
    if "--" not in words:
        sys.stderr.write(__doc__ or "")
        return 2
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    middle = words.index("--")
    with contextlib.suppress(KeyboardInterrupt):
        run(words[:middle], words[middle + 1 :])
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
