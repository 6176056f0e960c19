"""Which twin runs, and what is said about it."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import _speedups

ROOT = Path(__file__).parents[3]
# An editable install finds our modules wherever they are asked for: the folder alone is to be asked here.
ASK = """
import sys
sys.meta_path[:] = [finder for finder in sys.meta_path if "editable" not in getattr(finder, "__module__", "")]
import _speedups
print(_speedups.implementation, "|", _speedups.reason)
"""


def ask(folder: Path, pure: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", ASK],
        cwd=folder,
        env={"PYTHONPATH": str(folder), "WHARFAGE_PURE": pure},
        capture_output=True,
        text=True,
    )


@pytest.fixture
def without_native(tmp_path: Path) -> Path:
    """The package as a machine without a compiler has it."""
    shutil.copytree(
        ROOT / "_speedups", tmp_path / "_speedups", ignore=shutil.ignore_patterns("*.so", "*.c", "__pycache__")
    )
    return tmp_path


def test_the_compiled_twin_runs_where_it_was_built() -> None:
    pytest.importorskip("_speedups.native", reason="needs _speedups.native", exc_type=ModuleNotFoundError)
    assert ask(ROOT).stdout.split() == ["native", "|"]


def test_pure_is_chosen_on_purpose() -> None:
    assert ask(ROOT, pure="1").stdout.strip() == "pure | WHARFAGE_PURE=1"


def test_pure_runs_where_nothing_was_built_and_says_why(without_native: Path) -> None:
    assert ask(without_native).stdout.startswith("pure | _speedups.native was not built")


def test_a_broken_binary_is_an_error(without_native: Path) -> None:
    (without_native / "_speedups" / "native.abi3.so").write_bytes(b"not a shared object")
    done = ask(without_native)
    assert done.returncode
    assert "ImportError" in done.stderr


def test_a_binary_that_misses_a_module_of_its_own_is_an_error(without_native: Path) -> None:
    """Only the absence of `_speedups.native` itself means that it was not built."""
    (without_native / "_speedups" / "native.py").write_text("import module_that_is_not_there\n")
    done = ask(without_native)
    assert done.returncode
    assert "module_that_is_not_there" in done.stderr


def test_speed_is_measured_in_megabytes_a_second() -> None:
    assert _speedups.measure(0.005) > 0.1
