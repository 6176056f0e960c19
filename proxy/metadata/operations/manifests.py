"""Manifests and tags for the OCI protocol: reads, lists and deletions. `pushes` stores them."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import LargeBinary, String, bindparam, case, delete, insert, literal, select, update

from proxy.metadata.contract import ManifestPort
from proxy.metadata.db.mirror_tables import mirrored_tags
from proxy.metadata.db.schema import blob_links, image_blobs, image_children, images, manifest_bytes, repositories, tags
from proxy.metadata.db.transaction import Transaction
from proxy.metadata.operations import absent, events, replication, usage
from proxy.metadata.operations.operation import Caching, Scope, operation
from proxy.metadata.operations.repositories import need_repository
from proxy.model.errors import Code, Failure
from proxy.model.names import is_digest_like
from proxy.model.records import Page, StoredManifest

NAMED_MAX = 20  # digests that an error message lists
MANIFEST_BYTES = 32 * 1024 * 1024  # that a worker caches

# Run at every pull. Built once, because building a statement costs as much as running it.
_STORED = (
    select(images.c.digest, images.c.media_type, manifest_bytes.c.content)
    .join(repositories, repositories.c.repository_id == images.c.repository_id)
    .join(manifest_bytes, manifest_bytes.c.digest == images.c.digest)
    .where(
        repositories.c.account == bindparam("account"),
        repositories.c.name == bindparam("name"),
        images.c.status == "ACTIVE",  # one that is archived cannot be pulled
    )
)
_BY_DIGEST = _STORED.where(images.c.digest == bindparam("reference"))
_BY_TAG = _STORED.join(tags, tags.c.image_id == images.c.image_id).where(
    tags.c.repository_id == repositories.c.repository_id, tags.c.name == bindparam("reference")
)
_COUNT_TAG = (
    update(images)
    .where(images.c.image_id == bindparam("image"), images.c.tags < bindparam("most"))
    .values(
        tags=images.c.tags + bindparam("change"), tagged=case((images.c.tags + bindparam("change") > 0, 1), else_=0)
    )
)
_UNLIMITED = 2**31 - 1
_USE_BYTES = (
    update(manifest_bytes).where(manifest_bytes.c.digest == bindparam("of")).values(images=manifest_bytes.c.images + 1)
)
_ADD_BYTES = insert(manifest_bytes).from_select(
    ["digest", "content", "images"],
    select(bindparam("of", type_=String), bindparam("bytes", type_=LargeBinary), literal(1)).where(
        ~select(manifest_bytes.c.digest).where(manifest_bytes.c.digest == bindparam("of")).exists()
    ),
)


@operation(ManifestPort, caching=Caching(Scope.REPOSITORY, by_digest=True, bytes_max=MANIFEST_BYTES))
def manifest(tx: Transaction, account: str, repository: str, reference: str) -> StoredManifest:
    query = _BY_DIGEST if is_digest_like(reference) else _BY_TAG
    row = tx.connection.execute(query, {"account": account, "name": repository, "reference": reference}).one_or_none()
    if row is None:
        need_repository(tx, account, repository)
        raise image_not_found(reference, repository, account)
    return StoredManifest(row.digest, row.media_type, row.content)


@operation(ManifestPort, write=True)
def delete_tag(tx: Transaction, account: str, repository: str, tag: str) -> None:
    repository_id = need_repository(tx, account, repository)
    image_id = find_tag(tx, repository_id, tag)
    if image_id is None:
        raise image_not_found(tag, repository, account)
    leaving = replication.leaving(tx, account, repository, repository_id, image_id, "", tag)
    remove_tag(tx, repository_id, tag, image_id)
    replication.image_deleted(tx, account, repository, leaving)
    if events.has_rules(tx, account):
        about = select(images.c.digest, images.c.subject).where(images.c.image_id == image_id)
        row = tx.connection.execute(about).one()
        events.image_deleted(tx, account, repository, row.digest, [tag], subject=row.subject)
    tx.changed(account, repository)


@operation(ManifestPort, write=True)
def delete_manifest(tx: Transaction, account: str, repository: str, digest: str) -> None:
    repository_id = need_repository(tx, account, repository)
    image_id = find_image(tx, repository_id, digest)
    if image_id is None:
        raise image_not_found(digest, repository, account)
    gone: Sequence[str] = ()
    subject = None
    if events.has_rules(tx, account):
        named = select(tags.c.name).where(tags.c.image_id == image_id).order_by(tags.c.name)
        gone = tx.connection.execute(named).scalars().all()
        subject = tx.connection.execute(select(images.c.subject).where(images.c.image_id == image_id)).scalar()
    leaving = replication.leaving(tx, account, repository, repository_id, image_id, digest)
    remove_image(tx, repository_id, image_id, digest)
    replication.image_deleted(tx, account, repository, leaving)
    events.image_deleted(tx, account, repository, digest, gone, subject=subject)
    tx.changed(account, repository)


@operation(ManifestPort, name="tags")
def list_tags(tx: Transaction, account: str, repository: str, last: str, limit: int) -> Page:
    repository_id = need_repository(tx, account, repository)
    found = (
        tx.connection.execute(
            select(tags.c.name)
            .join(images, images.c.image_id == tags.c.image_id)
            .where(tags.c.repository_id == repository_id, tags.c.name > last, images.c.status == "ACTIVE")
            .order_by(tags.c.name)
            .limit(limit + 1)
        )
        .scalars()
        .all()
    )
    return Page(tuple(found[:limit]), len(found) > limit)


def find_tag(tx: Transaction, repository_id: int, tag: str) -> int | None:
    found: int | None = tx.connection.execute(
        select(tags.c.image_id).where(tags.c.repository_id == repository_id, tags.c.name == tag)
    ).scalar()
    return found


def remove_tag(tx: Transaction, repository_id: int, tag: str, image_id: int) -> None:
    tx.send(delete(tags).where(tags.c.repository_id == repository_id, tags.c.name == tag))
    count_tag(tx, image_id, -1)


def remove_image(tx: Transaction, repository_id: int, image_id: int, digest: str) -> None:
    """Remove the image, its tags, and its uses of blobs (their grace begins). Refused while an index lists it."""
    parents = (
        tx.connection.execute(
            select(images.c.digest)
            .join(image_children, image_children.c.image_id == images.c.image_id)
            .where(image_children.c.child_id == image_id)
            .limit(NAMED_MAX)
        )
        .scalars()
        .all()
    )
    if parents:
        raise Failure(
            Code.IMAGE_REFERENCED,
            f"Requested image referenced by manifest list: [{', '.join(parents)}]",
            hint="delete the image index first",
            parents=list(parents),
        )
    needed = select(image_blobs.c.blob_id).where(image_blobs.c.image_id == image_id)
    tx.send(
        update(blob_links)
        .where(blob_links.c.repository_id == repository_id, blob_links.c.blob_id.in_(needed))
        .values(uses=blob_links.c.uses - 1, touched_at=tx.now)
    )
    tx.send(delete(image_blobs).where(image_blobs.c.image_id == image_id))
    tx.send(delete(image_children).where(image_children.c.image_id == image_id))
    absent.forget(tx, [image_id])
    replication.forget(tx, repository_id, digest)
    tx.send(
        delete(mirrored_tags).where(mirrored_tags.c.repository_id == repository_id, mirrored_tags.c.digest == digest)
    )
    tx.send(delete(tags).where(tags.c.image_id == image_id))
    size = tx.connection.execute(
        delete(images).where(images.c.image_id == image_id).returning(images.c.manifest_size)
    ).scalar_one()
    usage.uncount_manifest(tx, repository_id, size)
    tx.send(
        update(repositories)
        .where(repositories.c.repository_id == repository_id)
        .values(images=repositories.c.images - 1)
    )
    tx.send(update(manifest_bytes).where(manifest_bytes.c.digest == digest).values(images=manifest_bytes.c.images - 1))
    tx.send(delete(manifest_bytes).where(manifest_bytes.c.digest == digest, manifest_bytes.c.images <= 0))


def use_manifest_bytes(tx: Transaction, digest: str, content: bytes) -> None:
    """Count one more image of a manifest, whose bytes all accounts share; they are stored with the first."""
    tx.send(_USE_BYTES, {"of": digest})
    tx.send(_ADD_BYTES, {"of": digest, "bytes": content})


def image_not_found(reference: str, repository: str, account: str) -> Failure:
    digest, tag = (reference, "null") if is_digest_like(reference) else ("null", reference)
    return Failure(
        Code.IMAGE_NOT_FOUND, image_not_found_text(digest, tag, repository, account), repositoryName=repository
    )


def image_not_found_text(digest: str, tag: str, repository: str, account: str) -> str:
    return (
        f"The image with imageId {{imageDigest:'{digest}', imageTag:'{tag}'}} does not exist within the repository"
        f" with name '{repository}' in the registry with id '{account}'"
    )


def find_image(tx: Transaction, repository_id: int, digest: str) -> int | None:
    found: int | None = tx.connection.execute(
        select(images.c.image_id).where(images.c.repository_id == repository_id, images.c.digest == digest)
    ).scalar()
    return found


def count_tag(tx: Transaction, image_id: int, change: int) -> None:
    """Count more or fewer tags of an image."""
    tx.send(_COUNT_TAG, {"image": image_id, "change": change, "most": _UNLIMITED})


def count_new_tag(tx: Transaction, image_id: int, most: int) -> bool:
    """Count one more tag; False, without counting, if the image has `most` tags already."""
    return bool(tx.connection.execute(_COUNT_TAG, {"image": image_id, "change": 1, "most": most}).rowcount)
