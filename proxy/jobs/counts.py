"""Counters against what they count: a part of `wharfage check`, quick or not.

Of accounts, repositories and images a counter that is wrong lets too many in, or keeps some out. By those of layers the
sweep finds what it may remove: too low, they have it look in vain; too high, a layer stays for ever. Operations may go
on meanwhile: each page, and each correction, is of one moment.
"""

from __future__ import annotations

from collections.abc import Callable

from proxy.jobs.check import CheckReport
from proxy.jobs.progress import Progress
from proxy.metadata.contract import Metadata

NOUNS = {  # and what is counted of each
    "accounts": "repositories",
    "repositories": "images",
    "images": "tags",
    "blob_links": "images that need it",
    "blobs": "repositories that hold it",
    "repository_bytes": "bytes",  # before those of accounts, which sum some of them
    "account_bytes": "bytes",
}
ROWS = 500  # of which one page counts: at a million images some 2,000 calls
SUMMING_ROWS = 20  # of whose layers all are read


async def check_counts(
    metadata: Metadata, report: CheckReport, *, repair: bool, progress: Callable[[Progress], None]
) -> None:
    """Name what is miscounted; with `repair`, count it anew."""
    counted = 0
    for noun, of in NOUNS.items():
        rows = SUMMING_ROWS if of == "bytes" else ROWS
        after: str | None = ""
        while after is not None:
            wrong, after = await metadata.miscounts(noun, after=after, limit=rows)
            for each in wrong:
                report.miscounted.add(
                    "", reason=f"{each.display_name} has {each.counted} {of}, counted as {each.recorded}"
                )
                if repair:
                    await metadata.recount(noun, each.key)
                    report.recounted += 1
            counted += rows
            progress(Progress("counting", counted, 0, "rows"))
