"""Policies of repositories and of registries: stored verbatim, and bound to the principals that they name.

The transaction that saves a policy validates it and stores the unique ids of the users and roles that it names beside
the text (`bindings`). Clients read the text that was given, with the ids of principals that were deleted since, as at
AWS. Sources: botocore's `ecr` model; IAM User Guide, "Principal".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import select, update

from proxy.auth.policy.errors import PolicyError
from proxy.auth.policy.evaluation import PolicyKind
from proxy.auth.policy.validation import ecr_failure, ecr_principal_failure, validate
from proxy.metadata.contract import IdentityPort
from proxy.metadata.db.identity_tables import accounts
from proxy.metadata.db.schema import repositories
from proxy.metadata.db.transaction import FoundRow, Transaction
from proxy.metadata.operations import bindings
from proxy.metadata.operations.operation import ecr_operation, operation
from proxy.metadata.operations.repositories import named_repository
from proxy.model.errors import Code, Failure
from proxy.model.identity import BoundPolicy, PolicyScope, Tags

Parameters = Mapping[str, Any]


@ecr_operation("SetRepositoryPolicy", write=True)
def set_repository_policy(tx: Transaction, account: str, parameters: Parameters) -> dict[str, Any]:
    """`force` was applied by `ecr.lockout`, which knows the caller that a policy might lock out."""
    name, row = named_repository(tx, account, parameters)
    bound = bind_repository_policy(tx, account, parameters["policyText"])
    _keep_on_repository(tx, row, bound.text, bound.principals)
    return _of_repository(account, name, bound.text)


@ecr_operation("GetRepositoryPolicy")
def get_repository_policy(tx: Transaction, account: str, parameters: Parameters) -> dict[str, Any]:
    name, row = named_repository(tx, account, parameters)
    return _of_repository(account, name, _need_repository_policy(tx, account, row))


@ecr_operation("DeleteRepositoryPolicy", write=True)
def delete_repository_policy(tx: Transaction, account: str, parameters: Parameters) -> dict[str, Any]:
    name, row = named_repository(tx, account, parameters)
    text = _need_repository_policy(tx, account, row)
    _keep_on_repository(tx, row, None, ())
    return _of_repository(account, name, text)


@ecr_operation("PutRegistryPolicy", write=True)
def put_registry_policy(tx: Transaction, account: str, parameters: Parameters) -> dict[str, Any]:
    row = open_account(tx, account)
    text = parameters["policyText"]
    bound = _bound(tx, account, text, PolicyKind.REGISTRY, PolicyScope(row.policy_scope))
    _keep_on_registry(tx, account, text, bound)
    return {"registryId": account, "policyText": text}


@ecr_operation("GetRegistryPolicy")
def get_registry_policy(tx: Transaction, account: str, parameters: Parameters) -> dict[str, Any]:
    return {"registryId": account, "policyText": _need_registry_policy(tx, account)}


@ecr_operation("DeleteRegistryPolicy", write=True)
def delete_registry_policy(tx: Transaction, account: str, parameters: Parameters) -> dict[str, Any]:
    text = _need_registry_policy(tx, account)
    _keep_on_registry(tx, account, None, ())
    return {"registryId": account, "policyText": text}


@operation(IdentityPort)
def bind_repository_policy(tx: Transaction, account: str, text: str) -> BoundPolicy:
    """Validate and bind a text as a repository's policy, without storing it; InvalidParameter."""
    return BoundPolicy(text, _bound(tx, account, text, PolicyKind.REPOSITORY))


def give_repository_policy(tx: Transaction, account: str, name: str, text: str, saved: str | None) -> None:
    """Store a policy that was bound before (as `bindings.to_column`) for a new repository."""
    tx.connection.execute(
        update(repositories)
        .where(repositories.c.account == account, repositories.c.name == name)
        .values(policy=text, policy_principals=saved)
    )
    tx.changed(account, name)


def open_account(tx: Transaction, account: str) -> FoundRow:
    """The row of an open account. AccessDenied for another: its keys do not count."""
    row = tx.connection.execute(
        select(accounts).where(accounts.c.account == account, accounts.c.closed_at.is_(None))
    ).one_or_none()
    if row is None:
        raise Failure(Code.ACCESS_DENIED, f"The registry with id '{account}' is not open")
    return row


def _bound(tx: Transaction, account: str, text: str, kind: PolicyKind, scope: PolicyScope = PolicyScope.V2) -> Tags:
    """(ARN, unique id) of the users and roles that the text names. InvalidParameter if one does not exist."""
    try:
        document = validate(text, kind, account=account, scope=scope)
    except PolicyError as error:
        raise ecr_failure(error, kind) from None
    try:
        return bindings.bind(tx, document, text)
    except PolicyError as error:
        raise ecr_principal_failure(error) from None


def _need_repository_policy(tx: Transaction, account: str, row: FoundRow) -> str:
    if row.policy is None:
        raise Failure(
            Code.REPOSITORY_POLICY_NOT_FOUND,
            f"Repository policy does not exist for the repository with name '{row.name}' in the registry with id "
            f"'{account}'",
        )
    return bindings.current_text(tx, row.policy, row.policy_principals)


def _need_registry_policy(tx: Transaction, account: str) -> str:
    row = open_account(tx, account)
    if row.registry_policy is None:
        raise Failure(
            Code.REGISTRY_POLICY_NOT_FOUND, f"Registry policy does not exist in the registry with id '{account}'"
        )
    return bindings.current_text(tx, row.registry_policy, row.registry_policy_principals)


def _keep_on_repository(tx: Transaction, row: FoundRow, text: str | None, bound: Tags) -> None:
    tx.connection.execute(
        update(repositories)
        .where(repositories.c.repository_id == row.repository_id)
        .values(policy=text, policy_principals=bindings.to_column(bound))
    )
    tx.changed(row.account, row.name)


def _keep_on_registry(tx: Transaction, account: str, text: str | None, bound: Tags) -> None:
    tx.connection.execute(
        update(accounts)
        .where(accounts.c.account == account)
        .values(registry_policy=text, registry_policy_principals=bindings.to_column(bound))
    )
    tx.changed(account, "")


def _of_repository(account: str, name: str, text: str) -> dict[str, Any]:
    return {"registryId": account, "repositoryName": name, "policyText": text}
