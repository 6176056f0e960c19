"""The directories and files of objects, and what makes them durable. Used by `store`, in threads: everything blocks.

    <root>/                0700, made at the first use
      <abc>/               the key's first 3 hex digits: 4,096 folders, about 2,400 files each at 10 million objects
        <key>              0600, 32 hex digits; written in place, under its final name, never renamed
      drafts/              unfinished copies (`create_draft`): <key>.<16 hex digits>, renamed to <abc>/<key>, 0400, once
                           they are durable. So a read-only object of the right size is whole
      probe.<pid>          exists for an instant while the store is checked
      wharfage-store       which store this is (`marker`)

Promises: no name but a checked key and its own first digits ever becomes a path, each opened relative to its folder's
descriptor without following a link; files are made with O_EXCL; `make_durable` returns after fsync of the file, of its
folder, and of every parent that this process has not yet seen synced (another process may have made it and died).
Directories are never removed, so one sync is enough. Removals are not synced: a power cut may bring back an object
without a row, which the sweep removes again. A writer holds an flock on its file, so that a late writer and its
successor never write to one object at once. OSErrors become `Failure`. Must not know asyncio.
"""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import stat
import threading
from collections.abc import Callable
from pathlib import Path

from proxy.model.errors import Code, Failure
from proxy.storage import marker
from proxy.storage.base import KEY, ObjectMissing, StoredObject

DRAFTS = "drafts"
_BLOCK = 64 * 1024  # bytes: the largest block of a file system
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_FOLDER = _DIRECTORY | os.O_NOFOLLOW
_NEW = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_AGAIN = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
_PROBE = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC


