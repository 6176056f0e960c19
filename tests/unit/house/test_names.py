"""One meaning a word: no two public classes share a name."""

from __future__ import annotations

import ast
from collections import defaultdict
from pathlib import Path

import proxy

ROOT = Path(proxy.__file__).resolve().parents[1]


def test_no_two_public_classes_share_a_name() -> None:
    files = defaultdict(list)
    for path in sorted([*(ROOT / "proxy").rglob("*.py"), *(ROOT / "_speedups").rglob("*.py")]):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                files[node.name].append(str(path.relative_to(ROOT)))
    shared = {name: found for name, found in files.items() if len(found) > 1}
    assert not shared, shared
