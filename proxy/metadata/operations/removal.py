"""Removes the rows of deleted repositories, some at a time.

DeleteRepository moves a repository's row to the account `DELETED` under a unique name: its own name is free then, and
no look-up finds its rows, since all begin with an account. Its images, tags and links are removed in transactions of a
bounded number of rows, so that a repository of 100,000 images blocks other writes no longer than a push; after an
interruption the rows that are left are removed later. A blob's grace begins when its link is removed. Called by
`repositories` and the sweep.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Delete, Select, delete, select, update

from proxy.metadata.contract import UpkeepPort
from proxy.metadata.db.lifecycle_tables import preview_results, previews
from proxy.metadata.db.mirror_tables import absent_content, mirrored_tags
from proxy.metadata.db.replication_tables import replications
from proxy.metadata.db.schema import (
    blob_links,
    blobs,
    image_blobs,
    image_children,
    images,
    manifest_bytes,
    repositories,
    tags,
)
from proxy.metadata.db.transaction import Transaction
from proxy.metadata.operations.operation import operation

DELETED = ""  # the account of repositories that are deleted
AT_ONCE = 1000  # rows that DeleteRepository removes itself: all of most repositories
_IMAGES = 50  # read at a time: each has rows in other tables too


def mark_deleted(tx: Transaction, repository_id: int) -> None:
    """Free the repository's name and hide its rows; call `remove` after it."""
    tx.connection.execute(
        update(repositories)
        .where(repositories.c.repository_id == repository_id)
        .values(account=DELETED, name=str(repository_id))
    )


@operation(UpkeepPort, write=True)
def remove_deleted(tx: Transaction, limit: int) -> int:
    """Remove about so many rows of deleted repositories; how many, 0 when none are left."""
    removed = 0
    while removed < limit:
        found = tx.connection.execute(
            select(repositories.c.repository_id)
            .where(repositories.c.account == DELETED)
            .order_by(repositories.c.name)
            .limit(1)
        ).scalar()
        if found is None:
            break
        removed += remove(tx, found, limit - removed)
    return removed


def remove(tx: Transaction, repository_id: int, limit: int) -> int:
    """Remove about `limit` rows of a deleted repository, its own row last; how many."""
    removed = 0
    for some in (_tags, _mirrored, _replications, _images, _links, _previews):
        while removed < limit:
            gone = some(tx, repository_id, limit - removed)
            removed += gone
            if not gone:
                break
    if removed < limit:
        removed += _run(tx, delete(repositories).where(repositories.c.repository_id == repository_id))
    return removed


def _tags(tx: Transaction, repository_id: int, limit: int) -> int:
    mine = select(tags.c.name).where(tags.c.repository_id == repository_id).order_by(tags.c.name)
    names = _first(tx, mine, limit)
    if not names:
        return 0
    return _run(tx, delete(tags).where(tags.c.repository_id == repository_id, tags.c.name.in_(names)))


def _mirrored(tx: Transaction, repository_id: int, limit: int) -> int:
    mine = select(mirrored_tags.c.name).where(mirrored_tags.c.repository_id == repository_id)
    names = _first(tx, mine.order_by(mirrored_tags.c.name), limit)
    if not names:
        return 0
    these = mirrored_tags.c.repository_id == repository_id, mirrored_tags.c.name.in_(names)
    return _run(tx, delete(mirrored_tags).where(*these))


def _replications(tx: Transaction, repository_id: int, limit: int) -> int:
    mine = select(replications.c.digest).where(replications.c.repository_id == repository_id)
    digests = _first(tx, mine.order_by(replications.c.digest), limit)
    if not digests:
        return 0
    these = replications.c.repository_id == repository_id, replications.c.digest.in_(digests)
    return _run(tx, delete(replications).where(*these))


def _images(tx: Transaction, repository_id: int, limit: int) -> int:
    mine = select(images.c.digest).where(images.c.repository_id == repository_id).order_by(images.c.digest)
    digests = _first(tx, mine, min(limit, _IMAGES))
    if not digests:
        return 0
    of_these = images.c.repository_id == repository_id, images.c.digest.in_(digests)
    keys = tx.connection.execute(select(images.c.image_id).where(*of_these)).scalars().all()
    counted = manifest_bytes.c.digest.in_(digests)
    tx.connection.execute(update(manifest_bytes).where(counted).values(images=manifest_bytes.c.images - 1))
    return sum(
        _run(tx, statement)
        for statement in (
            delete(manifest_bytes).where(counted, manifest_bytes.c.images <= 0),
            delete(image_children).where(image_children.c.image_id.in_(keys)),
            delete(image_children).where(image_children.c.child_id.in_(keys)),
            delete(image_blobs).where(image_blobs.c.image_id.in_(keys)),
            delete(absent_content).where(absent_content.c.image_id.in_(keys)),
            delete(images).where(*of_these),
        )
    )


def _links(tx: Transaction, repository_id: int, limit: int) -> int:
    mine = select(blob_links.c.blob_id).where(blob_links.c.repository_id == repository_id)
    linked = _first(tx, mine.order_by(blob_links.c.blob_id), limit)
    if not linked:
        return 0
    tx.connection.execute(
        update(blobs).where(blobs.c.blob_id.in_(linked)).values(links=blobs.c.links - 1, touched_at=tx.now)
    )
    return _run(
        tx, delete(blob_links).where(blob_links.c.repository_id == repository_id, blob_links.c.blob_id.in_(linked))
    )


def _previews(tx: Transaction, repository_id: int, limit: int) -> int:
    """Remove the repository's lifecycle previews."""
    mine = preview_results.c.repository_id == repository_id
    found = tx.connection.execute(
        select(preview_results.c.run, preview_results.c.position).where(mine).limit(min(limit, 500))
    ).all()
    if not found:
        return _run(tx, delete(previews).where(previews.c.repository_id == repository_id))
    positions = [row.position for row in found]
    runs = {row.run for row in found}
    return _run(
        tx,
        delete(preview_results).where(mine, preview_results.c.run.in_(runs), preview_results.c.position.in_(positions)),
    )


def _first(tx: Transaction, ordered: Select[tuple[int]] | Select[tuple[str]], limit: int) -> Sequence[int | str]:
    return tx.connection.execute(ordered.limit(min(limit, 500))).scalars().all()


def _run(tx: Transaction, statement: Delete) -> int:
    return tx.connection.execute(statement).rowcount
