"""The repository of a push: the one that is there, or one that the push makes.

What is made follows the creation template whose prefix matches longest, of those that are for CREATE_ON_PUSH; where a
registry has templates and none of them matches, nothing is made, and where it has none at all it is the sender's
setting that says. All in the push's own transaction: of two that race, one makes it. Source: ECR User Guide, "Creating
a repository on push".
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
    """Its row's id, and whether it was made now. RepositoryNotFound, LimitExceeded. For PULL_THROUGH_CACHE and
    REPLICATION it is made also where there are templates and none matches, as at ECR."""
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
    """`repositories.encryption_of` one that a push would make."""
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
