"""The schema of a fresh database, and starts that meet."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import fill
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, create_engine, event, text

from proxy.auth.managed import ADMINISTRATOR_ACCESS
from proxy.metadata.cluster import pg_registry
from proxy.metadata.db import migrations, schema
from proxy.metadata.db.postgresql import PostgresqlDatabase
from proxy.metadata.db.sqlite import SqliteDatabase, sqlite_engine
from proxy.metadata.db.transaction import Registry, Transaction
from proxy.metadata.operations import accounts, counts, identity
from proxy.metadata.operations.iam import IAM
from proxy.model.errors import Failure
from support import postgresql
from support.metadata import postgresql_database

START = """
import sys
from pathlib import Path
from proxy.metadata.db.transaction import Registry, Transaction
from proxy.model.errors import Failure
from proxy.metadata.db.sqlite import SqliteDatabase
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


@pytest.mark.parametrize("kind", ["sqlite", pytest.param("postgresql", marks=pytest.mark.needs(postgresql.PROGRAM))])
def test_an_administrator_of_before_there_were_policies_is_one_still_and_others_are_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """With the key it had, which no start replaces; and every account has its root."""

    def opened() -> SqliteDatabase | PostgresqlDatabase:
        return SqliteDatabase(tmp_path / "m.db") if kind == "sqlite" else PostgresqlDatabase(url)

    def as_it_was(connection: Connection) -> None:
        run = connection.execute
        run(text("INSERT INTO accounts (account, created_at) VALUES ('123456789012', 1.5), ('210987654321', 2.5)"))
        made = text(
            "INSERT INTO principals (principal_id, account, arn, name, administrator, enabled, created_at)"
            " VALUES (:id, '123456789012', :arn, :name, :administrator, :enabled, 3.5)"
        )
        for name, administrator, enabled in (("Administrator", True, True), ("ann", False, True), ("bea", True, False)):
            arn = f"arn:aws:iam::123456789012:user/{name}"
            run(made, {"id": name, "arn": arn, "name": name, "administrator": administrator, "enabled": enabled})
            key = {"id": f"AKIA{name}", "principal": name, "sealed": name.encode()}
            run(text("INSERT INTO access_keys VALUES (:id, :principal, :sealed, 4.5)"), key)

    def as_it_is(connection: Connection) -> None:
        tx = Transaction(connection, 9.0, Registry())
        told = {name: identity.access_key(tx, f"AKIA{name}") for name in ("Administrator", "ann", "bea")}
        assert told["bea"] is None, "who was disabled is"
        for name, policies in (("Administrator", [ADMINISTRATOR_ACCESS]), ("ann", [])):
            key = told[name]
            assert key is not None
            assert (key.sealed_secret, key.principal.principal_id) == (name.encode(), name)
            assert [policy.arn for policy in key.principal.policies] == policies
        listed = IAM["ListAccessKeys"].run(tx, "123456789012", {"UserName": "administrator"})["AccessKeyMetadata"]
        assert [(key["Status"], key["CreateDate"]) for key in listed] == [("Active", 4.5)]
        started = accounts.bootstrap(tx, "123456789012", access_key_id="AKIANEW", sealed_secret=b"", replaces=False)
        assert (started.settled, started.access_key_ids) == (True, ("AKIAAdministrator",))
        for account in ("123456789012", "210987654321"):
            root = identity.principal(tx, account)
            assert root is not None
            assert root.arn == f"arn:aws:iam::{account}:root"
        assert not accounts.bootstrap(tx, "210987654321").settled, "whose administrator never had a key may have one"

    url = postgresql_database(tmp_path) if kind == "postgresql" else ""
    monkeypatch.setattr(schema, "HEAD", "0005")
    old = opened()
    old.write(as_it_was)
    old.close()
    monkeypatch.undo()
    new = opened()
    new.write(as_it_is)
    new.close()


