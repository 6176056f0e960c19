"""ECR operations about a registry as a whole: its signing configuration, which is always absent.

Signing cannot be configured here, so the answer is fixed. Texts as ECR answers them.
"""

from __future__ import annotations

from typing import Any

from proxy.metadata.db.transaction import Transaction
from proxy.metadata.operations.operation import ecr_operation
from proxy.metadata.operations.policies import open_account
from proxy.metadata.operations.repositories import Parameters
from proxy.model.errors import Code, Failure


@ecr_operation("GetSigningConfiguration")
def get_signing_configuration(tx: Transaction, account: str, parameters: Parameters) -> dict[str, Any]:
    open_account(tx, account)
    raise Failure(
        Code.SIGNING_CONFIGURATION_NOT_FOUND,
        f"Signing configuration does not exist in the registry with id '{account}'",
    )
