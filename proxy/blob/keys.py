"""Master keys in a file, and the data keys they wrap.

The file (0600, JSON) holds every master key this registry ever had, the active one first; retired ones still open
what they wrapped. Data keys are wrapped as the AWS Encryption SDK's raw AES keyring does it, so `key export` and the
SDK open any object without us:

    provider id            namespace
    provider information   key name, then tag length in bits (4), IV length in bytes (4), IV (12)
    ciphertext             AES-256-GCM of the data key under the master key, then its tag (16)
                           AAD = the serialized encryption context

Unwrapped keys stay in memory for CACHE_SECONDS at most, CACHE_KEYS of them. Must not know rows, stores or repositories
(an ARN is an opaque string here).
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import fcntl
import json
import os
import secrets
import stat
import struct
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from proxy import observe
from proxy.blob.format import DATA_KEY_LENGTH, context_of, serialize_context
from proxy.model.errors import Code, Failure
from proxy.model.records import EncryptedDataKey

NAMESPACE = "wharfage"
CACHE_SECONDS = 300.0
CACHE_KEYS = 1024
LOOK_SECONDS = 2.0  # between two looks at the key file: so long a data key may still be wrapped by a retired master

_IV = 12
_INFO_END = struct.pack(">II", 128, _IV)
_FILE_MAX = 1024 * 1024  # bytes: thousands of rotations


@dataclass(frozen=True, slots=True)
class DataKey:
    """A fresh data key: to seal with now, and as it is kept."""

    plaintext: bytes
    encrypted: EncryptedDataKey


class DataKeys(Protocol):
    """Who makes and unwraps data keys. `sealed_for` is bound to the key and must be the same again."""

    async def generate(self, sealed_for: str) -> DataKey: ...

    async def unwrap(self, encrypted: EncryptedDataKey, sealed_for: str) -> bytes:
        """The data key, from memory if it was unwrapped a moment ago. `Failure(KMS)` when it can't be."""

    async def rewrap(self, encrypted: EncryptedDataKey, sealed_for: str) -> EncryptedDataKey:
        """The same data key under the active master key."""

    async def check(self) -> None:
        """Raise `Failure` unless a key can be wrapped and unwrapped now (for /readyz)."""


class KeyFileError(Exception):
    """The master key file can't be used; the text says why and what to do."""


@dataclass(frozen=True, slots=True, repr=False)
class MasterKey:
    """One master key. It has no repr: a key in a log is a key lost."""

    namespace: str
    name: str
    key: bytes


class MasterKeys:
    """The key file at `path`, read. All methods block; none is long (a file of a few hundred bytes)."""

    def __init__(self, path: Path, keys: tuple[MasterKey, ...]) -> None:
        self._path = path
        self._keys = keys
        self._seen: tuple[int, int, int] | None = None  # what told the file apart when it was last read

    def __repr__(self) -> str:
        return f"<MasterKeys {self.active.name} active, {len(self._keys) - 1} retired>"

    @staticmethod
    def load_or_create(path: Path) -> MasterKeys:
        """Read the key file, or make it with one new key. Several processes may do this at once: one makes it.

        KeyFileError when it is there but unreadable, malformed, or open to others.
        """
        if not os.path.lexists(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with _written_beside(path, (_new_key(),)) as fresh, contextlib.suppress(FileExistsError):
                os.link(fresh, path)  # unlike a rename, never takes the place of a file that appeared meanwhile
            _sync_folder(path.parent)
        return MasterKeys(path, _read(path))

    @property
    def active(self) -> MasterKey:
        return self._keys[0]

    def find(self, namespace: str, name: str) -> MasterKey | None:
        return next((key for key in self._keys if (key.namespace, key.name) == (namespace, name)), None)

    def reload(self) -> None:
        """Take what another process made of the file, if it did. KeyFileError; the keys then stay as they were."""
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
        return [_as_json(key) for key in self._keys]

    def rotate(self) -> None:
        """Add a new key and make it the active one; durable when this returns. The old ones stay.

        Several processes may do this at once: each adds its own.
        """
        folder = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX)  # a key that another process has just wrapped with must not be lost
            keys = (_new_key(), *_read(self._path))
            with _written_beside(self._path, keys) as fresh:
                os.replace(fresh, self._path)
            os.fsync(folder)
        finally:
            os.close(folder)
        self._keys = keys

    def derive(self, purpose: str) -> list[tuple[str, bytes]]:
        """(key name, 32 bytes) for another use than wrapping, of each master key, the active first. HKDF-SHA256."""
        return [
            (
                key.name,
                HKDF(algorithm=SHA256(), length=32, salt=None, info=b"wharfage " + purpose.encode()).derive(key.key),
            )
            for key in self._keys
        ]


