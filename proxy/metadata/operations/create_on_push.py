"""Finds the repository of a push, or creates it.

The creation template for CREATE_ON_PUSH with the longest matching prefix applies. If a registry has templates and none
matches, no repository is created; if it has none, the sender's setting decides. It happens in the push's transaction:
of two concurrent pushes one creates it. Called by `uploads`, `pushes`, `mirror` and `replicas`. Source: ECR User Guide,
"Creating a repository on push".
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from sqlalchemy import select

from proxy.metadata.db.schema import creation_templates
from proxy.metadata.db.transaction import FoundRow, Transaction
from proxy.metadata.operations.creation_templates import ROOT, need_all_there, settings_of
from proxy.metadata.operations.policies import give_repository_policy
from proxy.metadata.operations.repositories import find_repository, make_repository, need_repository
from proxy.model.records import CreateOnPush

CREATE_ON_PUSH, PULL_THROUGH_CACHE, REPLICATION = "CREATE_ON_PUSH", "PULL_THROUGH_CACHE", "REPLICATION"


def need_or_make_repository(
    tx: Transaction, account: str, name: str, create: CreateOnPush, purpose: str = CREATE_ON_PUSH
) -> tuple[int, bool]:
    """The repository's row id, and whether it was created. RepositoryNotFound, LimitExceeded. For PULL_THROUGH_CACHE
    and REPLICATION it is created even if there are templates and none matches, as at ECR."""
    purpose = REPLICATION if create is CreateOnPush.REPLICA else purpose
    found = find_repository(tx, account, name)
    if found is not None:
        return found, False
    if create is not CreateOnPush.NO:
        tx.need_durability()
        template = _matching(tx, account, name, purpose)
        if template is not None:
            return _make(tx, account, name, template), True
        asked = create in (CreateOnPush.YES, CreateOnPush.REPLICA)
        if asked and (purpose != CREATE_ON_PUSH or not _has_templates(tx, account)):
            return make_repository(tx, account, name, {}), True
    return need_repository(tx, account, name), False


def encryption_to_be(tx: Transaction, account: str, name: str, create: CreateOnPush) -> str:
    """`repositories.encryption_of` for the repository that a push would create."""
    purpose = REPLICATION if create is CreateOnPush.REPLICA else CREATE_ON_PUSH
    template = _matching(tx, account, name, purpose)
    return "" if template is None else template.kms_key or ""


def _matching(tx: Transaction, account: str, name: str, purpose: str = CREATE_ON_PUSH) -> FoundRow | None:
    parts = name.split("/")
    above = ["/".join(parts[:length]) for length in range(1, len(parts))]
    candidates = [ROOT, *above, *(f"{each}/" for each in above)]
    rows = tx.connection.execute(
        select(creation_templates).where(
            creation_templates.c.account == account, creation_templates.c.prefix.in_(candidates)
        )
    ).all()
    fitting = [row for row in rows if purpose in json.loads(row.applied_for)]
    return max(fitting, key=lambda row: 0 if row.prefix == ROOT else len(row.prefix.rstrip("/")), default=None)


def _has_templates(tx: Transaction, account: str) -> bool:
    one = select(creation_templates.c.prefix).where(creation_templates.c.account == account).limit(1)
    return tx.connection.execute(one).first() is not None


def _make(tx: Transaction, account: str, name: str, template: FoundRow) -> int:
    need_all_there(tx, template)
    settings: Mapping[str, Any] = settings_of(template)
    made = make_repository(tx, account, name, {**settings, "tags": settings.get("resourceTags")})
    policy = settings.get("repositoryPolicy")
    if policy is not None:
        give_repository_policy(tx, account, name, policy, template.repository_policy_principals)
    return made
