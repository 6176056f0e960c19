"""What building does where something is missing: two lacks are excused aloud, everything else is an error."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]

pytest.importorskip("Cython", reason="needs Cython")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Only what the extension is built from: no pyproject, so that no package has to be there."""
    shutil.copy(ROOT / "setup.py", tmp_path)
    shutil.copytree(ROOT / "_speedups", tmp_path / "_speedups", ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    return tmp_path


def build(checkout: Path, compiler: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "setup.py", "build_ext", "--inplace"],
        cwd=checkout,
        env={"CC": compiler, "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
    )


def test_without_a_compiler_the_build_goes_on_and_says_so(checkout: Path) -> None:
    done = build(checkout, "/no/such/compiler")
    assert done.returncode == 0
    assert "no C compiler (/no/such/compiler not found): building WITHOUT _speedups.native" in done.stderr
    assert not list((checkout / "_speedups").glob("*.so"))


def test_without_python_h_the_build_goes_on_and_says_so(checkout: Path) -> None:
    """As with Debian's python3 that lacks python3-dev."""
    program = checkout / "setup.py"
    program.write_text(
        "import sysconfig; _paths = sysconfig.get_paths\n"
        "_none = dict.fromkeys(['include', 'platinclude'], '/no/include')\n"
        "sysconfig.get_paths = lambda *a, **k: _paths(*a, **k) | _none\n"
        + program.read_text().replace("from __future__ import annotations\n", "")
    )
    done = build(checkout, "cc")
    assert done.returncode == 0, done.stderr
    assert "no Python.h in /no/include: building WITHOUT _speedups.native" in done.stderr
    assert not list((checkout / "_speedups").glob("*.so"))


def test_a_compiler_that_fails_fails_the_build(checkout: Path) -> None:
    assert build(checkout, "false").returncode != 0


@pytest.mark.needs("cc")
def test_a_source_that_does_not_compile_fails_the_build(checkout: Path) -> None:
    (checkout / "_speedups" / "sha2.c").write_text("#error broken\n")
    done = build(checkout, "cc")
    assert done.returncode != 0
    assert "broken" in done.stderr
