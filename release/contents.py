"""What a release's archives hold, beside what they have to: run by `make dist` over dist/, before anything is tried.

    python release/contents.py FILE…      each an sdist (.tar.gz) or a wheel (.whl)

An sdist holds all that a build needs, and nothing that was lying about in the checkout; a wheel holds every module, the
migrations among them, with the compiled one if its name says that it is for one platform, and without it if not.
Must not build or install anything. Exit status 1 when anything is complained of.
"""

from __future__ import annotations

import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("proxy/", "_speedups/")
BESIDE = ("pyproject.toml", "setup.py", "README.md", "MANIFEST.in", "requirements.lock", "requirements-build.lock")
"""What an sdist has beside the packages: what builds it, and the locks that its users install by."""

_MADE_IN_SDISTS = ("PKG-INFO", "setup.cfg", "_speedups/native.c")  # by setuptools and Cython
_COMPILED = "_speedups/native."


def tracked() -> set[str]:
    """Files of the checkout, by path from the top."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout.decode()
    return {name for name in listed.split("\0") if name}


def complaints(archive: Path, files: Iterable[str]) -> Iterator[str]:
    """What is wrong with an archive of these tracked files."""
    if archive.name.endswith(".tar.gz"):
        return _of_sdist(set(_in_sdist(archive)), set(files))
    with zipfile.ZipFile(archive) as found:
        held = {name for name in found.namelist() if not name.endswith("/")}
    return _of_wheel(held, set(files), is_pure=archive.name.endswith("-none-any.whl"))


def _in_sdist(archive: Path) -> Iterator[str]:
    with tarfile.open(archive) as found:
        for member in found.getmembers():
            if not member.isdir():
                yield str(PurePosixPath(*PurePosixPath(member.name).parts[1:]))


def _of_sdist(held: set[str], files: set[str]) -> Iterator[str]:
    wanted = {name for name in files if name.startswith(PACKAGES) or name in BESIDE}
    for name in sorted(wanted - held):
        yield f"{name} is missing"
    for name in sorted(held - wanted - set(_MADE_IN_SDISTS)):
        if ".egg-info/" not in name:
            yield f"{name} is not of the checkout"


def _of_wheel(held: set[str], files: set[str], *, is_pure: bool) -> Iterator[str]:
    for name in sorted(name for name in files if name.startswith(PACKAGES) and name not in held):
        yield f"{name} is missing"
    compiled = [name for name in held if name.startswith(_COMPILED) and name.endswith((".so", ".pyd"))]
    if is_pure == bool(compiled):
        yield f"{compiled[0]} is in a wheel for any platform" if compiled else "the compiled module is missing"
    for name in sorted(held - files - set(compiled) - set(_MADE_IN_SDISTS)):
        if ".dist-info/" not in name:
            yield f"{name} is not of the checkout"


def main(archives: Sequence[str]) -> int:
    files, wrong = tracked(), 0
    for archive in map(Path, archives):
        for complaint in complaints(archive, files):
            wrong += 1
            print(f"{archive.name}: {complaint}", file=sys.stderr)
    if not wrong:
        print(f"{len(archives)} archives hold what they have to")
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
