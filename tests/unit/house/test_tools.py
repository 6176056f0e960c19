"""What `make dev` and `make test-fast` do."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from support import changed, reload
from support.programs import ROOT


def until(fulfilled: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not fulfilled():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_changed_file_starts_the_command_again_and_the_end_of_the_loop_ends_it(tmp_path: Path) -> None:
    watched, log = tmp_path / "code", tmp_path / "log"
    watched.mkdir()
    (watched / "module.py").write_text("1")
    program = f"import time; print('up', file=open({str(log)!r}, 'a'), flush=True); time.sleep(600)"
    words: list[str | Path] = [
        sys.executable,
        ROOT / "tests/support/reload.py",
        watched,
        "--",
        sys.executable,
        "-c",
        program,
    ]
    loop = subprocess.Popen(words, stderr=subprocess.DEVNULL)
    try:
        until(lambda: log.exists() and log.read_text() == "up\n")
        time.sleep(reload.LOOK_SECONDS)  # the first look is before the start of the command
        (watched / "module.py").write_text("2")
        until(lambda: log.read_text() == "up\nup\n")
    finally:
        loop.terminate()
    assert loop.wait(30) == 0


@pytest.mark.parametrize(
    ("files", "tests"),
    [
        ([], ["tests/unit/house"]),
        (["proxy/blob/reader.py", "README.md"], ["tests/unit/blob", "tests/unit/house"]),
        (["proxy/storage/s3/read.py"], ["tests/contract", "tests/unit/house", "tests/unit/storage"]),
        (["proxy/__main__.py", "proxy/blob/reader.py"], ["tests/unit/blob", "tests/unit/house", "tests/unit/http"]),
        (["_speedups/frames.py"], ["tests/unit/blob", "tests/unit/house", "tests/unit/speedups"]),
        (["tests/unit/oci/test_oci_routes.py", "tests/journey/test_s3.py"],
         ["tests/unit/house", "tests/unit/oci/test_oci_routes.py"]),
    ],
)  # fmt: skip
def test_a_changed_file_stands_for_the_tests_of_its_package(files: list[str], tests: list[str]) -> None:
    assert changed.tests_of(files) == tests


def test_the_pre_commit_hooks_run_what_make_lint_runs() -> None:
    lint = (ROOT / "Makefile").read_text().partition("\nlint:")[2].partition("\n\n")[0]
    of_make = [line.strip().replace("$(BIN)", ".venv/bin") for line in lint.splitlines()[1:]]
    [repository] = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert [hook["entry"] for hook in repository["hooks"]] == of_make
