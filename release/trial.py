"""A wheel as its user meets it: installed with the locked dependencies into an empty venv, it serves and takes images.

    python release/trial.py requirements.lock WHEEL…

Run by `make dist`. Images are pushed and pulled by `wharfage rig` of the same wheel, which checks every digest. Nothing
of the checkout is in reach: the working directory is empty, and no variable of Python or of Wharfage is passed on.
"""

from __future__ import annotations

import http.client
import os
import socket
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Sequence
from pathlib import Path

READY_SECONDS = 60.0
STOP_SECONDS = 60.0
PUSH = ("--layers", "3", "--size", "1MiB", "--count", "4")
PULL = ("--images", "4", "--count", "4", "--verify")


class TrialFailed(Exception):
    """The text says which step failed, and what was said."""


def run_in(folder: Path, *command: str | Path, given: str = "") -> str:
    """Standard output of a command that ends well."""
    done = subprocess.run(
        [str(word) for word in command], cwd=folder, env=_environment(), input=given, capture_output=True, text=True
    )
    if done.returncode:
        raise TrialFailed(f"{' '.join(map(str, command[:4]))} …: status {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "WHARFAGE", "AWS"))}


def tried(wheel: Path, lock: Path, folder: Path) -> str:
    """What the installed command says of itself, once it has served. TrialFailed."""
    venv.create(folder / "venv", with_pip=True)
    programs = folder / "venv" / "bin"
    run_in(folder, programs / "pip", "install", "--quiet", "--require-hashes", "-r", lock)
    run_in(folder, programs / "pip", "install", "--quiet", "--no-deps", "--no-index", wheel)
    wharfage, data = programs / "wharfage", folder / "data"
    version = run_in(folder, wharfage, "version").strip()
    wanted = "pure bytes" if wheel.name.endswith("-none-any.whl") else "native bytes"
    if wanted not in version:
        raise TrialFailed(f"{wheel.name} should have {wanted}: {version}")
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    with (folder / "log").open("w") as log:
        command = [str(wharfage), "serve", "--data", str(data), "--listen", address, "--workers", "1"]
        server = subprocess.Popen(command, cwd=folder, env=_environment(), stdout=log, stderr=subprocess.STDOUT)
        try:
            _wait_until_ready(server, address)
            password = run_in(folder, wharfage, "token", "--data", data)
            login = ("--username", "AWS", "--password-stdin", "--quiet")
            for verb, load in (("push", PUSH), ("pull", PULL)):
                run_in(folder, wharfage, "rig", verb, address, *load, *login, given=password)
            server.terminate()
            status = server.wait(STOP_SECONDS)
        except (TrialFailed, subprocess.TimeoutExpired) as error:
            raise TrialFailed(f"{error}\n{(folder / 'log').read_text()[-3000:]}") from error
        finally:
            server.kill()
            server.wait()
    if status:
        raise TrialFailed(f"the server ended with status {status}\n{(folder / 'log').read_text()[-3000:]}")
    return version


def _wait_until_ready(server: subprocess.Popen[bytes], address: str) -> None:
    deadline = time.monotonic() + READY_SECONDS
    while time.monotonic() < deadline and server.poll() is None:
        line = http.client.HTTPConnection(address, timeout=5)
        try:
            line.request("GET", "/readyz")
            if line.getresponse().status == 200:
                return
        except OSError:
            pass
        finally:
            line.close()
        time.sleep(0.1)
    raise TrialFailed("the server did not become ready")


def main(lock: str, *wheels: str) -> int:
    for wheel in wheels:
        with tempfile.TemporaryDirectory(prefix="wharfage-") as folder:
            try:
                version = tried(Path(wheel).resolve(), Path(lock).resolve(), Path(folder))
            except TrialFailed as failed:
                print(f"{wheel}: {failed}", file=sys.stderr)
                return 1
        print(f"{Path(wheel).name} served, took images and gave them back: {version}")
    return 0


def _words(words: Sequence[str]) -> int:
    return main(*words) if len(words) > 1 else 2


if __name__ == "__main__":
    raise SystemExit(_words(sys.argv[1:]))
