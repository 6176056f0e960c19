"""A PostgreSQL of one's own: a cluster in a folder of its own, on loopback and a socket, with fsync on.

Started as user postgres (the server refuses root) and ended by its pid. `database` makes an empty database and gives
its URL. `shared` is one cluster for all tests of a process that only need some database; those that stop or restart
theirs start their own.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import psycopg

from support.programs import environment, find
from support.server import free_port

PROGRAM = "postgres"
_USER = "postgres"
_START_SECONDS = 60.0
_SETTINGS = {"fsync": "on", "synchronous_commit": "on", "max_connections": "100", "shared_buffers": "32MB"}
_TABLES = "SELECT tablename FROM pg_tables WHERE schemaname = 'public' AND tablename <> 'alembic_version'"
_SEQUENCES = "SELECT sequencename FROM pg_sequences WHERE schemaname = 'public'"
_OTHERS = (
    "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid() "
    "AND backend_type = 'client backend'"
)
_shared: list[Cluster] = []


@dataclass(slots=True)
class Cluster:
    """A running server; `port` stays its own over restarts."""

    folder: Path
    port: int
    process: subprocess.Popen[bytes]
    settings: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def start(cls, **settings: str) -> Cluster:
        """`settings` of the server beyond, or in the place of, the usual ones."""
        folder = Path(tempfile.mkdtemp(prefix="postgresql-"))
        if os.geteuid() == 0:
            owner = pwd.getpwnam(_USER)
            os.chown(folder, owner.pw_uid, owner.pw_gid)
        _run(
            "initdb",
            "--no-sync",
            "--encoding=UTF8",
            "--locale=C.UTF-8",
            "--auth=trust",
            "-U",
            _USER,
            "-D",
            folder / "data",
        )
        port = free_port()
        cluster = cls(folder, port, _serve(folder, port, settings), settings)
        cluster.wait()
        return cluster

    def wait(self) -> None:
        """Until it answers."""
        deadline = time.monotonic() + _START_SECONDS
        while True:
            try:
                return psycopg.connect(self.url("postgres"), connect_timeout=2).close()
            except psycopg.OperationalError as error:
                log = (self.folder / "log").read_text(errors="replace")[-4000:]
                if self.process.poll() is not None or time.monotonic() > deadline:
                    raise AssertionError(f"PostgreSQL does not start: {error}\n{log}") from error
                time.sleep(0.02)

    def url(self, database: str) -> str:
        return f"postgresql://{_USER}@127.0.0.1:{self.port}/{database}"

    def database(self, name: str, like: str = "template0") -> str:
        """The URL of the database of that name, made as a copy of another, to which nobody is connected, if it is not
        there."""
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            if connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [name]).fetchone() is None:
                connection.execute(f'CREATE DATABASE "{name}" TEMPLATE "{like}"')  # a test's own name
        return self.url(name)

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """SIGINT: roll back and go, in order. SIGKILL: as if the machine had died, its children too."""
        if self.process.poll() is None:
            first = psutil.Process(self.process.pid)
            all_of_it = [first, *first.children(recursive=True)]  # each in a session of its own
            for process in all_of_it if how is signal.SIGKILL else [first]:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.send_signal(how)
            self.process.wait(60)
            psutil.wait_procs(all_of_it, 60)

    def resume(self) -> None:
        """Start it again, on the same data and port."""
        self.process = _serve(self.folder, self.port, self.settings)
        self.wait()

    def remove(self) -> None:
        self.stop(signal.SIGKILL)
        shutil.rmtree(self.folder)


def empty(url: str) -> bool:
    """Take all rows out but the schema's number, in milliseconds where a fresh copy takes a hundred, and 8 MB of disk.

    False, and nothing done, while somebody is still connected."""
    with psycopg.connect(url, autocommit=True) as connection:
        deadline = time.monotonic() + 1.0
        while connection.execute(_OTHERS).fetchone() is not None:  # one that has just left is still seen for a moment
            if time.monotonic() > deadline:
                return False
            time.sleep(0.005)
        tables = [name for (name,) in connection.execute(_TABLES)]
        sequences = [name for (name,) in connection.execute(_SEQUENCES)]
        connection.execute("SET session_replication_role = replica")  # in whatever order: no key is looked at
        connection.execute(
            "; ".join(
                [f'DELETE FROM "{name}"' for name in tables]  # noqa: S608  # our own schema's
                + [f'ALTER SEQUENCE "{name}" RESTART' for name in sequences]
            )
        )
    return True


def shared() -> Cluster:
    if not _shared:
        _shared.append(Cluster.start())
    return _shared[0]


def remove_shared() -> None:
    """At the session's end."""
    while _shared:
        _shared.pop().remove()


def _program(name: str) -> str:
    found = find(name)
    assert found is not None, f"{name} is not there"
    return found


def _as_user() -> dict[str, object]:
    if os.geteuid() != 0:
        return {}
    owner = pwd.getpwnam(_USER)
    return {"user": owner.pw_uid, "group": owner.pw_gid, "extra_groups": []}


def _run(name: str, *arguments: str | Path) -> None:
    done = subprocess.run(  # type: ignore[call-overload]  # user and group by name of the keyword
        [_program(name), *map(str, arguments)],
        capture_output=True,
        env=environment(),
        cwd="/",
        check=False,
        **_as_user(),
    )
    assert done.returncode == 0, done.stdout.decode() + done.stderr.decode()


def _serve(folder: Path, port: int, more: Mapping[str, str]) -> subprocess.Popen[bytes]:
    settings = [word for name, value in {**_SETTINGS, **more}.items() for word in ("-c", f"{name}={value}")]
    command = [_program(PROGRAM), "-D", folder / "data", "-h", "127.0.0.1", "-p", port, "-k", folder, *settings]
    with (folder / "log").open("ab") as sink:
        process: subprocess.Popen[bytes] = subprocess.Popen(  # type: ignore[call-overload]  # as above
            [str(word) for word in command],
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=sink,
            env=environment(),
            cwd="/",
            start_new_session=True,
            **_as_user(),
        )
    return process
