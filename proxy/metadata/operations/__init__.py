"""Every operation of the service: one module a noun, one decorated function an operation (`operation` says how).

Functions take a `Transaction` and return records or, for ECR, the model's JSON. Importing this package fills the tables
`INTERNAL` and `ECR`; IAM's is `iam.IAM`. Called by `service`; `client` reads names and signatures. Must not know HTTP.
"""

from __future__ import annotations

from proxy.metadata.operations import (  # noqa: F401 - each registers its operations
    account_settings,
    accounts,
    append_hashes,
    blobs,
    counts,
    creation_templates,
    credentials,
    frame_hashes,
    identity,
    images,
    keys,
    layers,
    manifests,
    open_objects,
    policies,
    pull_time_exclusions,
    pull_times,
    pushes,
    rates,
    referrers,
    registries,
    removal,
    repositories,
    repository_settings,
    repository_tags,
    reservations,
    scanning,
    upkeep,
    uploads,
)
from proxy.metadata.operations.iam import access_keys, resources, roles  # noqa: F401 - as above
from proxy.metadata.operations.operation import ECR as ECR
from proxy.metadata.operations.operation import INTERNAL as INTERNAL
from proxy.metadata.operations.operation import Operation as Operation
