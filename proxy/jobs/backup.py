"""The folder of a backup, read and written by `admin.backups` and `admin.restores`. Format 1:

    DIR/
      lock                        locked (flock) by the command that writes here, shared by those that read
      objects/                    sealed objects of all snapshots, unchanged: a filesystem store with the registry's
                                  store id; none with --inventory
      snapshots/
        20261124T220511Z/         its time, UTC
          rows.db                 SQLite: all rows of one moment (`metadata.db.snapshot`)
          objects.txt             a line for each blob: object key, stored bytes, digest, `kept`, `archived` or
                                  `quarantined`
          keys.sealed             master keys (if they are in a file) and credentials under the passphrase
                                  (`auth.passphrase`), and as `snapshot.json` the SHA-256 of rows.db and objects.txt and
                                  the store's id
          manifest.json           written last: what the other files are, and its own SHA-256 (of it as JSON, names
                                  sorted, without spaces, without the member `sha256`)

Promises: a snapshot without a manifest is incomplete, and the next backup removes it; every file is on disk before the
manifest is. A change of rows.db or objects.txt is detected by the manifest, and by the sealed copy if the manifest was
changed, too. All functions block. Must not know how rows, keys and objects come here.
"""

from __future__ import annotations

import fcntl
import hashlib
import heapq
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from proxy.model.errors import OperatorError
from proxy.storage.base import KEY

FORMAT, VERSION = "wharfage backup", 1
ROWS, OBJECTS, KEYS, MANIFEST = "rows.db", "objects.txt", "keys.sealed", "manifest.json"
_KEPT, _ARCHIVED, _QUARANTINED = "kept", "archived", "quarantined"
_MANIFEST_MAX = 4 * 2**20  # bytes
_KEYS_MAX = 4 * 2**20  # the key file may have a MiB, and is encoded in base64 twice
NAMED_MAX = 1000  # missing objects that a manifest lists


class BackupError(OperatorError):
    """The folder cannot be used; the text says why and what to do."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A complete snapshot; `facts` is its manifest."""

    folder: Path
    facts: dict[str, Any]

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def store_id(self) -> str:
        return str(self.facts["store_id"])

    @property
    def has_objects(self) -> bool:
        return bool(self.facts["objects"]["copied"])

    def __str__(self) -> str:
        what = "objects, rows and keys" if self.has_objects else "an inventory, rows and keys"
        return f"snapshot {self.name} ({what}, {self.facts['objects']['count']:,} blobs)"


@dataclass(frozen=True, slots=True)
class ObjectEntry:
    """One line of objects.txt."""

    key: str
    size: int
    digest: str
    quarantined: bool
    archived: bool = False  # it was in the store of `[archive]`


def hold(folder: Path) -> int:
    """Create the folder if it is missing, and lock it. Returns the descriptor. BackupError while it is locked."""
    (folder / "snapshots").mkdir(mode=0o700, parents=True, exist_ok=True)
    lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        raise BackupError(
            f"another backup writes to {folder} now, or a restore reads there; wait for its end"
        ) from None
    return lock


