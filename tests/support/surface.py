"""The tables of docs/ that are made from the code: operations of each protocol, and every setting.

python tests/support/surface.py            (make docs) writes them into their pages, each between its two marks
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from proxy.awsmodel.models import operations
from proxy.config.setting import SettingTables
from proxy.config.settings import SECTIONS
from proxy.ecr import secretsmanager, sts
from proxy.ecr.iam.actions import ACTIONS
from proxy.ecr.routes import FIXED, ROUTES
from proxy.oci import routes as oci

DOCS = Path(__file__).resolve().parents[2] / "docs"
ALIASES = {("keys", "access_key_id"): "ACCESS_KEY_ID", ("keys", "secret_access_key"): "SECRET_ACCESS_KEY"}
"""Settings of which the shorter variable is the one to use: `proxy.config.loader` has them."""


def ecr_table() -> str:
    """Every operation of the ECR model in one of three rows."""
    every = sorted(operations("ecr"))
    return _table(
        ("ECR", "operations", ""),
        _row("served", [name for name in every if name in ROUTES and name not in FIXED]),
        _row("answered with a fixed answer", [f"{name} ({FIXED[name]})" for name in every if name in FIXED]),
        _row("not served: UnknownOperationException", [name for name in every if name not in ROUTES]),
    )


def iam_table() -> str:
    every = sorted(operations("iam"))
    return _table(
        ("IAM", "operations", ""),
        _row("served", [name for name in every if name in ACTIONS]),
        _row("not served: InvalidAction", [name for name in every if name not in ACTIONS]),
    )


def sts_table() -> str:
    every = sorted(operations("sts"))
    return _table(
        ("STS", "operations", ""),
        _row("served", [name for name in every if name in sts.SERVED]),
        _row("not served: InvalidAction", [name for name in every if name not in sts.SERVED]),
    )


def secretsmanager_table() -> str:
    every = sorted(operations("secretsmanager"))
    return _table(
        ("Secrets Manager", "operations", ""),
        _row("served", [name for name in every if name in secretsmanager.ACTIONS]),
        _row("not served: UnknownOperationException", [name for name in every if name not in secretsmanager.ACTIONS]),
    )


def oci_table() -> str:
    return _table(
        ("method", "path", "endpoint of the specification", "action that must be allowed"),
        *((each.method, f"`{each.pattern}`", each.endpoint, each.action or "a valid token") for each in oci.ROUTES),
    )


def settings_tables() -> str:
    """One table a section: key, type, default, environment variable, meaning."""
    return "\n".join(f"### `[{section}]`\n\n{_settings(section)}" for section in SECTIONS)


def _settings(section: str) -> str:
    return _table(
        ("key", "type", "default", "environment variable", "what it does"),
        *(
            (
                f"`{each.name}`",
                "list" if each.metadata["read"] else _type(each.default),
                f"`{json.dumps(each.default)}`",
                f"`WHARFAGE_{ALIASES.get((section, each.name), f'{section}_{each.name}'.upper())}`",
                each.metadata["meaning"].replace("|", "\\|") + ("; a secret" if each.metadata["secret"] else ""),
            )
            for each in dataclasses.fields(SECTIONS[section])
        ),
    )


def _type(default: Any) -> str:
    if isinstance(default, bool):
        return "true or false"
    return {int: "whole number", float: "number", str: "text", tuple: "list of texts", SettingTables: "table"}[
        type(default)
    ]


def _row(state: str, names: Iterable[str]) -> tuple[str, str, str]:
    found = list(names)
    return state, str(len(found)), ", ".join(found)


def _table(head: tuple[str, ...], *rows: tuple[str, ...]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


TABLES: dict[str, tuple[str, Callable[[], str]]] = {
    "ecr": ("compatibility.md", ecr_table),
    "iam": ("compatibility.md", iam_table),
    "sts": ("compatibility.md", sts_table),
    "secretsmanager": ("compatibility.md", secretsmanager_table),
    "oci": ("compatibility.md", oci_table),
    "settings": ("configuration.md", settings_tables),
}
"""The page of each table, and what makes it."""


def filled(page: str, name: str) -> str:
    """`page` with the table of that name as it should be. ValueError if it has no place for one."""
    begin, end = f"<!-- {name}: make docs -->\n", f"<!-- /{name} -->\n"
    before, found, rest = page.partition(begin)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise ValueError(f"the page lacks the marks {begin!r} and {end!r}")
    return before + begin + TABLES[name][1]() + end + after


if __name__ == "__main__":
    for name, (page, _) in TABLES.items():
        path = DOCS / page
        path.write_text(filled(path.read_text(), name))
