"""Rows of images from an upstream: imports of manifests, when tags were checked, and leases for fetching blobs.

An import is a push without blobs (`absent`). Its repository is created by the registry's template for
PULL_THROUGH_CACHE, or with defaults if none matches. Sources: ECR User Guide, "Sync an upstream registry",
"Repository creation templates".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import bindparam, delete, insert, select, update

from proxy.metadata.db.mirror_tables import blob_fetches, mirrored_tags
from proxy.metadata.db.schema import images, repositories
from proxy.metadata.db.transaction import Transaction
from proxy.metadata.mirror_contract import MirrorPort
from proxy.metadata.operations import events, jobs
from proxy.metadata.operations.create_on_push import PULL_THROUGH_CACHE, need_or_make_repository
from proxy.metadata.operations.manifests import find_image, find_tag
from proxy.metadata.operations.operation import Caching, Scope, operation
from proxy.metadata.operations.pull_through import pull_through_rules
from proxy.metadata.operations.pushes import SETTINGS, examine, insert_image, move_tag
from proxy.metadata.operations.repositories import need_repository
from proxy.model.events import PULL_THROUGH_CACHE_ACTION
from proxy.model.mirror import FETCH_KIND, SIZE_KIND, FetchLease, MirroredTag
from proxy.model.names import repository_arn
from proxy.model.pull_through import choose
from proxy.model.records import CreateOnPush, ManifestFacts, PushedManifest

RESUMABLE_SECONDS = 3600.0  # for which an ended lease says which upload session to go on with
REASON_MAX = 500  # characters of a failure's reason in an event
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


def examine_import(
    account: str,
    repository: str,
    content: bytes,
    media_type: str | None,
    digest: str,
    tags: Sequence[str],
    create: CreateOnPush,
    platforms: Sequence[str] = (),
) -> dict[str, Any]:
    """As `pushes.examine`."""
    return examine(account, repository, content, media_type, digest, tags, create) | {"platforms": platforms}


_REFERRERS = (
    select(images.c.referrers_checked_at)
    .join(repositories, repositories.c.repository_id == images.c.repository_id)
    .where(
        repositories.c.account == bindparam("account"),
        repositories.c.name == bindparam("name"),
        images.c.digest == bindparam("digest"),
    )
)


@operation(MirrorPort, write=True, prepare=examine_import)
def import_manifest(
    tx: Transaction,
    account: str,
    repository: str,
    content: bytes,
    digest: str,
    tags: Sequence[str],
    create: CreateOnPush,
    facts: ManifestFacts,
    platforms: Sequence[str] = (),
) -> PushedManifest:
    """`pushes.put_manifest`, except that blobs and children may be absent. A tag that already points to the image is
    only marked as checked, even if immutable; moving an immutable tag is ImageTagAlreadyExists. A new
    index has the images for `platforms` fetched by a job."""
    repository_id, created = need_or_make_repository(tx, account, repository, create, PULL_THROUGH_CACHE)
    row = tx.connection.execute(SETTINGS, {"repository_id": repository_id}).one()
    image_id = find_image(tx, repository_id, digest)
    if image_id is None:
        image_id = insert_image(tx, account, repository, repository_id, content, digest, facts, imported=True)
        if platforms and facts.children:
            _request(tx, account, repository, digest, platforms, repository, is_here=True)
    for tag in tags:
        if find_tag(tx, repository_id, tag) != image_id:
            move_tag(tx, repository, row, tag, image_id)
        _mark(tx, repository_id, tag, digest, tx.now)
    if row.has_rules:
        for tag in tags or [""]:
            _announce(tx, account, repository, tag, digest, {"sync-status": "SUCCESS"})
    tx.changed(account, repository)
    return PushedManifest(digest, facts.subject, tuple(tags), created)


@operation(MirrorPort, write=True)
def note_import_failed(tx: Transaction, account: str, repository: str, reference: str, code: str, reason: str) -> None:
    """As `MirrorPort` says; nothing is written where nobody listens."""
    if events.has_rules(tx, account):
        tag, digest = ("", reference) if ":" in reference else (reference, "")
        failure = {"sync-status": "FAILED", "failure-code": code, "failure-reason": reason[:REASON_MAX]}
        _announce(tx, account, repository, tag, digest, failure)


def _announce(
    tx: Transaction, account: str, repository: str, tag: str, digest: str, outcome: Mapping[str, str]
) -> None:
    """ECR Pull Through Cache Action, if a rule still covers the repository."""
    rule = choose(pull_through_rules(tx, account), repository)
    if rule is None:
        return
    named = {"image-tag": tag, "image-digest": digest}
    detail = {
        "rule-version": "1",
        **outcome,
        "ecr-repository-prefix": rule.prefix,
        "repository-name": repository,
        "upstream-registry-url": rule.upstream_url,
        **{name: value for name, value in named.items() if value},
    }
    arn = repository_arn(tx.registry.region, account, repository)
    events.emit(tx, account, PULL_THROUGH_CACHE_ACTION, repository, detail, [arn])


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


@operation(MirrorPort, caching=Caching(Scope.REPOSITORY))
def referrers_checked(tx: Transaction, account: str, repository: str, digest: str) -> float | None:
    asked = {"account": account, "name": repository, "digest": digest}
    found: float | None = tx.connection.execute(_REFERRERS, asked).scalar()
    return found


@operation(MirrorPort, write=True, settles=True)
def note_referrers_checked(tx: Transaction, account: str, repository: str, digest: str) -> None:
    mine = images.c.repository_id == need_repository(tx, account, repository), images.c.digest == digest
    tx.connection.execute(update(images).where(*mine).values(referrers_checked_at=tx.now))
    tx.changed(account, repository)


@operation(MirrorPort, write=True, settles=True)
def request_image(
    tx: Transaction, account: str, repository: str, reference: str, platforms: Sequence[str], share: str
) -> None:
    """As `MirrorPort` says. Asked for again before it is done, it is done once."""
    _request(tx, account, repository, reference, platforms, share, is_here=False)


@operation(MirrorPort, write=True, settles=True)
def request_trim(tx: Transaction, account: str, prefix: str) -> None:
    """As `MirrorPort` says."""
    jobs.enqueue(tx, SIZE_KIND, account, f"{account}/{prefix}", {"prefix": prefix}, share=prefix)


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
    node: str = "",
    upload_id: str = "",
) -> FetchLease:
    """The lease in force: `holder`'s, new or renewed, if there was none, it had expired, or it was that of `instead`,
    which is known to be gone; else the other's. A holder that lost its lease is fenced by its upload session."""
    key = (
        blob_fetches.c.account == account,
        blob_fetches.c.repository == repository,
        blob_fetches.c.digest == digest,
    )
    row = tx.connection.execute(
        select(
            blob_fetches.c.holder,
            blob_fetches.c.address,
            blob_fetches.c.until,
            blob_fetches.c.node,
            blob_fetches.c.upload_id,
        ).where(*key)
    ).one_or_none()
    if row is not None and row.until > tx.now and row.holder not in (holder, instead):
        return FetchLease(row.holder, row.address, row.until, row.node, row.upload_id)
    given = {"holder": holder, "address": address, "until": tx.now + seconds, "node": node}
    session = upload_id or (row.upload_id if row is not None else "")
    given["upload_id"] = session
    if row is not None:
        tx.connection.execute(update(blob_fetches).where(*key).values(**given))
    else:
        _remove_ended(tx)
        named = {"account": account, "repository": repository, "digest": digest}
        tx.connection.execute(insert(blob_fetches).values(**named, **given))
    return FetchLease(holder, address, tx.now + seconds, node, session)


