"""Pushes of manifests, through OCI or PutImage: checks the referenced content, makes the image, moves its tags.

Two steps. `examine` and `examine_image` hash and parse, which takes CPU time and no database; `put_manifest` and
`put_image` get their results in the transaction. An image is made once, however many tags it has. Must not know HTTP.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from sqlalchemy import bindparam, insert, select, true, update

from proxy.awsmodel.validation import invalid
from proxy.metadata.contract import ManifestPort
from proxy.metadata.db.event_tables import event_rules
from proxy.metadata.db.replication_tables import replication_configurations
from proxy.metadata.db.schema import (
    blob_links,
    image_blobs,
    image_children,
    images,
    repositories,
    tags,
)
from proxy.metadata.db.transaction import FoundRow, Transaction
from proxy.metadata.operations import absent, events, mutability, replication, usage
from proxy.metadata.operations.archive import enqueue as enqueue_archive
from proxy.metadata.operations.archive import is_archived, restore
from proxy.metadata.operations.create_on_push import need_or_make_repository
from proxy.metadata.operations.manifests import (
    count_new_tag,
    count_tag,
    find_image,
    find_tag,
    use_manifest_bytes,
)
from proxy.metadata.operations.operation import ecr_operation, operation
from proxy.metadata.operations.referenced_content import referenced_blobs, referenced_children
from proxy.metadata.operations.replication_rules import rules_text
from proxy.metadata.operations.repositories import Parameters, named_repository
from proxy.model import quotas
from proxy.model.errors import Code, Failure
from proxy.model.manifests import MANIFEST_MAX, read_manifest
from proxy.model.mirror import PULL_THROUGH
from proxy.model.names import Digest, check_tag, parse_digest
from proxy.model.records import CreateOnPush, ImageKind, ManifestFacts, PushedManifest

_MEDIA_TYPE_MAX = 256  # characters of a link's column; a longer media type is not stored

_SETTINGS = select(
    repositories.c.repository_id,
    repositories.c.tag_mutability,
    repositories.c.mutability_exclusions,
    select(event_rules.c.name)
    .where(event_rules.c.account == repositories.c.account, event_rules.c.enabled == true())
    .exists()
    .label("has_rules"),  # of events: without rules a push costs no extra statement
    select(replication_configurations.c.rules)
    .where(replication_configurations.c.account == repositories.c.account)
    .scalar_subquery()
    .label("replication"),  # the same of replication
)
SETTINGS = _SETTINGS.where(repositories.c.repository_id == bindparam("repository_id"))
_SETTINGS_BY_NAME = _SETTINGS.add_columns(
    select(images.c.image_id)
    .where(images.c.repository_id == repositories.c.repository_id, images.c.digest == bindparam("digest"))
    .scalar_subquery()
    .label("image_id")
).where(repositories.c.account == bindparam("account"), repositories.c.name == bindparam("name"))
"""With the image that is pushed, if the repository has it."""

Checked = TypeVar("Checked")


def examine(
    account: str,
    repository: str,
    content: bytes,
    media_type: str | None,
    digest: str,
    tags: Sequence[str],
    create: CreateOnPush,
) -> dict[str, Any]:
    """The part of `put_manifest` that takes CPU time and no database; returns its parameters."""
    algorithm, _, encoded = digest.partition(":")
    if algorithm not in ("sha256", "sha512") or hashlib.new(algorithm, content).hexdigest() != encoded:
        raise Failure(Code.IMAGE_DIGEST_DOES_NOT_MATCH, f"The manifest does not hash to '{digest[:140]}'")
    facts = _read(content, media_type)
    return {
        "account": account,
        "repository": repository,
        "content": content,
        "digest": digest,
        "tags": tags,
        "create": create,
        "facts": facts,
    }


@operation(ManifestPort, write=True, prepare=examine)
def put_manifest(
    tx: Transaction,
    account: str,
    repository: str,
    content: bytes,
    digest: str,
    tags: Sequence[str],
    create: CreateOnPush,
    facts: ManifestFacts,
) -> PushedManifest:
    """`facts` are what `examine` found in `content`."""
    named = {"account": account, "name": repository, "digest": digest}
    row = tx.connection.execute(_SETTINGS_BY_NAME, named).one_or_none()
    created, image_id = False, None if row is None else row.image_id
    if row is None:
        repository_id, created = need_or_make_repository(tx, account, repository, create)
        row = tx.connection.execute(SETTINGS, {"repository_id": repository_id}).one()
    each_once = tuple(dict.fromkeys(tags))
    causes = _Causes(row.has_rules, row.replication)
    _put(tx, account, repository, row, image_id, content, digest, each_once, facts, causes)
    tx.changed(account, repository)  # also if nothing is new: an earlier push may not be announced yet
    return PushedManifest(digest, facts.subject, each_once, created)


def examine_image(account: str, parameters: Parameters) -> dict[str, Any]:
    """`examine` for a PutImage that is valid by the model. InvalidParameter, ImageDigestDoesNotMatch."""
    tag, named = parameters.get("imageTag"), parameters.get("imageDigest")
    if tag is not None:
        _check("imageTag", check_tag, tag)
    given = None if named is None else _check("imageDigest", parse_digest, named)
    content = parameters["imageManifest"].encode()
    if len(content) > MANIFEST_MAX:
        raise invalid("imageManifest", f"Member must have length less than or equal to {MANIFEST_MAX}")
    algorithm = "sha256" if given is None else given.algorithm
    digest = Digest(algorithm, hashlib.new(algorithm, content).hexdigest())
    if given is not None and given != digest:
        raise Failure(
            Code.IMAGE_DIGEST_DOES_NOT_MATCH,
            f"The provided image digest '{given}' does not match the digest '{digest}' of the image manifest",
        )
    try:
        facts = _read(content, parameters.get("imageManifestMediaType"), must_be_typed=True)
    except Failure as failure:
        ours = "" if failure.fields.get("field") == "mediaType" else "Invalid JSON syntax: "  # ECR says no more
        raise invalid("ImageManifest", ours + failure.message) from failure
    asked = {name: value for name, value in parameters.items() if name != "imageManifest"}
    return {"account": account, "parameters": asked, "content": content, "digest": str(digest), "facts": facts}


@ecr_operation("PutImage", write=True, prepare=examine_image)
def put_image(
    tx: Transaction, account: str, parameters: Parameters, content: bytes, digest: str, facts: ManifestFacts
) -> dict[str, Any]:
    """PutImage. The answer omits the manifest: the proxy has it, and answers of writes are stored."""
    name, row = named_repository(tx, account, parameters)
    tag = parameters.get("imageTag")
    image_id = find_image(tx, row.repository_id, digest)
    archived = image_id is not None and is_archived(tx, image_id)
    if not archived and image_id is not None and (tag is None or find_tag(tx, row.repository_id, tag) == image_id):
        if tag is not None and mutability.is_immutable(row, tag):
            raise mutability.tag_is_immutable(name, tag)
        raise Failure(
            Code.IMAGE_ALREADY_EXISTS,
            f"Image with digest '{digest}' and tag '{tag or 'null'}' already exists in the repository with name"
            f" '{name}' in registry with id '{account}'",
        )
    causes = _Causes(events.has_rules(tx, account), rules_text(tx, account))
    _put(tx, account, name, row, image_id, content, digest, [] if tag is None else [tag], facts, causes)
    tx.changed(account, name)
    return {
        "image": {
            "registryId": account,
            "repositoryName": name,
            "imageId": {"imageDigest": digest} | ({} if tag is None else {"imageTag": tag}),
            "imageManifestMediaType": facts.media_type,
        }
    }


@dataclass(frozen=True, slots=True)
class _Causes:
    """What a push may cause: whether the account has event rules, and the JSON of its replication rules."""

    has_rules: bool
    replication: str | None


def _check(member: str, read: Callable[[str], Checked], text: str) -> Checked:
    try:
        return read(text)
    except Failure as failure:
        raise invalid(member, failure.message) from failure


def _read(content: bytes, media_type: str | None, *, must_be_typed: bool = False) -> ManifestFacts:
    facts = read_manifest(content, media_type, must_be_typed=must_be_typed)
    if not (facts.artifact_type or facts.config_media_type or "").isprintable():  # no database stores half a surrogate
        raise Failure(Code.MANIFEST_INVALID, "artifactType holds characters that no media type has")
    return facts


def _put(
    tx: Transaction,
    account: str,
    repository: str,
    row: FoundRow,
    found: int | None,
    content: bytes,
    digest: str,
    tags: Sequence[str],
    facts: ManifestFacts,
    causes: _Causes,
) -> None:
    """`row` is the repository's, `found` its image with this digest. Events report what is new: an image, or a tag
    that moved."""
    if found is None:
        image_id = insert_image(tx, account, repository, row.repository_id, content, digest, facts)
    else:
        image_id = found
        if is_archived(tx, image_id):
            restore(tx, account, repository, row.repository_id, image_id, at_once=True)
        complete(tx, account, repository, row.repository_id, image_id, facts)
        arrived = images.c.image_id == image_id, images.c.origin.is_not(None)
        tx.send(update(images).where(*arrived).values(origin=None))
    again = causes.replication is not None
    is_untagged = found is None and len(tags) <= tx.registry.quotas.tags
    moved = [tag for tag in tags if move_tag(tx, repository, row, tag, image_id, again=again, is_untagged=is_untagged)]
    replication.image_pushed(tx, account, repository, row.repository_id, digest, causes.replication)
    if causes.has_rules and (moved or found is None):
        events.image_pushed(
            tx,
            account,
            repository,
            digest,
            moved,
            media_type=facts.media_type,
            artifact_type=facts.artifact_type or facts.config_media_type,
            subject=facts.subject,
        )


def complete(
    tx: Transaction, account: str, repository: str, repository_id: int, image_id: int, facts: ManifestFacts
) -> None:
    """A push of an image that was imported from an upstream must bring its absent content."""
    absent_blobs, absent_children = absent.of_image(tx, image_id)
    if absent_blobs:
        blob_ids, _ = referenced_blobs(tx, account, repository, repository_id, facts)
        for digest in absent_blobs:
            absent.adopt_blob(tx, repository_id, digest, blob_ids[digest])
    if absent_children:
        children = referenced_children(tx, account, repository, repository_id, facts)
        for digest in absent_children:
            absent.adopt_manifest(tx, repository_id, digest, children[digest][0])


def insert_image(
    tx: Transaction,
    account: str,
    repository: str,
    repository_id: int,
    content: bytes,
    digest: str,
    facts: ManifestFacts,
    *,
    imported: bool = False,
    origin: str | None = None,
) -> int:
    """A new image's row id. `imported`: its content may be absent. `origin`: where it was replicated from."""
    origin = PULL_THROUGH if imported else origin
    blob_ids, archived = referenced_blobs(tx, account, repository, repository_id, facts, may_lack=imported)
    children_here = referenced_children(tx, account, repository, repository_id, facts, may_lack=imported)
    children = list(children_here.values())
    run = tx.connection.execute
    most = tx.registry.quotas.images
    counted = run(
        update(repositories)
        .where(repositories.c.repository_id == repository_id, repositories.c.images < most)
        .values(images=repositories.c.images + 1)
    )
    if not counted.rowcount:
        holder = f"The repository with name '{repository}' in the registry with id '{account}'"
        raise quotas.exceeded(holder, "images", most)
    usage.count_manifest(tx, account, repository, repository_id, len(content))
    use_manifest_bytes(tx, digest, content)
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
            origin=origin,
        )
    )
    image_id: int = result.inserted_primary_key[0]  # type: ignore[index]  # an insert has one
    if blob_ids:
        made = {"image_id": image_id, "repository_id": repository_id}
        tx.send(insert(image_blobs), [made | {"blob_id": blob_id} for blob_id in blob_ids.values()])
        for media_type, some in _by_type(facts, blob_ids):
            tx.send(
                update(blob_links)
                .where(blob_links.c.repository_id == repository_id, blob_links.c.blob_id.in_(some))
                .values(uses=blob_links.c.uses + 1, touched_at=tx.now, media_type=media_type)
            )
    if children:
        tx.send(insert(image_children), [{"image_id": image_id, "child_id": child_id} for child_id, _ in children])
    if archived:
        enqueue_archive(tx, account, repository, repository_id, digest)  # it is read from there meanwhile
    if imported:
        absent.record(tx, repository_id, image_id, facts, blob_ids, list(children_here))
        absent.adopt_manifest(tx, repository_id, digest, image_id)
    return image_id


