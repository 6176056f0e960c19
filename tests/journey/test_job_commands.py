"""`wharfage jobs` from the command line, beside a running server."""

from __future__ import annotations

import json
import sqlite3
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from support.programs import run
from support.server import Server

ACCOUNT, OTHER = "123456789012", "210987654321"
INSERT = (
    "INSERT INTO jobs (kind, account, key, subject, share, state, attempts, due_at, fence, last_fence, revision, error,"
    " created_at) VALUES ('unknown', ?, ?, '{\"n\":1}', '', ?, 3, 1.0, 0, 0, 1, 'no route', 1.0)"
)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data directory with three jobs of a kind that no worker does: two of them dead, of two accounts."""
    server = Server.start(tmp_path / "data", workers=1)
    assert server.stop() == 0
    with closing(sqlite3.connect(server.data / "metadata.db")) as rows, rows:
        rows.executemany(INSERT, [(ACCOUNT, "a", 0), (ACCOUNT, "b", 1), (OTHER, "c", 1)])
    return server.data


def jobs(*words: str | Path, ok: bool = True) -> str:
    return run(sys.executable, "-m", "proxy", "jobs", *words, ok=ok).stdout


def listed(data: Path, *words: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in jobs("list", "--data", data, *words).splitlines()]


def test_an_operator_lists_retries_and_drops_jobs(data: Path) -> None:
    one, two, three = listed(data)
    assert one == {
        "id": one["id"],
        "kind": "unknown",
        "account": ACCOUNT,
        "state": "waiting",
        "key": "a",
        "subject": {"n": 1},
        "attempts": 3,
        "due": "1970-01-01T00:00:01Z",
        "created": "1970-01-01T00:00:01Z",
        "error": "no route",
    }
    assert [each["id"] for each in listed(data, "--dead")] == [two["id"], three["id"]]
    assert [each["id"] for each in listed(data, "--account", OTHER, "--limit", "1")] == [three["id"]]
    assert jobs("retry", "--data", data, "--dead", "--account", OTHER).strip() == "1"
    assert [each["state"] for each in listed(data)] == ["waiting", "dead", "waiting"]
    assert jobs("drop", "--data", data, "--dead").strip() == "1"
    assert jobs("drop", "--data", data, str(one["id"]), "999").strip() == "1"
    assert [each["key"] for each in listed(data)] == ["c"]
    assert jobs("drop", "--data", data, ok=False) == ""
