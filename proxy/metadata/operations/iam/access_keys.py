"""Long-lived access keys: at most two for a user. Callers seal the secrets, and no answer has one."""

from __future__ import annotations

from typing import Any

from sqlalchemy import delete, func, insert, select, update

from proxy.metadata.contract import AccountPort
from proxy.metadata.db.identity_tables import access_keys, principals
from proxy.metadata.db.transaction import FoundRow, Transaction
from proxy.metadata.operations.iam import paging, quotas, users
from proxy.metadata.operations.iam.names import Parameters
from proxy.metadata.operations.operation import operation
from proxy.model.errors import Code, Failure

_NEVER = "N/A"  # IAM's region and service of a key that was never used


@operation(AccountPort, write=True)
def create_access_key(
    tx: Transaction, account: str, user_name: str | None, access_key_id: str, sealed_secret: bytes
) -> dict[str, Any]:
    """CreateAccessKey's answer without its SecretAccessKey, which only the caller knows. `user_name` None: the
    account's root. Failure(NoSuchEntity, LimitExceeded, EntityAlreadyExists)."""
    user = users.named(tx, account, {"UserName": user_name})
    quotas.check(quotas.ACCESS_KEYS_PER_USER, len(_held(tx, user.principal_id)) + 1)
    if tx.connection.execute(select(access_keys).where(access_keys.c.access_key_id == access_key_id)).first():
        raise Failure(Code.ENTITY_ALREADY_EXISTS, f"The access key {access_key_id} exists already.")
    tx.connection.execute(
        insert(access_keys).values(
            access_key_id=access_key_id,
            principal_id=user.principal_id,
            sealed_secret=sealed_secret,
            created_at=tx.now,
        )
    )
    [made] = [row for row in _held(tx, user.principal_id) if row.access_key_id == access_key_id]
    return {"AccessKey": _shown(user, made)}


def delete_access_key(tx: Transaction, account: str, parameters: Parameters) -> dict[str, Any]:
    key = _need(tx, account, parameters)
    tx.connection.execute(delete(access_keys).where(access_keys.c.access_key_id == key.access_key_id))
    tx.changes.identity = True
    return {}


def update_access_key(tx: Transaction, account: str, parameters: Parameters) -> dict[str, Any]:
    key, status = _need(tx, account, parameters), parameters["Status"]
    if status not in ("Active", "Inactive"):
        raise Failure(Code.INVALID_INPUT, f"A key can be made Active or Inactive, not {status}.")
    tx.connection.execute(
        update(access_keys).where(access_keys.c.access_key_id == key.access_key_id).values(active=status == "Active")
    )
    tx.changes.identity = True
    return {}


def list_access_keys(tx: Transaction, account: str, parameters: Parameters) -> dict[str, Any]:
    user = users.named(tx, account, parameters)
    asked = paging.read_paging(parameters, "ListAccessKeys", user.principal_id)
    found, more = asked.page_of_all(_held(tx, user.principal_id), lambda row: str(row.access_key_id))
    return {"AccessKeyMetadata": [_shown(user, row) for row in found], **more}


def get_access_key_last_used(tx: Transaction, account: str, parameters: Parameters) -> dict[str, Any]:
    row = tx.connection.execute(
        select(access_keys, principals.c.name)
        .join(principals, principals.c.principal_id == access_keys.c.principal_id)
        .where(access_keys.c.access_key_id == parameters["AccessKeyId"], principals.c.account == account)
    ).one_or_none()
    if row is None:
        raise _no_such_key(parameters["AccessKeyId"])
    used: dict[str, Any] = {"ServiceName": _NEVER, "Region": _NEVER}
    if row.last_used_at is not None:
        used = {
            "LastUsedDate": row.last_used_at,
            "ServiceName": row.last_used_service,
            "Region": row.last_used_region,
        }
    return {"UserName": row.name, "AccessKeyLastUsed": used}


@operation(AccountPort, write=True, settles=True)
def note_key_use(tx: Transaction, access_key_id: str, at: float, region: str, service: str) -> None:
    """Record when a key was last used, in epoch seconds; an older time changes nothing."""
    tx.connection.execute(
        update(access_keys)
        .where(access_keys.c.access_key_id == access_key_id, func.coalesce(access_keys.c.last_used_at, 0.0) < at)
        .values(last_used_at=at, last_used_region=region, last_used_service=service)
    )


def _held(tx: Transaction, principal_id: str) -> list[FoundRow]:
    rows = tx.connection.execute(select(access_keys).where(access_keys.c.principal_id == principal_id)).all()
    return sorted(rows, key=lambda row: str(row.access_key_id))


def _need(tx: Transaction, account: str, parameters: Parameters) -> FoundRow:
    """A key of the named user. Failure(NoSuchEntity), also for another user's key."""
    user = users.named(tx, account, parameters)
    wanted = parameters["AccessKeyId"]
    row = tx.connection.execute(
        select(access_keys).where(
            access_keys.c.access_key_id == wanted, access_keys.c.principal_id == user.principal_id
        )
    ).one_or_none()
    if row is None:
        raise _no_such_key(wanted)
    return row


def _no_such_key(access_key_id: str) -> Failure:
    return Failure(Code.NO_SUCH_ENTITY, f"The Access Key with id {access_key_id} cannot be found.")


def _shown(user: FoundRow, row: FoundRow) -> dict[str, Any]:
    return {
        "UserName": user.name,
        "AccessKeyId": row.access_key_id,
        "Status": "Active" if row.active else "Inactive",
        "CreateDate": row.created_at,
    }
