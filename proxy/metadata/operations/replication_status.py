"""DescribeImageReplicationStatus: how far an image is at each destination. Source: botocore's `ecr` model."""

from __future__ import annotations

from typing import Any

from sqlalchemy import select

from proxy.metadata.db.replication_tables import replications
from proxy.metadata.db.transaction import Transaction
from proxy.metadata.operations.images import found_image
from proxy.metadata.operations.operation import ecr_operation
from proxy.metadata.operations.repositories import Parameters, named_repository


@ecr_operation("DescribeImageReplicationStatus")
def describe_image_replication_status(tx: Transaction, account: str, parameters: Parameters) -> dict[str, Any]:
    name, repository = named_repository(tx, account, parameters)
    image = found_image(tx, account, name, repository, parameters["imageId"])
    rows = tx.connection.execute(
        select(replications)
        .where(replications.c.repository_id == repository.repository_id, replications.c.digest == image.digest)
        .order_by(replications.c.region, replications.c.registry)
    )
    asked = {member: value for member, value in parameters["imageId"].items() if value is not None}
    return {
        "repositoryName": name,
        "imageId": asked | {"imageDigest": image.digest},
        "replicationStatuses": [
            {"region": row.region, "registryId": row.registry, "status": row.status}
            | ({"failureCode": row.failure_code} if row.failure_code else {})
            for row in rows
        ],
    }