def _by_type(facts: ManifestFacts, blob_ids: Mapping[str, int]) -> Iterator[tuple[str | None, list[int]]]:
    """Blobs grouped by media type, at most 500 at a time: an image has two types, a hostile one as many as blobs."""
    found: dict[str | None, list[int]] = {}
    for digest, blob_id in blob_ids.items():
        media_type = facts.blob_types.get(digest, "")
        found.setdefault(media_type if 0 < len(media_type) <= _MEDIA_TYPE_MAX else None, []).append(blob_id)
    for kind, of_kind in found.items():
        for start in range(0, len(of_kind), 500):
            yield kind, of_kind[start : start + 500]


def move_tag(
    tx: Transaction,
    repository: str,
    row: FoundRow,
    tag: str,
    image_id: int,
    *,
    again: bool = False,
    is_untagged: bool = False,
) -> bool:
    """Point a tag to the image; False if it points there already, which `again` counts as a newer push. `is_untagged`:
    the image is new, and may have all tags of this push."""
    mine = tags.c.repository_id == row.repository_id, tags.c.name == tag
    held = tx.connection.execute(select(tags.c.image_id, tags.c.origin).where(*mine)).one_or_none()
    before = None if held is None else held.image_id
    if before is not None and mutability.is_immutable(row, tag):
        raise mutability.tag_is_immutable(repository, tag)  # even if it points to the image already, as ECR does
    here = {"pushed_at": tx.now, "origin": None, "version": None}
    if held is not None and before == image_id:
        if again or held.origin is not None:
            tx.send(update(tags).where(*mine).values(**here))
        return False
    most = tx.registry.quotas.tags
    if is_untagged:
        count_tag(tx, image_id, 1)
    elif not count_new_tag(tx, image_id, most):
        holder = f"The image that the tag '{tag}' is for in the repository with name '{repository}'"
        raise quotas.exceeded(holder, "tags", most)
    if before is None:
        tx.send(insert(tags).values(repository_id=row.repository_id, name=tag, image_id=image_id, pushed_at=tx.now))
        return True
    tx.send(update(tags).where(*mine).values(image_id=image_id, **here))
    count_tag(tx, before, -1)
    return True
