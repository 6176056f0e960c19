"""`wharfage replication status` from the command line."""

from __future__ import annotations

import sqlite3
import sys
import time
from contextlib import closing
from pathlib import Path

from support.programs import run
from support.server import Server

INSERT = (
    "INSERT INTO jobs (kind, account, key, subject, share, state, attempts, due_at, fence, last_fence, revision, error,"
    " created_at) VALUES ('replication', '123456789012', ?, '{}', 'eu-west-1', ?, 0, 9e9, 0, 0, 1, '', ?)"
)


def test_a_line_a_region_says_how_many_wait_and_the_age_of_the_oldest(tmp_path: Path) -> None:
    server = Server.start(tmp_path / "data", workers=1)
    assert server.stop() == 0
    now = time.time()
    with closing(sqlite3.connect(server.data / "metadata.db")) as rows, rows:
        rows.executemany(INSERT, [("a", 0, now - 3600), ("b", 0, now), ("given up", 1, now - 9999)])
    said = run(sys.executable, "-m", "proxy", "replication", "status", "--data", server.data).stdout
    here, there = (line.split("\t") for line in said.splitlines() if "\t" in line)
    assert sorted([here[:2], there[:2]]) == [["eu-west-1", "waiting 2"], ["us-east-1", "waiting 0"]]
    ages = {words[0]: int(words[2].split()[1]) for words in (here, there)}
    assert 3600 <= ages["eu-west-1"] < 4200
    assert ages["us-east-1"] == 0
