"""What a release holds: real archives of the checkout, and each way in which one could be wrong."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterable
from pathlib import Path

import contents
import pytest

from support.checkout import copy_tracked, tracked

FILES = {
    "pyproject.toml",
    "setup.py",
    "proxy/cli/main.py",
    "proxy/py.typed",
    "_speedups/native.pyx",
    "tests/test_it.py",
}
PACKED = {name for name in FILES if not name.startswith("tests/")}
NATIVE = "_speedups/native.cpython-311-x86_64-linux-gnu.so"
MODULES = {"proxy/cli/main.py", "proxy/py.typed", "_speedups/native.pyx", "wharfage-1.dist-info/RECORD"}


def sdist(folder: Path, names: Iterable[str]) -> Path:
    path = folder / "wharfage-1.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for name in names:
            archive.addfile(tarfile.TarInfo(f"wharfage-1/{name}"), io.BytesIO())
    return path


def wheel(folder: Path, names: Iterable[str], tag: str = "cp311-cp311-manylinux_2_34_x86_64") -> Path:
    path = folder / f"wharfage-1-{tag}.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(name, "")
    return path


def test_archives_that_hold_what_they_have_to_are_not_complained_of(tmp_path: Path) -> None:
    made = ("PKG-INFO", "setup.cfg", "wharfage.egg-info/SOURCES.txt", "_speedups/native.c")
    assert list(contents.complaints(sdist(tmp_path, {*PACKED, *made}), FILES)) == []
    assert list(contents.complaints(wheel(tmp_path, {*MODULES, NATIVE}), FILES)) == []
    assert list(contents.complaints(wheel(tmp_path, MODULES, "py3-none-any"), FILES)) == []


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (PACKED - {"_speedups/native.pyx"}, "_speedups/native.pyx is missing"),
        (PACKED - {"setup.py"}, "setup.py is missing"),
        (PACKED | {"data/keys/master.json"}, "data/keys/master.json is not of the checkout"),
        (PACKED | {NATIVE}, f"{NATIVE} is not of the checkout"),
    ],
)
def test_an_sdist_has_all_that_a_build_needs_and_nothing_that_lay_about(
    tmp_path: Path, names: set[str], said: str
) -> None:
    assert list(contents.complaints(sdist(tmp_path, names), FILES)) == [said]


@pytest.mark.parametrize(
    ("names", "tag", "said"),
    [
        (MODULES, "cp311-cp311-linux_x86_64", "the compiled module is missing"),
        (MODULES | {NATIVE}, "py3-none-any", f"{NATIVE} is in a wheel for any platform"),
        (MODULES - {"proxy/cli/main.py"}, "py3-none-any", "proxy/cli/main.py is missing"),
        (MODULES | {"proxy/stray.py"}, "py3-none-any", "proxy/stray.py is not of the checkout"),
    ],
)
def test_a_wheel_has_every_module_and_the_compiled_one_where_its_name_says_so(
    tmp_path: Path, names: set[str], tag: str, said: str
) -> None:
    assert list(contents.complaints(wheel(tmp_path, names, tag), FILES)) == [said]


BUILD = """
import sys
from setuptools import build_meta
getattr(build_meta, sys.argv[1])(sys.argv[2])
"""


@pytest.mark.needs("git")
@pytest.mark.parametrize(
    ("kind", "pure", "name"),
    [("build_sdist", "0", "wharfage-*.tar.gz"), ("build_wheel", "1", "wharfage-*-py3-none-any.whl")],
)
def test_what_is_built_of_the_checkout_holds_what_it_has_to(tmp_path: Path, kind: str, pure: str, name: str) -> None:
    """Sources, headers, migrations and data; without the extension it is a wheel for any platform."""
    pytest.importorskip("Cython", reason="needs Cython")
    source, made = tmp_path / "source", tmp_path / "made"
    copy_tracked(source)
    subprocess.run(
        [sys.executable, "-c", BUILD, kind, str(made)],
        cwd=source,
        env=os.environ | {"WHARFAGE_PURE": pure},
        check=True,
        capture_output=True,
    )
    [archive] = made.glob(name)
    files = set(tracked())
    assert {name for name in files if "/migrations/versions/v" in name}
    assert list(contents.complaints(archive, files)) == []
