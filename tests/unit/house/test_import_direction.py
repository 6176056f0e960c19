"""Imports go down the storeys that `proxy/__init__.py` draws, and nowhere else; the drawing itself is what is read."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import proxy

ROOT = Path(proxy.__file__).resolve().parents[1]
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for package in ("proxy", "_speedups")
    for path in sorted((ROOT / package).rglob("*.py"))
}
# Doors and journeys ask metadata through its contract; `server` wires the rest.
CONTRACT_ONLY = {"oci", "ecr", "registry", "upkeep"}

CIRCLE = set[str]()
"""Modules that import each other: none."""


def storeys() -> dict[str, int]:
    """Room to storey, the street's being 0. Rooms joined by `|` share one."""
    drawing = "".join(line for line in (proxy.__doc__ or "").splitlines() if line.startswith("    "))
    return {room.strip(): number for number, floor in enumerate(drawing.split(">")) for room in floor.split("|")}


def room_of(module: str) -> str:
    parts = module.split(".")
    return parts[0] if parts[0] == "_speedups" else parts[1] if len(parts) > 1 else "proxy"


def imported(path: Path) -> Iterator[str]:
    """Every module of ours that a file imports, also inside functions."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] in ("proxy", "_speedups"))
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are written in full"
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                if node.module and node.module.split(".")[0] in ("proxy", "_speedups"):
                    yield full if full in MODULES else node.module


def test_every_room_is_in_the_drawing() -> None:
    assert {room_of(module) for module in MODULES} - {"proxy"} == set(storeys())


@pytest.mark.parametrize("module", MODULES)
def test_imports_go_down_only(module: str) -> None:
    order = storeys()
    here = room_of(module)
    for other in imported(MODULES[module]):
        there = room_of(other)
        if there != here:
            assert there in order, f"{module} imports {other}"
            assert order[there] > order.get(here, -1), f"{module} ({here}) imports {other}, which is not below it"


def test_no_modules_import_each_other_in_a_circle() -> None:
    edges = {module: {other for other in imported(path) if other in MODULES} for module, path in MODULES.items()}
    reached: dict[str, set[str]] = {}
    for module in MODULES:
        found, todo = set[str](), [module]
        while todo:
            new = edges[todo.pop()] - found
            found |= new
            todo += new
        reached[module] = found
    circles = {module for module, found in reached.items() if module in found}
    # `_speedups` imports its twins, which name its Protocols for the type checker only.
    assert {module for module in circles if room_of(module) != "_speedups"} == CIRCLE


def test_only_the_rooms_of_bytes_import_the_speedups() -> None:
    users = {module for module, path in MODULES.items() for other in imported(path) if room_of(other) == "_speedups"}
    assert {room_of(module) for module in users} == {"blob", "_speedups"}


def test_doors_and_journeys_know_only_the_contract_of_metadata() -> None:
    known = {
        other
        for module, path in MODULES.items()
        if room_of(module) in CONTRACT_ONLY
        for other in imported(path)
        if room_of(other) == "metadata"
    }
    assert known == {"proxy.metadata.contract"}


def test_the_model_is_pure() -> None:
    """No I/O, no clock, no randomness: nothing but the language and its data types."""
    allowed = {"__future__", "collections", "dataclasses", "datetime", "enum", "functools", "json", "math", "re"}
    allowed |= {"typing", "proxy"}
    for module, path in MODULES.items():
        if room_of(module) != "model":
            continue
        text = path.read_text()
        assert [call for call in (".now(", ".today(") if call in text] == [], f"{module} reads a clock"
        for node in ast.walk(ast.parse(text)):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.module:
                names = [node.module]
            assert {name.split(".")[0] for name in names} <= allowed, f"{module} imports {names}"


def test_every_module_imports_alone() -> None:
    """Each in a fresh child in which nothing of ours is loaded yet, so that no order of imports is needed."""
    script = """
import os, sys, traceback
import aiohttp, alembic, botocore.session, click, cryptography, prometheus_client, sqlalchemy, structlog, tqdm, uvloop
failed = []
for module in sys.argv[1:]:
    child = os.fork()
    if child == 0:
        try:
            __import__(module)
        except BaseException:
            print(module, file=sys.stderr)
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    if os.waitpid(child, 0)[1]:
        failed.append(module)
sys.exit(", ".join(failed) or 0)
"""
    alone = [module for module in MODULES if module != "proxy.__main__"]  # runs the command when imported
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script, *alone],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
