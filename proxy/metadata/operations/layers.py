"""The ECR operations on layers that are only about rows: BatchCheckLayerAvailability.

Sources: botocore's `ecr` model; texts as ECR answers them.
"""

from __future__ import annotations

import re
from typing import Any

from sqlalchemy import bindparam, select

from proxy.metadata.operations.repositories import Parameters, named_repository
from proxy.metadata.schema import blob_links, blobs
from proxy.metadata.transaction import Transaction

_DIGEST = re.compile(r"[a-zA-Z0-9-_+.]+:[a-fA-F0-9]+", re.ASCII)

_LINKED = (
    select(blobs.c.size)
    .join(blob_links, blob_links.c.blob_id == blobs.c.blob_id)
    .where(
        blobs.c.account == bindparam("account"),
        blobs.c.digest == bindparam("digest"),
        blobs.c.quarantined_for.is_(None),
        blob_links.c.repository_id == bindparam("repository"),
    )
)


def batch_check_layer_availability(tx: Transaction, account: str, parameters: Parameters) -> dict[str, Any]:
    """Of a digest that cannot be one a failure is told, and of every other one whether its layer is there."""
    _, repository = named_repository(tx, account, parameters)
    found: list[dict[str, Any]] = []
    failures: list[dict[str, Any]] = []
    for digest in dict.fromkeys(parameters["layerDigests"]):
        if not _DIGEST.fullmatch(digest):
            failures.append(_failure(digest))
            continue
        asked = {"account": account, "digest": digest, "repository": repository.repository_id}
        size = tx.connection.execute(_LINKED, asked).scalar()
        if size is None:
            found.append({"layerDigest": digest, "layerAvailability": "UNAVAILABLE"})
        else:
            found.append({"layerDigest": digest, "layerAvailability": "AVAILABLE", "layerSize": size})
    return {"layers": found, "failures": failures}


def _failure(digest: str) -> dict[str, Any]:
    if not digest:
        reason = "Invalid request parameters: layer digest cannot be empty"
        return {"layerDigest": digest, "failureCode": "MissingLayerDigest", "failureReason": reason}
    reason = f"Invalid request parameters: layer digest should satisfy the regex '{_DIGEST.pattern}'"
    return {"layerDigest": digest, "failureCode": "InvalidLayerDigest", "failureReason": reason}
