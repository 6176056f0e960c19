"""Secrets Manager's operations on rows, as far as clients of a registry use them. `auth.secrets` seals values.

A secret that is deleted with a recovery window stays until the window ends; only DescribeSecret, ListSecrets (on
request), RestoreSecret and DeleteSecret see it. A version stays while it has a label: the current and previous ones,
and those the caller set. Sources: botocore's `secretsmanager` model; AWS Secrets Manager API reference. Texts as
Secrets Manager answers them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import ColumnElement, delete, func, insert, or_, select, tuple_, update

from proxy.metadata.contract import SecretPort
from proxy.metadata.db.secret_tables import secret_versions, secrets
from proxy.metadata.db.transaction import FoundRow, Transaction
from proxy.metadata.operations.operation import Caching, Scope, operation
from proxy.metadata.operations.policies import open_account
from proxy.metadata.operations.secret_lists import DAY, describe, list_secrets, list_versions, tags_of
from proxy.model.errors import Code, Failure
from proxy.model.secrets import CURRENT, PREVIOUS, SecretHead, SecretVersion, parse_secret_arn

Parameters = Mapping[str, Any]

TAGS_MAX = 50
LABELS_MAX = 20  # of a secret's versions together: as many versions at most
RECOVERY_DAYS = 30


@operation(SecretPort)
def secret(tx: Transaction, account: str, secret_id: str) -> SecretHead | None:
    """A secret by ARN, ARN without its suffix, or name."""
    arn = parse_secret_arn(secret_id)
    if arn is not None and arn[1] != account:
        return None
    named = secrets.c.name == (arn[2] if arn else secret_id)
    # A name may end as if it had a suffix, so the whole ARN is looked up first.
    row = _row(tx, account, secrets.c.arn == secret_id) if arn else None
    row = row or _row(tx, account, named)
    if row is None or (arn is not None and row.arn.split(":")[3] != arn[0]):
        return None
    return SecretHead(row.arn, row.name, tags_of(row), row.deleted_at)


@operation(SecretPort, caching=Caching(Scope.REGISTRY))
def secret_version(tx: Transaction, account: str, arn: str) -> SecretVersion | None:
    """The current version."""
    return _find_version(tx, account, arn, "", CURRENT)


@operation(SecretPort)
def find_secret_version(tx: Transaction, account: str, arn: str, version_id: str, stage: str) -> SecretVersion | None:
    found = _find_version(tx, account, arn, version_id, stage or ("" if version_id else CURRENT))
    if found is not None:
        tx.deferred["secret-accessed", arn] = lambda later: _note_access(later, arn)
    return found


@operation(SecretPort)
def read_secrets(tx: Transaction, account: str, action: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
    open_account(tx, account)
    if action == "ListSecrets":
        return list_secrets(tx, account, parameters)
    row = _need(tx, account, parameters["SecretId"])
    if action == "DescribeSecret":
        return describe(row, _versions(tx, row.arn))
    _refuse_deleted(row)
    if action == "ListSecretVersionIds":
        return list_versions(row, _versions(tx, row.arn))
    if action == "GetResourcePolicy":  # there are no resource policies: only the account's identities have access
        return {"ARN": row.arn, "Name": row.name}
    raise _unknown(action)


@operation(SecretPort, write=True)
def write_secrets(
    tx: Transaction, account: str, action: str, parameters: Mapping[str, Any], sealed: bytes = b""
) -> dict[str, Any]:
    open_account(tx, account)
    tx.changed(account, "")
    if action == "CreateSecret":
        return _create(tx, account, parameters, sealed)
    row = _need(tx, account, parameters["SecretId"])
    if action == "DeleteSecret":
        return _delete(tx, row, parameters)
    if action == "RestoreSecret":
        _change(tx, row, deleted_at=None)
        return {"ARN": row.arn, "Name": row.name}
    _refuse_deleted(row)
    if action == "PutSecretValue":
        return _put(tx, row, parameters, sealed)
    if action == "UpdateSecret":
        return _update(tx, row, parameters, sealed)
    if action == "UpdateSecretVersionStage":
        return _move_label(tx, row, parameters)
    if action == "TagResource":
        given = {tag["Key"]: tag.get("Value", "") for tag in parameters["Tags"]}
        return _set_tags(tx, row, dict(tags_of(row)) | given)
    if action == "UntagResource":
        return _set_tags(tx, row, {key: value for key, value in tags_of(row) if key not in parameters["TagKeys"]})
    raise _unknown(action)


@operation(SecretPort)
def sealed_versions(tx: Transaction, after: Sequence[str], limit: int) -> Sequence[SecretVersion]:
    """Versions by ARN and id, beyond `after`; also those of deleted secrets that can be restored."""
    arn, version_id = (*after, "", "")[:2]
    rows = tx.connection.execute(
        select(secret_versions)
        .where(tuple_(secret_versions.c.arn, secret_versions.c.version_id) > tuple_(arn, version_id))
        .order_by(secret_versions.c.arn, secret_versions.c.version_id)
        .limit(limit)
    )
    return tuple(map(_version, rows))


@operation(SecretPort, write=True)
def replace_sealed_version(tx: Transaction, arn: str, version_id: str, old: bytes, new: bytes) -> bool:
    result = tx.connection.execute(
        update(secret_versions)
        .where(
            secret_versions.c.arn == arn, secret_versions.c.version_id == version_id, secret_versions.c.sealed == old
        )
        .values(sealed=new)
    )
    tx.changed(arn.split(":")[4], "")
    return bool(result.rowcount)


@operation(SecretPort, write=True)
def remove_secrets(tx: Transaction, limit: int) -> int:
    """Remove secrets whose recovery window is over."""
    arns = (
        tx.connection.execute(
            select(secrets.c.arn).where(secrets.c.deleted_at <= tx.now).order_by(secrets.c.deleted_at).limit(limit)
        )
        .scalars()
        .all()
    )
    _remove(tx, arns)
    return len(arns)


def not_found() -> Failure:
    return Failure(Code.RESOURCE_NOT_FOUND, "Secrets Manager can't find the specified secret.")


# ---- writes -------------------------------------------------------------------------------------------------------


def _create(tx: Transaction, account: str, parameters: Parameters, sealed: bytes) -> dict[str, Any]:
    name, arn = parameters["Name"], parameters["ARN"]
    held = tx.connection.execute(
        select(secrets).where(secrets.c.account == account, secrets.c.name == name)
    ).one_or_none()
    if held is not None and held.deleted_at is not None and held.deleted_at <= tx.now:
        _remove(tx, [held.arn])
    elif held is not None and held.deleted_at is not None:
        raise Failure(
            Code.INVALID_REQUEST,
            "You can't create this secret because a secret with this name is already scheduled for deletion.",
        )
    elif held is not None:
        raise Failure(Code.RESOURCE_EXISTS, f"The operation failed because the secret {name} already exists.")
    most = tx.registry.quotas.secrets
    mine = secrets.c.account == account
    if tx.connection.execute(select(func.count()).select_from(secrets).where(mine)).scalar_one() >= most:
        raise Failure(Code.LIMIT_EXCEEDED, f"You've exceeded the quota of {most} secrets.")
    tx.connection.execute(
        insert(secrets).values(
            arn=arn,
            account=account,
            name=name,
            description=parameters.get("Description"),
            tags=_tags_text({tag["Key"]: tag.get("Value", "") for tag in parameters.get("Tags") or ()}),
            created_at=tx.now,
            changed_at=tx.now,
        )
    )
    answer = {"ARN": arn, "Name": name}
    if sealed:
        _add_version(tx, arn, parameters["ClientRequestToken"], sealed, [CURRENT])
        answer["VersionId"] = parameters["ClientRequestToken"]
    return answer


def _put(tx: Transaction, row: FoundRow, parameters: Parameters, sealed: bytes) -> dict[str, Any]:
    version_id = parameters["ClientRequestToken"]
    stages = list(dict.fromkeys(parameters.get("VersionStages") or [CURRENT]))
    held = _add_version(tx, row.arn, version_id, sealed, stages)
    _change(tx, row)
    return {"ARN": row.arn, "Name": row.name, "VersionId": version_id, "VersionStages": list(held)}


def _update(tx: Transaction, row: FoundRow, parameters: Parameters, sealed: bytes) -> dict[str, Any]:
    answer = {"ARN": row.arn, "Name": row.name}
    if sealed:
        _add_version(tx, row.arn, parameters["ClientRequestToken"], sealed, [CURRENT])
        answer["VersionId"] = parameters["ClientRequestToken"]
    changed = {"description": parameters["Description"]} if parameters.get("Description") is not None else {}
    _change(tx, row, **changed)
    return answer


def _delete(tx: Transaction, row: FoundRow, parameters: Parameters) -> dict[str, Any]:
    """Delete at once, or after so many days; another call restarts the days."""
    if parameters.get("ForceDeleteWithoutRecovery"):
        _remove(tx, [row.arn])
        return {"ARN": row.arn, "Name": row.name, "DeletionDate": tx.now}
    _refuse_deleted(row)
    at = tx.now + (parameters.get("RecoveryWindowInDays") or RECOVERY_DAYS) * DAY
    _change(tx, row, deleted_at=at)
    return {"ARN": row.arn, "Name": row.name, "DeletionDate": at}


def _move_label(tx: Transaction, row: FoundRow, parameters: Parameters) -> dict[str, Any]:
    label, target = parameters["VersionStage"], parameters.get("MoveToVersionId")
    source = parameters.get("RemoveFromVersionId")
    held = {version.version_id: list(version.stages) for version in _versions(tx, row.arn)}
    holder = next((version_id for version_id, stages in held.items() if label in stages), None)
    for named in (target, source):
        if named is not None and named not in held:
            raise Failure(
                Code.RESOURCE_NOT_FOUND, "Secrets Manager can't find the specified secret value for VersionId: " + named
            )
    if target is None and label == CURRENT:
        raise Failure(
            Code.INVALID_PARAMETER,
            f"You can only move staging label {CURRENT} to a different secret version. It can't be completely removed.",
        )
    if holder is not None and holder not in (source, target):
        raise Failure(
            Code.INVALID_PARAMETER,
            f"The parameter RemoveFromVersionId can't be empty. Staging label {label} is currently attached to version "
            f"{holder}, so you must explicitly reference that version in RemoveFromVersionId.",
        )
    if holder is not None and holder != target:
        held[holder].remove(label)
    if target is not None and label not in held[target]:
        held[target].append(label)
    if label == CURRENT and holder is not None and holder != target:
        _give_previous(held, holder)
    _keep_labels(tx, row.arn, held)
    _change(tx, row)
    return {"ARN": row.arn, "Name": row.name}


def _add_version(tx: Transaction, arn: str, version_id: str, sealed: bytes, stages: list[str]) -> Sequence[str]:
    """Add a version and move its labels to it; the one that was current becomes the previous one."""
    held = {version.version_id: list(version.stages) for version in _versions(tx, arn)}
    if version_id in held:
        raise Failure(
            Code.RESOURCE_EXISTS,
            f"You can't use ClientRequestToken {version_id} because that value is already in use for a version of "
            f"secret {arn}.",
        )
    if not held and CURRENT not in stages:  # the first version is always current
        stages = [CURRENT, *stages]
    before = next((each for each, labels in held.items() if CURRENT in labels), None)
    for labels in held.values():
        labels[:] = [label for label in labels if label not in stages]
    if CURRENT in stages and before is not None and PREVIOUS not in stages:
        _give_previous(held, before)
    if sum(map(len, held.values())) + len(stages) > LABELS_MAX:
        raise Failure(Code.LIMIT_EXCEEDED, f"A secret's versions can have at most {LABELS_MAX} staging labels.")
    _keep_labels(tx, arn, held)
    tx.connection.execute(
        insert(secret_versions).values(
            arn=arn, version_id=version_id, sealed=sealed, stages=json.dumps(stages), created_at=tx.now
        )
    )
    return stages


def _give_previous(held: dict[str, list[str]], version_id: str) -> None:
    for labels in held.values():
        labels[:] = [label for label in labels if label != PREVIOUS]
    held[version_id].append(PREVIOUS)


def _keep_labels(tx: Transaction, arn: str, held: Mapping[str, Sequence[str]]) -> None:
    """Store the labels; a version without labels is removed."""
    for version_id, stages in held.items():
        mine = (secret_versions.c.arn == arn) & (secret_versions.c.version_id == version_id)
        if stages:
            tx.connection.execute(update(secret_versions).where(mine).values(stages=json.dumps(stages)))
        else:
            tx.connection.execute(delete(secret_versions).where(mine))


def _set_tags(tx: Transaction, row: FoundRow, tags: Mapping[str, str]) -> dict[str, Any]:
    _change(tx, row, tags=_tags_text(tags))
    return {}


def _tags_text(tags: Mapping[str, str]) -> str | None:
    if len(tags) > TAGS_MAX:
        raise Failure(Code.INVALID_PARAMETER, f"You can't attach more than {TAGS_MAX} tags to a secret.")
    if any(key.lower().startswith("aws:") for key in tags):
        raise Failure(Code.INVALID_PARAMETER, "Tag keys that begin with aws: are reserved.")
    return json.dumps(sorted(tags.items())) if tags else None


def _change(tx: Transaction, row: FoundRow, **values: Any) -> None:
    tx.connection.execute(update(secrets).where(secrets.c.arn == row.arn).values(changed_at=tx.now, **values))


def _remove(tx: Transaction, arns: Sequence[str]) -> None:
    for arn in arns:
        tx.changed(arn.split(":")[4], "")
        tx.connection.execute(delete(secret_versions).where(secret_versions.c.arn == arn))
        tx.connection.execute(delete(secrets).where(secrets.c.arn == arn))


def _note_access(tx: Transaction, arn: str) -> None:
    """Update the day of last access, once a day."""
    day = tx.now // DAY * DAY
    before = or_(secrets.c.accessed_at.is_(None), secrets.c.accessed_at < day)
    tx.connection.execute(update(secrets).where(secrets.c.arn == arn, before).values(accessed_at=day))


# ---- reads --------------------------------------------------------------------------------------------------------


def _row(tx: Transaction, account: str, which: ColumnElement[bool]) -> FoundRow | None:
    """None also if the recovery window is over."""
    there = or_(secrets.c.deleted_at.is_(None), secrets.c.deleted_at > tx.now)
    return tx.connection.execute(select(secrets).where(secrets.c.account == account, which, there)).one_or_none()


def _find_version(tx: Transaction, account: str, arn: str, version_id: str, stage: str) -> SecretVersion | None:
    """A version by id, label or both; empty matches any."""
    row = _row(tx, account, secrets.c.arn == arn)
    if row is None or row.deleted_at is not None:
        return None
    for found in _versions(tx, arn):
        if version_id in ("", found.version_id) and (not stage or stage in found.stages):
            return found
    return None


def _need(tx: Transaction, account: str, arn: str) -> FoundRow:
    row = _row(tx, account, secrets.c.arn == arn)
    if row is None:
        raise not_found()
    return row


def _refuse_deleted(row: FoundRow) -> None:
    if row.deleted_at is not None:
        raise Failure(
            Code.INVALID_REQUEST,
            "You can't perform this operation on the secret because it was marked for deletion.",
        )


def _versions(tx: Transaction, arn: str) -> Sequence[SecretVersion]:
    rows = tx.connection.execute(
        select(secret_versions).where(secret_versions.c.arn == arn).order_by(secret_versions.c.version_id)
    )
    return tuple(map(_version, rows))


def _version(row: FoundRow) -> SecretVersion:
    return SecretVersion(row.arn, row.version_id, row.sealed, tuple(json.loads(row.stages)), row.created_at)


def _unknown(action: str) -> Failure:
    return Failure(Code.UNKNOWN_OPERATION, f"Operation {action[:128]} is not supported by this registry")
