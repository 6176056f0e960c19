"""Stored policies that name principals: users' and roles' ARNs bound, as they are saved, to unique ids.

Who is deleted and made anew under the same name is somebody else: what a policy allowed stays with the id. Read back, a
policy is the text that was given, but for who has a new ARN since (it stands there) and who is gone (there stands the
id), as at AWS. Source: IAM User Guide, "AWS JSON policy elements: Principal".
"""

from __future__ import annotations

import json

from sqlalchemy import select

from proxy.auth.policy.documents import Document
from proxy.auth.policy.errors import PolicyError
from proxy.auth.policy.places import principals_of, rebound_text
from proxy.metadata.identities import accounts, principals
from proxy.metadata.transaction import Transaction
from proxy.model.identity import Tags


def bind(tx: Transaction, document: Document, text: str) -> Tags:
    """The unique ids of the users and roles that a policy names, by ARN; `document` is its compiled `text`.

    PolicyError, in IAM's words, for a user, a role or an account that is not there."""
    run = tx.connection.execute
    named = principals_of(text)
    owners = sorted({arn.split(":")[4] for arn in named})
    rows = run(
        select(principals.c.arn, principals.c.principal_id).where(
            principals.c.account.in_(owners), principals.c.arn.in_(named)
        )
    )
    found = {row.arn: row.principal_id for row in rows}
    for arn in named:
        if arn not in found:
            raise _nobody(arn)
    elements = [each.principals for each in document.statements if each.principals is not None]
    meant = {number: number for each in elements for number in each.accounts}
    meant |= {arn.split(":")[4]: arn for each in elements for arn in each.sessions}
    there = set(run(select(accounts.c.account).where(accounts.c.account.in_(sorted(meant)))).scalars())
    for number in sorted(meant.keys() - there):
        raise _nobody(meant[number])
    return tuple((arn, found[arn]) for arn in named)


def stored(bound: Tags) -> str | None:
    """As a row holds them."""
    return json.dumps(bound, separators=(",", ":")) if bound else None


def shown(tx: Transaction, text: str, saved: str | None) -> str:
    """A stored policy as it is read back."""
    bound: list[tuple[str, str]] = [(arn, found) for arn, found in json.loads(saved or "[]")]
    if not bound:
        return text
    ids = [found for _, found in bound]
    rows = tx.connection.execute(
        select(principals.c.principal_id, principals.c.arn).where(principals.c.principal_id.in_(ids))
    )
    now = {row.principal_id: row.arn for row in rows}
    moved = {arn: now.get(found, found) for arn, found in bound if now.get(found) != arn}
    return rebound_text(text, moved) if moved else text


def _nobody(arn: str) -> PolicyError:
    return PolicyError(f'Invalid principal in policy: "AWS":"{arn}"')
