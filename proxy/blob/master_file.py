"""The file of master keys, and keys derived from one. Used by `local_keys`, `key_consensus`, `app` and `admin`.

The file (0600, JSON) holds every master key this registry ever had, the active one first; retired ones still open what
they wrapped. It may be mounted (Kubernetes: a symlink to a file of 0400 or 0440): the process's own group may read it,
no other. A key is added before it is activated, so that every process, which checks the file every LOOK_SECONDS, has it
before something is sealed under it. Must not know what the keys are used for.
"""

from __future__ import annotations

import base64
import contextlib
import errno
import fcntl
import hashlib
import hmac
import json
import os
import secrets
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from proxy.model.errors import OperatorError

NAMESPACE = "wharfage"
LOOK_SECONDS = 2.0  # between checks of the key file: for this long a retired key may still wrap data keys

_FILE_MAX = 1024 * 1024  # bytes: thousands of rotations
_READ_ONLY = (errno.EROFS, errno.EACCES, errno.EPERM)


class KeyFileError(OperatorError):
    """The master key file cannot be used; the text has the reason and the remedy."""


@dataclass(frozen=True, slots=True, repr=False)
class MasterKey:
    """One master key. It has no repr: a key must not get into a log."""

    namespace: str
    name: str
    key: bytes

    def derive(self, purpose: str) -> bytes:
        """32 bytes for another use than wrapping. HKDF-SHA256."""
        return HKDF(algorithm=SHA256(), length=32, salt=None, info=b"wharfage " + purpose.encode()).derive(self.key)

    def check_value(self) -> bytes:
        """Distinguishes two keys of one name without revealing either: HMAC-SHA256."""
        return hmac.digest(self.derive("check value"), b"wharfage master key check value 1", hashlib.sha256)