@operation(MirrorPort, write=True, settles=True, durable=False)
def end_fetch(
    tx: Transaction, account: str, repository: str, digest: str, holder: str, resumable: bool = False
) -> None:
    """Idempotent; does nothing if another holder has the lease."""
    mine = (
        blob_fetches.c.account == account,
        blob_fetches.c.repository == repository,
        blob_fetches.c.digest == digest,
        blob_fetches.c.holder == holder,
    )
    if resumable:
        tx.connection.execute(update(blob_fetches).where(*mine).values(until=tx.now))
    else:
        tx.connection.execute(delete(blob_fetches).where(*mine))


def _request(
    tx: Transaction,
    account: str,
    repository: str,
    reference: str,
    platforms: Sequence[str],
    share: str,
    *,
    is_here: bool,
) -> None:
    """`is_here`: the image came by itself, and is not brought back where it is gone when the job runs."""
    subject = {"repository": repository, "reference": reference, "platforms": list(platforms), "is_here": is_here}
    jobs.enqueue(tx, FETCH_KIND, account, f"{account}/{repository}@{reference}", subject, share=share[:128])


def _mark(tx: Transaction, repository_id: int, tag: str, digest: str, at: float) -> None:
    key = mirrored_tags.c.repository_id == repository_id, mirrored_tags.c.name == tag
    done = tx.connection.execute(update(mirrored_tags).where(*key).values(digest=digest, checked_at=at))
    if not done.rowcount:
        tx.connection.execute(
            insert(mirrored_tags).values(repository_id=repository_id, name=tag, digest=digest, checked_at=at)
        )


def _remove_ended(tx: Transaction) -> None:
    is_over = blob_fetches.c.until <= tx.now - RESUMABLE_SECONDS
    ended = tx.connection.execute(select(blob_fetches.c.holder).where(is_over).limit(ENDED_LEASES)).scalars().all()
    if ended:
        tx.connection.execute(delete(blob_fetches).where(blob_fetches.c.holder.in_(ended), is_over))
