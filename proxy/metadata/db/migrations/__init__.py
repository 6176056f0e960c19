"""Alembic migrations, run by the service at its start.

`upgrade` brings a database to `schema.HEAD`; the caller holds the lock that lets only one start do it. A database
that is at head already is told by one small query, and then Alembic is not even imported: it costs a start 70 ms.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sqlalchemy import Connection, inspect, text

from proxy.metadata.db import schema
from proxy.model.errors import Code, Failure


def at_head(connection: Connection) -> bool:
    if not inspect(connection).has_table("alembic_version"):
        return False
    return connection.execute(text("SELECT version_num FROM alembic_version")).scalar() == schema.HEAD


def upgrade(connection: Connection) -> None:
    """Run what is missing, inside the connection's open transaction. Failure for a newer release's database."""
    from alembic.config import Config
    from alembic.runtime.environment import EnvironmentContext
    from alembic.script import ScriptDirectory

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent))
    config.set_main_option("path_separator", "os")
    script = ScriptDirectory.from_config(config)
    if inspect(connection).has_table("alembic_version"):
        current = connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
        if current is not None and current not in {revision.revision for revision in script.walk_revisions()}:
            raise Failure(
                Code.SERVER,
                f"the database is of a newer release (schema {current}; this one knows {schema.HEAD})",
                hint="install that release here too; rows are left as they are",
            )

    def steps(revision: Any, context: Any) -> Any:
        return script._upgrade_revs(schema.HEAD, revision)

    with EnvironmentContext(config, script, fn=steps) as environment:
        environment.configure(connection=connection, target_metadata=schema.metadata, transactional_ddl=False)
        environment.run_migrations()
