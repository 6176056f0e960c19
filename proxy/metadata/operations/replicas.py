"""Images that arrive from other registries: copies of manifests, tags by their version, layers that are linked.

What arrives causes no replication, and is marked with its origin. Of two pushes of one tag the later counts, by the
times at their origins; of two at one time the greater digest: so two registries that replicate to each other agree. The
image whose tag lost stays, by its digest, as one whose tag is immutable here. A deletion removes a tag only while it
is the very push that was deleted, or an earlier one of the same origin: one that was pushed again stays.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import insert, select, update

from proxy.metadata.db.schema import blob_links, blobs, images, repositories, tags
from proxy.metadata.db.transaction import FoundRow, Transaction
from proxy.metadata.operations import events, mutability, replication, usage
from proxy.metadata.operations.archive import is_archived, restore
from proxy.metadata.operations.blobs import link_blob, link_new_blob
from proxy.metadata.operations.create_on_push import need_or_make_repository
from proxy.metadata.operations.manifests import find_image, remove_image, remove_tag
from proxy.metadata.operations.operation import operation
from proxy.metadata.operations.pushes import SETTINGS, complete, examine, insert_image, move_tag
from proxy.metadata.operations.repositories import encryption_of, find_repository
from proxy.metadata.replication_contract import ReplicationPort
from proxy.model.errors import Code, Failure
from proxy.model.mirror import PULL_THROUGH
from proxy.model.records import CreateOnPush, ManifestFacts, PushedManifest
from proxy.model.replication import LinkedLayers, RemovedTag, ReplicaTag, ReplicationDestination

_NOT_COPIED = {"blob_id", "account", "links", "touched_at", "created_at"}


def examine_replica(
    account: str,
    repository: str,
    content: bytes,
    media_type: str | None,
    digest: str,
    tags: Sequence[ReplicaTag],
    origin: str,
    create: CreateOnPush,
) -> dict[str, Any]:
    """As `pushes.examine`."""
    found = examine(account, repository, content, media_type, digest, (), create)
    return found | {"tags": tags, "origin": origin}


@operation(ReplicationPort, write=True, prepare=examine_replica)
def put_replica(
    tx: Transaction,
    account: str,
    repository: str,
    content: bytes,
    digest: str,
    tags: Sequence[ReplicaTag],
    origin: str,
    create: CreateOnPush,
    facts: ManifestFacts,
) -> PushedManifest:
    """The tags of the answer are those that point to the image now."""
    repository_id, created = need_or_make_repository(tx, account, repository, create)
    row = tx.connection.execute(SETTINGS, {"repository_id": repository_id}).one()
    image_id = find_image(tx, repository_id, digest)
    is_new = image_id is None
    if image_id is None:
        image_id = insert_image(tx, account, repository, repository_id, content, digest, facts, origin=origin)
    else:
        if is_archived(tx, image_id):
            restore(tx, account, repository, repository_id, image_id, at_once=True, replicates=False)
        complete(tx, account, repository, repository_id, image_id, facts)
        cached = images.c.image_id == image_id, images.c.origin == PULL_THROUGH
        tx.connection.execute(update(images).where(*cached).values(origin=origin))  # it is no cache's any more
    placed = [tag.name for tag in tags if _place(tx, repository, row, tag, image_id, digest, origin)]
    if row.has_rules and (is_new or placed):
        replication.emit(tx, account, repository, digest, placed, origin, "SUCCESS")
    tx.changed(account, repository)
    return PushedManifest(digest, facts.subject, tuple(placed), created)


@operation(ReplicationPort, write=True)
def remove_replica(
    tx: Transaction, account: str, repository: str, digest: str, origin: str, tags: Sequence[RemovedTag]
) -> bool:
    """Remove tags, and with a digest its image, unless it has other tags, or was pushed to `origin` no more than here.
    False: an index lists the image, and has to go first; or a tag of `origin` that the deletion does not name points to
    it, which has moved or gone there, and does here with another job. Nothing where they are gone."""
    repository_id = find_repository(tx, account, repository)
    if repository_id is None:
        return True
    here, removed = ReplicationDestination(tx.registry.region, account).text, False
    for tag in tags:
        found = _tag(tx, repository_id, tag.name)
        if found is None or (found.origin or here) != tag.origin or replication.version_of(found) > tag.version:
            continue
        remove_tag(tx, repository_id, tag.name, found.image_id)
        events.image_deleted(tx, account, repository, found.digest, [tag.name])
        removed = True
    if removed:
        tx.changed(account, repository)
    if not digest:
        return True
    image = tx.connection.execute(
        select(images.c.image_id, images.c.tags, images.c.origin, images.c.subject).where(
            images.c.repository_id == repository_id, images.c.digest == digest
        )
    ).one_or_none()
    if image is None or (image.origin or here) != origin:
        return True
    if image.tags:
        return {tag.name for tag in tags}.issuperset(_tags_from(tx, image.image_id, origin))
    try:
        remove_image(tx, repository_id, image.image_id, digest)
    except Failure as failure:
        if failure.code is not Code.IMAGE_REFERENCED:
            raise
        return False
    if not removed:
        events.image_deleted(tx, account, repository, digest, (), subject=image.subject)
    tx.changed(account, repository)
    return True


@operation(ReplicationPort, write=True)
def link_replica(
    tx: Transaction,
    account: str,
    repository: str,
    source_account: str,
    source_repository: str,
    digests: Sequence[str],
    create: CreateOnPush,
) -> LinkedLayers:
    """Give a repository the layers of another account's repository, where both have the same key: one object, a row of
    each account."""
    target, created = need_or_make_repository(tx, account, repository, create)
    encryption = encryption_of(tx, target)
    mine = _held(tx, account, encryption, digests)
    missing = [digest for digest in digests if digest not in mine]
    theirs = _held(tx, source_account, encryption, missing, source_repository) if missing else {}
    for digest in digests:
        if (row := mine.get(digest)) is not None:
            if row.quarantined_for is None and link_blob(tx, target, row.blob_id):
                usage.count_link(tx, account, repository, target, row.size)
        elif (row := theirs.get(digest)) is not None and row.quarantined_for is None:
            facts = {name: value for name, value in row._mapping.items() if name not in _NOT_COPIED}
            fresh = {"account": account, "links": 1, "touched_at": tx.now, "created_at": tx.now}
            result = tx.connection.execute(insert(blobs).values(**facts, **fresh))
            link_new_blob(tx, target, result.inserted_primary_key[0])  # type: ignore[index]  # an insert has one
            usage.count_append(tx, account, repository, row.size)
    unlinked = [
        digest
        for digest in digests
        if (row := mine.get(digest) or theirs.get(digest)) is None or row.quarantined_for is not None
    ]
    return LinkedLayers(tuple(unlinked), created)


def _held(
    tx: Transaction, account: str, encryption: str, digests: Sequence[str], repository: str = ""
) -> Mapping[str, FoundRow]:
    """An account's blobs under that key, or a repository's, by digest."""
    found: dict[str, FoundRow] = {}
    for start in range(0, len(digests), 500):
        some = list(digests[start : start + 500])
        query = select(blobs).where(
            blobs.c.account == account, blobs.c.digest.in_(some), blobs.c.encryption == encryption
        )
        if repository:
            query = (
                query.join(blob_links, blob_links.c.blob_id == blobs.c.blob_id)
                .join(repositories, repositories.c.repository_id == blob_links.c.repository_id)
                .where(repositories.c.account == account, repositories.c.name == repository)
            )
        found |= {row.digest: row for row in tx.connection.execute(query)}
    return found


def _place(
    tx: Transaction, repository: str, row: FoundRow, tag: ReplicaTag, image_id: int, digest: str, origin: str
) -> bool:
    """Whether the tag points to the image now, and did not before, or is a later push of it."""
    found = _tag(tx, row.repository_id, tag.name)
    if found is not None:
        if (tag.version, digest) <= (replication.version_of(found), found.digest):
            return False
        if mutability.is_immutable(row, tag.name):
            return False  # the image arrives without it
    moved = move_tag(tx, repository, row, tag.name, image_id)
    mine = tags.c.repository_id == row.repository_id, tags.c.name == tag.name
    tx.connection.execute(update(tags).where(*mine).values(origin=origin, version=tag.version))
    return moved


def _tags_from(tx: Transaction, image_id: int, origin: str) -> Sequence[str]:
    mine = tags.c.image_id == image_id, tags.c.origin == origin
    return tx.connection.execute(select(tags.c.name).where(*mine)).scalars().all()


def _tag(tx: Transaction, repository_id: int, name: str) -> FoundRow | None:
    columns = tags.c.image_id, tags.c.pushed_at, tags.c.origin, tags.c.version, images.c.digest
    return tx.connection.execute(
        select(*columns)
        .join(images, images.c.image_id == tags.c.image_id)
        .where(tags.c.repository_id == repository_id, tags.c.name == name)
    ).one_or_none()
