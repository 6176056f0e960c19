"""The policies that apply to a user, group or role, by its ARN. Used by `simulation`."""

from __future__ import annotations

import re
from dataclasses import dataclass

from proxy.metadata.db.transaction import Transaction
from proxy.metadata.operations.iam import names
from proxy.metadata.operations.iam.resources import source_row
from proxy.metadata.operations.identity import held_policies, principal_of
from proxy.model.errors import Code, Failure
from proxy.model.identity import AttachedPolicy, Principal

_ARN = re.compile(r"arn:aws:iam::[0-9]{12}:(user|group|role)/(?:[\x21-\x7e]*/)?([\w+=,.@-]+)", re.ASCII)


@dataclass(frozen=True, slots=True)
class Source:
    """`principal` is None for a group, which is no principal."""

    policies: tuple[AttachedPolicy, ...]
    boundary: AttachedPolicy | None
    principal: Principal | None


def find_source(tx: Transaction, account: str, arn: str) -> Source:
    """Failure(InvalidInput) for another kind of ARN, NoSuchEntity for an unknown one."""
    named = _ARN.fullmatch(arn)
    if named is None:
        raise Failure(Code.INVALID_INPUT, f"Invalid Entity Arn: {arn} does not clearly define entity type and name.")
    row = source_row(tx, account, arn)
    if row is None:
        noun = {noun.word: noun for noun in (names.USER, names.GROUP, names.ROLE)}[named[1]]
        raise names.no_such(noun, named[2])
    if named[1] == names.GROUP.word:
        return Source(tuple(held_policies(tx, row.group_id, row.arn)), None, None)
    principal = principal_of(tx, row)
    return Source(principal.policies, principal.boundary, principal)
