"""Compares counters with the rows that they count, for `wharfage check`, full or quick. Called by `admin.stored`.

Quotas depend on the counters of accounts, repositories and images. The sweep finds removable layers by those of layers:
one that is too low makes it look in vain; one that is too high keeps a layer for ever. Operations may run meanwhile:
each page, and each correction, is one transaction.
"""

from __future__ import annotations

from collections.abc import Callable

from proxy.jobs.check import CheckReport
from proxy.jobs.progress import Progress
from proxy.metadata.contract import Metadata

NOUNS = {  # with what is counted for each
    "accounts": "repositories",
    "repositories": "images",
    "images": "tags",
    "blob_links": "images that need it",
    "blobs": "repositories that hold it",
    "repository_bytes": "bytes",  # before those of accounts, which sum some of them
    "account_bytes": "bytes",
}
ROWS = 500  # a page: at a million images some 2,000 calls
SUMMING_ROWS = 20  # a page, if all layers of each row are read


async def check_counts(
    metadata: Metadata, report: CheckReport, *, repair: bool, progress: Callable[[Progress], None]
) -> None:
    """Report wrong counters; with `repair`, correct them."""
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
