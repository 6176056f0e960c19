"""IAM's operations on rows, one module a noun: `(transaction, account, parameters)` to the model's output as a mapping.

Input has been validated against botocore's `iam` model, and the policy evaluator has allowed the call; what is left is
what only rows can say (NoSuchEntity, EntityAlreadyExists, DeleteConflict, quotas) and what no shape says. Times are
epoch seconds; documents are percent-encoded in answers. A write that a decision may hang on sets `tx.changes.identity`.

    names   quotas   paging   tags          what the nouns share
    users   groups   roles    accesskeys    aliases
"""

from __future__ import annotations

from proxy.metadata.operations.iam import aliases
from proxy.metadata.operations.operation import Operation

IAM: dict[str, Operation] = {
    # ---- people: users, groups, roles, keys -----------------------------------------------------------------------
    # ---- accounts -------------------------------------------------------------------------------------------------
    "CreateAccountAlias": Operation(aliases.create_account_alias, write=True),
    "DeleteAccountAlias": Operation(aliases.delete_account_alias, write=True),
    "ListAccountAliases": Operation(aliases.list_account_aliases),
    # ---- policies, providers, reports -----------------------------------------------------------------------------
}
"""Every IAM operation that is served, by the model's name."""
