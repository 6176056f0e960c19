"""Inline policies of users, groups and roles; a holder's policies have a limit on their total size.

Functions here make the operation for one noun: `iam.IAM` has `inline.put(names.USER)`.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import delete, insert, select, update

from proxy.metadata.db.identity_tables import inline_policies
from proxy.metadata.db.transaction import Transaction
from proxy.metadata.operations.iam import names, paging, quotas
from proxy.metadata.operations.iam.documents import check_identity_policy
from proxy.metadata.operations.iam.names import Noun, Parameters, Run
from proxy.model.errors import Code, Failure

MOST_CHARACTERS = {
    names.USER: 2048,
    names.GROUP: 5120,
    names.ROLE: 10240,
}  # of one holder's policies together, without white space


def put(noun: Noun) -> Run:
    """Put…Policy: creates a policy, or replaces the one of that name."""

    def run(tx: Transaction, account: str, parameters: Parameters) -> dict[str, Any]:
        holder = names.need_holder_id(tx, account, noun, parameters)
        name, document = parameters["PolicyName"], parameters["PolicyDocument"]
        held = _documents(tx, holder)
        is_new = name not in held
        held[name] = document
        most = MOST_CHARACTERS[noun]
        if sum(quotas.size(each) for each in held.values()) > most:
            raise Failure(
                Code.IAM_LIMIT_EXCEEDED,
                f"Maximum policy size of {most} bytes exceeded for {noun.word} {parameters[noun.parameter]}",
            )
        quotas.check_length((f"{noun.word.capitalize()}PolicySize", most), sum(map(len, held.values())))
        check_identity_policy(document)
        if is_new:
            made = insert(inline_policies).values(holder_id=holder, name=name, document=document)
            tx.connection.execute(made)
        else:
            mine = (inline_policies.c.holder_id == holder) & (inline_policies.c.name == name)
            tx.connection.execute(update(inline_policies).where(mine).values(document=document))
        tx.changes.identity = True
        return {}

    return run


def get(noun: Noun) -> Run:
    def run(tx: Transaction, account: str, parameters: Parameters) -> dict[str, Any]:
        holder, name = names.need(tx, account, noun, parameters[noun.parameter]), parameters["PolicyName"]
        document = tx.connection.execute(
            select(inline_policies.c.document).where(
                inline_policies.c.holder_id == names.holder_id(holder), inline_policies.c.name == name
            )
        ).scalar()
        if document is None:
            raise _no_such(noun, name)
        return {noun.parameter: holder.name, "PolicyName": name, "PolicyDocument": names.encode_document(document)}

    return run


def remove(noun: Noun) -> Run:
    def run(tx: Transaction, account: str, parameters: Parameters) -> dict[str, Any]:
        holder, name = names.need_holder_id(tx, account, noun, parameters), parameters["PolicyName"]
        gone = tx.connection.execute(
            delete(inline_policies).where(inline_policies.c.holder_id == holder, inline_policies.c.name == name)
        )
        if not gone.rowcount:
            raise _no_such(noun, name)
        tx.changes.identity = True
        return {}

    return run


def list_inline(noun: Noun) -> Run:
    """List…Policies: their names, in order."""

    def run(tx: Transaction, account: str, parameters: Parameters) -> dict[str, Any]:
        holder = names.need_holder_id(tx, account, noun, parameters)
        asked = paging.read_paging(parameters, f"List{noun.word}Policies", account, holder)
        found = (
            tx.connection.execute(
                select(inline_policies.c.name)
                .where(inline_policies.c.holder_id == holder, inline_policies.c.name > asked.after)
                .order_by(inline_policies.c.name)
                .limit(asked.limit)
            )
            .scalars()
            .all()
        )
        shown, more = asked.page(found, str)
        return {"PolicyNames": list(shown), **more}

    return run


def _documents(tx: Transaction, holder: str) -> dict[str, str]:
    rows = tx.connection.execute(select(inline_policies).where(inline_policies.c.holder_id == holder))
    return {row.name: row.document for row in rows}


def _no_such(noun: Noun, name: str) -> Failure:
    return Failure(Code.NO_SUCH_ENTITY, f"The {noun.word} policy with name {name} cannot be found.")
