"""Images that came from an upstream, as whoever keeps a cache to its size sees them, and their removal.

Such an image has `images.origin` PULL_THROUGH until somebody pushes it here, or it is replicated here: then it is
theirs, and stays. Pages are read outside of any write (`jobs.cache_size`); `evict_images` looks at each image again.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import func, select

from proxy.metadata.db.schema import blob_links, blobs, image_blobs, images, repositories, tags
from proxy.metadata.db.transaction import Transaction
from proxy.metadata.mirror_contract import MirrorPort
from proxy.metadata.operations import events
from proxy.metadata.operations.manifests import remove_image
from proxy.metadata.operations.operation import operation
from proxy.metadata.operations.repositories import find_repository
from proxy.model.errors import Code, Failure
from proxy.model.mirror import PULL_THROUGH, CachedImage, EvictedImage
from proxy.model.records import ImageKind


@operation(MirrorPort)
def repository_sizes(tx: Transaction, account: str, after: str, limit: int) -> Sequence[tuple[str, int]]:
    """Names beyond `after`, with all bytes that count for each."""
    rows = tx.connection.execute(
        select(repositories.c.name, repositories.c.bytes)
        .where(repositories.c.account == account, repositories.c.name > after)
        .order_by(repositories.c.name)
        .limit(limit)
    )
    return tuple((row.name, row.bytes) for row in rows)


@operation(MirrorPort)
def held_bytes(tx: Transaction, account: str, repository: str, after: int, limit: int) -> tuple[int, int]:
    """Of layers that images need, of `limit` links beyond `after`; and where the next page begins, 0: nowhere."""
    repository_id = find_repository(tx, account, repository)
    rows = tx.connection.execute(
        select(blob_links.c.blob_id, blob_links.c.uses, blobs.c.size)
        .join(blobs, blobs.c.blob_id == blob_links.c.blob_id)
        .where(blob_links.c.repository_id == repository_id, blob_links.c.blob_id > after)
        .order_by(blob_links.c.blob_id)
        .limit(limit)
    ).all()
    return sum(row.size for row in rows if row.uses > 0), rows[-1].blob_id if len(rows) == limit else 0


@operation(MirrorPort)
def cached_images(
    tx: Transaction, account: str, repository: str, after: str, limit: int
) -> tuple[Sequence[CachedImage], str]:
    """Of `limit` images with digests beyond `after` those that came from an upstream; and where the next page begins,
    empty: nowhere."""
    repository_id = find_repository(tx, account, repository)
    rows = tx.connection.execute(
        select(images.c.digest, images.c.pushed_at, images.c.last_pulled_at, images.c.origin)
        .where(images.c.repository_id == repository_id, images.c.digest > after)
        .order_by(images.c.digest)
        .limit(limit)
    ).all()
    found = tuple(
        CachedImage(repository, row.digest, max(row.pushed_at, row.last_pulled_at or 0.0))
        for row in rows
        if row.origin == PULL_THROUGH
    )
    return found, rows[-1].digest if len(rows) == limit else ""


@operation(MirrorPort, write=True)
def evict_images(
    tx: Transaction, account: str, repository: str, digests: Sequence[str], unused_since: float
) -> Sequence[EvictedImage]:
    """Remove those that still came from an upstream and that nobody has pulled after `unused_since`."""
    repository_id = find_repository(tx, account, repository)
    rows = tx.connection.execute(
        select(
            images.c.image_id,
            images.c.digest,
            images.c.subject,
            images.c.kind,
            images.c.pushed_at,
            images.c.last_pulled_at,
        )
        .where(images.c.repository_id == repository_id, images.c.digest.in_(digests), images.c.origin == PULL_THROUGH)
        .with_for_update()
    ).all()
    found = []
    for row in rows:
        named = select(tags.c.name).where(tags.c.image_id == row.image_id).order_by(tags.c.name)
        gone = tuple(tx.connection.execute(named).scalars().all())
        freed, kept_for = 0, ""
        if max(row.pushed_at, row.last_pulled_at or 0.0) > unused_since:
            kept_for = "pulled"
        elif repository_id is not None and _has_local_referrer(tx, repository_id, row.digest):
            kept_for = "referrer"
        elif repository_id is not None:
            freed = _freed(tx, repository_id, row.image_id)
            try:
                remove_image(tx, repository_id, row.image_id, row.digest)
            except Failure as failure:
                if failure.code is not Code.IMAGE_REFERENCED:
                    raise
                freed, kept_for = 0, "index"
            else:
                events.image_deleted(tx, account, repository, row.digest, gone, subject=row.subject)
        found.append(EvictedImage(row.digest, gone, freed, kept_for, row.kind == ImageKind.INDEX))
    tx.changed(account, repository)
    return tuple(found)


def _has_local_referrer(tx: Transaction, repository_id: int, digest: str) -> bool:
    """Somebody has signed it here, say."""
    mine = images.c.repository_id == repository_id, images.c.subject == digest, images.c.origin.is_(None)
    return tx.connection.execute(select(images.c.image_id).where(*mine).limit(1)).first() is not None


def _freed(tx: Transaction, repository_id: int, image_id: int) -> int:
    """Bytes of the layers that no other image of the repository needs."""
    return int(
        tx.connection.execute(
            select(func.coalesce(func.sum(blobs.c.size), 0))
            .select_from(image_blobs)
            .join(blob_links, blob_links.c.blob_id == image_blobs.c.blob_id)
            .join(blobs, blobs.c.blob_id == image_blobs.c.blob_id)
            .where(
                image_blobs.c.image_id == image_id,
                blob_links.c.repository_id == repository_id,
                blob_links.c.uses <= 1,
            )
        ).scalar_one()
    )
