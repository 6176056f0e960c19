"""Every operation of the service: one module a noun, one decorated function an operation (`operation` says how).

Functions take a `Transaction` and return records or, for ECR, the model's JSON. Importing this package imports all of
its modules, and so fills the tables `INTERNAL` and `ECR`; IAM's is `iam.IAM`. Called by `service`; `client` reads names
and signatures. Must not know how a request arrives.
"""

from __future__ import annotations

import importlib
import pkgutil

from proxy.metadata.operations.operation import ECR as ECR
from proxy.metadata.operations.operation import INTERNAL as INTERNAL
from proxy.metadata.operations.operation import Operation as Operation

for _module in pkgutil.walk_packages(__path__, f"{__name__}."):
    importlib.import_module(_module.name)
