"""Roles and their trust policies, which are validated and bound to unique ids when saved."""

from __future__ import annotations

from typing import Any

from sqlalchemy import delete, func, insert, select, update

from proxy.auth.policy import validation
from proxy.auth.policy.errors import PolicyError
from proxy.auth.policy.evaluation import PolicyKind
from proxy.metadata.contract import AccountPort
from proxy.metadata.db.identity_tables import principals
from proxy.metadata.db.transaction import FoundRow, Transaction
from proxy.metadata.operations import bindings
from proxy.metadata.operations.iam import boundaries, dependents, names, paging, quotas, tags
from proxy.metadata.operations.iam.names import ROLE, Parameters
from proxy.metadata.operations.identity import unique_id
from proxy.metadata.operations.operation import operation
from proxy.model.errors import Code, Failure
from proxy.model.identity import PrincipalKind

DEFAULT_SESSION_SECONDS = 3600
_KEYS = ROLE.word + "/", ROLE.word + "0"  # every role's `name_key` lies between
_SERVICES_PATH, _SERVICES_NAME = "/aws-service-role/", "awsservicerolefor"


def create_role(tx: Transaction, account: str, parameters: Parameters) -> dict[str, Any]:
    name, path = parameters["RoleName"], parameters.get("Path") or "/"
    if path.startswith(_SERVICES_PATH) or name.lower().startswith(_SERVICES_NAME):
        raise _of_a_service()
    names.need_unused(tx, account, ROLE, name)
    given = tags.requested(parameters, quotas.TAGS_PER_ROLE)
    boundary = boundaries.requested(tx, account, parameters)
    trust = _trust(tx, parameters["AssumeRolePolicyDocument"])
    quotas.check(quotas.ROLES, count(tx, account) + 1)
    tx.connection.execute(
        insert(principals).values(
            principal_id=unique_id(ROLE.id_prefix),
            account=account,
            kind=PrincipalKind.ROLE,
            arn=names.arn(account, ROLE, path, name),
            path=path,
            name=name,
            name_key=names.principal_key(ROLE, name),
            enabled=True,
            created_at=tx.now,
            tags=tags.encode(given),
            boundary_arn=boundary,
            description=parameters.get("Description"),
            max_session_seconds=parameters.get("MaxSessionDuration") or DEFAULT_SESSION_SECONDS,
            **trust,
        )
    )
    made = render_details(tx, names.need(tx, account, ROLE, name))
    del made["RoleLastUsed"]
    return {"Role": made}


def create_service_linked_role(tx: Transaction, account: str, parameters: Parameters) -> dict[str, Any]:
    raise _of_a_service()


def get_role(tx: Transaction, account: str, parameters: Parameters) -> dict[str, Any]:
    return {"Role": render_details(tx, names.need(tx, account, ROLE, parameters["RoleName"]))}


def update_role(tx: Transaction, account: str, parameters: Parameters) -> dict[str, Any]:
    """Without a duration the default applies, as IAM documents; the description stays."""
    row = names.need(tx, account, ROLE, parameters["RoleName"])
    new: dict[str, Any] = {"max_session_seconds": parameters.get("MaxSessionDuration") or DEFAULT_SESSION_SECONDS}
    if parameters.get("Description") is not None:
        new["description"] = parameters["Description"]
    _keep(tx, row, new)
    return {}


def update_role_description(tx: Transaction, account: str, parameters: Parameters) -> dict[str, Any]:
    row = names.need(tx, account, ROLE, parameters["RoleName"])
    _keep(tx, row, {"description": parameters["Description"]})
    return {"Role": render(tx, names.need(tx, account, ROLE, row.name))}


def update_assume_role_policy(tx: Transaction, account: str, parameters: Parameters) -> dict[str, Any]:
    row = names.need(tx, account, ROLE, parameters["RoleName"])
    _keep(tx, row, _trust(tx, parameters["PolicyDocument"]))
    return {}


def delete_role(tx: Transaction, account: str, parameters: Parameters) -> dict[str, Any]:
    """Failure(DeleteConflict) while it has policies. Its sessions end with it."""
    row = names.need(tx, account, ROLE, parameters["RoleName"])
    dependents.need_none(tx, row.principal_id)
    tx.connection.execute(delete(principals).where(principals.c.principal_id == row.principal_id))
    tx.changes.identity = True
    return {}


