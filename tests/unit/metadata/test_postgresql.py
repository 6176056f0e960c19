"""What only a database behind a line can do: lose an answer, roll a write back, come back, belong to another."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, create_engine, insert, select, text, update

from proxy.metadata.cluster import pg_registry
from proxy.metadata.db import schema
from proxy.metadata.db.postgresql import PATIENCE_SECONDS, PostgresqlDatabase, holds_blobs, holds_keys
from proxy.metadata.db.schema import turns
from proxy.metadata.db.transaction import Changes
from proxy.model.errors import Code, Failure
from support import postgresql
from support.cut_connection import CutLine, Moment
from support.metadata import postgresql_database

pytestmark = pytest.mark.needs(postgresql.PROGRAM)

START = """
import sys
from proxy.metadata.db.postgresql import PostgresqlDatabase, holds_blobs
sys.stdin.readline()
opened = PostgresqlDatabase(sys.argv[1])
print("up", "alembic" in sys.modules, flush=True)
opened.close()
"""

Open = Callable[..., PostgresqlDatabase]


@pytest.fixture
def url(tmp_path: Path) -> str:
    return postgresql_database(tmp_path)


@pytest.fixture
def line() -> Iterator[CutLine]:
    made = CutLine(postgresql.shared().port)
    yield made
    made.close()


@pytest.fixture
def through(line: CutLine, url: str) -> str:
    """The database's URL by way of `line`."""
    return f"postgresql://postgres@127.0.0.1:{line.port}/{url.rpartition('/')[2]}"


@pytest.fixture
def open_database() -> Iterator[Open]:
    opened: list[PostgresqlDatabase] = []

    def open_it(url: str, **times: float) -> PostgresqlDatabase:
        opened.append(PostgresqlDatabase(url, **times))  # type: ignore[arg-type]  # floats all, by name
        return opened[-1]

    yield open_it
    for each in opened:
        each.close()


@pytest.fixture
def rival(url: str, open_database: Open) -> Iterator[psycopg.Connection[Any]]:
    """A session of somebody else's, after the schema is there."""
    with psycopg.connect(url) as connection:
        yield connection


def count_up(task: str = "a") -> Callable[[Connection], None]:
    """A write that shows when it was done twice."""

    def run(connection: Connection) -> None:
        if not connection.execute(update(turns).where(turns.c.task == task).values(until=turns.c.until + 1)).rowcount:
            connection.execute(insert(turns).values(task=task, until=1.0))

    return run


def count(connection: Connection) -> dict[str, float]:
    return {row.task: row.until for row in connection.execute(select(turns.c.task, turns.c.until))}


def refused(run: Callable[[], Any]) -> Failure:
    with pytest.raises(Failure) as caught:
        run()
    return caught.value


def wait_until_gone(url: str, pid: int) -> None:
    """Until PostgreSQL has ended that session."""
    deadline = time.monotonic() + 30
    with psycopg.connect(url, autocommit=True) as connection:
        while connection.execute("SELECT 1 FROM pg_stat_activity WHERE pid = %s", [pid]).fetchone():
            assert time.monotonic() < deadline, "the session lives on"
            time.sleep(0.01)


def beat_until(database: PostgresqlDatabase, fulfilled: Callable[[str | None], bool]) -> None:
    """Beat, as the writing thread does, until what a read is refused with (None: nothing) fulfils it."""
    deadline = time.monotonic() + 10
    said: str | None = None
    while time.monotonic() < deadline:
        database.beat()
        try:
            database.read(count)
            said = None
        except Failure as failure:
            said = failure.message
        if fulfilled(said):
            return
    raise AssertionError(f"after ten seconds it still says {said}")


