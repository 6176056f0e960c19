"""Repository creation templates: the settings of repositories that ECR creates by itself.

A template applies to all names under its prefix (a `/` at its end is assumed), and the longest prefix counts; ROOT
applies to all names. `prod` and `prod/` are one prefix, stored as it was spelled. A template is validated when it is
saved, and the principals of its policy and `customRoleArn` are bound then (`bindings`). If one of them is deleted, no
repository is created by the template any more. Sources: botocore's `ecr` model; ECR User Guide, "Templates to control
repositories created during a pull through cache, create on push, or replication action".
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import delete, func, insert, select, update

from proxy.auth.policy.errors import PolicyError
from proxy.auth.policy.evaluation import PolicyKind
from proxy.auth.policy.validation import ecr_failure, validate
from proxy.awsmodel.validation import invalid
from proxy.metadata.db import paging
from proxy.metadata.db.schema import creation_templates
from proxy.metadata.db.transaction import FoundRow, Transaction
from proxy.metadata.operations import bindings
from proxy.metadata.operations.operation import ecr_operation
from proxy.metadata.operations.policies import bind_repository_policy
from proxy.metadata.operations.repositories import DEFAULT_PAGE, Parameters, check_settings, check_tags
from proxy.model import quotas
from proxy.model.errors import Code, Failure
from proxy.model.lifecycle.policy import read_policy

ROOT = "ROOT"

_ROLE = re.compile(r"arn:aws:iam::([0-9]{12}):role/[\w+=,.@/-]+", re.ASCII)
_COLUMNS: Mapping[str, str] = {
    "description": "description",
    "imageTagMutability": "tag_mutability",
    "repositoryPolicy": "repository_policy",
    "lifecyclePolicy": "lifecycle_policy",
    "customRoleArn": "custom_role_arn",
}
_JSON_COLUMNS: Mapping[str, str] = {
    "appliedFor": "applied_for",
    "imageTagMutabilityExclusionFilters": "mutability_exclusions",
    "resourceTags": "resource_tags",
}


@ecr_operation("CreateRepositoryCreationTemplate", write=True)
def create_template(tx: Transaction, account: str, parameters: Parameters) -> dict[str, Any]:
    prefix = parameters["prefix"]
    if _find(tx, account, prefix) is not None:
        raise Failure(
            Code.TEMPLATE_ALREADY_EXISTS,
            f"The repository creation template with prefix '{prefix}' already exists in the registry with id "
            f"'{account}'",
        )
    _check(tx, account, parameters)
    held = tx.connection.execute(
        select(func.count()).select_from(creation_templates).where(creation_templates.c.account == account)
    ).scalar_one()
    most = tx.registry.quotas.creation_templates
    if held >= most:
        raise quotas.exceeded(f"The registry with id '{account}'", "repository creation templates", most)
    row = {"created_at": tx.now, "updated_at": tx.now, **_row(parameters), **_bound(tx, account, parameters)}
    tx.connection.execute(insert(creation_templates).values(account=account, prefix=prefix, **row))
    return _answer(tx, account, prefix)


@ecr_operation("DescribeRepositoryCreationTemplates")
def describe_templates(tx: Transaction, account: str, parameters: Parameters) -> dict[str, Any]:
    """Templates in the order of their prefixes. Prefixes without a template are left out."""
    wanted, token = parameters.get("prefixes"), parameters.get("nextToken")
    listed = select(creation_templates).where(creation_templates.c.account == account)
    if wanted:
        if token or parameters.get("maxResults"):
            raise invalid("nextToken" if token else "maxResults", "Paging is not available with prefixes")
        spelled = sorted({each for prefix in wanted for each in _spellings(prefix)})
        if len(spelled) > 2 * DEFAULT_PAGE:
            raise invalid("prefixes", f"Member must have length less than or equal to {DEFAULT_PAGE}")
        rows = tx.connection.execute(
            listed.where(creation_templates.c.prefix.in_(spelled)).order_by(creation_templates.c.prefix)
        ).all()
        return {"registryId": account, "repositoryCreationTemplates": [_described(tx, row) for row in rows]}
    listing = ("DescribeRepositoryCreationTemplates", account)
    limit = parameters.get("maxResults") or DEFAULT_PAGE
    after = paging.read(listing, token, 1)[0] if token else ""
    rows = tx.connection.execute(
        listed.where(creation_templates.c.prefix > after).order_by(creation_templates.c.prefix).limit(limit + 1)
    ).all()
    answer = {"registryId": account, "repositoryCreationTemplates": [_described(tx, row) for row in rows[:limit]]}
    if len(rows) > limit:
        answer["nextToken"] = paging.issue(listing, [rows[limit - 1].prefix])
    return answer


@ecr_operation("UpdateRepositoryCreationTemplate", write=True)
def update_template(tx: Transaction, account: str, parameters: Parameters) -> dict[str, Any]:
    """Members that are not given stay; an empty text or list removes a setting. A mutability without filters removes
    the filters."""
    row = _need(tx, account, parameters["prefix"])
    given = {member: value for member, value in parameters.items() if value is not None and member != "prefix"}
    held = settings_of(row)
    if "imageTagMutability" in given and not str(given["imageTagMutability"]).endswith("_WITH_EXCLUSION"):
        held.pop("imageTagMutabilityExclusionFilters", None)
    settings = held | given
    _check(tx, account, settings)
    changed = {**_row(settings), **_bound(tx, account, given)}
    tx.connection.execute(_of(update(creation_templates), row).values(updated_at=tx.now, **changed))
    return _answer(tx, account, row.prefix)


@ecr_operation("DeleteRepositoryCreationTemplate", write=True)
def delete_template(tx: Transaction, account: str, parameters: Parameters) -> dict[str, Any]:
    row = _need(tx, account, parameters["prefix"])
    tx.connection.execute(_of(delete(creation_templates), row))
    return {"registryId": account, "repositoryCreationTemplate": _described(tx, row)}


def need_all_there(tx: Transaction, row: FoundRow) -> None:
    """InvalidParameter if a principal that the template was bound to was deleted."""
    gone = "" if bindings.principals_exist(tx, row.repository_policy_principals) else "the policy"
    if row.custom_role_id and bindings.current_role_arn(tx, row.custom_role_id) is None:
        gone = "customRoleArn"
    if gone:
        raise Failure(
            Code.INVALID_PARAMETER,
            f"No repository can be created by the repository creation template with prefix '{row.prefix}': {gone} of "
            "it names a principal that is not there",
        )


def settings_of(row: FoundRow) -> dict[str, Any]:
    """A template's members as they were given, or their defaults; others are left out."""
    encryption = {"encryptionType": row.encryption_type}
    if row.kms_key is not None:
        encryption["kmsKey"] = row.kms_key
    columns = row._mapping
    found = {member: columns[column] for member, column in _COLUMNS.items()}
    found |= {member: json.loads(columns[column] or "null") for member, column in _JSON_COLUMNS.items()}
    return {member: value for member, value in found.items() if value} | {"encryptionConfiguration": encryption}


