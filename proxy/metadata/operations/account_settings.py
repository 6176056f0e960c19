"""An account's settings of its registry, each a column of its row.

REGISTRY_POLICY_SCOPE decides which actions a registry policy may name, BLOB_MOUNTING whether a layer may be linked
from another repository of the account; both take effect with the next request. BASIC_SCAN_TYPE_VERSION is stored and
returned, and has no effect. Source: ECR API reference, "PutAccountSetting".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import update

from proxy.awsmodel.validation import invalid
from proxy.metadata.db.identity_tables import accounts
from proxy.metadata.db.transaction import Transaction
from proxy.metadata.operations.operation import ecr_operation
from proxy.metadata.operations.policies import open_account
from proxy.model.errors import Code, Failure

Parameters = Mapping[str, Any]

SETTINGS: Mapping[str, tuple[str, Sequence[str]]] = {
    "BASIC_SCAN_TYPE_VERSION": ("basic_scan_type", ("AWS_NATIVE", "CLAIR")),
    "BLOB_MOUNTING": ("blob_mounting", ("ENABLED", "DISABLED")),
    "REGISTRY_POLICY_SCOPE": ("policy_scope", ("V1", "V2")),
}
"""Each setting's column, and the values that it may have."""


@ecr_operation("GetAccountSetting")
def get_account_setting(tx: Transaction, account: str, parameters: Parameters) -> dict[str, Any]:
    name = parameters["name"]
    column, _ = _setting(name)
    return {"name": name, "value": open_account(tx, account)._mapping[column]}


@ecr_operation("PutAccountSetting", write=True)
def put_account_setting(tx: Transaction, account: str, parameters: Parameters) -> dict[str, Any]:
    """An existing registry policy stays as it is; under V1 only the actions that V1 knows count."""
    name, value = parameters["name"], parameters["value"]
    column, values = _setting(name)
    if value not in values:
        raise invalid("value", f"Member must satisfy enum value set: [{', '.join(values)}]")
    open_account(tx, account)
    tx.connection.execute(update(accounts).where(accounts.c.account == account).values({column: value}))
    tx.changed(account, "")
    return {"name": name, "value": value}


def _setting(name: str) -> tuple[str, Sequence[str]]:
    found = SETTINGS.get(name)
    if found is None:
        raise Failure(
            Code.VALIDATION,
            f"1 validation error detected: Value '{name}' at 'name' failed to satisfy constraint: "
            f"Member must satisfy enum value set: [{', '.join(SETTINGS)}]",
        )
    return found
