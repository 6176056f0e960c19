"""Where a restore is refused before anything is written."""

from __future__ import annotations

from pathlib import Path

import pytest

from proxy.admin.restores import _refuse_unless_empty
from proxy.admin.session import CommandRefused
from proxy.config.loader import load
from proxy.jobs.backup import Snapshot
from proxy.runtime.data_directory import open_data

CHOSEN = Snapshot(Path("20261124T221230Z"), {})


@pytest.mark.parametrize("left", ["metadata.db", "metadata.db-wal", "keys/master.json", "store-id", "credentials"])
def test_what_a_registry_left_is_named_and_nothing_is_brought_back_beside_it(tmp_path: Path, left: str) -> None:
    """The log of a database that was removed, too: SQLite would play it into the restored one."""
    config = load(None, {"server.data": str(tmp_path)}, environ={})
    data = open_data(config)
    assert not _refuse_unless_empty(config, data, CHOSEN)
    (tmp_path / left).touch()
    with pytest.raises(CommandRefused, match=f"{left} is there: a registry lives here"):
        _refuse_unless_empty(config, data, CHOSEN)
