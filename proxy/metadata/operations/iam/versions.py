"""Versions of managed policies: at most five; the default version is the one in force.

Numbers are never reused. AWS's policies have one version here: the one in force.
"""

from __future__ import annotations

import re
from typing import Any

from sqlalchemy import delete, insert, select, update

from proxy.auth.managed import AWS_MANAGED
from proxy.metadata.db.identity_tables import policies, policy_versions
from proxy.metadata.db.transaction import FoundRow, Transaction
from proxy.metadata.operations.iam import paging
from proxy.metadata.operations.iam.documents import check_managed_policy
from proxy.metadata.operations.iam.names import Parameters
from proxy.metadata.operations.iam.policies import need, need_own, render_version
from proxy.model.errors import Code, Failure

MOST = 5
_NUMBER = re.compile(r"v([1-9][0-9]{0,8})", re.ASCII)


def create_policy_version(tx: Transaction, account: str, parameters: Parameters) -> dict[str, Any]:
    row = need_own(tx, account, parameters["PolicyArn"])
    document = check_managed_policy(parameters["PolicyDocument"])
    if len(_versions(tx, row)) >= MOST:
        raise Failure(
            Code.IAM_LIMIT_EXCEEDED,
            f"A managed policy can have up to {MOST} versions. Before you create a new version, you must delete an "
            "existing version.",
        )
    number = row.last_version + 1
    default = number if parameters.get("SetAsDefault") else row.default_version
    tx.connection.execute(
        insert(policy_versions).values(policy_id=row.policy_id, version=number, document=document, created_at=tx.now)
    )
    tx.connection.execute(
        update(policies)
        .where(policies.c.policy_id == row.policy_id)
        .values(last_version=number, default_version=default, updated_at=tx.now)
    )
    tx.changes.identity = True
    return {"PolicyVersion": render_version(number, default, tx.now)}


def get_policy_version(tx: Transaction, account: str, parameters: Parameters) -> dict[str, Any]:
    arn, version = parameters["PolicyArn"], parameters["VersionId"]
    managed = AWS_MANAGED.get(arn)
    if managed is not None:
        if version != f"v{managed.version}":
            raise _no_such_version(arn, version)
        return {"PolicyVersion": render_version(managed.version, managed.version, managed.updated, managed.document)}
    row = need(tx, account, arn)
    found = _need_version(tx, row, version)
    return {"PolicyVersion": render_version(found.version, row.default_version, found.created_at, found.document)}


def list_policy_versions(tx: Transaction, account: str, parameters: Parameters) -> dict[str, Any]:
    """The newest first, without their documents, as at AWS."""
    arn = parameters["PolicyArn"]
    managed = AWS_MANAGED.get(arn)
    if managed is not None:
        shown = [render_version(managed.version, managed.version, managed.updated)]
    else:
        row = need(tx, account, arn)
        shown = [render_version(each.version, row.default_version, each.created_at) for each in _versions(tx, row)]
    numbered = [(str(place), version) for place, version in enumerate(shown, 1)]  # never more than MOST
    page, more = paging.read_paging(parameters, "ListPolicyVersions", account, arn).page_of_all(
        numbered, lambda at: at[0]
    )
    return {"Versions": [version for _, version in page], **more}


def delete_policy_version(tx: Transaction, account: str, parameters: Parameters) -> dict[str, Any]:
    row = need_own(tx, account, parameters["PolicyArn"])
    found = _need_version(tx, row, parameters["VersionId"])
    if found.version == row.default_version:
        raise Failure(Code.DELETE_CONFLICT, "Cannot delete the default version of a policy.")
    tx.connection.execute(
        delete(policy_versions).where(
            policy_versions.c.policy_id == row.policy_id, policy_versions.c.version == found.version
        )
    )
    return {}


def set_default_policy_version(tx: Transaction, account: str, parameters: Parameters) -> dict[str, Any]:
    row = need_own(tx, account, parameters["PolicyArn"])
    found = _need_version(tx, row, parameters["VersionId"])
    tx.connection.execute(
        update(policies)
        .where(policies.c.policy_id == row.policy_id)
        .values(default_version=found.version, updated_at=tx.now)
    )
    tx.changes.identity = True
    return {}


def _versions(tx: Transaction, row: FoundRow) -> list[FoundRow]:
    mine = select(policy_versions).where(policy_versions.c.policy_id == row.policy_id)
    return list(tx.connection.execute(mine.order_by(policy_versions.c.version.desc())))


def _need_version(tx: Transaction, row: FoundRow, version: str) -> FoundRow:
    number = _NUMBER.fullmatch(version)
    found = (
        number
        and tx.connection.execute(
            select(policy_versions).where(
                policy_versions.c.policy_id == row.policy_id, policy_versions.c.version == int(number[1])
            )
        ).one_or_none()
    )
    if not found:
        raise _no_such_version(row.arn, version)
    return found


def _no_such_version(arn: str, version: str) -> Failure:
    return Failure(Code.NO_SUCH_ENTITY, f"Policy {arn} version {version} does not exist or is not attachable.")
