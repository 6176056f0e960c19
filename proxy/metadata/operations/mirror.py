"""Rows of images from an upstream: imports of manifests, when tags were checked, and leases for fetching blobs.

An import is a push without blobs (`absent`). Its repository is created by the registry's template for
PULL_THROUGH_CACHE, or with defaults if none matches. Sources: ECR User Guide, "Sync an upstream registry",
"Repository creation templates".
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import bindparam, delete, insert, select, update

from proxy.metadata.db.mirror_tables import blob_fetches, mirrored_tags
from proxy.metadata.db.schema import repositories
from proxy.metadata.db.transaction import Transaction
from proxy.metadata.mirror_contract import MirrorPort
from proxy.metadata.operations.create_on_push import PULL_THROUGH_CACHE, need_or_make_repository
from proxy.metadata.operations.manifests import find_image, find_tag
from proxy.metadata.operations.operation import Caching, Scope, operation
from proxy.metadata.operations.pushes import SETTINGS, examine, insert_image, move_tag
from proxy.metadata.operations.repositories import need_repository
from proxy.model.mirror import FetchLease, MirroredTag
from proxy.model.records import CreateOnPush, ManifestFacts, PushedManifest

ENDED_LEASES = 20  # expired leases removed with each new one

_TAG = (
    select(mirrored_tags.c.digest, mirrored_tags.c.checked_at)
    .join(repositories, repositories.c.repository_id == mirrored_tags.c.repository_id)
    .where(
        repositories.c.account == bindparam("account"),
        repositories.c.name == bindparam("name"),
        mirrored_tags.c.name == bindparam("tag"),
    )
)


@operation(MirrorPort, write=True, prepare=examine)
def import_manifest(
    tx: Transaction,
    account: str,
    repository: str,
    content: bytes,
    digest: str,
    tags: Sequence[str],
    create: CreateOnPush,
    facts: ManifestFacts,
) -> PushedManifest:
    """`pushes.put_manifest`, except that blobs and children may be absent. A tag that already points to the image is
    only marked as checked, even if immutable; moving an immutable tag is ImageTagAlreadyExists."""
    repository_id, created = need_or_make_repository(tx, account, repository, create, PULL_THROUGH_CACHE)
    row = tx.connection.execute(SETTINGS, {"repository_id": repository_id}).one()
    image_id = find_image(tx, repository_id, digest)
    if image_id is None:
        image_id = insert_image(tx, account, repository, repository_id, content, digest, facts, imported=True)
    for tag in tags:
        if find_tag(tx, repository_id, tag) != image_id:
            move_tag(tx, repository, row, tag, image_id)
        _mark(tx, repository_id, tag, digest, tx.now)
    tx.changed(account, repository)
    return PushedManifest(digest, facts.subject, tuple(tags), created)


@operation(MirrorPort, caching=Caching(Scope.REPOSITORY))
def mirrored_tag(tx: Transaction, account: str, repository: str, tag: str) -> MirroredTag | None:
    row = tx.connection.execute(_TAG, {"account": account, "name": repository, "tag": tag}).one_or_none()
    return None if row is None else MirroredTag(row.digest, row.checked_at)


@operation(MirrorPort, write=True, settles=True)
def note_tag_checked(
    tx: Transaction, account: str, repository: str, tag: str, digest: str, at: float | None = None
) -> None:
    """Record that the upstream's tag pointed to `digest`, now or at `at`; an early `at` makes the tag due for a
    check."""
    _mark(tx, need_repository(tx, account, repository), tag, digest, tx.now if at is None else at)
    tx.changed(account, repository)


@operation(MirrorPort, write=True, settles=True, durable=False)
def lease_fetch(
    tx: Transaction,
    account: str,
    repository: str,
    digest: str,
    holder: str,
    address: str,
    seconds: float,
    instead: str = "",
) -> FetchLease:
    """The lease in force: `holder`'s, new or renewed, if there was none, it had expired, or it was that of `instead`,
    which is known to be gone; else the other's."""
    key = (
        blob_fetches.c.account == account,
        blob_fetches.c.repository == repository,
        blob_fetches.c.digest == digest,
    )
    row = tx.connection.execute(
        select(blob_fetches.c.holder, blob_fetches.c.address, blob_fetches.c.until).where(*key)
    ).one_or_none()
    if row is not None and row.until > tx.now and row.holder not in (holder, instead):
        return FetchLease(row.holder, row.address, row.until)
    given = {"holder": holder, "address": address, "until": tx.now + seconds}
    if row is not None:
        tx.connection.execute(update(blob_fetches).where(*key).values(**given))
    else:
        _remove_ended(tx)
        named = {"account": account, "repository": repository, "digest": digest}
        tx.connection.execute(insert(blob_fetches).values(**named, **given))
    return FetchLease(holder, address, tx.now + seconds)


@operation(MirrorPort, write=True, settles=True, durable=False)
def end_fetch(tx: Transaction, account: str, repository: str, digest: str, holder: str) -> None:
    """Idempotent; does nothing if another holder has the lease."""
    tx.connection.execute(
        delete(blob_fetches).where(
            blob_fetches.c.account == account,
            blob_fetches.c.repository == repository,
            blob_fetches.c.digest == digest,
            blob_fetches.c.holder == holder,
        )
    )


def _mark(tx: Transaction, repository_id: int, tag: str, digest: str, at: float) -> None:
    key = mirrored_tags.c.repository_id == repository_id, mirrored_tags.c.name == tag
    done = tx.connection.execute(update(mirrored_tags).where(*key).values(digest=digest, checked_at=at))
    if not done.rowcount:
        tx.connection.execute(
            insert(mirrored_tags).values(repository_id=repository_id, name=tag, digest=digest, checked_at=at)
        )


def _remove_ended(tx: Transaction) -> None:
    ended = (
        tx.connection.execute(select(blob_fetches.c.holder).where(blob_fetches.c.until <= tx.now).limit(ENDED_LEASES))
        .scalars()
        .all()
    )
    if ended:
        tx.connection.execute(
            delete(blob_fetches).where(blob_fetches.c.holder.in_(ended), blob_fetches.c.until <= tx.now)
        )
