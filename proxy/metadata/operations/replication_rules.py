"""What an account replicates, and where: PutReplicationConfiguration, DescribeRegistry.

A configuration is one document, replaced as a whole. Its destinations are other accounts of this region, or registries
of regions that are reached. Sources: botocore's `ecr` model; ECR User Guide, "Private image replication"; texts
as ECR answers them where one was seen.
"""

from __future__ import annotations

import json
from typing import Any

from sqlalchemy import bindparam, delete, insert, select, update

from proxy.awsmodel.validation import invalid
from proxy.metadata.db.replication_tables import replication_configurations as configurations
from proxy.metadata.db.transaction import Transaction
from proxy.metadata.operations.operation import ecr_operation
from proxy.metadata.operations.policies import open_account
from proxy.metadata.operations.repositories import Parameters
from proxy.model.errors import Code, Failure
from proxy.model.replication import ReplicationDestination, ReplicationRule, read_rules

_RULES = select(configurations.c.rules).where(configurations.c.account == bindparam("account"))


def rules_text(tx: Transaction, account: str) -> str | None:
    """The JSON of its rules; None where it has none."""
    found: str | None = tx.connection.execute(_RULES, {"account": account}).scalar()
    return found


def rules_of(tx: Transaction, account: str) -> tuple[ReplicationRule, ...]:
    found = rules_text(tx, account)
    return () if found is None else read_rules(found)


@ecr_operation("PutReplicationConfiguration", write=True)
def put_replication_configuration(tx: Transaction, account: str, parameters: Parameters) -> dict[str, Any]:
    open_account(tx, account)
    rules = [
        {member: value for member, value in rule.items() if value is not None}
        for rule in parameters["replicationConfiguration"]["rules"]
    ]
    text = json.dumps(rules, separators=(",", ":"))
    _check(tx, account, read_rules(text))
    mine = configurations.c.account == account
    if not rules:
        tx.connection.execute(delete(configurations).where(mine))
    elif not tx.connection.execute(update(configurations).where(mine).values(rules=text)).rowcount:
        tx.connection.execute(insert(configurations).values(account=account, rules=text))
    return {"replicationConfiguration": {"rules": rules}}


@ecr_operation("DescribeRegistry")
def describe_registry(tx: Transaction, account: str, parameters: Parameters) -> dict[str, Any]:
    open_account(tx, account)
    return {"registryId": account, "replicationConfiguration": {"rules": json.loads(rules_text(tx, account) or "[]")}}


def need_known(tx: Transaction, destination: ReplicationDestination) -> None:
    """ValidationException where nothing says how to reach the destination."""
    if destination.region not in (tx.registry.region, *tx.registry.peer_regions):
        raise Failure(
            Code.VALIDATION,
            f"The destination region '{destination.region}' is not one that this registry reaches: it replicates to "
            f"other accounts of '{tx.registry.region}', and to the installations of other regions that the setting "
            "[[peers]] names",
        )


def _check(tx: Transaction, account: str, rules: tuple[ReplicationRule, ...]) -> None:
    quotas = tx.registry.quotas
    _need_few("rules", len(rules), quotas.replication_rules)
    destinations = dict.fromkeys(each for rule in rules for each in rule.destinations)
    _need_few("unique destinations", len(destinations), quotas.replication_destinations)
    for destination in destinations:
        if destination == ReplicationDestination(tx.registry.region, account):
            raise invalid(
                "replicationConfiguration", "Replication destination cannot be the same as the source registry"
            )
        need_known(tx, destination)


def _need_few(what: str, count: int, most: int) -> None:
    if count > most:
        raise Failure(Code.VALIDATION, f"The replication configuration has {count} {what}; at most {most} are allowed")
