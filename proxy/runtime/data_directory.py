"""The data directory: its layout, its lock, and the administrator's credentials.

    <data>/                   0700
      lock                    held (flock) by the one server that works here; its pid inside
      credentials             0600  the administrator's key, in AWS's shared-credentials form
      keys/master.json        0600  the master keys, unless KMS has them: without them nothing stored can be read again
      metadata.db             0600  every row (SQLite; beside it -wal, -shm, .lock), unless it is a PostgreSQL
      objects/                      the filesystem store: objects, and the name of the store
      cache/                  0700  copies of objects of an S3 store, as they are there; may be removed
      store-id                0600  the name that the store must have: another one is not what the rows are about
      store-conditions        0600  which conditional requests an S3 store honours; removed, it is found out again
      audit/                  0700  the audit trail and its lock; full files are numbered, the newest first; beside it
                                    that of unauthenticated requests
      tls/                          what --tls-self-signed made: ca.crt, server.crt, server.key
      restoring                     only while `wharfage restore` is not at its end: nobody else works here
      run/                    0700  of this run only: metadata.sock, epochs, node-epochs, address

A backup is everything but `run` and `cache`. Promises: files that hold secrets are 0600 from their first byte and
appear whole or not at all; existing files are never overwritten. Must not know what other packages write into their
parts.
"""

from __future__ import annotations

import configparser
import fcntl
import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from proxy.config.settings import Config
from proxy.model.errors import OperatorError

_SOCKET_PATH_BYTES = 100  # sockaddr_un holds 107 and a NUL; asyncio and we leave some air
_LOCK_SECONDS = 5.0  # children of a killed server see its end within milliseconds, and hold its lock until then
_ID_ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"  # as in AWS's own key ids


class DataDirectoryBusy(OperatorError):
    """Another server works on this directory, or a restore is not at its end."""


@dataclass(frozen=True, slots=True)
class DataDirectory:
    """Paths; see the module's drawing. Made by `open_data`."""

    root: Path
    objects: Path
    cache: Path
    store_id: Path
    store_conditions: Path
    audit: Path
    unauthenticated: Path
    master_keys: Path
    database: Path
    credentials: Path
    tls: Path
    restoring: Path
    run: Path
    epochs: Path
    node_epochs: Path
    address: Path
    metadata_socket: str  # may be a short alias of <run>/metadata.sock


def open_data(config: Config) -> DataDirectory:
    """Make what is missing of the directory. Safe to call while a server runs in it."""
    root = Path(config.server.data).absolute()
    run = root / "run"
    keys = Path(config.keys.file).absolute() if config.keys.file else root / "keys" / "master.json"
    objects = Path(config.storage.path).absolute() if config.storage.path else root / "objects"
    for directory in (root, run, keys.parent):
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    audit = Path(config.audit.file).absolute() if config.audit.file else root / "audit" / "audit.jsonl"
    return DataDirectory(
        root=root,
        objects=objects,
        cache=Path(config.cache.directory).absolute() if config.cache.directory else root / "cache",
        store_id=root / "store-id",
        store_conditions=root / "store-conditions",
        audit=audit,
        unauthenticated=audit.with_name(
            f"{audit.stem}-unauthenticated{audit.suffix}" if config.audit.file else "unauthenticated.jsonl"
        ),
        master_keys=keys,
        database=Path(config.metadata.path).absolute() if config.metadata.path else root / "metadata.db",
        credentials=root / "credentials",
        tls=root / "tls",
        restoring=root / "restoring",
        run=run,
        epochs=run / "epochs",
        node_epochs=run / "node-epochs",
        address=run / "address",
        metadata_socket=_socket_path(run / "metadata.sock"),
    )


def lock_data_directory(data: DataDirectory, *, wait_seconds: float = _LOCK_SECONDS, restores: bool = False) -> int:
    """Take the directory for this process and its children; returns the descriptor that holds it.

    Raises `DataDirectoryBusy`, at once if the holder named in the lock is alive, else after `wait_seconds`; and unless
    it is the one that `restores`, where a restore was broken off: a server would begin a new registry there.
    """
    if data.restoring.exists() and not restores:
        raise DataDirectoryBusy(f"{data.root}: a restore was broken off here; run the same `wharfage restore` again")
    lock = os.open(data.root / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    deadline = time.monotonic() + wait_seconds
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            holder = os.pread(lock, 32, 0).decode("ascii", "replace").strip()
            if _is_alive(holder) or time.monotonic() >= deadline:
                os.close(lock)
                raise DataDirectoryBusy(
                    f"{data.root}: another server (pid {holder or 'unknown'}) works in this data directory; "
                    "stop it first, or give this one its own --data"
                ) from None
            time.sleep(0.05)
    os.ftruncate(lock, 0)
    os.pwrite(lock, str(os.getpid()).encode(), 0)
    return lock


def is_locked(data: DataDirectory) -> bool:
    """Whether a server works in the directory now."""
    try:
        lock = os.open(data.root / "lock", os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(lock)
    return False


def new_access_key() -> tuple[str, str]:
    """A random access key id (20 characters) and secret (40), as AWS shapes them."""
    return "AKIA" + "".join(secrets.choice(_ID_ALPHABET) for _ in range(16)), secrets.token_urlsafe(30)


def read_credentials(path: Path) -> tuple[str, str] | None:
    """(access key id, secret) from the [default] section; None if there is no such file. ValueError on a bad one."""
    if not path.exists():
        return None
    found = configparser.RawConfigParser()
    try:
        found.read_string(path.read_text(encoding="utf-8"), str(path))
        section = found["default"]
        return section["aws_access_key_id"], section["aws_secret_access_key"]
    except (configparser.Error, KeyError) as error:
        raise ValueError(f"{path}: has no aws_access_key_id and aws_secret_access_key under [default]") from error


def write_credentials(path: Path, access_key_id: str, secret_access_key: str) -> None:
    """Durable when it returns."""
    text = f"[default]\naws_access_key_id = {access_key_id}\naws_secret_access_key = {secret_access_key}\n"
    write_private(path, text.encode())


def write_private(path: Path, content: bytes) -> None:
    """A whole file, 0600, on disk when this returns; FileExistsError rather than overwriting."""
    with _draft(path, content, 0o600) as draft:
        os.link(draft, path)  # fails if it is there, where a rename would clobber


def replace_private(path: Path, content: bytes, mode: int = 0o600) -> None:
    """A whole file in place of what was there, on disk when this returns."""
    with _draft(path, content, mode) as draft:
        os.replace(draft, path)


@contextmanager
def _draft(path: Path, content: bytes, mode: int) -> Iterator[Path]:
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        yield draft
    finally:
        draft.unlink(missing_ok=True)
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _socket_path(path: Path) -> str:
    """The path, or if it is too long for a socket's address a short one through a descriptor that stays open."""
    if len(os.fsencode(path)) <= _SOCKET_PATH_BYTES:
        return str(path)
    directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    return f"/proc/self/fd/{directory}/{path.name}"


def _is_alive(pid: str) -> bool:
    if not pid.isdecimal():
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
