"""Manifests, tags and referrers, as the OCI door asks for them."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from typing import Any

from sqlalchemy import bindparam, case, delete, insert, select, update

from proxy.metadata.operations.blobs import layers_not_found
from proxy.metadata.operations.repositories import find_repository, need_or_make_repository, need_repository
from proxy.metadata.schema import (
    blob_links,
    blobs,
    image_blobs,
    image_children,
    images,
    manifest_bytes,
    repositories,
    tags,
)
from proxy.metadata.transaction import FoundRow, Transaction
from proxy.model.errors import Code, Failure
from proxy.model.manifests import read_manifest
from proxy.model.names import is_digest_like
from proxy.model.records import ImageKind, ManifestFacts, Page, PushedManifest, Referrer, StoredManifest

_NAMED_MAX = 20  # digests that an error message lists

# Asked at every pull: made once, as making a statement costs as much as running it.
_STORED = (
    select(images.c.digest, images.c.media_type, manifest_bytes.c.content)
    .join(repositories, repositories.c.repository_id == images.c.repository_id)
    .join(manifest_bytes, manifest_bytes.c.digest == images.c.digest)
    .where(repositories.c.account == bindparam("account"), repositories.c.name == bindparam("name"))
)
_BY_DIGEST = _STORED.where(images.c.digest == bindparam("reference"))
_BY_TAG = _STORED.join(tags, tags.c.image_id == images.c.image_id).where(
    tags.c.repository_id == repositories.c.repository_id, tags.c.name == bindparam("reference")
)


def manifest(tx: Transaction, account: str, repository: str, reference: str) -> StoredManifest:
    query = _BY_DIGEST if is_digest_like(reference) else _BY_TAG
    row = tx.connection.execute(query, {"account": account, "name": repository, "reference": reference}).one_or_none()
    if row is None:
        need_repository(tx, account, repository)
        raise image_not_found(reference, repository, account)
    return StoredManifest(row.digest, row.media_type, row.content)


def examine(
    account: str,
    repository: str,
    content: bytes,
    media_type: str | None,
    digest: str,
    tags: Sequence[str],
    create: bool,
) -> dict[str, Any]:
    """The part of `put_manifest` that takes time and no database: what it gives is what that takes."""
    algorithm, _, encoded = digest.partition(":")
    if algorithm not in ("sha256", "sha512") or hashlib.new(algorithm, content).hexdigest() != encoded:
        raise Failure(Code.IMAGE_DIGEST_DOES_NOT_MATCH, f"The manifest does not hash to '{digest[:140]}'")
    facts = read_manifest(content, media_type)
    if not (facts.artifact_type or facts.config_media_type or "").isprintable():  # no database stores half a surrogate
        raise Failure(Code.MANIFEST_INVALID, "artifactType holds characters that no media type has")
    return {
        "account": account,
        "repository": repository,
        "content": content,
        "digest": digest,
        "tags": tags,
        "create": create,
        "facts": facts,
    }


def put_manifest(
    tx: Transaction,
    account: str,
    repository: str,
    content: bytes,
    digest: str,
    tags: Sequence[str],
    create: bool,
    facts: ManifestFacts,
) -> PushedManifest:
    """`facts` are what `examine` found in `content`."""
    repository_id = need_or_make_repository(tx, account, repository, create)
    settings = tx.connection.execute(
        select(repositories.c.tag_mutability, repositories.c.mutability_exclusions).where(
            repositories.c.repository_id == repository_id
        )
    ).one()
    image_id = _find(tx, repository_id, digest)
    if image_id is None:
        image_id = _insert(tx, account, repository, repository_id, content, digest, facts)
    for tag in dict.fromkeys(tags):
        _move_tag(tx, repository, repository_id, tag, image_id, settings)
    tx.changed(account, repository)  # also when all is there: whoever put it there may not have told everybody yet
    return PushedManifest(digest, facts.subject, tuple(dict.fromkeys(tags)))


def delete_tag(tx: Transaction, account: str, repository: str, tag: str) -> None:
    repository_id = need_repository(tx, account, repository)
    image_id = find_tag(tx, repository_id, tag)
    if image_id is None:
        raise image_not_found(tag, repository, account)
    remove_tag(tx, repository_id, tag, image_id)
    tx.changed(account, repository)


def delete_manifest(tx: Transaction, account: str, repository: str, digest: str) -> None:
    repository_id = need_repository(tx, account, repository)
    image_id = _find(tx, repository_id, digest)
    if image_id is None:
        raise image_not_found(digest, repository, account)
    remove_image(tx, repository_id, image_id, digest)
    tx.changed(account, repository)


def list_tags(tx: Transaction, account: str, repository: str, last: str, limit: int) -> Page:
    repository_id = need_repository(tx, account, repository)
    found = (
        tx.connection.execute(
            select(tags.c.name)
            .where(tags.c.repository_id == repository_id, tags.c.name > last)
            .order_by(tags.c.name)
            .limit(limit + 1)
        )
        .scalars()
        .all()
    )
    return Page(tuple(found[:limit]), len(found) > limit)


def referrers(
    tx: Transaction, account: str, repository: str, digest: str, artifact_type: str | None, last: str, limit: int
) -> tuple[Sequence[Referrer], bool]:
    repository_id = find_repository(tx, account, repository)
    if repository_id is None:
        return (), False
    query = select(
        images.c.digest, images.c.media_type, images.c.manifest_size, images.c.artifact_type, images.c.annotations
    ).where(images.c.repository_id == repository_id, images.c.subject == digest, images.c.digest > last)
    if artifact_type is not None:
        query = query.where(images.c.artifact_type == artifact_type)
    rows = tx.connection.execute(query.order_by(images.c.digest).limit(limit + 1)).all()
    found = tuple(
        Referrer(
            row.digest,
            row.media_type,
            row.manifest_size,
            row.artifact_type,
            None if row.annotations is None else json.loads(row.annotations),
        )
        for row in rows[:limit]
    )
    return found, len(rows) > limit


def find_tag(tx: Transaction, repository_id: int, tag: str) -> int | None:
    found: int | None = tx.connection.execute(
        select(tags.c.image_id).where(tags.c.repository_id == repository_id, tags.c.name == tag)
    ).scalar()
    return found


def remove_tag(tx: Transaction, repository_id: int, tag: str, image_id: int) -> None:
    tx.connection.execute(delete(tags).where(tags.c.repository_id == repository_id, tags.c.name == tag))
    _count_tag(tx, image_id, -1)


def remove_image(tx: Transaction, repository_id: int, image_id: int, digest: str) -> None:
    """The image, its tags, and its hold on blobs (their grace begins). Refused while an index lists it."""
    parents = (
        tx.connection.execute(
            select(images.c.digest)
            .join(image_children, image_children.c.image_id == images.c.image_id)
            .where(image_children.c.child_id == image_id)
            .limit(_NAMED_MAX)
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
    run = tx.connection.execute
    needed = select(image_blobs.c.blob_id).where(image_blobs.c.image_id == image_id)
    run(
        update(blob_links)
        .where(blob_links.c.repository_id == repository_id, blob_links.c.blob_id.in_(needed))
        .values(uses=blob_links.c.uses - 1, touched_at=tx.now)
    )
    run(delete(image_blobs).where(image_blobs.c.image_id == image_id))
    run(delete(image_children).where(image_children.c.image_id == image_id))
    run(delete(tags).where(tags.c.image_id == image_id))
    run(delete(images).where(images.c.image_id == image_id))
    run(
        update(repositories)
        .where(repositories.c.repository_id == repository_id)
        .values(images=repositories.c.images - 1)
    )
    run(update(manifest_bytes).where(manifest_bytes.c.digest == digest).values(images=manifest_bytes.c.images - 1))
    run(delete(manifest_bytes).where(manifest_bytes.c.digest == digest, manifest_bytes.c.images <= 0))


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


def _find(tx: Transaction, repository_id: int, digest: str) -> int | None:
    found: int | None = tx.connection.execute(
        select(images.c.image_id).where(images.c.repository_id == repository_id, images.c.digest == digest)
    ).scalar()
    return found


def _insert(
    tx: Transaction,
    account: str,
    repository: str,
    repository_id: int,
    content: bytes,
    digest: str,
    facts: ManifestFacts,
) -> int:
    blob_ids = _needed_blobs(tx, account, repository, repository_id, facts)
    children = _needed_children(tx, account, repository, repository_id, facts)
    run = tx.connection.execute
    known = run(
        update(manifest_bytes).where(manifest_bytes.c.digest == digest).values(images=manifest_bytes.c.images + 1)
    )
    if not known.rowcount:
        run(insert(manifest_bytes).values(digest=digest, content=content, images=1))
    size = facts.image_size
    if children and facts.kind is ImageKind.INDEX:
        size = max(image_size for _, image_size in children)
    annotated = facts.subject is not None and facts.annotations is not None
    result = run(
        insert(images).values(
            repository_id=repository_id,
            digest=digest,
            media_type=facts.media_type,
            kind=str(facts.kind),
            artifact_type=facts.artifact_type or facts.config_media_type,
            subject=facts.subject,
            annotations=json.dumps(facts.annotations) if annotated else None,
            manifest_size=len(content),
            image_size=size,
            pushed_at=tx.now,
            tagged=0,
            tags=0,
        )
    )
    run(
        update(repositories)
        .where(repositories.c.repository_id == repository_id)
        .values(images=repositories.c.images + 1)
    )
    image_id: int = result.inserted_primary_key[0]  # type: ignore[index]  # an insert has one
    if blob_ids:
        run(insert(image_blobs), [{"image_id": image_id, "blob_id": blob_id} for blob_id in blob_ids])
        for start in range(0, len(blob_ids), 500):
            run(
                update(blob_links)
                .where(
                    blob_links.c.repository_id == repository_id,
                    blob_links.c.blob_id.in_(blob_ids[start : start + 500]),
                )
                .values(uses=blob_links.c.uses + 1, touched_at=tx.now)
            )
    if children:
        run(insert(image_children), [{"image_id": image_id, "child_id": child_id} for child_id, _ in children])
    return image_id


def _needed_blobs(
    tx: Transaction, account: str, repository: str, repository_id: int, facts: ManifestFacts
) -> list[int]:
    wanted = list(dict.fromkeys(digest for digest, _ in facts.blobs))
    found: dict[str, int] = {}
    for start in range(0, len(wanted), 500):
        rows = tx.connection.execute(
            select(blobs.c.digest, blobs.c.blob_id)
            .join(blob_links, blob_links.c.blob_id == blobs.c.blob_id)
            .where(
                blobs.c.account == account,
                blobs.c.digest.in_(wanted[start : start + 500]),
                blobs.c.quarantined_for.is_(None),
                blob_links.c.repository_id == repository_id,
            )
        )
        found.update((row.digest, row.blob_id) for row in rows)
    missing = [digest for digest in wanted if digest not in found]
    if missing:
        raise layers_not_found(missing[:_NAMED_MAX], repository, account)
    return list(found.values())


def _needed_children(
    tx: Transaction, account: str, repository: str, repository_id: int, facts: ManifestFacts
) -> list[tuple[int, int]]:
    """(image id, image size) of each manifest that an index lists."""
    wanted = list(dict.fromkeys(facts.children))
    found: dict[str, tuple[int, int]] = {}
    for start in range(0, len(wanted), 500):
        rows = tx.connection.execute(
            select(images.c.digest, images.c.image_id, images.c.image_size).where(
                images.c.repository_id == repository_id, images.c.digest.in_(wanted[start : start + 500])
            )
        )
        found.update((row.digest, (row.image_id, row.image_size)) for row in rows)
    missing = [digest for digest in wanted if digest not in found]
    if missing:
        raise Failure(
            Code.REFERENCED_IMAGES_NOT_FOUND,
            f"Images with digests '[{', '.join(missing[:_NAMED_MAX])}]' required for pushing image into repository"
            f" with name '{repository}' in the registry with id '{account}' do not exist",
            digests=missing[:_NAMED_MAX],
        )
    return list(found.values())


def _move_tag(
    tx: Transaction, repository: str, repository_id: int, tag: str, image_id: int, settings: FoundRow
) -> None:
    before = find_tag(tx, repository_id, tag)
    if before == image_id:
        return
    if before is None:
        tx.connection.execute(
            insert(tags).values(repository_id=repository_id, name=tag, image_id=image_id, pushed_at=tx.now)
        )
    else:
        if _immutable(settings, tag):
            raise Failure(
                Code.IMAGE_TAG_ALREADY_EXISTS,
                f"The image tag '{tag}' already exists in the '{repository}' repository and cannot be overwritten"
                " because the repository is immutable.",
            )
        tx.connection.execute(
            update(tags)
            .where(tags.c.repository_id == repository_id, tags.c.name == tag)
            .values(image_id=image_id, pushed_at=tx.now)
        )
        _count_tag(tx, before, -1)
    _count_tag(tx, image_id, 1)


def _count_tag(tx: Transaction, image_id: int, change: int) -> None:
    left = images.c.tags + change
    tx.connection.execute(
        update(images).where(images.c.image_id == image_id).values(tags=left, tagged=case((left > 0, 1), else_=0))
    )


def _immutable(settings: FoundRow, tag: str) -> bool:
    immutable: bool = settings.tag_mutability.startswith("IMMUTABLE")
    if settings.mutability_exclusions is None:
        return immutable
    for exclusion in json.loads(settings.mutability_exclusions):
        pattern = ".*".join(re.escape(part) for part in exclusion["filter"].split("*"))
        if re.fullmatch(pattern, tag):
            return not immutable
    return immutable
