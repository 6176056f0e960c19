"""ECR's settings of image scanning: whether a repository's images are to be scanned at a push.

The setting is stored and returned; nothing is scanned. A registry's configuration is always ECR's default.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import update

from proxy.metadata.db.schema import repositories
from proxy.metadata.db.transaction import Transaction
from proxy.metadata.operations.operation import ecr_operation
from proxy.metadata.operations.policies import open_account
from proxy.metadata.operations.repositories import Parameters, named_repository


@ecr_operation("PutImageScanningConfiguration", write=True)
def put_image_scanning_configuration(tx: Transaction, account: str, parameters: Parameters) -> dict[str, Any]:
    name, row = named_repository(tx, account, parameters)
    on_push = bool(parameters["imageScanningConfiguration"].get("scanOnPush"))
    tx.connection.execute(
        update(repositories).where(repositories.c.repository_id == row.repository_id).values(scan_on_push=on_push)
    )
    tx.changed(account, name)
    return {"registryId": account, "repositoryName": name, "imageScanningConfiguration": {"scanOnPush": on_push}}


@ecr_operation("GetRegistryScanningConfiguration")
def get_registry_scanning_configuration(tx: Transaction, account: str, parameters: Parameters) -> dict[str, Any]:
    open_account(tx, account)
    return {"registryId": account, "scanningConfiguration": {"scanType": "BASIC", "rules": []}}
