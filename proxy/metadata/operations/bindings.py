"""Stored policies that name principals: users' and roles' ARNs bound, as they are saved, to unique ids.

Who is deleted and made anew under the same name is somebody else: what a policy allowed stays with the id. Read back, a
policy is the text that was given, but for who has a new ARN since (it stands there) and who is gone (there stands the
id), as at AWS. Source: IAM User Guide, "AWS JSON policy elements: Principal".
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from sqlalchemy import select

from proxy.metadata.identities import accounts, principals
from proxy.metadata.transaction import Transaction
from proxy.model.errors import Code, Failure
from proxy.model.identity import Tags

_ACCOUNT = re.compile(r"(?:arn:aws:iam::)?([0-9]{12})(?::root)?", re.ASCII)
_USER_OR_ROLE = re.compile(r"arn:aws:iam::[0-9]{12}:(?:user|role)/.+", re.ASCII)


def bind_trust(tx: Transaction, account: str, text: str) -> Tags:
    """A role's trust policy. Failure(MalformedPolicyDocument) for what is none, and for who is not there."""
    named = list(_named(text))
    users_and_roles = [arn for arn in named if _USER_OR_ROLE.fullmatch(arn)]
    numbers = {found[1]: arn for arn in named if (found := _ACCOUNT.fullmatch(arn)) is not None}
    bound = dict(
        tx.connection.execute(
            select(principals.c.arn, principals.c.principal_id).where(
                principals.c.account.in_({arn.split(":")[4] for arn in users_and_roles}),
                principals.c.arn.in_(users_and_roles),
            )
        )
        .tuples()
        .all()
    )
    there = set(tx.connection.execute(select(accounts.c.account).where(accounts.c.account.in_(numbers))).scalars())
    missing = [arn for arn in users_and_roles if arn not in bound]
    missing += [arn for number, arn in numbers.items() if number not in there]
    if missing:
        raise Failure(Code.MALFORMED_POLICY_DOCUMENT, f'Invalid principal in policy: "AWS":"{missing[0]}"')
    return tuple((arn, bound[arn]) for arn in dict.fromkeys(users_and_roles))


def stored(bound: Tags) -> str | None:
    """As a row holds them."""
    return json.dumps(bound, separators=(",", ":")) if bound else None


def shown(tx: Transaction, text: str, saved: str | None) -> str:
    """A stored policy as it is read back."""
    bound: list[tuple[str, str]] = [(arn, found) for arn, found in json.loads(saved or "[]")]
    if not bound:
        return text
    now = dict(
        tx.connection.execute(
            select(principals.c.principal_id, principals.c.arn).where(
                principals.c.principal_id.in_([found for _, found in bound])
            )
        )
        .tuples()
        .all()
    )
    moved = tuple((arn, now.get(found, found)) for arn, found in bound if now.get(found) != arn)
    return _rebound(text, moved) if moved else text


def _named(text: str) -> Iterator[str]:
    try:
        document = json.loads(text)
        statements = document["Statement"]
    except (ValueError, KeyError, TypeError):
        raise Failure(Code.MALFORMED_POLICY_DOCUMENT, "This policy contains invalid Json") from None
    for statement in statements if isinstance(statements, list) else [statements]:
        given: Any = statement.get("Principal")
        named = given.get("AWS", []) if isinstance(given, dict) else []
        yield from [named] if isinstance(named, str) else named


def _rebound(text: str, moved: Tags) -> str:
    for arn, new in moved:
        text = text.replace(json.dumps(arn), json.dumps(new))
    return text