@pytest.mark.needs(postgresql.PROGRAM)
def test_on_postgresql_readers_go_on_while_rows_are_counted_and_what_is_cut_off_is_done_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reader, in a transaction of its own, reads what is being counted; a start that dies there is made good."""
    url = postgresql_database(tmp_path)
    monkeypatch.setattr(schema, "HEAD", "0006")
    PostgresqlDatabase(url).close()
    monkeypatch.undo()
    reader = create_engine(
        url.replace("postgresql:", "postgresql+psycopg:"), connect_args={"options": "-c lock_timeout=1s"}
    )
    read: list[int | None] = []

    def look(connection: Connection, cursor: Any, statement: str, *told: Any) -> None:
        if statement.startswith(("UPDATE images SET tags", "CREATE UNIQUE INDEX IF NOT EXISTS uq_blobs")):
            with reader.connect() as other:
                for table in ("accounts", "repositories", "images", "blobs"):
                    read.append(other.execute(text(f"SELECT count(*) FROM {table}")).scalar())  # noqa: S608  # of these
            if len(read) > 4:
                raise KeyboardInterrupt

    event.listen(Engine, "after_cursor_execute", look)
    try:
        with pytest.raises(KeyboardInterrupt):
            PostgresqlDatabase(url)
    finally:
        event.remove(Engine, "after_cursor_execute", look)
    assert len(read) == 8
    PostgresqlDatabase(url).close()
    with reader.connect() as connection:
        assert migrations.at_head(connection)
        others = {"include_name": lambda name, kind, parents: name not in pg_registry.own_tables.tables}
        assert compare_metadata(MigrationContext.configure(connection, opts=others), schema.metadata) == []
    reader.dispose()


def test_policies_of_before_are_bound_to_whom_their_sessions_and_templates_name_now(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    account, role = "123456789012", "arn:aws:iam::123456789012:role/build/ci"
    session, gone = (f"arn:aws:sts::{account}:assumed-role/{name}/build" for name in ("ci", "gone"))
    user = f"arn:aws:iam::{account}:user/ann"

    def policy(*named: str) -> str:
        return json.dumps({"Version": "2012-10-17", "Statement": {"Effect": "Allow", "Principal": {"AWS": named}}})

    people = [("AROACI", "role", role, "ci"), ("AIDAANN", "user", user, "ann")]
    engine = sqlite_engine(tmp_path / "m.db")
    with engine.connect() as connection:
        connection.info["writing"] = True
        with connection.begin():
            monkeypatch.setattr(schema, "HEAD", "0007")
            migrations.upgrade(connection)
            run = connection.exec_driver_sql
            run("INSERT INTO accounts (account, created_at) VALUES (?, 1)", (account,))
            for principal_id, kind, arn, name in people:
                row = (principal_id, account, kind, arn, name, f"{kind}/{name}", policy(session))
                run(
                    "INSERT INTO principals (principal_id, account, kind, arn, name, name_key, enabled, created_at,"
                    " trust_policy) VALUES (?, ?, ?, ?, ?, ?, 1, 1, ?)",
                    row,
                )
            run(
                "INSERT INTO repositories (account, name, created_at, tag_mutability, scan_on_push, encryption_type,"
                " policy, policy_principals) VALUES (?, 'a', 1, 'MUTABLE', 0, 'AES256', ?, ?)",
                (account, policy(user, session, gone), json.dumps([[user, "AIDAFORMER"]])),
            )
            run(
                "INSERT INTO creation_templates (account, prefix, applied_for, tag_mutability, encryption_type,"
                " repository_policy, custom_role_arn, created_at, updated_at)"
                " VALUES (?, 'prod', '[]', 'MUTABLE', 'AES256', ?, ?, 1, 1)",
                (account, policy(user, session, account, user + "2"), role),
            )
            monkeypatch.undo()
            migrations.upgrade(connection)
            found = [
                json.loads(run(query).scalar_one())
                for query in (
                    "SELECT policy_principals FROM repositories",
                    "SELECT trust_policy_principals FROM principals WHERE name = 'ci'",
                    "SELECT repository_policy_principals FROM creation_templates",
                )
            ]
            assert found == [
                [[user, "AIDAFORMER"], [session, "AROACI"], [gone, ""]],
                [[session, "AROACI"]],
                [[user, "AIDAANN"], [session, "AROACI"], [user + "2", ""]],
            ]
            assert run("SELECT custom_role_id FROM creation_templates").scalar_one() == "AROACI"
    engine.dispose()


@pytest.mark.parametrize("kind", ["sqlite", pytest.param("postgresql", marks=pytest.mark.needs(postgresql.PROGRAM))])
def test_blobs_of_images_of_before_know_their_repository(tmp_path: Path, kind: str) -> None:
    def opened() -> SqliteDatabase | PostgresqlDatabase:
        return SqliteDatabase(tmp_path / "m.db") if kind == "sqlite" else PostgresqlDatabase(url)

    url = postgresql_database(tmp_path) if kind == "postgresql" else ""
    fill.fill(url or tmp_path / "m.db", fill.Size(3, 2, 4, 1), revision="0007")
    database = opened()
    try:
        wrong = text(
            "SELECT count(*), sum(CASE WHEN b.repository_id = i.repository_id THEN 0 ELSE 1 END)"
            " FROM image_blobs b JOIN images i ON i.image_id = b.image_id"
        )
        assert tuple(database.read(lambda connection: connection.execute(wrong).one())) == (22, 0)
    finally:
        database.close()


@pytest.mark.parametrize("kind", ["sqlite", pytest.param("postgresql", marks=pytest.mark.needs(postgresql.PROGRAM))])
def test_bytes_of_repositories_and_accounts_of_before_are_counted(tmp_path: Path, kind: str) -> None:
    def opened() -> SqliteDatabase | PostgresqlDatabase:
        return SqliteDatabase(tmp_path / "m.db") if kind == "sqlite" else PostgresqlDatabase(url)

    url = postgresql_database(tmp_path) if kind == "postgresql" else ""
    fill.fill(url or tmp_path / "m.db", fill.Size(3, 2, 4, 1), revision="0007")
    database = opened()
    try:

        def ask(connection: Connection) -> tuple[list[object], int, int]:
            tx = Transaction(connection, 0.0, Registry())
            wrong = [counts.miscounts(tx, noun, "", 99)[0] for noun in ("repository_bytes", "account_bytes")]
            run = connection.execute
            least = run(text("SELECT min(bytes), min(manifest_bytes) FROM repositories")).one()
            return wrong, *least

        wrong, held, manifests = database.read(ask)
        assert (wrong, held > manifests > 0) == ([(), ()], True)
    finally:
        database.close()