def list_roles(tx: Transaction, account: str, parameters: Parameters) -> dict[str, Any]:
    prefix = parameters.get("PathPrefix") or "/"
    asked = paging.read_paging(parameters, "ListRoles", account, prefix)
    rows = tx.connection.execute(
        select(principals)
        .where(
            principals.c.account == account,
            principals.c.name_key > _KEYS[0] + asked.after,
            principals.c.name_key < _KEYS[1],
            names.under(principals.c.path, prefix),
        )
        .order_by(principals.c.name_key)
        .limit(asked.limit)
    ).all()
    found, more = asked.page(rows, lambda row: str(row.name).lower())
    return {"Roles": [render(tx, row) for row in found], **more}


def tag_role(tx: Transaction, account: str, parameters: Parameters) -> dict[str, Any]:
    row = names.need(tx, account, ROLE, parameters["RoleName"])
    tags.store(tx, row, tags.add(row.tags, parameters, quotas.TAGS_PER_ROLE))
    return {}


def untag_role(tx: Transaction, account: str, parameters: Parameters) -> dict[str, Any]:
    row = names.need(tx, account, ROLE, parameters["RoleName"])
    tags.store(tx, row, tags.remove(row.tags, parameters["TagKeys"]))
    return {}


def list_role_tags(tx: Transaction, account: str, parameters: Parameters) -> dict[str, Any]:
    row = names.need(tx, account, ROLE, parameters["RoleName"])
    return tags.page(row.tags, paging.read_paging(parameters, "ListRoleTags", row.principal_id))


def put_role_permissions_boundary(tx: Transaction, account: str, parameters: Parameters) -> dict[str, Any]:
    row = names.need(tx, account, ROLE, parameters["RoleName"])
    boundaries.store(tx, row, boundaries.requested(tx, account, parameters))
    return {}


def delete_role_permissions_boundary(tx: Transaction, account: str, parameters: Parameters) -> dict[str, Any]:
    boundaries.store(tx, names.need(tx, account, ROLE, parameters["RoleName"]), None)
    return {}


@operation(AccountPort, write=True, settles=True)
def note_role_use(tx: Transaction, principal_id: str, at: float, region: str) -> None:
    """Record when a role's session was last used, in epoch seconds; an older time changes nothing."""
    tx.connection.execute(
        update(principals)
        .where(principals.c.principal_id == principal_id, func.coalesce(principals.c.last_used_at, 0.0) < at)
        .values(last_used_at=at, last_used_region=region)
    )


def count(tx: Transaction, account: str) -> int:
    return tx.connection.execute(
        select(func.count())
        .select_from(principals)
        .where(principals.c.account == account, principals.c.name_key > _KEYS[0], principals.c.name_key < _KEYS[1])
    ).scalar_one()


def render(tx: Transaction, row: FoundRow) -> dict[str, Any]:
    """A role as in lists: without tags, boundary and last use."""
    found = {
        "Path": row.path,
        "RoleName": row.name,
        "RoleId": row.principal_id,
        "Arn": row.arn,
        "CreateDate": row.created_at,
        "AssumeRolePolicyDocument": names.encode_document(
            bindings.current_text(tx, row.trust_policy, row.trust_policy_principals)
        ),
        "MaxSessionDuration": row.max_session_seconds,
    }
    if row.description is not None:
        found["Description"] = row.description
    return found


def render_details(tx: Transaction, row: FoundRow) -> dict[str, Any]:
    found = render(tx, row)
    if row.boundary_arn is not None:
        found["PermissionsBoundary"] = boundaries.render(row.boundary_arn)
    if row.tags is not None:
        found["Tags"] = tags.render(row.tags)
    used = row.last_used_at
    found["RoleLastUsed"] = {} if used is None else {"LastUsedDate": used, "Region": row.last_used_region}
    return found


def _keep(tx: Transaction, row: FoundRow, new: dict[str, Any]) -> None:
    tx.connection.execute(update(principals).where(principals.c.principal_id == row.principal_id).values(**new))
    tx.changes.identity = True


def _trust(tx: Transaction, text: str) -> dict[str, Any]:
    """The columns for a trust policy. Failure(MalformedPolicyDocument, LimitExceeded)."""
    quotas.check_document(quotas.TRUST_POLICY_SIZE, text)  # first: compiling a long document takes long
    try:
        document = validation.validate(text, PolicyKind.TRUST)
        bound = bindings.bind(tx, document, text)
    except PolicyError as error:
        raise validation.iam_failure(error) from None
    return {"trust_policy": text, "trust_policy_principals": bindings.to_column(bound)}


def _of_a_service() -> Failure:
    return Failure(Code.INVALID_INPUT, "Service-linked roles are made by AWS's own services, and there are none here.")
