"""migrate-metadata: what is stored, taken elsewhere."""

from __future__ import annotations

import contextlib
import os

from proxy.process import datadir
from proxy.serve import configure_log
from proxy.settings import Config
from proxy.upkeep.progress import Progress
from proxy.visit.visiting import CannotVisit, Say, existing, shown


def migrate_metadata(config: Config, *, say: Say) -> int:
    """Copy the rows of the data directory's SQLite file to the PostgreSQL of the settings; the exit status.

    `CannotVisit` without one of the two, `DataDirectoryBusy` while a server works there, Failure as `move` has it.
    """
    from proxy.metadata.move import move  # the driver is loaded by those who use it

    configure_log(config)
    data = existing(config)
    if not config.metadata.database:
        raise CannotVisit("[metadata] database names no PostgreSQL to copy the rows to")
    if not data.database.exists():
        raise CannotVisit(f"{data.database}: no such file, and so no rows to copy")
    with contextlib.ExitStack() as stack:
        stack.callback(os.close, datadir.hold(data))
        tell = stack.enter_context(shown())
        copied = move(
            data.database,
            config.metadata.database,
            lambda table, done, total: tell(Progress(f"copying {table}", done, total, "rows")),
        )
    for table, rows in copied.items():
        say(f"{table}: {rows:,}")
    say(f"{sum(copied.values()):,} rows copied and counted; start the server with [metadata] database as it is now")
    return 0