class LocalKeys:
    """Data keys wrapped by master keys of the key file: the default `DataKeys`.

    Costs microseconds and waits for nothing, but for a look at the key file, in a thread, every LOOK_SECONDS in which
    a key is made, and at each key name that it has not seen: another process may have rotated.
    """

    def __init__(self, masters: MasterKeys, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._masters = masters
        self._cache = _Unwrapped(clock)
        self._clock = clock
        self._looked_at = clock()

    async def generate(self, sealed_for: str) -> DataKey:
        if self._clock() - self._looked_at >= LOOK_SECONDS:
            self._looked_at = self._clock()
            await asyncio.to_thread(self._look)
        plaintext = secrets.token_bytes(DATA_KEY_LENGTH)
        encrypted = _wrap(self._masters.active, plaintext, sealed_for)
        self._cache.put((encrypted, sealed_for), plaintext)
        return DataKey(plaintext, encrypted)

    async def unwrap(self, encrypted: EncryptedDataKey, sealed_for: str) -> bytes:
        cached = self._cache.get((encrypted, sealed_for))
        if cached is not None:
            return cached
        namespace, name = encrypted.provider_id, _key_name(encrypted)
        master = self._masters.find(namespace, name)
        if master is None:
            await asyncio.to_thread(self._look)
            master = self._masters.find(namespace, name)
        if master is None:
            raise Failure(
                Code.KMS,
                f"no master key {namespace}/{name[:64]}",
                hint="put the retired key back into the key file; without it this object can't be opened",
            )
        plaintext = _unwrap(master, encrypted, sealed_for)
        self._cache.put((encrypted, sealed_for), plaintext)
        return plaintext

    async def rewrap(self, encrypted: EncryptedDataKey, sealed_for: str) -> EncryptedDataKey:
        active = self._masters.active
        if (encrypted.provider_id, _key_name(encrypted)) == (active.namespace, active.name):
            return encrypted
        return _wrap(active, await self.unwrap(encrypted, sealed_for), sealed_for)

    async def check(self) -> None:
        probe = secrets.token_bytes(DATA_KEY_LENGTH)
        if _unwrap(self._masters.active, _wrap(self._masters.active, probe, "probe"), "probe") != probe:
            raise Failure(Code.KMS, "the master key does not open what it wrapped")

    def _look(self) -> None:
        try:
            self._masters.reload()
        except KeyFileError as error:
            observe.log.error("the master key file cannot be read again; the keys in memory stay", error=str(error))


class _Unwrapped:
    """Data keys unwrapped less than CACHE_SECONDS ago, at most CACHE_KEYS, the least recently made dropped first."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._kept: OrderedDict[tuple[EncryptedDataKey, str], tuple[float, bytes]] = OrderedDict()

    def get(self, key: tuple[EncryptedDataKey, str]) -> bytes | None:
        found = self._kept.get(key)
        if found is None:
            return None
        if found[0] <= self._clock():
            del self._kept[key]
            return None
        return found[1]

    def put(self, key: tuple[EncryptedDataKey, str], plaintext: bytes) -> None:
        self._kept[key] = (self._clock() + CACHE_SECONDS, plaintext)
        self._kept.move_to_end(key)
        while len(self._kept) > CACHE_KEYS or next(iter(self._kept.values()))[0] <= self._clock():
            self._kept.popitem(last=False)


def _wrap(master: MasterKey, plaintext: bytes, sealed_for: str) -> EncryptedDataKey:
    iv = secrets.token_bytes(_IV)
    ciphertext = AESGCM(master.key).encrypt(iv, plaintext, serialize_context(context_of(sealed_for)))
    return EncryptedDataKey(master.namespace, master.name.encode() + _INFO_END + iv, ciphertext)


def _unwrap(master: MasterKey, encrypted: EncryptedDataKey, sealed_for: str) -> bytes:
    context = serialize_context(context_of(sealed_for))
    try:
        plaintext = AESGCM(master.key).decrypt(encrypted.provider_info[-_IV:], encrypted.ciphertext, context)
    except InvalidTag:
        raise Failure(Code.KMS, f"the data key wrapped by {master.name} does not authenticate") from None
    if len(plaintext) != DATA_KEY_LENGTH:
        raise Failure(Code.KMS, f"a data key of {len(plaintext)} bytes")
    return plaintext


def _key_name(encrypted: EncryptedDataKey) -> str:
    info = encrypted.provider_info
    name = info[: -len(_INFO_END) - _IV]
    if not name or info[len(name) : -_IV] != _INFO_END:
        raise Failure(Code.KMS, f"a data key of provider {encrypted.provider_id[:64]!r} is not wrapped by raw AES-GCM")
    return name.decode(errors="replace")


def _new_key() -> MasterKey:
    return MasterKey(NAMESPACE, secrets.token_hex(8), secrets.token_bytes(32))


def _as_json(key: MasterKey) -> dict[str, str]:
    return {"namespace": key.namespace, "name": key.name, "key_base64": base64.b64encode(key.key).decode()}


@contextlib.contextmanager
def _written_beside(path: Path, keys: tuple[MasterKey, ...]) -> Iterator[Path]:
    """A whole, synced, private file with those keys, in the same folder; gone at the end unless it was renamed."""
    fresh = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    content = json.dumps({"version": 1, "keys": [_as_json(key) for key in keys]}, indent=1) + "\n"
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
            mode = os.fstat(file.fileno()).st_mode
            content = file.read(_FILE_MAX + 1)
    except OSError as error:
        raise KeyFileError(f"can't read the master keys in {path}: {error.strerror}") from error
    if stat.S_IMODE(mode) & 0o077:
        raise KeyFileError(f"{path} holds master keys and is open to others; run: chmod 600 {path}")
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
