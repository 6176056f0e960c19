"""IAM's operations on rows, one module a noun: `(transaction, account, parameters)` to the model's output as a mapping.

Input has been validated against botocore's `iam` model, and the policy evaluator has allowed the call; what is left is
what only rows can say (NoSuchEntity, EntityAlreadyExists, DeleteConflict, quotas) and what no shape says. Times are
epoch seconds. A write that a decision may hang on sets `tx.changes.identity`.
"""

from __future__ import annotations

from proxy.metadata.operations.operation import Operation

IAM: dict[str, Operation] = {}
"""Every IAM operation that is served, by the model's name."""
