"""The ECR operations on layers as far as they need rows: BatchCheckLayerAvailability, GetDownloadUrlForLayer.

Sources: botocore's `ecr` model; texts as ECR answers them.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import bindparam, select

from proxy.metadata.db.schema import blob_links, blobs
from proxy.metadata.db.transaction import Transaction
from proxy.metadata.operations import absent
from proxy.metadata.operations.blobs import defer_renewal
from proxy.metadata.operations.images import DIGEST
from proxy.metadata.operations.operation import ecr_operation
from proxy.metadata.operations.repositories import Parameters, named_repository
from proxy.model.errors import Code, Failure

_LINKED = (
    select(
        blobs.c.digest,
        blobs.c.size,
        blob_links.c.repository_id,
        blob_links.c.blob_id,
        blob_links.c.uses,
        blob_links.c.media_type,
        blob_links.c.touched_at,
    )
    .join(blob_links, blob_links.c.blob_id == blobs.c.blob_id)
    .where(
        blobs.c.account == bindparam("account"),
        blobs.c.digest.in_(bindparam("digests", expanding=True)),
        blobs.c.quarantined_for.is_(None),
        blob_links.c.repository_id == bindparam("repository"),
    )
)


@ecr_operation("BatchCheckLayerAvailability")
def batch_check_layer_availability(tx: Transaction, account: str, parameters: Parameters) -> dict[str, Any]:
    """Whether each layer is available, and its media type once an image has named it; a failure for a malformed digest.
    A layer that an upstream's image names and that is not stored yet is available."""
    name, repository = named_repository(tx, account, parameters)
    found: list[dict[str, Any]] = []
    failures: list[dict[str, Any]] = []
    wanted = dict.fromkeys(parameters["layerDigests"])
    asked = {"account": account, "digests": list(wanted), "repository": repository.repository_id}
    there = {row.digest: row for row in tx.connection.execute(_LINKED, asked)}
    for digest in wanted:
        if not DIGEST.fullmatch(digest):
            failures.append(_failure(digest))
            continue
        row = there.get(digest)
        if row is None and (coming := absent.absent_blob(tx, account, name, digest)) is not None:
            layer = {"layerDigest": digest, "layerAvailability": "AVAILABLE", "layerSize": coming.size}
            found.append(layer | ({"mediaType": coming.media_type} if coming.media_type else {}))
        elif row is None:
            found.append({"layerDigest": digest, "layerAvailability": "UNAVAILABLE"})
        else:
            defer_renewal(tx, row)
            layer = {"layerDigest": digest, "layerAvailability": "AVAILABLE", "layerSize": row.size}
            found.append(layer | ({"mediaType": row.media_type} if row.media_type else {}))
    return {"layers": found, "failures": failures}


@ecr_operation("GetDownloadUrlForLayer")
def get_download_url_for_layer(tx: Transaction, account: str, parameters: Parameters) -> dict[str, Any]:
    """Checks that the layer can be fetched; the proxy makes the URL."""
    name, repository = named_repository(tx, account, parameters)
    digest = parameters["layerDigest"]
    asked = {"account": account, "digests": [digest], "repository": repository.repository_id}
    row = tx.connection.execute(_LINKED, asked).one_or_none()
    there = f"in the repository with name '{name}' in the registry with id '{account}'"
    if row is None and absent.absent_blob(tx, account, name, digest) is not None:
        return {"layerDigest": digest}  # fetched when its link is
    if row is None:
        raise Failure(Code.LAYERS_NOT_FOUND, f"The layer with digest '{digest}' does not exist {there}")
    if not row.uses:
        raise Failure(
            Code.LAYER_INACCESSIBLE,
            f"The layer with digest '{digest}' {there} is not available because it is not associated with an image",
        )
    return {"layerDigest": digest}


def _failure(digest: str) -> dict[str, Any]:
    if not digest:
        reason = "Invalid request parameters: layer digest cannot be empty"
        return {"layerDigest": digest, "failureCode": "MissingLayerDigest", "failureReason": reason}
    reason = f"Invalid request parameters: layer digest should satisfy the regex '{DIGEST.pattern}'"
    return {"layerDigest": digest, "failureCode": "InvalidLayerDigest", "failureReason": reason}
