"""The hash chain over the lines of a log: what shows that a line was changed, removed or inserted afterwards.

    {…,"chain":{"number":17,"previous":"9f86d0…"}}     the SHA-256 of the line before, without its line feed, in hex

One chain runs through all processes and all files of a log: whoever appends holds the lock file, which has the head,
the last line that was written. The first line has number 1 and `START`, or the hash of the last line of before the
chain. The hash has no key: who may write the folder can compute all of it anew, and only a copy elsewhere shows that.

    17 9f86d0… 4711 8192\\n     the lock file: number and hash of the last line, inode and size of its file
"""

from __future__ import annotations

import hashlib
import json
from typing import Any, NamedTuple

START = "0" * 64
HEAD_BYTES = 192  # of the lock file, padded


class Head(NamedTuple):
    """The last line: its number and hash, and the file's inode and size once it was there."""

    number: int = 0
    digest: str = START
    inode: int = 0
    size: int = 0

    def encode(self) -> bytes:
        return f"{self.number} {self.digest} {self.inode} {self.size}\n".encode().ljust(HEAD_BYTES)


def read_head(content: bytes) -> Head | None:
    """What a lock file says; None when it says nothing, as before the chain."""
    parts = content.split()
    if len(parts) != 4 or len(parts[1]) != 64:
        return None
    try:
        return Head(int(parts[0]), parts[1].decode("ascii"), int(parts[2]), int(parts[3]))
    except ValueError:
        return None


def digest_of(line: bytes) -> str:
    """Of a line without its line feed."""
    return hashlib.sha256(line).hexdigest()


def link(lines: bytes, number: int, digest: str) -> tuple[bytes, int, str]:
    """Whole lines, each a JSON object, chained behind the line of that number and hash; then those of the last one."""
    linked = []
    for line in lines[:-1].split(b"\n"):
        number += 1
        whole = b'%b,"chain":{"number":%d,"previous":"%b"}}' % (line[:-1], number, digest.encode())
        digest = digest_of(whole)
        linked.append(whole)
    return b"\n".join((*linked, b"")), number, digest


def parse(line: bytes) -> dict[str, Any] | None:
    """A line's object; None when it is no whole one."""
    try:
        found = json.loads(line)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def link_of(event: dict[str, Any] | None) -> tuple[int, str] | None:
    """Number and hash of the line before, as the line says; None for one without a chain."""
    found = event.get("chain") if event is not None else None
    if not isinstance(found, dict):
        return None
    number, previous = found.get("number"), found.get("previous")
    return (number, previous) if isinstance(number, int) and isinstance(previous, str) else None
