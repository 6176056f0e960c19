"""Blobs as a repository sees them: look-up, links, mounts, quarantine. Called by the service and by `upload_commit`."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

from sqlalchemy import bindparam, delete, insert, select, update

from proxy.metadata.contract import BlobPort
from proxy.metadata.db.schema import blob_links, blobs, repositories
from proxy.metadata.db.transaction import FoundRow, Transaction
from proxy.metadata.operations import usage
from proxy.metadata.operations.create_on_push import encryption_to_be, need_or_make_repository
from proxy.metadata.operations.operation import Caching, Scope, operation
from proxy.metadata.operations.removal import DELETED
from proxy.metadata.operations.repositories import encryption_of, find_repository, need_repository
from proxy.metadata.operations.sealed import BLOB_COLUMNS, blob_of, segments_from, segments_of
from proxy.model.errors import Code, Failure
from proxy.model.records import Blob, CreateOnPush, Mounted, Segment

RENEW_SECONDS = 3600.0  # a blob's grace is renewed by a write at most this often
OUTDATED_MAX = 1000  # repositories invalidated one by one when their blob changes: some milliseconds of look-ups
# Run for every layer of every pull. Built once, because building a statement costs as much as running it.
_SEEN = (
    select(*BLOB_COLUMNS, blob_links.c.repository_id, blob_links.c.uses, blob_links.c.touched_at)
    .join(blob_links, blob_links.c.blob_id == blobs.c.blob_id)
    .join(repositories, repositories.c.repository_id == blob_links.c.repository_id)
    .where(
        blobs.c.account == bindparam("account"),
        blobs.c.digest == bindparam("digest"),
        blobs.c.quarantined_for.is_(None),
        repositories.c.account == bindparam("account"),
        repositories.c.name == bindparam("name"),
    )
)

_LINKED_BY = (
    select(repositories.c.account, repositories.c.name)
    .join(blob_links, blob_links.c.repository_id == repositories.c.repository_id)
    .join(blobs, blobs.c.blob_id == blob_links.c.blob_id)
    .where(blobs.c.object_key == bindparam("key"))
    .limit(bindparam("limit"))
)
_LINK = insert(blob_links)
_COUNT_LINK = (
    update(blobs)
    .where(blobs.c.blob_id == bindparam("blob"))
    .values(links=blobs.c.links + 1, touched_at=bindparam("now"))
)
_TOUCH = (
    update(blob_links)
    .where(blob_links.c.repository_id == bindparam("repository"), blob_links.c.blob_id == bindparam("blob"))
    .values(touched_at=bindparam("now"))
)
_TOUCH_BLOB = update(blobs).where(blobs.c.blob_id == bindparam("blob")).values(touched_at=bindparam("now"))


@operation(BlobPort, caching=Caching(Scope.REPOSITORY))
def blob(tx: Transaction, account: str, repository: str, digest: str) -> Blob:
    row = tx.connection.execute(_SEEN, {"account": account, "name": repository, "digest": digest}).one_or_none()
    if row is None:
        need_repository(tx, account, repository)
        raise layers_not_found([digest], repository, account)
    defer_renewal(tx, row)
    return blob_of(row, segments_of(tx, row.object_key))


def defer_renewal(tx: Transaction, link: FoundRow) -> None:
    """Renew the grace of a link that this read has found, if no image uses it; a used link's grace begins when its
    last use ends.

    After a read that reports a layer, a client skips its upload, so the layer must stay for the grace (24 h). The read
    does not wait for the renewal, which is due an hour after the last one, 23 h before the grace ends. `Store` retries
    it until it is written; until then this service's `collect_blobs` keeps the link. If a service dies before the
    write, the next read defers it again."""
    if not link.uses and link.touched_at <= tx.now - RENEW_SECONDS:
        repository_id, blob_id = link.repository_id, link.blob_id
        tx.deferred[renewal(repository_id, blob_id)] = lambda later: touch(later, repository_id, blob_id)


def renewal(repository_id: int, blob_id: int) -> Hashable:
    """The key of a link's renewal among deferred writes."""
    return "renew-link", repository_id, blob_id


@operation(BlobPort)
def segments(tx: Transaction, object_key: str, plain_offset: int, limit: int = 64) -> Sequence[Segment]:
    return segments_from(tx, object_key, plain_offset, limit)


@operation(BlobPort)
def blob_holders(tx: Transaction, account: str, digest: str, limit: int, encryption: str = "") -> Sequence[str]:
    """At most `limit` of the repositories that hold the blob, in no order: a base image's layer has thousands, which
    would be slow to sort. Empty for a quarantined blob."""
    return tuple(
        tx.connection.execute(
            select(repositories.c.name)
            .join(blob_links, blob_links.c.repository_id == repositories.c.repository_id)
            .join(blobs, blobs.c.blob_id == blob_links.c.blob_id)
            .where(
                blobs.c.account == account,
                blobs.c.digest == digest,
                blobs.c.encryption == encryption,
                blobs.c.quarantined_for.is_(None),
            )
            .where(repositories.c.account != DELETED)  # their links are not removed yet
            .limit(limit)
        ).scalars()
    )


