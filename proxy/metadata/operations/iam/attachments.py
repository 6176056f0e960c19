"""Managed policies of users, groups and roles: attach, detach, list.

Functions here make the operation for one noun: `iam.IAM` has `attachments.attach(names.USER)`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Select, delete, exists, insert, or_, select

from proxy.auth.managed import AWS_MANAGED
from proxy.metadata.db.identity_tables import attached_policies, groups, policies, principals
from proxy.metadata.db.transaction import FoundRow, Transaction
from proxy.metadata.operations.iam import names, paging, quotas
from proxy.metadata.operations.iam.names import Noun, Parameters, Run
from proxy.metadata.operations.iam.policies import BOUNDARY, PERMISSIONS, need, need_attachable
from proxy.model.errors import Code, Failure

_MOST = {
    names.USER: quotas.ATTACHED_PER_USER,
    names.GROUP: quotas.ATTACHED_PER_GROUP,
    names.ROLE: quotas.ATTACHED_PER_ROLE,
}


def attach(noun: Noun) -> Run:
    """Attach…Policy; idempotent."""

    def run(tx: Transaction, account: str, parameters: Parameters) -> dict[str, Any]:
        holder = names.need_holder_id(tx, account, noun, parameters)
        arn = parameters["PolicyArn"]
        need_attachable(tx, account, arn)
        held = _held(tx, holder)
        if arn in held:
            tx.changes.identity = True  # also if it was attached already: that write may not be announced yet
            return {}
        quotas.check(_MOST[noun], len(held) + 1)
        tx.connection.execute(insert(attached_policies).values(holder_id=holder, policy_arn=arn, attached_at=tx.now))
        tx.changes.identity = True
        return {}

    return run


def detach(noun: Noun) -> Run:
    def run(tx: Transaction, account: str, parameters: Parameters) -> dict[str, Any]:
        holder = names.need_holder_id(tx, account, noun, parameters)
        arn = parameters["PolicyArn"]
        mine = (attached_policies.c.holder_id == holder) & (attached_policies.c.policy_arn == arn)
        if not tx.connection.execute(delete(attached_policies).where(mine)).rowcount:
            raise Failure(Code.NO_SUCH_ENTITY, f"Policy {arn} was not found.")
        tx.changes.identity = True
        return {}

    return run


def list_attached(noun: Noun) -> Run:
    """ListAttached…Policies, by name. `PathPrefix` filters the policies' paths."""

    def run(tx: Transaction, account: str, parameters: Parameters) -> dict[str, Any]:
        holder = names.need_holder_id(tx, account, noun, parameters)
        prefix = parameters.get("PathPrefix") or "/"
        found = attached_to(tx, [holder], prefix).get(holder, [])
        asked = paging.read_paging(parameters, f"ListAttached{noun.word}Policies", account, holder, prefix)
        # Few enough to number: names are not unique, and an ARN is too long for a Marker.
        numbered = [(f"{place:03}", policy) for place, policy in enumerate(found, 1)]
        page, more = asked.page_of_all(numbered, lambda at: at[0])
        return {"AttachedPolicies": [policy for _, policy in page], **more}

    return run


def list_entities_for_policy(tx: Transaction, account: str, parameters: Parameters) -> dict[str, Any]:
    """Groups, roles, then users, each by name, with the policy attached or as their boundary."""
    arn, prefix = parameters["PolicyArn"], parameters.get("PathPrefix") or "/"
    kind, use = parameters.get("EntityFilter") or "", parameters.get("PolicyUsageFilter") or ""
    if arn not in AWS_MANAGED:
        need(tx, account, arn)
    asked = paging.read_paging(parameters, "ListEntitiesForPolicy", account, arn, prefix, kind, use)
    found: list[tuple[str, FoundRow]] = []
    if kind in ("", "Group") and use != BOUNDARY and asked.after < "group0":  # "0" follows "/"
        rows = tx.connection.execute(_groups(account, arn, prefix, asked.after.partition("/")[2]).limit(asked.limit))
        found += [(f"group/{row.name_key}", row) for row in rows]
    if kind in ("", "Role", "User"):
        wanted = (kind.lower(),) if kind else ("role", "user")
        rows = tx.connection.execute(_principals(account, arn, prefix, use, asked.after, wanted).limit(asked.limit))
        found += [(row.name_key, row) for row in rows]
    page, more = asked.page(found[: asked.limit], lambda each: each[0])
    shown: dict[str, list[dict[str, str]]] = {"PolicyGroups": [], "PolicyUsers": [], "PolicyRoles": []}
    for key, row in page:
        word = key.partition("/")[0].capitalize()
        shown[f"Policy{word}s"].append({f"{word}Name": row.name, f"{word}Id": row.entity_id})
    return {**shown, **more}


def attached_to(tx: Transaction, holders: Sequence[str], prefix: str = "/") -> dict[str, list[dict[str, str]]]:
    """PolicyName and PolicyArn of the attached policies, in order, by holder that has any."""
    if not holders:
        return {}
    pairs = tx.connection.execute(
        select(attached_policies.c.holder_id, attached_policies.c.policy_arn).where(
            attached_policies.c.holder_id.in_(holders)
        )
    ).all()
    arns = {pair.policy_arn for pair in pairs}
    known = {arn: (AWS_MANAGED[arn].name, AWS_MANAGED[arn].path) for arn in arns & AWS_MANAGED.keys()}
    own = arns - AWS_MANAGED.keys()
    if own:
        rows = select(policies.c.arn, policies.c.name, policies.c.path).where(policies.c.arn.in_(own))
        known.update({row.arn: (row.name, row.path) for row in tx.connection.execute(rows)})
    found: dict[str, list[dict[str, str]]] = {}
    for pair in pairs:
        name, path = known.get(pair.policy_arn, ("", ""))
        if path.startswith(prefix):
            found.setdefault(pair.holder_id, []).append({"PolicyName": name, "PolicyArn": pair.policy_arn})
    for list_attached in found.values():
        list_attached.sort(key=lambda policy: (policy["PolicyName"], policy["PolicyArn"]))
    return found


def _held(tx: Transaction, holder: str) -> set[str]:
    mine = select(attached_policies.c.policy_arn).where(attached_policies.c.holder_id == holder)
    return set(tx.connection.execute(mine).scalars())


def _groups(account: str, arn: str, prefix: str, last: str) -> Select[Any]:
    attached = exists().where(attached_policies.c.holder_id == groups.c.group_id, attached_policies.c.policy_arn == arn)
    return (
        select(groups.c.name_key, groups.c.name, groups.c.group_id.label("entity_id"))
        .where(groups.c.account == account, groups.c.name_key > last, attached)
        .where(names.under(groups.c.path, prefix))
        .order_by(groups.c.name_key)
    )


def _principals(account: str, arn: str, prefix: str, use: str, last: str, kinds: Sequence[str]) -> Select[Any]:
    attached = exists().where(
        attached_policies.c.holder_id == principals.c.principal_id, attached_policies.c.policy_arn == arn
    )
    bounded = principals.c.boundary_arn == arn
    used = {PERMISSIONS: attached, BOUNDARY: bounded}.get(use, or_(attached, bounded))
    return (
        select(principals.c.name_key, principals.c.name, principals.c.principal_id.label("entity_id"))
        .where(principals.c.account == account, principals.c.name_key > last, principals.c.kind.in_(kinds), used)
        .where(names.under(principals.c.path, prefix))
        .order_by(principals.c.name_key)
    )
