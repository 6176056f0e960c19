"""Allocates and frees disk blocks of a file with `fallocate`; the file's size never changes.

Everything blocks. Not every file system supports it: a function returns False when it did nothing. Used by `store` and
`cache.file`.
"""

from __future__ import annotations

import ctypes
import errno
import os

_KEEP_SIZE, _PUNCH = 1, 2 | 1

# os.posix_fallocate changes the size, and writes zeros on file systems without support.
_fallocate = getattr(ctypes.CDLL(None, use_errno=True), "fallocate", None)
if _fallocate is not None:
    _fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)


def allocate(fd: int, at: int, length: int) -> bool:
    """Allocate blocks for these bytes, also beyond the end of the file. OSError, for example when the disk is full."""
    return _change(fd, _KEEP_SIZE, at, length)


def punch(fd: int, at: int, length: int) -> bool:
    """Free the blocks of these bytes, which read as zeros then. OSError."""
    return _change(fd, _PUNCH, at, length)


def _change(fd: int, mode: int, at: int, length: int) -> bool:
    if _fallocate is None:
        return False
    while _fallocate(fd, mode, at, length):
        number = ctypes.get_errno()
        if number in (errno.EOPNOTSUPP, errno.ENOSYS):
            return False
        if number != errno.EINTR:
            raise OSError(number, os.strerror(number))
    return True
