"""The ECR operation that changes one setting of a repository: PutImageTagMutability."""

from __future__ import annotations

from typing import Any

from sqlalchemy import update

from proxy.metadata.db.schema import repositories
from proxy.metadata.db.transaction import Transaction
from proxy.metadata.operations import mutability
from proxy.metadata.operations.operation import ecr_operation
from proxy.metadata.operations.repositories import Parameters, named_repository


@ecr_operation("PutImageTagMutability", write=True)
def put_image_tag_mutability(tx: Transaction, account: str, parameters: Parameters) -> dict[str, Any]:
    """Takes effect with the next push. Filters that are not given again are removed."""
    name, row = named_repository(tx, account, parameters)
    mutability.check(parameters)
    tx.connection.execute(
        update(repositories)
        .where(repositories.c.repository_id == row.repository_id)
        .values(**mutability.columns(parameters))
    )
    answer = {"registryId": account, "repositoryName": name, "imageTagMutability": parameters["imageTagMutability"]}
    filters = parameters.get("imageTagMutabilityExclusionFilters")
    return answer | ({"imageTagMutabilityExclusionFilters": filters} if filters else {})
