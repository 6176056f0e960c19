"""Reads of a file that never wait for a disk, for the event loop.

The page cache is asked by preadv(RWF_NOWAIT) (Linux 4.14). A tmpfs does not know the flag, and has no disk to wait for
(unless it was swapped out, and then the machine is short of what every read here needs): it is read without it.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing_extensions import Buffer

_TMPFS, _RAMFS = 0x01021994, 0x858458F6  # linux/magic.h
_TYPE = struct.Struct("@l")  # of struct statfs, whose first member it is
_STATFS_MOST = 256  # bytes: it has 120 on 64-bit Linux

_fstatfs = getattr(ctypes.CDLL(None), "fstatfs", None)
if _fstatfs is not None:
    _fstatfs.argtypes = (ctypes.c_int, ctypes.c_char_p)


class NowaitReader:
    """How the open file `fd` is read without waiting."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._flag: int | None = os.RWF_NOWAIT  # None: it cannot be told what would wait

    def read(self, into: Buffer, offset: int) -> int:
        """How many bytes were there; 0 also where the disk would have to be asked, or nobody can tell. OSError."""
        if self._flag is None:
            return 0
        try:
            return os.preadv(self._fd, [into], offset, self._flag)
        except BlockingIOError:
            return 0
        except OSError as error:
            if not self._flag or error.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):
                raise
        self._flag = 0 if in_memory(self._fd) else None
        return self.read(into, offset)


def in_memory(fd: int) -> bool:
    """Whether the file's system has no disk."""
    told = ctypes.create_string_buffer(_STATFS_MOST)
    if _fstatfs is None or _fstatfs(fd, told):
        return False
    return _TYPE.unpack_from(told)[0] & 0xFFFFFFFF in (_TMPFS, _RAMFS)
