"""The disk blocks of a file, taken before its bytes come and given back: `fallocate`, which never changes a size here.

Blocking, for threads. Not every file system can: each function says by False that nothing was done.
"""

from __future__ import annotations

import ctypes
import errno
import os

_KEEP_SIZE, _PUNCH = 1, 2 | 1

# What os has, posix_fallocate, changes the size, and writes zeros where the file system can do no better.
_fallocate = getattr(ctypes.CDLL(None, use_errno=True), "fallocate", None)
if _fallocate is not None:
    _fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)


def allocate(fd: int, at: int, length: int) -> bool:
    """Take blocks for these bytes, also beyond the end of the file. OSError, as when the disk is full."""
    return _change(fd, _KEEP_SIZE, at, length)


def punch(fd: int, at: int, length: int) -> bool:
    """Give the blocks of these bytes back; they read as zeros. OSError."""
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