class Tree:
    """The store's tree at `root`; nothing is touched before the first call. Tests replace `fsync`.

    With a `store_id`, an object is made, or reported missing, only while the root holds that id.
    """

    def __init__(self, root: Path, fsync: Callable[[int], None], store_id: str | None = None) -> None:
        self._root = root
        self._store_id = store_id
        self._fsync = fsync
        self._opening = threading.Lock()
        self._root_fd = -1
        self._folder_synced = bytearray(4096)  # 1: that directory is durable in `root`

    def create(self, key: str) -> int:
        folder = -1
        try:
            self._vouch()
            folder = self._folder(key, make=True)
            fd = os.open(key, _NEW, 0o600, dir_fd=folder)
        except FileExistsError as error:
            raise Failure(Code.STORE_UNAVAILABLE, "there is an object under this key already") from error
        except OSError as error:
            raise failure(error, "making an object") from error
        finally:
            _close(folder)
        return self._lock(fd)

    def create_draft(self, key: str) -> tuple[int, str]:
        """A new file's descriptor, and its name in drafts/."""
        name, folder = f"{key}.{secrets.token_hex(8)}", -1
        try:
            self._vouch()
            _make_folder(DRAFTS, self._root_fd)
            folder = os.open(DRAFTS, _FOLDER, dir_fd=self._root_fd)
            fd = os.open(name, _NEW, 0o600, dir_fd=folder)
        except OSError as error:
            raise failure(error, "making a draft") from error
        finally:
            _close(folder)
        return self._lock(fd), name

    def publish_draft(self, name: str, key: str, fd: int, size: int, *, spare: bool = False) -> None:
        """Make a draft durable and rename it to its key, over an existing object."""
        drafts = folder = -1
        try:
            found = os.fstat(fd)
            if found.st_nlink == 0 or found.st_size != size:
                raise Failure(Code.STORE_UNAVAILABLE, f"a draft holds {found.st_size} bytes where {size} were written")
            if spare:
                os.ftruncate(fd, size)
            os.fchmod(fd, 0o400)
            self._fsync(fd)
            folder = self._folder(key, make=True)
            drafts = os.open(DRAFTS, _FOLDER, dir_fd=self._root_fd)
            os.rename(name, key, src_dir_fd=drafts, dst_dir_fd=folder)
            self._fsync(folder)
            number = int(key[:3], 16)
            if not self._folder_synced[number]:
                self._fsync(self._root_fd)
                self._folder_synced[number] = 1
        except OSError as error:
            raise failure(error, "making a copy durable") from error
        finally:
            _close(drafts)
            _close(folder)

    def forget_draft(self, name: str, fd: int) -> None:
        """As `forget`, for a draft. One that was published stays."""
        folder = -1
        try:
            folder = os.open(DRAFTS, _FOLDER, dir_fd=self._root_fd)
            os.unlink(name, dir_fd=folder)
        except OSError:
            return
        finally:
            _close(folder)
            os.close(fd)

    def remove_drafts(self, before: float) -> int:
        """Remove drafts untouched since then whose writers are dead: a live writer holds the lock."""
        folder = -1
        removed = 0
        try:
            self._vouch()
            folder = os.open(DRAFTS, _FOLDER, dir_fd=self._root_fd)
            for name in os.listdir(folder):
                found = _regular(name, folder)
                if found is None or found.st_mtime > before:
                    continue
                fd = os.open(name, _READ, dir_fd=folder)
                try:
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    os.unlink(name, dir_fd=folder)
                    removed += 1
                except BlockingIOError:
                    continue
                finally:
                    os.close(fd)
        except FileNotFoundError:
            return removed
        except OSError as error:
            raise failure(error, "removing drafts") from error
        finally:
            _close(folder)
        return removed

    def reopen(self, key: str, offset: int) -> int:
        fd = self._lock(self._open_file(key, _AGAIN))
        try:
            found = os.fstat(fd)
            if found.st_size < offset:
                raise ObjectMissing(key)
            if found.st_size > offset or found.st_blocks * 512 > offset + _BLOCK:
                os.ftruncate(fd, offset)  # also frees blocks that a killed writer allocated beyond it
        except OSError as error:
            os.close(fd)
            raise failure(error, "resuming an object") from error
        except ObjectMissing:
            os.close(fd)
            raise
        return fd

    def open(self, key: str, fresh: bool) -> tuple[int, int]:
        fd = self._open_file(key, _READ)
        try:
            if fresh:
                os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            return fd, os.fstat(fd).st_size
        except OSError as error:
            os.close(fd)
            raise failure(error, "opening an object") from error

    def make_durable(self, key: str, fd: int, size: int, *, spare: bool = False) -> None:
        """fsync the file, its directory, and each parent not yet known to be durable, deepest first. `spare`: free the
        blocks beyond its size before."""
        folder = -1
        try:
            found = os.fstat(fd)
            if found.st_nlink == 0:
                raise ObjectMissing(key)  # deleted while it was written, for example as its upload was cancelled
            if found.st_size != size:
                raise Failure(
                    Code.STORE_UNAVAILABLE, f"an object holds {found.st_size} bytes where {size} were written"
                )
            if spare:
                os.ftruncate(fd, size)
            self._fsync(fd)
            folder = self._folder(key, make=False)
            self._fsync(folder)
            number = int(key[:3], 16)
            if not self._folder_synced[number]:
                self._fsync(self._root_fd)
                self._folder_synced[number] = 1
        except OSError as error:
            raise failure(error, "making an object durable") from error
        finally:
            _close(folder)

    def forget(self, key: str, fd: int) -> None:
        """Remove the file and close it. Errors are ignored: the sweep removes what is left."""
        try:
            self.remove(key)
        except Failure:
            return
        finally:
            os.close(fd)

    def remove(self, key: str) -> bool:
        folder = -1
        try:
            folder = self._folder(key, make=False)
            os.unlink(key, dir_fd=folder)
        except FileNotFoundError:
            return False
        except OSError as error:
            raise failure(error, "deleting an object") from error
        finally:
            _close(folder)
        return True

    def folders(self, start: str) -> list[str]:
        try:
            self._vouch()
            return sorted(name for name in os.listdir(self._root_fd) if _is_folder(name) and name >= start)
        except OSError as error:
            raise failure(error, "listing objects") from error

    def entries(self, folder: str, after: str) -> list[StoredObject]:
        fd = -1
        try:
            fd = os.open(folder, _FOLDER, dir_fd=self._root_fd)
            return [
                StoredObject(key, found.st_size, found.st_mtime, True, not found.st_mode & 0o200)
                for key in sorted(os.listdir(fd))
                if KEY.fullmatch(key) and key > after and key.startswith(folder) and (found := _regular(key, fd))
            ]
        except OSError as error:
            raise failure(error, "listing objects") from error
        finally:
            _close(fd)

    def require_space(self, size: int) -> None:
        try:
            self._ready()
            found = os.fstatvfs(self._root_fd)
        except OSError as error:
            raise failure(error, "asking for free space") from error
        if found.f_bavail * found.f_frsize < size:
            raise failure(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), f"finding room for {size} bytes")

    def probe(self, min_free: int) -> None:
        self.require_space(min_free)
        name, wrote, fd = f"probe.{os.getpid()}", os.urandom(4096), -1
        try:
            if not os.path.samestat(os.stat(self._root), os.fstat(self._root_fd)):
                raise Failure(
                    Code.STORE_UNAVAILABLE,
                    "the store's folder was replaced",
                    hint=f"restart to use the new {self._root}",
                )
            self._vouch()
            fd = os.open(name, _PROBE, 0o600, dir_fd=self._root_fd)
            os.pwrite(fd, wrote, 0)
            self._fsync(fd)
            if os.pread(fd, len(wrote), 0) != wrote:
                raise OSError(errno.EIO, "a probe read back otherwise than it was written")
        except OSError as error:
            raise failure(error, "probing the store") from error
        finally:
            if fd >= 0:
                os.close(fd)
                os.unlink(name, dir_fd=self._root_fd)

    def close(self) -> None:
        with self._opening:
            _close(self._root_fd)
            self._root_fd = -1

    def _ready(self) -> None:
        """Open the root, made if it does not exist, and sync its parents, once a process."""
        with self._opening:
            if self._root_fd >= 0:
                return
            missing = [path for path in (self._root, *self._root.parents) if not path.exists()]
            if missing and self._store_id is not None:
                raise marker.wrong_folder(self._root, None)
            for path in reversed(missing):
                path.mkdir(mode=0o700, exist_ok=True)
            for path in missing or (self._root,):
                try:
                    parent = os.open(path.absolute().parent, _DIRECTORY)
                except PermissionError:
                    continue  # a directory that we may not read is none that we made
                try:
                    self._fsync(parent)
                finally:
                    os.close(parent)
            self._root_fd = os.open(self._root, _DIRECTORY)  # may be a link: the operator chose it

    def _vouch(self) -> None:
        self._ready()
        if self._store_id is not None:
            marker.check(self._root, self._root_fd, self._store_id)

    def _folder(self, key: str, *, make: bool) -> int:
        self._ready()
        if make:
            _make_folder(key[:3], self._root_fd)
        return os.open(key[:3], _FOLDER, dir_fd=self._root_fd)

    def _open_file(self, key: str, flags: int) -> int:
        folder = -1
        try:
            folder = self._folder(key, make=False)
            return os.open(key, flags, dir_fd=folder)
        except FileNotFoundError as error:
            self._vouch()
            raise ObjectMissing(key) from error
        except OSError as error:
            raise failure(error, "opening an object") from error
        finally:
            _close(folder)

    def _lock(self, fd: int) -> int:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(fd)
            raise Failure(Code.STORE_UNAVAILABLE, "another writer still holds this object", hint="try again") from error
        except OSError as error:
            os.close(fd)
            raise failure(error, "locking an object") from error
        return fd


def failure(error: OSError, doing: str) -> Failure:
    """StoreFull for a full disk or quota, StoreUnavailable for other errors."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return Failure(Code.STORE_FULL, f"{doing}: {error.strerror}", hint="make room on the store's disk")
    return Failure(
        Code.STORE_UNAVAILABLE, f"{doing}: {error.strerror or error}", hint="see the store's disk and its log"
    )


def _is_folder(name: str) -> bool:
    return len(name) == 3 and all(digit in "0123456789abcdef" for digit in name)


def _regular(name: str, folder: int) -> os.stat_result | None:
    try:
        found = os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:  # deleted since it was listed
        return None
    return found if stat.S_ISREG(found.st_mode) else None


def _make_folder(name: str, parent: int) -> None:
    try:
        os.mkdir(name, 0o700, dir_fd=parent)
    except FileExistsError:
        return


def _close(fd: int) -> None:
    if fd >= 0:
        os.close(fd)
