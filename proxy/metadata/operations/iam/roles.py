"""Roles and their trust policies, which are validated and bound to unique ids when saved."""

from __future__ import annotations

from typing import Any

from sqlalchemy import delete, func, insert, update

from proxy.auth.policy import validation
from proxy.auth.policy.errors import PolicyError
from proxy.auth.policy.evaluation import PolicyKind
from proxy.metadata.contract import AccountPort
from proxy.metadata.db.identity_tables import principals
from proxy.metadata.db.transaction import FoundRow, Transaction
from proxy.metadata.operations import bindings
from proxy.metadata.operations.iam import dependents, names, principal_rows, quotas
from proxy.metadata.operations.iam.names import ROLE, Parameters
from proxy.metadata.operations.operation import operation
from proxy.model.errors import Code, Failure

DEFAULT_SESSION_SECONDS = 3600
_SERVICES_PATH, _SERVICES_NAME = "/aws-service-role/", "awsservicerolefor"


def create_role(tx: Transaction, account: str, parameters: Parameters) -> dict[str, Any]:
    name, path = parameters["RoleName"], parameters.get("Path") or "/"
    if path.startswith(_SERVICES_PATH) or name.lower().startswith(_SERVICES_NAME):
        raise _of_a_service()
    columns = principal_rows.new_columns(tx, account, ROLE, parameters)
    trust = _trust(tx, parameters["AssumeRolePolicyDocument"])
    quotas.check(quotas.ROLES, principal_rows.count(tx, account, ROLE) + 1)
    tx.connection.execute(
        insert(principals).values(
            **columns,
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
    principal_rows.change(tx, row, **new)
    return {}


def update_role_description(tx: Transaction, account: str, parameters: Parameters) -> dict[str, Any]:
    row = names.need(tx, account, ROLE, parameters["RoleName"])
    principal_rows.change(tx, row, description=parameters["Description"])
    return {"Role": render(tx, names.need(tx, account, ROLE, row.name))}


def update_assume_role_policy(tx: Transaction, account: str, parameters: Parameters) -> dict[str, Any]:
    row = names.need(tx, account, ROLE, parameters["RoleName"])
    principal_rows.change(tx, row, **_trust(tx, parameters["PolicyDocument"]))
    return {}


def delete_role(tx: Transaction, account: str, parameters: Parameters) -> dict[str, Any]:
    """Failure(DeleteConflict) while it has policies. Its sessions end with it."""
    row = names.need(tx, account, ROLE, parameters["RoleName"])
    dependents.need_none(tx, row.principal_id)
    tx.connection.execute(delete(principals).where(principals.c.principal_id == row.principal_id))
    tx.changes.identity = True
    return {}


def list_roles(tx: Transaction, account: str, parameters: Parameters) -> dict[str, Any]:
    found, more = principal_rows.page(tx, account, ROLE, parameters)
    return {"Roles": [render(tx, row) for row in found], **more}


@operation(AccountPort, write=True, settles=True)
def note_role_use(tx: Transaction, principal_id: str, at: float, region: str) -> None:
    """Record when a role's session was last used, in epoch seconds; an older time changes nothing."""
    tx.connection.execute(
        update(principals)
        .where(principals.c.principal_id == principal_id, func.coalesce(principals.c.last_used_at, 0.0) < at)
        .values(last_used_at=at, last_used_region=region)
    )


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
    found = {**render(tx, row), **principal_rows.render_details(row)}
    used = row.last_used_at
    found["RoleLastUsed"] = {} if used is None else {"LastUsedDate": used, "Region": row.last_used_region}
    return found


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