@operation(BlobPort, write=True)
def mount_blob(
    tx: Transaction, account: str, repository: str, digest: str, source: str | None, create: CreateOnPush
) -> Mounted:
    """Never from a repository with another KMS key: one key decrypts a blob. A new link invalidates nothing."""
    target = find_repository(tx, account, repository)
    if target is None and create is CreateOnPush.NO:
        need_repository(tx, account, repository)
    own = encryption_to_be(tx, account, repository, create) if target is None else encryption_of(tx, target)
    row = tx.connection.execute(
        select(blobs.c.blob_id, blobs.c.links, blobs.c.size).where(
            blobs.c.account == account,
            blobs.c.digest == digest,
            blobs.c.encryption == own,
            blobs.c.quarantined_for.is_(None),
        )
    ).one_or_none()
    if row is None or row.links == 0:
        return Mounted.NO
    if source is not None:
        holder = find_repository(tx, account, source)
        if holder is None or not _linked(tx, holder, row.blob_id):
            return Mounted.NO
    target, created = need_or_make_repository(tx, account, repository, create)
    if link_blob(tx, target, row.blob_id):
        usage.count_link(tx, account, repository, target, row.size)
    return Mounted.CREATED if created else Mounted.LINKED


@operation(BlobPort, write=True)
def unlink_blob(tx: Transaction, account: str, repository: str, digest: str) -> None:
    repository_id = need_repository(tx, account, repository)
    row = tx.connection.execute(
        select(blobs.c.blob_id, blobs.c.size, blob_links.c.uses)
        .join(blob_links, blob_links.c.blob_id == blobs.c.blob_id)
        .where(blobs.c.account == account, blobs.c.digest == digest, blob_links.c.repository_id == repository_id)
    ).one_or_none()
    if row is None:
        raise layers_not_found([digest], repository, account)
    if row.uses:
        raise Failure(
            Code.LAYER_IN_USE,
            f"The layer with digest '{digest}' is used by an image of the repository with name '{repository}'"
            f" in the registry with id '{account}'",
            hint="delete the images that use it first",
        )
    tx.connection.execute(
        delete(blob_links).where(blob_links.c.repository_id == repository_id, blob_links.c.blob_id == row.blob_id)
    )
    tx.connection.execute(
        update(blobs).where(blobs.c.blob_id == row.blob_id).values(links=blobs.c.links - 1, touched_at=tx.now)
    )
    usage.uncount_links(tx, [(repository_id, row.size)])
    tx.changed(account, repository)


@operation(BlobPort, write=True)
def quarantine(tx: Transaction, object_key: str, reason: str) -> None:
    result = tx.connection.execute(
        update(blobs)
        .where(blobs.c.object_key == object_key, blobs.c.quarantined_for.is_(None))
        .values(quarantined_for=reason[:1000])
    )
    if result.rowcount:
        outdate_blob(tx, object_key)


def outdate_blob(tx: Transaction, object_key: str) -> None:
    """Invalidate cached answers of the repositories that link the blob, or of all beyond `OUTDATED_MAX`.

    Called after the row was written: its lock orders this with a concurrent mount, whose link is either seen here or
    made after the new row was read."""
    linked = tx.connection.execute(_LINKED_BY, {"key": object_key, "limit": OUTDATED_MAX + 1}).all()
    if len(linked) > OUTDATED_MAX:
        tx.changes.everything = True
    else:
        tx.changes.repositories.update((row.account, row.name) for row in linked)


def outdate_healed(tx: Transaction, object_key: str, discard: str | None) -> None:
    """The same for a commit that healed a blob: only then the discarded object is not the session's own. Other commits
    invalidate nothing. A repeated commit invalidates again, because the service that committed may have been killed
    before it did."""
    if discard is not None and discard != object_key:
        outdate_blob(tx, object_key)


def link_blob(tx: Transaction, repository_id: int, blob_id: int) -> bool:
    """Make the link, or renew its grace; whether it is new."""
    if touch(tx, repository_id, blob_id):
        return False
    link_new_blob(tx, repository_id, blob_id)
    tx.connection.execute(_COUNT_LINK, {"blob": blob_id, "now": tx.now})
    return True


def link_new_blob(tx: Transaction, repository_id: int, blob_id: int) -> None:
    """Make the first link of a new blob, which counts it already."""
    tx.send(_LINK, {"repository_id": repository_id, "blob_id": blob_id, "uses": 0, "touched_at": tx.now})


def touch(tx: Transaction, repository_id: int, blob_id: int) -> bool:
    """Renew the grace of a link and its blob; False when there is no link."""
    if not tx.connection.execute(_TOUCH, {"repository": repository_id, "blob": blob_id, "now": tx.now}).rowcount:
        return False
    tx.connection.execute(_TOUCH_BLOB, {"blob": blob_id, "now": tx.now})
    return True


def layers_not_found(digests: Sequence[str], repository: str, account: str) -> Failure:
    return Failure(
        Code.LAYERS_NOT_FOUND,
        f"Layers with digests '[{', '.join(digests)}]' required for pushing image into repository with name"
        f" '{repository}' in the registry with id '{account}' do not exist",
        digests=list(digests),
    )


def _linked(tx: Transaction, repository_id: int, blob_id: int) -> bool:
    return (
        tx.connection.execute(
            select(blob_links.c.uses).where(
                blob_links.c.repository_id == repository_id, blob_links.c.blob_id == blob_id
            )
        ).first()
        is not None
    )
