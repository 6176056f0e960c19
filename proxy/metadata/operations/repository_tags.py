"""Tags of repositories, by ARN; policies see them as aws:ResourceTag/… and ecr:ResourceTag/….

Policies ignore the case of keys, so keys are unique in any case here; at AWS two that differ in case are two tags.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import delete, insert, select

from proxy.awsmodel.validation import invalid
from proxy.metadata.db.schema import repository_tags
from proxy.metadata.db.transaction import FoundRow, Transaction
from proxy.metadata.operations.operation import ecr_operation
from proxy.metadata.operations.repositories import KEY_MAX, TAGS_MAX, check_tags, named_repository, too_many_tags
from proxy.model.errors import Code, Failure

Parameters = Mapping[str, Any]


@ecr_operation("TagResource", write=True)
def tag_resource(tx: Transaction, account: str, parameters: Parameters) -> dict[str, Any]:
    """Existing tags get the new value. InvalidTagParameter for another spelling of an existing key: a policy may not
    have allowed it (aws:TagKeys is compared with case)."""
    row = _resource(tx, account, parameters)
    given = check_tags(parameters["tags"])
    held = _tags(tx, row)
    spelled = {key.lower(): key for key in held}
    for key in given:
        if spelled.get(key.lower(), key) != key:
            raise Failure(
                Code.INVALID_TAG_PARAMETER,
                f"Invalid tag key {key!r}: the repository has the tag {spelled[key.lower()]!r}, and keys are unique "
                "whatever their case",
            )
    if len(held.keys() | given.keys()) > TAGS_MAX:
        raise too_many_tags()
    _drop(tx, row, list(given))
    if given:
        tx.connection.execute(
            insert(repository_tags),
            [{"repository_id": row.repository_id, "key": key, "value": value} for key, value in given.items()],
        )
    return {}


@ecr_operation("UntagResource", write=True)
def untag_resource(tx: Transaction, account: str, parameters: Parameters) -> dict[str, Any]:
    """Unknown keys are ignored, malformed ones are an error. InvalidTagParameter, TooManyTags."""
    row = _resource(tx, account, parameters)
    keys = parameters["tagKeys"]
    if len(keys) > TAGS_MAX:
        raise too_many_tags()
    for key in keys:
        if not 1 <= len(key) <= KEY_MAX:
            raise Failure(
                Code.INVALID_TAG_PARAMETER,
                f"Invalid tag key {key[:KEY_MAX]!r}: keys are 1 to {KEY_MAX} characters long",
            )
    _drop(tx, row, keys)
    return {}


@ecr_operation("ListTagsForResource")
def list_tags_for_resource(tx: Transaction, account: str, parameters: Parameters) -> dict[str, Any]:
    tags = _tags(tx, _resource(tx, account, parameters))
    return {"tags": [{"Key": key, "Value": value} for key, value in tags.items()]}


def _resource(tx: Transaction, account: str, parameters: Parameters) -> FoundRow:
    """The row of `resourceArn`, a repository of this account."""
    head, slash, name = parameters["resourceArn"].partition("/")
    if head != f"arn:aws:ecr:{tx.registry.region}:{account}:repository" or not slash:
        raise invalid("resourceArn", "Invalid ARN")
    return named_repository(tx, account, {"repositoryName": name})[1]


def _tags(tx: Transaction, row: FoundRow) -> dict[str, str]:
    found = tx.connection.execute(
        select(repository_tags.c.key, repository_tags.c.value)
        .where(repository_tags.c.repository_id == row.repository_id)
        .order_by(repository_tags.c.key)
    )
    return {each.key: each.value for each in found}


def _drop(tx: Transaction, row: FoundRow, keys: list[str]) -> None:
    tx.connection.execute(
        delete(repository_tags).where(
            repository_tags.c.repository_id == row.repository_id, repository_tags.c.key.in_(keys)
        )
    )
    tx.changed(row.account, row.name)
