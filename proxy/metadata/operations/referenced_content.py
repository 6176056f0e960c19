"""Finds the layers and images that a pushed manifest refers to. Called by `pushes`, in the transaction of the push.

Content that a repository lacks is an error with its digests, except for images that are imported from an upstream.
"""

from __future__ import annotations

from sqlalchemy import select

from proxy.metadata.db.schema import blob_links, blobs, images
from proxy.metadata.db.transaction import Transaction
from proxy.metadata.operations.blobs import layers_not_found
from proxy.metadata.operations.manifests import NAMED_MAX
from proxy.model.errors import Code, Failure
from proxy.model.records import ManifestFacts


def referenced_blobs(
    tx: Transaction,
    account: str,
    repository: str,
    repository_id: int,
    facts: ManifestFacts,
    *,
    may_lack: bool = False,
) -> tuple[dict[str, int], bool]:
    """Row ids by digest of those that are here, and whether any of them is in the archive."""
    wanted = list(dict.fromkeys(digest for digest, _ in facts.blobs))
    found: dict[str, int] = {}
    archived = False
    for start in range(0, len(wanted), 500):
        rows = tx.connection.execute(
            select(blobs.c.digest, blobs.c.blob_id, blobs.c.archived)
            .join(blob_links, blob_links.c.blob_id == blobs.c.blob_id)
            .where(
                blobs.c.account == account,
                blobs.c.digest.in_(wanted[start : start + 500]),
                blobs.c.quarantined_for.is_(None),
                blob_links.c.repository_id == repository_id,
            )
        )
        for row in rows:
            found[row.digest] = row.blob_id
            archived = archived or bool(row.archived)
    missing = [digest for digest in wanted if digest not in found]
    if missing and not may_lack:
        raise layers_not_found(missing[:NAMED_MAX], repository, account)
    return found, archived


def referenced_children(
    tx: Transaction,
    account: str,
    repository: str,
    repository_id: int,
    facts: ManifestFacts,
    *,
    may_lack: bool = False,
) -> dict[str, tuple[int, int]]:
    """(image id, image size) by digest of each manifest that an index lists and the repository has."""
    wanted = list(dict.fromkeys(facts.children))
    found: dict[str, tuple[int, int]] = {}
    for start in range(0, len(wanted), 500):
        rows = tx.connection.execute(
            select(images.c.digest, images.c.image_id, images.c.image_size).where(
                images.c.repository_id == repository_id,
                images.c.digest.in_(wanted[start : start + 500]),
                images.c.status == "ACTIVE",  # an archived one is pushed again, which restores it
            )
        )
        found.update((row.digest, (row.image_id, row.image_size)) for row in rows)
    missing = [digest for digest in wanted if digest not in found]
    if missing and not may_lack:
        raise Failure(
            Code.REFERENCED_IMAGES_NOT_FOUND,
            f"Images with digests '[{', '.join(missing[:NAMED_MAX])}]' required for pushing image into repository"
            f" with name '{repository}' in the registry with id '{account}' do not exist",
            digests=missing[:NAMED_MAX],
        )
    return found