def _spellings(prefix: str) -> Sequence[str]:
    return (prefix,) if prefix == ROOT else (prefix.rstrip("/"), prefix.rstrip("/") + "/")


def _find(tx: Transaction, account: str, prefix: str) -> FoundRow | None:
    return tx.connection.execute(
        select(creation_templates).where(
            creation_templates.c.account == account, creation_templates.c.prefix.in_(_spellings(prefix))
        )
    ).one_or_none()


def _need(tx: Transaction, account: str, prefix: str) -> FoundRow:
    row = _find(tx, account, prefix)
    if row is None:
        raise Failure(
            Code.TEMPLATE_NOT_FOUND,
            f"The repository creation template with prefix '{prefix}' does not exist in the registry with id "
            f"'{account}'",
        )
    return row


def _of(statement: Any, row: FoundRow) -> Any:
    """Narrows a statement to this template."""
    return statement.where(creation_templates.c.account == row.account, creation_templates.c.prefix == row.prefix)


def _check(tx: Transaction, account: str, settings: Parameters) -> None:
    """Checks that the model's shapes do not express."""
    check_settings(settings)
    if _encryption(settings)[0] == "KMS_DSSE":  # as CreateRepository
        raise invalid("encryptionConfiguration.encryptionType", "KMS_DSSE is not available in this region")
    if not settings["appliedFor"]:
        raise invalid("appliedFor", "Member must have length greater than or equal to 1")
    tags = settings.get("resourceTags")
    try:
        check_tags(tags or ())
    except Failure as failure:  # CreateRepository has an error code for it, these operations have none
        raise invalid("resourceTags", failure.message) from None
    if settings.get("repositoryPolicy"):
        try:
            validate(settings["repositoryPolicy"], PolicyKind.REPOSITORY)
        except PolicyError as error:
            raise ecr_failure(error, PolicyKind.REPOSITORY) from None
    if settings.get("lifecyclePolicy"):
        read_policy(settings["lifecyclePolicy"], expire_unpulled=tx.registry.expire_unpulled)
    _check_role(account, settings.get("customRoleArn"))


