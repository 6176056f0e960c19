"""Pull-through cache rules: which prefix mirrors which upstream, with which credentials.

`model.pull_through` decides which names a rule applies to. A prefix with and without its `/` is the same, stored as it
was spelled. `ecr.pull_through` has checked the upstream and the secret; a rule without `upstreamRegistry` names an
upstream of the operator's list. Sources: botocore's `ecr` model; ECR User Guide, "Sync an upstream registry with an
Amazon ECR private registry".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import delete, func, insert, select, update

from proxy.awsmodel.validation import invalid
from proxy.metadata.contract import SecretPort
from proxy.metadata.db import paging
from proxy.metadata.db.secret_tables import pull_through_rules as rules
from proxy.metadata.db.transaction import FoundRow, Transaction
from proxy.metadata.operations.operation import Caching, Scope, ecr_operation, operation
from proxy.metadata.operations.policies import open_account
from proxy.metadata.operations.repositories import DEFAULT_PAGE, Parameters
from proxy.model import quotas
from proxy.model.errors import Code, Failure
from proxy.model.pull_through import ROOT, PullThroughRule


def _always(answer: Sequence[PullThroughRule]) -> bool:
    """Makes the cache keep an empty list of rules too, which every pull needs."""
    return True


@operation(SecretPort, caching=Caching(Scope.REGISTRY, _always))
def pull_through_rules(tx: Transaction, account: str) -> Sequence[PullThroughRule]:
    rows = tx.connection.execute(select(rules).where(rules.c.account == account).order_by(rules.c.prefix))
    return tuple(
        PullThroughRule(
            row.account,
            row.given_prefix,
            row.upstream_registry,
            row.upstream_url,
            row.upstream_prefix,
            row.credential_arn,
            row.custom_role_arn,
            row.created_at,
            row.updated_at,
        )
        for row in rows
    )


@ecr_operation("CreatePullThroughCacheRule", write=True)
def create_rule(tx: Transaction, account: str, parameters: Parameters) -> dict[str, Any]:
    open_account(tx, account)
    given, upstream_prefix = parameters["ecrRepositoryPrefix"], parameters.get("upstreamRepositoryPrefix") or ROOT
    if given == ROOT != upstream_prefix:
        raise invalid("upstreamRepositoryPrefix", f"Member must be {ROOT} where ecrRepositoryPrefix is")
    mine = rules.c.account == account
    if _find(tx, account, given) is not None:
        raise Failure(
            Code.PULL_THROUGH_RULE_ALREADY_EXISTS,
            "A pull through cache rule with these settings already exists for the private registry.",
        )
    most = tx.registry.quotas.pull_through_rules
    if tx.connection.execute(select(func.count()).select_from(rules).where(mine)).scalar_one() >= most:
        raise quotas.exceeded(f"The registry with id '{account}'", "pull through cache rules", most)
    tx.connection.execute(
        insert(rules).values(
            account=account,
            prefix=given.rstrip("/"),
            given_prefix=given,
            upstream_registry=parameters.get("upstreamRegistry") or "",
            upstream_url=parameters["upstreamRegistryUrl"],
            upstream_prefix=upstream_prefix,
            credential_arn=parameters.get("credentialArn") or "",
            custom_role_arn=parameters.get("customRoleArn") or "",
            created_at=tx.now,
            updated_at=tx.now,
        )
    )
    tx.changed(account, "")
    return _without(_described(_need(tx, account, given)), "updatedAt")


@ecr_operation("DescribePullThroughCacheRules")
def describe_rules(tx: Transaction, account: str, parameters: Parameters) -> dict[str, Any]:
    """Rules in the order of their prefixes. PullThroughCacheRuleNotFound for a prefix without one."""
    open_account(tx, account)
    wanted, token = parameters.get("ecrRepositoryPrefixes"), parameters.get("nextToken")
    if wanted:
        if token or parameters.get("maxResults"):
            member = "nextToken" if token else "maxResults"
            raise invalid(member, "Paging is not available with ecrRepositoryPrefixes")
        named = [_need(tx, account, prefix) for prefix in dict.fromkeys(wanted)]
        return {"pullThroughCacheRules": [_described(row) for row in named]}
    listing = ("DescribePullThroughCacheRules", account)
    limit = parameters.get("maxResults") or DEFAULT_PAGE
    after = paging.read(listing, token, 1)[0] if token else ""
    rows = tx.connection.execute(
        select(rules)
        .where(rules.c.account == account, rules.c.prefix > after)
        .order_by(rules.c.prefix)
        .limit(limit + 1)
    ).all()
    answer: dict[str, Any] = {"pullThroughCacheRules": [_described(row) for row in rows[:limit]]}
    if len(rows) > limit:
        answer["nextToken"] = paging.issue(listing, [rows[limit - 1].prefix])
    return answer


@ecr_operation("UpdatePullThroughCacheRule", write=True)
def update_rule(tx: Transaction, account: str, parameters: Parameters) -> dict[str, Any]:
    """Change a rule's secret and role; members that are not given stay."""
    row = _need(tx, account, parameters["ecrRepositoryPrefix"])
    mine = (rules.c.account == account) & (rules.c.prefix == row.prefix)
    given = {"credential_arn": parameters.get("credentialArn"), "custom_role_arn": parameters.get("customRoleArn")}
    changed = {column: value for column, value in given.items() if value is not None}
    tx.connection.execute(update(rules).where(mine).values(updated_at=tx.now, **changed))
    tx.changed(account, "")
    return _without(_described(_need(tx, account, row.prefix)), "createdAt", "upstreamRegistry", "upstreamRegistryUrl")


@ecr_operation("DeletePullThroughCacheRule", write=True)
def delete_rule(tx: Transaction, account: str, parameters: Parameters) -> dict[str, Any]:
    row = _need(tx, account, parameters["ecrRepositoryPrefix"])
    tx.connection.execute(delete(rules).where(rules.c.account == account, rules.c.prefix == row.prefix))
    tx.changed(account, "")
    return _without(_described(row), "updatedAt", "upstreamRegistry")


def _find(tx: Transaction, account: str, prefix: str) -> FoundRow | None:
    return tx.connection.execute(
        select(rules).where(rules.c.account == account, rules.c.prefix == prefix.rstrip("/"))
    ).one_or_none()


def _need(tx: Transaction, account: str, prefix: str) -> FoundRow:
    row = _find(tx, account, prefix)
    if row is None:
        raise rule_not_found()
    return row


def rule_not_found() -> Failure:
    return Failure(
        Code.PULL_THROUGH_RULE_NOT_FOUND,
        "The pull through cache rule was not found. Specify a valid pull through cache rule and try again.",
    )


def _described(row: FoundRow) -> dict[str, Any]:
    found = {
        "ecrRepositoryPrefix": row.given_prefix,
        "upstreamRegistryUrl": row.upstream_url,
        "createdAt": row.created_at,
        "updatedAt": row.updated_at,
        "registryId": row.account,
        "credentialArn": row.credential_arn,
        "customRoleArn": row.custom_role_arn,
        "upstreamRepositoryPrefix": row.upstream_prefix,
        "upstreamRegistry": row.upstream_registry,
    }
    return {member: value for member, value in found.items() if value != ""}


def _without(found: dict[str, Any], *members: str) -> dict[str, Any]:
    """A rule without some members: each operation's answer omits others."""
    return {member: value for member, value in found.items() if member not in members}
