"""File reads that never wait for a disk, for the event loop. Used by `store` and `cache`.

preadv(RWF_NOWAIT) (Linux 4.14) reads from the page cache only. tmpfs does not support the flag and has no disk to wait
for (except swap, and then the machine is short of memory anyway): it is read without the flag.
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
    """Reads the open file `fd` without waiting."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._flag: int | None = os.RWF_NOWAIT  # None: the file system cannot read without waiting

    def read(self, into: Buffer, offset: int) -> int:
        """How many bytes were read; 0 also where the read would wait for the disk. OSError."""
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
    """Whether the file is on a file system in memory."""
    told = ctypes.create_string_buffer(_STATFS_MOST)
    if _fstatfs is None or _fstatfs(fd, told):
        return False
    return _TYPE.unpack_from(told)[0] & 0xFFFFFFFF in (_TMPFS, _RAMFS)
