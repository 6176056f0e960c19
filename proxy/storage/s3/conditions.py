"""Which conditional requests a store honours, and the file of the data directory that records it.

    <data>/store-conditions   0600, `<endpoint> <bucket>/<prefix>\\n`, then the conditions that are honoured, by name

The first line says which store was asked: a record of another one counts as none. `conditions_probe` asks; remove the
file to have it ask again, as after an upgrade of the store. All of it blocks.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Conditions:
    """The defaults are for a store that was not probed: requests carry no condition."""

    put: bool = False  # `If-None-Match: *` of PutObject: no object is replaced
    complete: bool = False  # the same for CompleteMultipartUpload
    delete: bool = False  # `If-Match` of DeleteObject: only the object with the given ETag is deleted

    def __str__(self) -> str:
        return " ".join(name for name, honoured in asdict(self).items() if honoured) or "none"


ALL = Conditions(put=True, complete=True, delete=True)


def read_conditions(record: Path, store: str) -> Conditions | None:
    """None if nothing is recorded for this store."""
    try:
        asked, _, honoured = record.read_text("utf-8", "replace").partition("\n")
    except OSError:
        return None
    if asked != store:
        return None
    names = honoured.split()
    return Conditions(**{name: name in names for name in asdict(ALL)})


def write_conditions(record: Path, store: str, conditions: Conditions) -> None:
    """Replace the record, in one step. OSError."""
    draft = record.with_name(f".{record.name}.{secrets.token_hex(4)}")
    fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with open(fd, "w", encoding="utf-8") as file:
            file.write(f"{store}\n{conditions}\n")
        os.replace(draft, record)
    except BaseException:
        with contextlib.suppress(OSError):
            draft.unlink()
        raise