class MasterKeys:
    """The key file at `path`, read. All methods block; none is long (a file of a few hundred bytes)."""

    def __init__(self, path: Path, keys: tuple[MasterKey, ...]) -> None:
        self._path = path
        self._keys = keys
        self._agreed: str | None = None
        self._seen: tuple[int, int, int] | None = None  # what told the file apart when it was last read

    def __repr__(self) -> str:
        return f"<MasterKeys {self.active.name} active, {len(self._keys) - 1} more>"

    @staticmethod
    def load(path: Path) -> MasterKeys:
        """KeyFileError when it is not there, unreadable, malformed, or open to others."""
        return MasterKeys(path, _read(path))

    @staticmethod
    def load_or_create(path: Path) -> MasterKeys:
        """Read the key file, or make it with one new key. Several processes may do this at once: one makes it."""
        if not os.path.lexists(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with _written_beside(path, (new_key(),)) as fresh, contextlib.suppress(FileExistsError):
                os.link(fresh, path)  # unlike a rename, never takes the place of a file that appeared meanwhile
            _sync_folder(path.parent)
        return MasterKeys.load(path)

    @property
    def path(self) -> Path:
        return self._path

    @property
    def active(self) -> MasterKey:
        return self._keys[0]

    @property
    def in_force(self) -> MasterKey:
        """The key that wraps data keys: the one that all processes have agreed on, else the file's active one."""
        return next((key for key in self._keys if key.name == self._agreed), self.active)

    def agree(self, name: str | None) -> None:
        """Set the agreed key: files of several nodes may have different ones first. None: there is no agreement."""
        self._agreed = name

    @property
    def all(self) -> tuple[MasterKey, ...]:
        """The active one first. The same tuple until the file changes."""
        return self._keys

    def find(self, namespace: str, name: str) -> MasterKey | None:
        return next((key for key in self._keys if (key.namespace, key.name) == (namespace, name)), None)

    def reload(self) -> None:
        """Read the file if another process has changed it. KeyFileError; then the keys are unchanged."""
        try:
            found = self._path.stat()
        except OSError as error:
            raise KeyFileError(f"can't read the master keys in {self._path}: {error.strerror}") from error
        seen = found.st_ino, found.st_mtime_ns, found.st_size
        if seen != self._seen:
            self._keys = _read(self._path)
            self._seen = seen

    def export(self) -> list[dict[str, str]]:
        """All keys, the active first: namespace, name, key_base64. Secret."""
        return [as_json(key) for key in self._keys]

    def rotate(self) -> None:
        """Add a new key and make it the active one; durable when this returns. The old ones stay.

        Several processes may do this at once: each adds its own. KeyFileError where the file cannot be changed.
        """
        self._change(lambda keys: (new_key(), *keys))

    def add(self) -> MasterKey:
        """Add a new key, which is not active yet. KeyFileError."""
        made = new_key()
        self._change(lambda keys: (*keys, made))
        return made

    def activate(self, name: str) -> None:
        """Make the key of that name the active one. KeyFileError."""
        self._change(lambda keys: tuple(sorted(keys, key=lambda key: key.name != name)))

    def derive(self, purpose: str) -> list[tuple[str, bytes]]:
        """(key name, 32 bytes) for another use than wrapping, of each master key, the active first."""
        return [(key.name, key.derive(purpose)) for key in self._keys]

    def _change(self, change: Callable[[tuple[MasterKey, ...]], tuple[MasterKey, ...]]) -> None:
        path = self._path.resolve()  # where a link leads: the link itself stays
        try:
            folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                fcntl.flock(folder, fcntl.LOCK_EX)  # what another process has just added must not be lost
                keys = change(_read(path))
                with _written_beside(path, keys) as fresh:
                    os.replace(fresh, path)
                os.fsync(folder)
            finally:
                os.close(folder)
        except OSError as error:
            if error.errno not in _READ_ONLY:
                raise
            raise KeyFileError(
                f"{self._path} cannot be changed here ({error.strerror}); add a key where it comes from: "
                "`wharfage key new` prints one. Put it last, roll that out; put it first, roll that out; "
                "then run `wharfage rewrap --resume`"
            ) from error
        self._keys = keys


def new_key() -> MasterKey:
    return MasterKey(NAMESPACE, secrets.token_hex(8), secrets.token_bytes(32))


def as_json(key: MasterKey) -> dict[str, str]:
    """A key in the file's form. Secret."""
    return {"namespace": key.namespace, "name": key.name, "key_base64": base64.b64encode(key.key).decode()}


@contextlib.contextmanager
def _written_beside(path: Path, keys: tuple[MasterKey, ...]) -> Iterator[Path]:
    """A whole, synced, private file with those keys, in the same folder; gone at the end unless it was renamed."""
    fresh = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    content = json.dumps({"version": 1, "keys": [as_json(key) for key in keys]}, indent=1) + "\n"
    fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(fd, "w") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        yield fresh
    finally:
        fresh.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _read(path: Path) -> tuple[MasterKey, ...]:
    try:
        with path.open("rb") as file:
            found = os.fstat(file.fileno())
            content = file.read(_FILE_MAX + 1)
    except OSError as error:
        raise KeyFileError(f"can't read the master keys in {path}: {error.strerror}") from error
    if _is_open_to_others(found):
        raise KeyFileError(
            f"{path} holds master keys and is open to others; run: chmod 600 {path} "
            "(mounted from a Kubernetes secret: defaultMode 0400, or 0440 with an fsGroup)"
        )
    try:
        document = json.loads(content)
        if document["version"] != 1:
            raise ValueError(f"version {document['version']!r} is not known")
        keys = tuple(
            MasterKey(str(entry["namespace"]), str(entry["name"]), base64.b64decode(entry["key_base64"], validate=True))
            for entry in document["keys"]
        )
        if not keys or any(len(key.key) != 32 for key in keys):
            raise ValueError("it needs at least one key, each of 32 bytes")
        if len({(key.namespace, key.name) for key in keys}) != len(keys):
            raise ValueError("two keys have one name")
    except (ValueError, KeyError, TypeError) as error:
        raise KeyFileError(f"{path} is not a master key file: {error}; restore it from a backup") from None
    return keys


def _is_open_to_others(found: os.stat_result) -> bool:
    """Whether others than its owner may do more than read it as members of this process's group."""
    mode = stat.S_IMODE(found.st_mode)
    return bool(mode & 0o037) or bool(mode & 0o040 and found.st_gid not in {os.getegid(), *os.getgroups()})