def share(folder: Path) -> int | None:
    """Keep backups from writing while we read. Returns the lock's descriptor; None for a copy of a backup without its
    lock. BackupError while a backup writes."""
    try:
        lock = os.open(folder / "lock", os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        raise BackupError(f"a backup writes to {folder} now; wait for its end") from None
    return lock


def begin(folder: Path, now: float) -> Path:
    """Create the folder of a new snapshot. Earlier incomplete ones are removed."""
    for old in _folders(folder):
        if not (old / MANIFEST).exists():
            shutil.rmtree(old)
    name = datetime.fromtimestamp(now, UTC).strftime("%Y%m%dT%H%M%SZ")
    for number in range(1, 10):
        made = folder / "snapshots" / (name if number == 1 else f"{name}-{number}")
        if not made.exists():
            made.mkdir(mode=0o700)
            return made
    raise BackupError(f"{folder}: ten backups in one second")


def complete(snapshot: Path, facts: dict[str, Any]) -> Snapshot:
    """Write the manifest of `facts`, format, version and sum. The snapshot is complete when this returns."""
    document = {"format": FORMAT, "version": VERSION, **facts}
    document["sha256"] = _sum_of(document)
    write(snapshot / MANIFEST, (json.dumps(document, indent=1) + "\n").encode())
    sync(snapshot.parent)
    sync(snapshot.parent.parent)
    return _read(snapshot)


def snapshots(folder: Path) -> list[Snapshot]:
    """The complete snapshots, the oldest first. BackupError if one cannot be read."""
    return [_read(each) for each in _folders(folder) if (each / MANIFEST).exists()]


def choose(folder: Path, name: str | None) -> Snapshot:
    """The snapshot of that name; without a name, the newest. BackupError if there is none, or it is damaged."""
    if not (folder / "snapshots").is_dir():
        raise BackupError(f"{folder} is no backup: it has no folder `snapshots`")
    if name is not None:
        chosen = next((each for each in _folders(folder) if each.name == name), None)
        if chosen is None:
            raise BackupError(f"{folder} has no snapshot {name}; it has {_names(_folders(folder))}")
        if not (chosen / MANIFEST).exists():
            raise BackupError(f"snapshot {name} is incomplete: its backup was broken off")
        return _read(chosen)
    whole = [each for each in _folders(folder) if (each / MANIFEST).exists()]
    if not whole:
        raise BackupError(f"{folder} holds no complete snapshot: a backup was broken off, or never made; run it again")
    return _read(whole[-1])


def write_list(path: Path, lines: Iterable[tuple[str, int, str, bool, bool]]) -> tuple[int, int, int]:
    """Write objects.txt of (key, size, digest, quarantined, archived), sorted by key. Returns the number of objects,
    the bytes of those that are not quarantined, and the number of those that are."""
    count = total = hidden = 0
    with open(path, "x", opener=private) as file:
        for key, size, digest, quarantined, archived in lines:
            state = _QUARANTINED if quarantined else _ARCHIVED if archived else _KEPT
            file.write(f"{key} {size} {digest} {state}\n")
            count += 1
            total += 0 if quarantined else size
            hidden += quarantined
        file.flush()
        os.fsync(file.fileno())
    return count, total, hidden


def read_list(path: Path) -> Iterator[ObjectEntry]:
    """The lines of objects.txt. BackupError at a damaged one."""
    with path.open() as file:
        for number, text in enumerate(file, 1):
            words = text.split()
            if len(words) != 4 or not KEY.fullmatch(words[0]) or not words[1].isdecimal():
                raise BackupError(f"{path}: line {number} is damaged")
            yield ObjectEntry(words[0], int(words[1]), words[2], words[3] == _QUARANTINED, words[3] == _ARCHIVED)


def sum_of(path: Path) -> str:
    """The SHA-256 of a file, hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_keys(snapshot: Snapshot) -> bytes:
    """The content of keys.sealed. BackupError when it cannot be read, or is larger than any that is written."""
    path = snapshot.folder / KEYS
    try:
        with path.open("rb") as file:
            content = file.read(_KEYS_MAX + 1)
    except OSError as error:
        raise BackupError(f"{path}: {error.strerror}") from None
    if len(content) > _KEYS_MAX:
        raise BackupError(f"{path} is not what was backed up: larger than {_KEYS_MAX} bytes")
    return content


def check_sums(snapshot: Snapshot, sealed: bytes) -> None:
    """BackupError unless rows.db, objects.txt and the store's id are those of the manifest, and of the sealed
    `snapshot.json`."""
    sums = json.loads(sealed)
    for part, name in (("rows", ROWS), ("objects", OBJECTS)):
        try:
            found = sum_of(snapshot.folder / name)
        except OSError as error:
            raise BackupError(f"{snapshot.folder / name}: {error.strerror}") from None
        if found != snapshot.facts[part]["sha256"]:
            raise BackupError(f"{snapshot.folder / name} is not what was backed up: truncated, damaged or changed")
        if found != sums.get(part):
            raise BackupError(f"{snapshot.folder / name} and its manifest have been changed since they were written")
    if sums.get("store_id") != snapshot.store_id:
        raise BackupError(f"{snapshot.folder / MANIFEST} names another store than it did when it was written")


def write(path: Path, content: bytes) -> None:
    """Write a private file atomically; it is on disk when this returns."""
    draft = path.with_name(f".{path.name}.new")
    draft.unlink(missing_ok=True)
    with open(draft, "xb", opener=private) as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    draft.rename(path)
    sync(path.parent)


def drop(folder: Path, keep: int) -> list[str]:
    """Remove all complete snapshots but the newest `keep`, and return their names. Objects stay."""
    whole = [each for each in _folders(folder) if (each / MANIFEST).exists()]
    old = whole[: max(0, len(whole) - keep)]
    for each in old:
        (each / MANIFEST).unlink()  # first: a partly removed snapshot must not look complete
        sync(each)
        shutil.rmtree(each)
    return [each.name for each in old]


def named(folder: Path) -> Iterator[str]:
    """The object keys of all complete snapshots, in order, each once."""
    last = ""
    for line in heapq.merge(
        *(read_list(each.folder / OBJECTS) for each in snapshots(folder)), key=lambda line: line.key
    ):
        if line.key != last:
            last = line.key
            yield last


def _read(snapshot: Path) -> Snapshot:
    path = snapshot / MANIFEST
    try:
        with path.open("rb") as file:
            facts = json.loads(file.read(_MANIFEST_MAX))
        if facts["format"] != FORMAT:
            raise ValueError("of another format")
        if facts["version"] != VERSION:
            raise BackupError(f"{path}: made by a later version of wharfage (format {str(facts['version'])[:10]})")
        if facts.pop("sha256") != _sum_of(facts):
            raise ValueError("its SHA-256 is another")
    except OSError as error:
        raise BackupError(f"{path}: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BackupError(f"{path} is damaged or has been changed: {str(error)[:80]}") from None
    return Snapshot(snapshot, facts)


def _sum_of(document: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(document, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _folders(folder: Path) -> list[Path]:
    return sorted(path for path in (folder / "snapshots").iterdir() if path.is_dir())


def _names(folders: list[Path]) -> str:
    return ", ".join(each.name for each in folders[-10:]) or "none"


def private(path: str, flags: int) -> int:
    """An `opener` for files that only their owner may read."""
    return os.open(path, flags, 0o600)


def sync(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
