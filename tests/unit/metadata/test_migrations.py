"""The schema of a fresh database, and starts that meet."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import text

from proxy.metadata import migrations, schema
from proxy.metadata.sqlite import SqliteDatabase, sqlite_engine
from proxy.model.errors import Failure

START = """
import sys
from pathlib import Path
from proxy.model.errors import Failure
from proxy.metadata.sqlite import SqliteDatabase
sys.stdin.readline()
asked = SqliteDatabase(Path(sys.argv[1]))
print("up", "alembic" in sys.modules)
"""


def test_the_migrations_make_the_schema_that_the_code_uses(tmp_path: Path) -> None:
    engine = sqlite_engine(tmp_path / "m.db")
    with engine.connect() as connection, connection.begin():
        migrations.upgrade(connection)
        assert migrations.at_head(connection)
        assert compare_metadata(MigrationContext.configure(connection), schema.metadata) == []
    engine.dispose()


def test_the_head_that_the_code_names_is_the_newest_script() -> None:
    assert migrations.__file__ is not None
    script = ScriptDirectory(str(Path(migrations.__file__).parent))
    assert script.get_heads() == [schema.HEAD]


def test_two_processes_that_start_at_once_both_come_up_and_a_later_one_needs_no_alembic(tmp_path: Path) -> None:
    def start() -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-W", "error", "-c", START, str(tmp_path / "m.db")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    started = [start(), start()]
    for process in started:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    answers = sorted(process.communicate(timeout=30)[0].strip() for process in started)
    assert [process.returncode for process in started] == [0, 0]
    assert answers == ["up False", "up True"]
    assert start().communicate("go\n", timeout=30)[0].strip() == "up False"


def test_a_migration_that_is_cut_off_leaves_nothing_and_the_next_start_does_it_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "m.db"

    def upgrade_then_fail(connection: object) -> None:
        original(connection)  # type: ignore[arg-type]  # a Connection, as the patched function takes
        raise KeyboardInterrupt

    original = migrations.upgrade
    monkeypatch.setattr(migrations, "upgrade", upgrade_then_fail)
    with pytest.raises(KeyboardInterrupt):
        SqliteDatabase(path)
    monkeypatch.undo()
    engine = sqlite_engine(path)
    with engine.connect() as connection, connection.begin():
        assert connection.execute(text("SELECT count(*) FROM sqlite_master")).scalar() == 0
        migrations.upgrade(connection)
    engine.dispose()


def test_a_database_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    engine = sqlite_engine(tmp_path / "m.db")
    with engine.connect() as connection:
        connection.info["writing"] = True
        with connection.begin():
            migrations.upgrade(connection)
            connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    engine.dispose()
    with pytest.raises(Failure, match=r"a newer release \(schema 9999"):
        SqliteDatabase(tmp_path / "m.db")


def test_objects_of_before_there_were_plain_ones_are_sealed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = sqlite_engine(tmp_path / "m.db")
    with engine.connect() as connection:
        connection.info["writing"] = True
        with connection.begin():
            monkeypatch.setattr(schema, "HEAD", "0002")
            migrations.upgrade(connection)
            names = [row[1] for row in connection.exec_driver_sql("PRAGMA table_info(blobs)") if row[1] != "blob_id"]
            values = ", ".join(f"'{name}'" for name in names)
            connection.exec_driver_sql(f"INSERT INTO blobs ({', '.join(names)}) VALUES ({values})")  # noqa: S608  # names of columns
            monkeypatch.undo()
            migrations.upgrade(connection)
            assert connection.execute(text("SELECT sealing FROM blobs")).scalars().all() == ["aes-gcm"]
    engine.dispose()