class TestLostAnswers:
    @pytest.mark.parametrize("moment", ["before", "after", "silence"])
    def test_a_commit_whose_answer_was_lost_is_done_once(
        self, open_database: Open, through: str, line: CutLine, moment: Moment
    ) -> None:
        database = open_database(through)
        database.write(count_up())
        line.at_commit = moment
        database.write(count_up())
        assert line.lost == 1
        assert database.read(count) == {"a": 2.0}

    def test_a_write_is_done_once_though_asking_for_it_meets_a_deadlock(
        self, open_database: Open, through: str, line: CutLine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        database = open_database(through)
        asks, asked = database._is_committed, []

        def is_noted(connection: Connection, request: str) -> bool:
            asked.append(request)
            if len(asked) == 1:
                with connection.begin():
                    connection.execute(text("DO $$ BEGIN RAISE EXCEPTION 'x' USING ERRCODE = '40P01'; END $$"))
            return asks(connection, request)

        monkeypatch.setattr(database, "_is_committed", is_noted)
        line.at_commit = "after"
        database.write(count_up())
        assert len(asked) == 2
        assert database.read(count) == {"a": 1.0}

    def test_a_write_asks_again_only_after_its_first_session_has_ended(
        self, open_database: Open, through: str, line: CutLine, url: str
    ) -> None:
        """The session that heard nothing holds the lock until PostgreSQL ends it; no other service writes before."""
        database, other = open_database(through), open_database(url)
        line.at_commit = "silence"
        database.write(count_up())
        with psycopg.connect(url) as looking:
            held = looking.execute("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'").fetchone()
        assert held == (0,)
        other.write(count_up())
        assert database.read(count) == {"a": 2.0}

    def test_a_service_that_is_cut_off_in_mid_write_holds_the_others_for_a_moment_only(
        self, open_database: Open, through: str, line: CutLine, url: str
    ) -> None:
        stuck, other = open_database(through, patience=0.2), open_database(url)
        line.at_commit = "silence"

        def write_and_cut(connection: Connection) -> None:
            count_up("never")(connection)
            line._is_cut = True

        began = time.monotonic()
        writing = threading.Thread(target=lambda: refused(lambda: stuck.write(write_and_cut)))
        writing.start()
        while not line.lost:
            time.sleep(0.01)
        other.write(count_up())
        writing.join()
        assert time.monotonic() - began < 4
        assert other.read(count) == {"a": 1.0}

    def test_a_line_that_was_cut_while_nobody_asked_is_mended_by_the_next_question(
        self, open_database: Open, through: str, line: CutLine
    ) -> None:
        database = open_database(through)
        database.write(count_up())
        assert database.read(count) == {"a": 1.0}
        line.cut()
        line.mend()
        assert database.read(count) == {"a": 1.0}
        database.write(count_up())
        assert database.read(count) == {"a": 2.0}

    def test_a_commit_that_nobody_can_be_asked_about_is_unavailable_and_not_repeated_later(
        self, open_database: Open, through: str, line: CutLine
    ) -> None:
        database = open_database(through, patience=0.3)
        line.at_commit = "after"

        def write_and_cut(connection: Connection) -> None:
            count_up()(connection)
            line._is_cut = True  # the line stays until its moment, and no other is let in

        assert refused(lambda: database.write(write_and_cut)).code is Code.METADATA_UNAVAILABLE
        line.mend()
        beat_until(database, lambda said: said is None)
        database.write(count_up("b"))
        assert database.read(count) == {"a": 1.0, "b": 1.0}

    def test_request_ids_are_forgotten_after_a_while(self, open_database: Open, url: str, rival: Any) -> None:
        database = open_database(url)
        database.write(count_up())
        rival.execute("UPDATE requests SET made_at = now() - interval '11 minutes'")
        rival.commit()
        database.write(count_up())
        database.beat()
        assert len(database.read(lambda connection: connection.execute(select(pg_registry.requests)).all())) == 1


class TestRolledBack:
    def test_a_deadlock_that_undid_a_write_is_followed_by_the_write(
        self, open_database: Open, url: str, rival: Any
    ) -> None:
        database = open_database(url)
        database.write(count_up("a"))
        database.write(count_up("b"))
        holds, runs = threading.Event(), []

        def first_a_then_b(connection: Connection) -> None:
            runs.append(1)
            count_up("a")(connection)
            holds.set()
            while len(runs) == 1 and not is_waiting():  # until the rival waits for us, and we will for it
                time.sleep(0.01)
            count_up("b")(connection)

        def is_waiting() -> bool:
            with psycopg.connect(url) as looking:
                return looking.execute("SELECT count(*) FROM pg_locks WHERE NOT granted").fetchone() != (0,)

        writing = threading.Thread(target=lambda: database.write(first_a_then_b))
        rival.execute("SET deadlock_timeout = '60s'")  # so that it is ours that is undone
        rival.execute("UPDATE turns SET until = until + 10 WHERE task = 'b'")
        writing.start()
        holds.wait(10)
        rival.execute("UPDATE turns SET until = until + 10 WHERE task = 'a'")
        rival.commit()
        writing.join(20)
        assert len(runs) == 2
        assert database.read(count) == {"a": 12.0, "b": 12.0}

    def test_a_serialisation_failure_that_undid_a_write_is_followed_by_the_write(
        self, open_database: Open, url: str
    ) -> None:
        database = open_database(url)
        runs = []

        def fail_once(connection: Connection) -> None:
            runs.append(1)
            count_up()(connection)
            if len(runs) == 1:
                connection.execute(text("DO $$BEGIN RAISE EXCEPTION 'again' USING ERRCODE = '40001'; END$$"))

        database.write(fail_once)
        assert len(runs) == 2
        assert database.read(count) == {"a": 1.0}

    def test_what_a_write_reads_is_as_of_its_turn_whatever_the_role_says(self, open_database: Open, url: str) -> None:
        """Under the lock, after the other's commit: under a snapshot of before it would be told of an older roster."""
        one = open_database(f"{url}?options=-c%20default_transaction_isolation%3Drepeatable%5C%20read")
        other = open_database(url)
        holds, waits = threading.Event(), threading.Event()

        def hold(connection: Connection) -> None:
            count_up()(connection)
            holds.set()
            waits.wait(5)

        holding = threading.Thread(target=lambda: other.write(hold))
        holding.start()
        holds.wait(5)
        found: list[dict[str, float]] = []
        asking = threading.Thread(target=lambda: found.append(one.write(count)))
        asking.start()
        with psycopg.connect(url, autocommit=True) as looking:
            while looking.execute("SELECT count(*) FROM pg_locks WHERE NOT granted").fetchone() == (0,):
                time.sleep(0.01)
        waits.set()
        holding.join()
        asking.join()
        assert found == [{"a": 1.0}]

    def test_a_row_that_somebody_locks_for_long_makes_the_database_busy(
        self, open_database: Open, url: str, rival: Any
    ) -> None:
        database = open_database(f"{url}?options=-c%20lock_timeout%3D50ms")
        database.write(count_up())
        rival.execute("UPDATE turns SET until = 7")
        failure = refused(lambda: database.write(count_up()))
        assert (failure.code, failure.message) == (Code.METADATA_UNAVAILABLE, "the database is busy; try again")
        rival.rollback()
        database.write(count_up())
        assert database.read(count) == {"a": 2.0}

    def test_a_full_disk_is_store_full(self, open_database: Open, url: str) -> None:
        database = open_database(url)

        def full(connection: Connection) -> None:
            count_up()(connection)
            connection.execute(text("DO $$BEGIN RAISE EXCEPTION 'no space' USING ERRCODE = '53100'; END$$"))

        assert refused(lambda: database.write(full)).code is Code.STORE_FULL
        assert database.read(count) == {}


class TestOutage:
    def test_a_write_that_stood_still_in_its_transaction_is_done_anew(self, url: str, open_database: Open) -> None:
        """PostgreSQL ends a writer's session that idles between two statements, so that others may write."""
        database = open_database(f"{url}?options=-c%20idle_in_transaction_session_timeout%3D50ms")
        ended: list[int] = []

        def run(connection: Connection) -> None:
            count_up()(connection)
            if not ended:
                ended.append(connection.execute(text("SELECT pg_backend_pid()")).scalar_one())
                wait_until_gone(url, ended[0])
            count_up()(connection)

        database.write(run)
        assert database.read(count) == {"a": 2.0}

    @pytest.mark.parametrize("kind", ["read", "write"])
    @pytest.mark.parametrize("losses", [1, 2])
    def test_a_process_that_stood_still_past_its_patience_tries_once_more_and_no_oftener(
        self, url: str, kind: str, losses: int
    ) -> None:
        """PostgreSQL has ended its session meanwhile, which says nothing about whether it answers now."""
        now = [1000.0]
        database = PostgresqlDatabase(url, clock=lambda: now[0], pause=lambda _: None)
        database.write(count_up())
        ended: list[int] = []

        def run(connection: Connection) -> dict[str, float]:
            if len(ended) < losses:
                now[0] += PATIENCE_SECONDS + 1
                ended.append(connection.execute(text("SELECT pg_backend_pid()")).scalar_one())
                with psycopg.connect(url, autocommit=True) as other:
                    other.execute("SELECT pg_terminate_backend(%s)", [ended[-1]])
                wait_until_gone(url, ended[-1])
            return count(connection)

        try:
            call = partial(getattr(database, kind), run)
            if losses == 1:
                assert call() == {"a": 1.0}
            else:
                assert refused(call).code is Code.METADATA_UNAVAILABLE
            assert len(ended) == losses
            assert database.read(count) == {"a": 1.0}
        finally:
            database.close()

    def test_a_database_that_is_gone_is_unavailable_at_once_after_one_patience_and_comes_back_by_itself(
        self,
    ) -> None:
        cluster = postgresql.Cluster.start()
        try:
            database = PostgresqlDatabase(cluster.database("rows"), patience=1.0)
            database.write(count_up())
            cluster.stop()
            for seconds in (4.0, 0.3, 0.3):
                for call in (lambda: database.read(count), lambda: database.write(count_up())):
                    began = time.monotonic()
                    failure = refused(call)
                    assert failure.code is Code.METADATA_UNAVAILABLE
                    assert failure.message.startswith("PostgreSQL does not answer (")
                    assert time.monotonic() - began < seconds
            cluster.resume()
            beat_until(database, lambda said: said is None)
            database.write(count_up())
            assert database.read(count) == {"a": 2.0}
            database.close()
        finally:
            cluster.remove()

    def test_a_start_waits_for_a_database_that_comes_later(
        self, open_database: Open, line: CutLine, through: str
    ) -> None:
        line.cut()
        threading.Timer(0.5, line.mend).start()
        database = open_database(through)
        database.write(count_up())
        assert database.read(count) == {"a": 1.0}

    def test_a_start_without_a_database_gives_up_in_its_time(self, line: CutLine, through: str) -> None:
        line.cut()
        assert refused(lambda: PostgresqlDatabase(through, start_seconds=0.3)).code is Code.METADATA_UNAVAILABLE


class TestSeveralServices:
    def test_writes_of_two_services_are_serial_and_none_is_lost(self, open_database: Open, url: str) -> None:
        databases = [open_database(url), open_database(url)]

        def add(connection: Connection) -> None:
            before = count(connection).get("a", 0.0)
            if not before:
                connection.execute(insert(turns).values(task="a", until=1.0))
            else:
                connection.execute(update(turns).values(until=before + 1))

        def many(database: PostgresqlDatabase) -> None:
            for _ in range(40):
                database.write(add)

        threads = [threading.Thread(target=many, args=[database]) for database in databases]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert databases[0].read(count) == {"a": 80.0}

    def test_news_of_a_write_comes_if_it_is_committed_and_only_then_and_in_order(
        self, open_database: Open, url: str
    ) -> None:
        database = PostgresqlDatabase(url, process="me")
        last = 0
        with psycopg.connect(url, autocommit=True) as listening:
            listening.execute(f"LISTEN {pg_registry.CHANNEL}")

            def undone(connection: Connection) -> None:
                database.announce(connection, Changes(identity=True))
                raise Failure(Code.INVALID_PARAMETER, "no")

            many = Changes(repositories={("123456789012", f"{number:0200}") for number in range(100)})
            for changes in (Changes(repositories={("1", "a")}), many):
                refused(lambda: database.write(undone))
                told = database.write(lambda connection: database.announce(connection, changes))  # noqa: B023
                assert told is not None
                last = told.number
            news = [json.loads(note.payload) for note in listening.notifies(timeout=5, stop_after=2)]
        assert [(each["f"], each["c"]) for each in news] == [("me", {"r": [["1", "a"]]}), ("me", {"e": True})]
        assert news[0]["n"] < news[1]["n"] == last
        database.close()


class TestStart:
    def test_the_migrations_make_the_schema_that_the_code_uses(self, open_database: Open, url: str) -> None:
        open_database(url)
        engine = create_engine(url.replace("postgresql:", "postgresql+psycopg:"))
        ours = {table.name for table in pg_registry.own_tables.sorted_tables}
        with engine.connect() as connection:
            context = MigrationContext.configure(
                connection, opts={"include_name": lambda name, kind, parents: kind != "table" or name not in ours}
            )
            assert compare_metadata(context, schema.metadata) == []
        engine.dispose()

    def test_a_service_of_an_earlier_release_that_works_is_named_and_nothing_is_done(
        self, open_database: Open, url: str
    ) -> None:
        with psycopg.connect(url, autocommit=True) as earlier:
            earlier.execute("SELECT pg_advisory_lock(%s)", [pg_registry.WRITING])  # held for the life of its session
            failure = refused(lambda: open_database(url, start_seconds=0.3))
            assert "an earlier release works on this database" in failure.message
            assert earlier.execute("SELECT to_regclass('blobs')").fetchone() == (None,)
        open_database(url)

    def test_a_service_of_an_earlier_release_cannot_work_on_beside_this_one(self, url: str) -> None:
        pauses: list[float] = []
        with psycopg.connect(url, autocommit=True) as earlier:
            earlier.execute('CREATE TABLE tenures ("only" integer PRIMARY KEY, page varchar(16), service text)')
            PostgresqlDatabase(url, pause=pauses.append).close()
            assert pauses == [1.2]  # its nodes may use what they keep for a second
            with pytest.raises(psycopg.errors.UndefinedTable):
                earlier.execute("SELECT page FROM tenures")  # the first thing it does with the lock in its hands
        PostgresqlDatabase(url, pause=pauses.append).close()
        assert pauses == [1.2]

    def test_two_processes_that_start_at_once_both_come_up_and_one_migrates(self, url: str) -> None:
        started = [
            subprocess.Popen(
                [sys.executable, "-W", "error", "-c", START, url],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for _ in range(2)
        ]
        for process in started:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        answers = sorted(process.communicate(timeout=60)[0].splitlines()[-1] for process in started)
        assert [process.returncode for process in started] == [0, 0]
        assert answers == ["up False", "up True"]

    def test_a_database_of_another_encoding_is_refused_with_the_remedy(self, tmp_path: Path) -> None:
        cluster = postgresql.shared()
        name = f"latin-{tmp_path.name}"
        with psycopg.connect(cluster.url("postgres"), autocommit=True) as connection:
            connection.execute(
                f"CREATE DATABASE \"{name}\" TEMPLATE template0 ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C'"
            )
        failure = refused(lambda: PostgresqlDatabase(cluster.url(name)))
        assert "LATIN1" in failure.message
        assert "ENCODING 'UTF8'" in failure.hint

    def test_a_first_look_sees_no_blob_in_an_empty_database_nor_in_a_fresh_one_and_sees_the_first(
        self, open_database: Open, url: str, line: CutLine, through: str
    ) -> None:
        assert not holds_blobs(url)
        database = open_database(url)
        assert not holds_blobs(url)
        row: dict[str, object] = {
            column.name: b"" if column.type.python_type is bytes else 0 for column in schema.blobs.columns
        }
        row |= dict.fromkeys(("account", "digest", "object_key", "sealed_for", "provider_id"), "")
        database.write(lambda connection: connection.execute(insert(schema.blobs), row | {"quarantined_for": None}))
        assert holds_blobs(url)
        line.cut()
        assert refused(lambda: holds_blobs(through)).code is Code.METADATA_UNAVAILABLE

    def test_a_first_look_for_keys_sees_none_before_the_first_record(
        self, open_database: Open, url: str, line: CutLine, through: str
    ) -> None:
        assert not holds_keys(url)
        database = open_database(url)
        assert not holds_keys(url)
        row: dict[str, object] = {
            "name": "k",
            "namespace": "n",
            "check_value": b"c",
            "sealed_for": "",
            "created_at": 0.0,
        }
        database.write(lambda connection: connection.execute(insert(schema.master_keys), row))
        assert holds_keys(url)
        line.cut()
        assert refused(lambda: holds_keys(through)).code is Code.METADATA_UNAVAILABLE

    def test_a_url_that_is_none_is_refused_unrepeated(self) -> None:
        failure = refused(lambda: PostgresqlDatabase("postgresql://me:hidden%zz@db/rows"))
        assert "hidden" not in failure.message + failure.hint
        assert failure.__cause__ is None

    def test_commits_wait_for_the_disk_even_where_the_role_says_otherwise(self, open_database: Open, url: str) -> None:
        database = open_database(f"{url}?options=-c%20synchronous_commit%3Doff")
        assert database.write(lambda connection: connection.execute(text("SHOW synchronous_commit")).scalar()) == "on"
