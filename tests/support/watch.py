"""The watch on event loops: a call from our code that would block one raises `BlockingError` instead.

blockbuster brings most of the calls; the rest, which a store lives by, are named here.
"""

from __future__ import annotations

import os

from blockbuster import BlockBuster, BlockBusterFunction

from proxy.storage.filesystem.nowait import in_memory

WATCHED = ["proxy", "_speedups"]
ALSO = (
    "os.fsync",
    "os.fdatasync",
    "os.ftruncate",
    "os.open",
    "os.posix_fallocate",
    "os.pread",
    "os.preadv",
    "os.pwrite",
    "os.pwritev",
)


def watch() -> BlockBuster:
    """A watch, not yet put on: call `activate`, and `deactivate` when it is to end."""
    watching = BlockBuster(WATCHED)
    for name in ALSO:
        watching.functions[name] = BlockBusterFunction(None, name, scanned_modules=WATCHED)
    watching.functions["os.preadv"].can_block_predicate = _never_waits
    # One byte, once in a process's life, into an empty pipe: it cannot wait.
    watching.functions["os.write"].can_block_in("proxy/runtime/supervisor.py", {"signal_ready"})
    for function in watching.functions.values():  # a thread's own loop, on which nobody else waits
        function.can_block_in("proxy/storage/s3/retries.py", {"_enter"})
    return watching


def _never_waits(fd: int, buffers: object, offset: int, flags: int = 0) -> bool:
    """RWF_NOWAIT reads what the page cache holds, and answers EAGAIN where the disk would be asked. A tmpfs does not
    know it, and has no disk."""
    return bool(flags & os.RWF_NOWAIT) or in_memory(fd)
