"""Progress and findings of a long walk over rows or objects, in bounded memory. Used by the tasks of `admin`."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass, field

from proxy.metadata.contract import Metadata
from proxy.model.records import Blob

NAMED_MAX = 1000  # findings listed by name; further ones are only counted: a lost disk would list every blob
ROWS = 200  # rows a request; a row may have 64 segments


@dataclass(frozen=True, slots=True)
class Progress:
    """`done` of `total`, counted in `unit` ("bytes", "blobs", "objects", "rows", "keys"); a total of 0 is unknown."""

    doing: str
    done: int
    total: int
    unit: str


@dataclass(frozen=True, slots=True)
class Finding:
    """An object and what was found about it; `digest` is empty if no row names it."""

    object_key: str
    digest: str
    reason: str

    def __str__(self) -> str:
        key = "" if self.object_key in self.reason else f"object {self.object_key}"
        return " ".join(part for part in (self.digest, key, self.reason) if part)


@dataclass(slots=True)
class Findings:
    """All counted, the first `NAMED_MAX` named."""

    count: int = 0
    named: list[Finding] = field(default_factory=list)

    def add(self, object_key: str, digest: str = "", reason: str = "") -> None:
        self.count += 1
        if len(self.named) < NAMED_MAX:
            self.named.append(Finding(object_key, digest, reason))

    def extend(self, more: Findings) -> None:
        self.count += more.count
        self.named += more.named[: NAMED_MAX - len(self.named)]


async def all_blobs(metadata: Metadata) -> AsyncGenerator[tuple[Blob, bool], None]:
    """Every blob row in the order of object keys, with whether it is quarantined, a page at a time."""
    after = ""
    while page := await metadata.objects(after=after, limit=ROWS):
        for blob, quarantined in page:
            yield blob, quarantined
        after = page[-1][0].sealed.object_key
