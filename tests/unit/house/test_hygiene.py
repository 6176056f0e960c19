"""What every file of ours is held to: a docstring, a telling name, a size, no word of the machine it was written on."""

from __future__ import annotations

import ast
import re
import subprocess
from pathlib import Path

import pytest

import proxy

ROOT = Path(proxy.__file__).resolve().parents[1]
SOURCES = sorted(
    path
    for folder in ("proxy", "_speedups", "tests", "bench", "release")
    for path in (ROOT / folder).rglob("*.py")
    if "__pycache__" not in path.parts
)
OURS = [path for path in SOURCES if path.relative_to(ROOT).parts[0] in ("proxy", "_speedups")]
LONGEST = 420  # lines: past about 400 a file answers two questions
VAGUE = {"manager", "handler", "helper", "helpers", "util", "utils", "common", "misc"}


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_it_opens_with_a_docstring(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text()))


@pytest.mark.parametrize("path", OURS, ids=name_of)
def test_it_answers_one_question(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= LONGEST
    assert not VAGUE & set(path.stem.split("_"))


def test_only_the_settings_read_the_environment() -> None:
    """And the chooser of the twin, which must know before there are settings; `observe` tells prometheus its folder."""
    readers = {
        name_of(path)
        for path in OURS
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and node.attr in ("environ", "environb", "getenv")
    }
    assert readers <= {"proxy/config/loader.py", "proxy/observe/__init__.py", "_speedups/__init__.py"}


def test_nothing_is_left_to_do() -> None:
    marks = re.compile(r"\b(TODO|FIXME|XXX|HACK)\b|NotImplementedError|raise NotImplemented")
    found = [f"{name_of(path)}: {hit[0]}" for path in OURS if (hit := marks.search(path.read_text()))]
    assert not found


@pytest.mark.needs("git")
def test_no_file_names_the_machine_it_was_written_on() -> None:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=False)
    if listed.returncode:
        return  # an unpacked archive has no list to look through
    here = re.compile(rb"(?<![\w.])/(?:work|root|home)/|/tmp/(?!\*)\w")
    named = [
        f"{name}: {hit[0].decode()}"
        for name in listed.stdout.decode().split("\0")
        if name and (ROOT / name).is_file() and name != name_of(Path(__file__))
        for hit in [here.search((ROOT / name).read_bytes())]
        if hit
    ]
    assert not named
