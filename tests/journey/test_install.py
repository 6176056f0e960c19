"""`pip install .` alone gives the whole package, with the compiled module where there is a compiler."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from support.checkout import copy_tracked, tracked

# An editable install beside it would lend it the compiled module.
VERSION = """
import sys
sys.meta_path[:] = [finder for finder in sys.meta_path if "editable" not in getattr(finder, "__module__", "")]
sys.argv = ["wharfage", "version"]
from proxy.cli.main import main
main()
"""


def build(tmp_path: Path, **extra: str) -> tuple[Path, str]:
    """A wheel of the tracked files; its path, and what the build said."""
    source = tmp_path / "source"
    copy_tracked(source)
    done = subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--verbose", "--no-deps", "--wheel-dir", tmp_path / "wheel", source],
        env=os.environ | extra,
        capture_output=True,
        text=True,
        check=False,
    )
    said = done.stdout + done.stderr
    assert done.returncode == 0, said[-3000:]
    [wheel] = (tmp_path / "wheel").glob("wharfage-*.whl")
    return wheel, said


def version(wheel: Path, site: Path) -> str:
    """What the installed command says of itself, with the dependencies of this environment."""
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(site), str(wheel)]
    subprocess.run(install, check=True)
    done = subprocess.run(
        [sys.executable, "-c", VERSION],
        env={"PYTHONPATH": str(site), "PATH": os.defpath},
        cwd=site,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.needs("git", "cc")
def test_with_a_compiler_the_native_twin_is_in_it(tmp_path: Path) -> None:
    wheel, _ = build(tmp_path)
    assert "native bytes" in version(wheel, tmp_path / "site")


@pytest.mark.needs("git")
def test_without_a_compiler_it_installs_and_says_so_aloud(tmp_path: Path) -> None:
    wheel, said = build(tmp_path, CC="no-such-compiler")
    assert "WITHOUT _speedups.native" in said
    assert "pure bytes" in version(wheel, tmp_path / "site")


@pytest.mark.needs("git", "cc")
def test_any_other_failure_of_the_build_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="error"):
        build(tmp_path, CFLAGS="-this-is-no-flag-of-a-compiler")


@pytest.mark.needs("git")
def test_every_module_of_the_checkout_is_in_the_wheel(tmp_path: Path) -> None:
    wheel, _ = build(tmp_path, CC="no-such-compiler")
    with zipfile.ZipFile(wheel) as archive:
        packed = {re.sub(r"^[^/]+\.data/purelib/", "", name) for name in archive.namelist()}
    ours = {name for name in tracked() if name.startswith(("proxy/", "_speedups/"))}
    assert {name for name in ours if name.endswith((".py", ".typed"))} <= packed