def _check_role(account: str, arn: str | None) -> None:
    """Tags or a KMS key may be saved without a role, as at ECR, which requires one when it creates a repository."""
    found = _ROLE.fullmatch(arn) if arn else None
    if arn and (found is None or found[1] != account):
        raise Failure(
            Code.VALIDATION,
            f"Value '{arn[:128]}' at 'customRoleArn' failed to satisfy constraint: Member must be the ARN of a role of "
            "the registry's account",
        )


def _encryption(settings: Parameters) -> tuple[str, str | None]:
    given = settings.get("encryptionConfiguration") or {}
    return given.get("encryptionType") or "AES256", given.get("kmsKey") or None


def _row(settings: Parameters) -> dict[str, Any]:
    """The columns for the operations' members."""
    row: dict[str, Any] = {column: settings.get(member) or None for member, column in _COLUMNS.items()}
    for member, column in _JSON_COLUMNS.items():
        row[column] = json.dumps(settings[member]) if settings.get(member) else None
    kind, key = _encryption(settings)
    return row | {
        # Each once: no model bounds the list, and every push of a new name reads it.
        "applied_for": json.dumps(list(dict.fromkeys(settings["appliedFor"]))),
        "tag_mutability": settings.get("imageTagMutability") or "MUTABLE",
        "encryption_type": kind,
        "kms_key": key,
    }


def _bound(tx: Transaction, account: str, given: Parameters) -> dict[str, Any]:
    """The binding columns of the members that are given; others stay bound as they were."""
    row: dict[str, Any] = {}
    policy, role = given.get("repositoryPolicy"), given.get("customRoleArn")
    if policy is not None:
        bound = bind_repository_policy(tx, account, policy).principals if policy else ()
        row["repository_policy_principals"] = bindings.to_column(bound)
    if role is not None:
        row["custom_role_id"] = bindings.principal_ids(tx, [role]).get(role, "") if role else None
    return row


def _described(tx: Transaction, row: FoundRow) -> dict[str, Any]:
    settings = settings_of(row)
    if row.repository_policy:
        settings["repositoryPolicy"] = bindings.current_text(
            tx, row.repository_policy, row.repository_policy_principals
        )
    if row.custom_role_id:
        settings["customRoleArn"] = bindings.current_role_arn(tx, row.custom_role_id) or row.custom_role_id
    dates = {"createdAt": row.created_at, "updatedAt": row.updated_at}
    return {"prefix": row.prefix, "resourceTags": [], **settings, **dates}


def _answer(tx: Transaction, account: str, prefix: str) -> dict[str, Any]:
    return {"registryId": account, "repositoryCreationTemplate": _described(tx, _need(tx, account, prefix))}
