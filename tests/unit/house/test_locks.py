"""The locks that the image and the systemd set-up install by: exact, hashed, and of what pyproject.toml asks for."""

from __future__ import annotations

import re
import tomllib
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[3]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())
ASKED = {
    "requirements.lock": PROJECT["project"]["dependencies"],
    "requirements-build.lock": PROJECT["build-system"]["requires"],
}
_PINNED = re.compile(r"([a-z0-9-]+)==([^\s;]+)( ; [^\\]+)?( \\\n    --hash=sha256:[0-9a-f]{64})+")


def locked(lock: str) -> dict[str, set[Version]]:
    """Versions by name: several where platforms or Pythons need different ones."""
    found: dict[str, set[Version]] = {}
    for match in _PINNED.finditer((ROOT / lock).read_text()):
        found.setdefault(match[1], set()).add(Version(match[2]))
    return found


@pytest.mark.parametrize("lock", ASKED)
def test_a_lock_satisfies_what_the_project_asks_for(lock: str) -> None:
    """A changed range needs `make lock`."""
    versions = locked(lock)
    for text in ASKED[lock]:
        wanted = Requirement(text)
        pinned = versions.get(canonicalize_name(wanted.name), set())
        assert pinned, f"{text}: run `make lock`"
        assert all(version in wanted.specifier for version in pinned), f"{text}: run `make lock`"


@pytest.mark.parametrize("lock", ASKED)
def test_a_lock_is_pins_with_hashes_and_nothing_else(lock: str) -> None:
    """No index is named, no option set, no package taken from anywhere but by its hash."""
    left = _PINNED.sub("", (ROOT / lock).read_text())
    assert [line for line in left.splitlines() if line.strip() and not line.lstrip().startswith("#")] == []
    assert "://" not in left


def test_what_a_locked_package_needs_is_locked_too() -> None:
    """Asked of those that are installed here in the version of the lock; pip refuses the rest only when it installs."""
    versions = locked("requirements.lock")
    for name, pinned in versions.items():
        try:
            installed = metadata.distribution(name)
        except metadata.PackageNotFoundError:  # for another platform
            continue
        if Version(installed.version) not in pinned:
            continue
        for needed in map(Requirement, installed.requires or ()):
            if needed.marker is None or needed.marker.evaluate({"extra": ""}):
                found = versions.get(canonicalize_name(needed.name), set())
                assert found, f"{name} needs {needed}"
                assert all(version in needed.specifier for version in found), f"{name} needs {needed}"


@pytest.mark.parametrize("file", ["deploy/Dockerfile", "docs/install.md"])
def test_both_are_installed_by_their_hashes(file: str) -> None:
    """And the package itself without asking an index for anything more."""
    text = re.sub(r"\s*\\\n\s*", " ", (ROOT / file).read_text())
    assert re.search(r"pip install .*--require-hashes .*-r requirements\.lock -r requirements-build\.lock", text)
    assert re.search(r"pip install .*--no-deps --no-build-isolation \.", text)
    assert not re.search(r"pip install (?!.*(--no-deps|--require-hashes))", text)
