"""DescribeSecret, ListSecrets and ListSecretVersionIds: everything about secrets except their values."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import ColumnElement, or_, select

from proxy.metadata.db import paging
from proxy.metadata.db.secret_tables import secret_versions, secrets
from proxy.metadata.db.transaction import FoundRow, Transaction
from proxy.model.errors import Code, Failure
from proxy.model.secrets import SecretVersion

Parameters = Mapping[str, Any]

DAY = 86_400.0
PAGE = 100
SCANNED = 1000  # secrets that one page checks against its filters; the next page continues there


def describe(row: FoundRow, versions: Sequence[SecretVersion]) -> dict[str, Any]:
    found = _entry(row)
    found["VersionIdsToStages"] = {version.version_id: list(version.stages) for version in versions}
    return found


def list_secrets(tx: Transaction, account: str, parameters: Parameters) -> dict[str, Any]:
    """Secrets by name; a page may be short if filters exclude secrets."""
    if parameters.get("SortBy") not in (None, "name") or parameters.get("SortOrder") == "desc":
        raise Failure(Code.INVALID_PARAMETER, "Secrets are listed by name, in ascending order.")
    limit, filters = parameters.get("MaxResults") or PAGE, parameters.get("Filters") or ()
    planned = bool(parameters.get("IncludePlannedDeletion"))
    listing = ("ListSecrets", account, json.dumps([filters, planned], sort_keys=True))
    token = parameters.get("NextToken")
    try:
        after = paging.read(listing, token, 1)[0] if token else ""
    except Failure:
        raise Failure(Code.INVALID_NEXT_TOKEN, "The NextToken value is invalid.") from None
    rows = tx.connection.execute(
        select(secrets)
        .where(secrets.c.account == account, secrets.c.name > after, _is_listed(tx, planned))
        .order_by(secrets.c.name)
        .limit(SCANNED + 1)
    ).all()
    found: list[FoundRow] = []
    last = ""
    for row in rows[:SCANNED]:
        if len(found) == limit:
            break
        last = row.name
        if all(_wants(filter_, row) for filter_ in filters):
            found.append(row)
    answer: dict[str, Any] = {"SecretList": _with_stages(tx, found)}
    if rows and last != rows[-1].name:
        answer["NextToken"] = paging.issue(listing, [last])
    return answer


def list_versions(row: FoundRow, versions: Sequence[SecretVersion]) -> dict[str, Any]:
    """All versions: a secret has twenty at most."""
    listed = [
        {"VersionId": each.version_id, "VersionStages": list(each.stages), "CreatedDate": each.created_at}
        for each in versions
    ]
    return {"ARN": row.arn, "Name": row.name, "Versions": listed}


def tags_of(row: FoundRow) -> tuple[tuple[str, str], ...]:
    return tuple((key, value) for key, value in json.loads(row.tags or "[]"))


def _entry(row: FoundRow) -> dict[str, Any]:
    found = {
        "ARN": row.arn,
        "Name": row.name,
        "Description": row.description or None,
        "LastChangedDate": row.changed_at,
        "LastAccessedDate": row.accessed_at,
        "DeletedDate": row.deleted_at,
        "Tags": [{"Key": key, "Value": value} for key, value in tags_of(row)] or None,
        "CreatedDate": row.created_at,
    }
    return {member: value for member, value in found.items() if value is not None}


def _with_stages(tx: Transaction, rows: Sequence[FoundRow]) -> list[dict[str, Any]]:
    stages: dict[str, dict[str, list[str]]] = {row.arn: {} for row in rows}
    found = tx.connection.execute(
        select(secret_versions.c.arn, secret_versions.c.version_id, secret_versions.c.stages).where(
            secret_versions.c.arn.in_(stages)
        )
    )
    for row in found:
        stages[row.arn][row.version_id] = json.loads(row.stages)
    return [{**_entry(row), "SecretVersionsToStages": stages[row.arn]} for row in rows]


def _is_listed(tx: Transaction, planned: bool) -> ColumnElement[bool]:
    there = secrets.c.deleted_at.is_(None)
    return or_(there, secrets.c.deleted_at > tx.now) if planned else there


def _wants(filter_: Mapping[str, Any], row: FoundRow) -> bool:
    """Whether one of the filter's values matches; those with a leading `!` must not match."""
    key, values = filter_.get("Key"), filter_.get("Values") or ()
    return any(_fits(key, value[1:], row) is False if value[:1] == "!" else _fits(key, value, row) for value in values)


def _fits(key: str | None, value: str, row: FoundRow) -> bool:
    """Whether the attribute begins with the value; descriptions and `all` ignore case."""
    tags = tags_of(row)
    if key == "name":
        return bool(row.name.startswith(value))
    if key == "description":
        return (row.description or "").lower().startswith(value.lower())
    if key == "tag-key":
        return any(each.startswith(value) for each, _ in tags)
    if key == "tag-value":
        return any(each.startswith(value) for _, each in tags)
    if key == "all":
        texts = (row.name, row.description or "", *(part for tag in tags for part in tag))
        return all(any(word in text.lower() for text in texts) for word in value.lower().split())
    return False  # no secret here is another service's, or another region's
