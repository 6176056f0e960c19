"""Rows for content that an upstream's image names and that is not stored here yet.

    import of a manifest     adds a row for each blob and child that the repository lacks        `record`
    commit of a blob         its rows become `image_blobs`, and count as uses of the link        `adopt_blob`
    import of a child        its rows become `image_children`                                    `adopt_manifest`
    push of the same image   adopts what is here; refused if anything is still absent            `require_complete`
    removal of the image     removes its rows                                                    `forget`

All in the transaction that causes it: an image's references and its absent content are together always what its
manifest names. Called by `pushes`, `uploads`, `manifests` and `mirror`; must not know why something is absent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import bindparam, delete, insert, select, update

from proxy.metadata.db.mirror_tables import ABSENT_BLOB, ABSENT_MANIFEST, absent_content
from proxy.metadata.db.schema import blob_links, image_blobs, image_children, repositories
from proxy.metadata.db.transaction import Transaction
from proxy.metadata.mirror_contract import MirrorPort
from proxy.metadata.operations.operation import operation
from proxy.model.mirror import AbsentBlob
from proxy.model.records import ManifestFacts

_WAITING = select(absent_content.c.image_id, absent_content.c.media_type).where(
    absent_content.c.repository_id == bindparam("repository"),
    absent_content.c.digest == bindparam("digest"),
    absent_content.c.kind == bindparam("kind"),
)
_OF_IMAGE = select(absent_content.c.digest, absent_content.c.kind).where(
    absent_content.c.image_id == bindparam("image")
)
_DESCRIBED = (
    select(absent_content.c.digest, absent_content.c.size, absent_content.c.media_type)
    .join(repositories, repositories.c.repository_id == absent_content.c.repository_id)
    .where(
        repositories.c.account == bindparam("account"),
        repositories.c.name == bindparam("name"),
        absent_content.c.digest == bindparam("digest"),
        absent_content.c.kind == ABSENT_BLOB,
    )
    .limit(1)
)


@operation(MirrorPort)
def absent_blob(tx: Transaction, account: str, repository: str, digest: str) -> AbsentBlob | None:
    asked = {"account": account, "name": repository, "digest": digest}
    row = tx.connection.execute(_DESCRIBED, asked).one_or_none()
    return None if row is None else AbsentBlob(row.digest, row.size, row.media_type or "")


def record(
    tx: Transaction,
    repository_id: int,
    image_id: int,
    facts: ManifestFacts,
    blobs_here: Mapping[str, int],
    children_here: Sequence[str],
) -> None:
    """Add the rows of an imported manifest's absent content."""
    rows: list[dict[str, Any]] = []
    for digest, size in facts.blobs:
        if digest not in blobs_here:
            media_type = facts.blob_types.get(digest, "")
            rows.append({"digest": digest, "kind": ABSENT_BLOB, "size": size, "media_type": media_type[:256] or None})
    here = set(children_here)
    for digest in facts.children:
        if digest not in here:
            rows.append({"digest": digest, "kind": ABSENT_MANIFEST, "size": 0, "media_type": None})
    made = {"image_id": image_id, "repository_id": repository_id}
    each_once = {row["digest"]: made | row for row in rows}
    if each_once:
        tx.connection.execute(insert(absent_content), list(each_once.values()))


def adopt_blob(tx: Transaction, repository_id: int, digest: str, blob_id: int) -> None:
    """Turn the rows of a blob that is now linked into references of the images that name it."""
    waiting = tx.connection.execute(
        _WAITING, {"repository": repository_id, "digest": digest, "kind": ABSENT_BLOB}
    ).all()
    if not waiting:
        return
    made = {"blob_id": blob_id, "repository_id": repository_id}
    tx.connection.execute(insert(image_blobs), [made | {"image_id": row.image_id} for row in waiting])
    tx.connection.execute(
        update(blob_links)
        .where(blob_links.c.repository_id == repository_id, blob_links.c.blob_id == blob_id)
        .values(uses=blob_links.c.uses + len(waiting), media_type=waiting[-1].media_type, touched_at=tx.now)
    )
    _remove(tx, repository_id, digest, ABSENT_BLOB)


def adopt_manifest(tx: Transaction, repository_id: int, digest: str, child_id: int) -> None:
    """Turn the rows of a manifest that is now stored into references of the indexes that list it."""
    waiting = tx.connection.execute(
        _WAITING, {"repository": repository_id, "digest": digest, "kind": ABSENT_MANIFEST}
    ).all()
    if waiting:
        made = {"child_id": child_id}
        tx.connection.execute(insert(image_children), [made | {"image_id": row.image_id} for row in waiting])
        _remove(tx, repository_id, digest, ABSENT_MANIFEST)


def of_image(tx: Transaction, image_id: int) -> tuple[list[str], list[str]]:
    """The digests of an image's absent blobs and of its absent manifests."""
    rows = tx.connection.execute(_OF_IMAGE, {"image": image_id}).all()
    return (
        [row.digest for row in rows if row.kind == ABSENT_BLOB],
        [row.digest for row in rows if row.kind == ABSENT_MANIFEST],
    )


def forget(tx: Transaction, image_ids: Sequence[int]) -> None:
    tx.send(delete(absent_content).where(absent_content.c.image_id.in_(image_ids)))


def _remove(tx: Transaction, repository_id: int, digest: str, kind: str) -> None:
    tx.connection.execute(
        delete(absent_content).where(
            absent_content.c.repository_id == repository_id,
            absent_content.c.digest == digest,
            absent_content.c.kind == kind,
        )
    )
