"""README's table of ECR's operations, from the door's own table and the installed model.

python tests/harness/surface.py            writes it into README.md, between its two marks
"""

from __future__ import annotations

import textwrap
from pathlib import Path

from proxy.awsmodel.models import operations
from proxy.ecr.routes import FIXED, ROUTES

README = Path(__file__).resolve().parents[2] / "README.md"
BEGIN, END = "<!-- operations: python tests/harness/surface.py -->\n", "<!-- /operations -->\n"


def table() -> str:
    """Markdown: every operation of the model in one of three rows."""
    every = sorted(operations("ecr"))
    works = [name for name in every if name in ROUTES and name not in FIXED]
    fixed = [f"{name} ({FIXED[name]})" for name in every if name in FIXED]
    missing = [name for name in every if name not in ROUTES]
    rows = [("works", works), ("a fixed answer", fixed), ("not yet: UnknownOperationException", missing)]
    return "| ECR's operations | | |\n|---|---|---|\n" + "".join(
        f"| {state} | {len(names)} | {', '.join(names)} |\n" for state, names in rows
    )


def filled(readme: str) -> str:
    """`readme` with the table as it should be. ValueError if it has no place for one."""
    before, begin, rest = readme.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(textwrap.shorten(f"README.md lacks the marks {BEGIN!r} and {END!r}", 200))
    return before + begin + table() + end + after


if __name__ == "__main__":
    README.write_text(filled(README.read_text()))
