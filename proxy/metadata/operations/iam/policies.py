"""Managed policies: the account's own, and AWS's, which are read-only.

AWS's are the same in every account and cannot be changed. The default version decides what a policy allows
(`versions`); `attachments` has the entities that it is attached to. Source: IAM API Reference; texts as IAM answers
them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, delete, exists, func, insert, select, update

from proxy.auth.managed import AWS_MANAGED, ManagedPolicy
from proxy.metadata.db.identity_tables import attached_policies, groups, policies, policy_versions, principals
from proxy.metadata.db.transaction import FoundRow, Transaction
from proxy.metadata.operations.iam import names, paging, quotas, tags
from proxy.metadata.operations.iam.documents import check_managed_policy
from proxy.metadata.operations.iam.names import Parameters
from proxy.metadata.operations.identity import unique_id
from proxy.model.errors import Code, Failure

PERMISSIONS, BOUNDARY = "PermissionsPolicy", "PermissionsBoundary"  # PolicyUsageFilter


def create_policy(tx: Transaction, account: str, parameters: Parameters) -> dict[str, Any]:
    name, path = parameters["PolicyName"], parameters.get("Path") or "/"
    document = check_managed_policy(parameters["PolicyDocument"])
    given = tags.requested(parameters, quotas.TAGS_PER_POLICY)
    mine = policies.c.account == account
    if tx.connection.execute(select(policies.c.arn).where(mine, policies.c.name_key == name.lower())).first():
        raise Failure(
            Code.ENTITY_ALREADY_EXISTS, f"A policy called {name} already exists. Duplicate names are not allowed."
        )
    held = tx.connection.execute(select(func.count()).select_from(policies).where(mine)).scalar_one()
    quotas.check(quotas.POLICIES, held + 1)
    made = unique_id(names.POLICY.id_prefix)
    tx.connection.execute(
        insert(policies).values(
            policy_id=made,
            account=account,
            arn=names.arn(account, names.POLICY, path, name),
            path=path,
            name=name,
            name_key=name.lower(),
            description=parameters.get("Description"),
            tags=tags.encode(given),
            default_version=1,
            last_version=1,
            created_at=tx.now,
            updated_at=tx.now,
        )
    )
    tx.connection.execute(
        insert(policy_versions).values(policy_id=made, version=1, document=document, created_at=tx.now)
    )
    tx.changes.identity = True  # a session policy may name its ARN already
    row = tx.connection.execute(select(policies).where(policies.c.policy_id == made)).one()
    shown = _of_row(row, Usage())
    return {"Policy": {**shown, "Tags": tags.render(row.tags)} if given else shown}


def get_policy(tx: Transaction, account: str, parameters: Parameters) -> dict[str, Any]:
    arn = parameters["PolicyArn"]
    usage = usages(tx, account, [arn])[arn]
    managed = AWS_MANAGED.get(arn)
    if managed is not None:
        return {"Policy": {**_of_aws(managed, usage), "Description": managed.description, "Tags": []}}
    row = need(tx, account, arn)
    described = {} if row.description is None else {"Description": row.description}
    return {"Policy": {**_of_row(row, usage), **described, "Tags": tags.render(row.tags)}}


def delete_policy(tx: Transaction, account: str, parameters: Parameters) -> dict[str, Any]:
    arn = parameters["PolicyArn"]
    row = need_own(tx, account, arn)
    usage = usages(tx, account, [arn])[arn]
    if usage.attachments or usage.boundaries:
        raise Failure(Code.DELETE_CONFLICT, "Cannot delete a policy attached to entities.")
    versions = policy_versions.c.policy_id == row.policy_id
    if tx.connection.execute(select(func.count()).select_from(policy_versions).where(versions)).scalar_one() > 1:
        raise Failure(
            Code.DELETE_CONFLICT,
            "This policy has more than one version. Before you delete a policy, you must delete the policy's versions. "
            "The default version is deleted with the policy.",
        )
    tx.connection.execute(delete(policy_versions).where(versions))
    tx.connection.execute(delete(policies).where(policies.c.policy_id == row.policy_id))
    tx.changes.identity = True
    return {}


def list_policies(tx: Transaction, account: str, parameters: Parameters) -> dict[str, Any]:
    """AWS's first, then the account's, each by name. Only GetPolicy returns descriptions and tags, as at AWS."""
    scope, prefix = parameters.get("Scope") or "All", parameters.get("PathPrefix") or "/"
    use = parameters.get("PolicyUsageFilter") or ""
    attached = bool(parameters.get("OnlyAttached"))
    asked = paging.read_paging(parameters, "ListPolicies", account, scope, prefix, use, str(attached))
    found: list[tuple[str, dict[str, Any]]] = []
    if scope != "Local":
        usage = usages(tx, account, AWS_MANAGED)
        found += [
            (f"aws/{managed.name.lower()}", _of_aws(managed, usage[managed.arn]))
            for managed in AWS_MANAGED.values()
            if managed.path.startswith(prefix) and usage[managed.arn].counts(use, attached)
        ]
        found = [each for each in found if each[0] > asked.after][: asked.limit]
    if scope != "AWS" and len(found) < asked.limit:
        last = asked.after[len("own/") :] if asked.after.startswith("own/") else ""
        rows = tx.connection.execute(
            select(policies)
            .where(policies.c.account == account, policies.c.name_key > last, *_narrowed(prefix, use, attached))
            .order_by(policies.c.name_key)
            .limit(asked.limit - len(found))
        ).all()
        usage = usages(tx, account, [row.arn for row in rows])
        found += [(f"own/{row.name_key}", _of_row(row, usage[row.arn])) for row in rows]
    shown, more = asked.page(found, lambda each: each[0])
    return {"Policies": [each for _, each in shown], **more}


def tag_policy(tx: Transaction, account: str, parameters: Parameters) -> dict[str, Any]:
    row = need_own(tx, account, parameters["PolicyArn"])
    _write_tags(tx, row, tags.add(row.tags, parameters, quotas.TAGS_PER_POLICY))
    return {}


def untag_policy(tx: Transaction, account: str, parameters: Parameters) -> dict[str, Any]:
    row = need_own(tx, account, parameters["PolicyArn"])
    _write_tags(tx, row, tags.remove(row.tags, parameters["TagKeys"]))
    return {}


def list_policy_tags(tx: Transaction, account: str, parameters: Parameters) -> dict[str, Any]:
    arn = parameters["PolicyArn"]
    held = None if arn in AWS_MANAGED else need(tx, account, arn).tags
    return tags.page(held, paging.read_paging(parameters, "ListPolicyTags", account, arn))


# ---- what the neighbours ask of policies ----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Usage:
    """How many entities of one account have the policy attached, and how many as their boundary."""

    attachments: int = 0
    boundaries: int = 0

    def counts(self, use: str, attached: bool) -> bool:
        """Whether ListPolicies includes it with this PolicyUsageFilter (empty: any) and OnlyAttached."""
        wanted = {PERMISSIONS: self.attachments, BOUNDARY: self.boundaries}.get(use)
        if wanted is None:
            return not attached or self.attachments > 0
        return wanted > 0


def usages(tx: Transaction, account: str, arns: Iterable[str]) -> Mapping[str, Usage]:
    """The usage of each of `arns`, by ARN."""
    wanted = list(arns)
    if not wanted:
        return {}
    held: Counter[str] = Counter()
    for table, key in ((principals, principals.c.principal_id), (groups, groups.c.group_id)):
        held.update(
            tx.connection.execute(
                select(attached_policies.c.policy_arn)
                .join(table, key == attached_policies.c.holder_id)
                .where(attached_policies.c.policy_arn.in_(wanted), table.c.account == account)
            ).scalars()
        )
    bounded: Counter[str] = Counter(
        tx.connection.execute(
            select(principals.c.boundary_arn).where(
                principals.c.boundary_arn.in_(wanted), principals.c.account == account
            )
        ).scalars()
    )
    return {arn: Usage(held[arn], bounded[arn]) for arn in wanted}


def find(tx: Transaction, account: str, arn: str) -> FoundRow | None:
    """The account's own policy of that ARN."""
    return tx.connection.execute(
        select(policies).where(policies.c.arn == arn, policies.c.account == account)
    ).one_or_none()


def need(tx: Transaction, account: str, arn: str) -> FoundRow:
    row = find(tx, account, arn)
    if row is None:
        raise Failure(Code.NO_SUCH_ENTITY, f"Policy {arn} was not found.")
    return row


def need_own(tx: Transaction, account: str, arn: str) -> FoundRow:
    """`need` for a policy that is to be changed; fails for AWS's policies."""
    if arn in AWS_MANAGED:
        raise Failure(Code.ACCESS_DENIED, "Policy is outside your own account.")
    return need(tx, account, arn)


def need_attachable(tx: Transaction, account: str, arn: str) -> str:
    """The name of a policy that may be attached, or be a boundary."""
    managed = AWS_MANAGED.get(arn)
    row = None if managed is not None else find(tx, account, arn)
    if managed is None and row is None:
        raise Failure(Code.NO_SUCH_ENTITY, f"Policy {arn} does not exist or is not attachable.")
    name: str = row.name if row is not None else managed.name if managed is not None else ""
    return name


def render_with_versions(
    tx: Transaction, account: str, rows: Sequence[FoundRow | ManagedPolicy]
) -> list[dict[str, Any]]:
    """Policies for GetAccountAuthorizationDetails: with all versions, the newest first."""
    usage = usages(tx, account, [each.arn for each in rows])
    own = [each.policy_id for each in rows if not isinstance(each, ManagedPolicy)]
    versions: dict[str, list[FoundRow]] = {}
    if own:
        for version in tx.connection.execute(select(policy_versions).where(policy_versions.c.policy_id.in_(own))):
            versions.setdefault(version.policy_id, []).append(version)
    found = []
    for each in rows:
        if isinstance(each, ManagedPolicy):
            shown = {**_of_aws(each, usage[each.arn]), "Description": each.description}
            listed = [render_version(each.version, each.version, each.updated, each.document)]
        else:
            described = {} if each.description is None else {"Description": each.description}
            shown = {**_of_row(each, usage[each.arn]), **described}
            of_it = sorted(versions[each.policy_id], key=lambda version: -version.version)
            listed = [render_version(v.version, each.default_version, v.created_at, v.document) for v in of_it]
        found.append({**shown, "PolicyVersionList": listed})
    return found


def render_version(number: int, default: int, created: float, document: str | None = None) -> dict[str, Any]:
    """A PolicyVersion, with its document if given."""
    shown: dict[str, Any] = {} if document is None else {"Document": names.encode_document(document)}
    return {**shown, "VersionId": f"v{number}", "IsDefaultVersion": number == default, "CreateDate": created}


# ---- the rest is this module's own ----------------------------------------------------------------------------------


def _of_row(row: FoundRow, usage: Usage) -> dict[str, Any]:
    return _shown(
        row.name, row.policy_id, row.arn, row.path, row.default_version, row.created_at, row.updated_at, usage
    )


def _of_aws(managed: ManagedPolicy, usage: Usage) -> dict[str, Any]:
    return _shown(
        managed.name,
        managed.policy_id,
        managed.arn,
        managed.path,
        managed.version,
        managed.created,
        managed.updated,
        usage,
    )


def _shown(
    name: str, policy_id: str, arn: str, path: str, version: int, created: float, updated: float, usage: Usage
) -> dict[str, Any]:
    return {
        "PolicyName": name,
        "PolicyId": policy_id,
        "Arn": arn,
        "Path": path,
        "DefaultVersionId": f"v{version}",
        "AttachmentCount": usage.attachments,
        "PermissionsBoundaryUsageCount": usage.boundaries,
        "IsAttachable": True,
        "CreateDate": created,
        "UpdateDate": updated,
    }


def _narrowed(prefix: str, use: str, attached: bool) -> list[ColumnElement[bool]]:
    """The filters of ListPolicies as conditions. The account's own policies are only attached within the account."""
    narrowed: list[ColumnElement[bool]] = []
    if prefix != "/":
        narrowed.append(names.under(policies.c.path, prefix))
    if use == BOUNDARY:
        narrowed.append(exists().where(principals.c.boundary_arn == policies.c.arn))
    elif attached or use == PERMISSIONS:
        narrowed.append(exists().where(attached_policies.c.policy_arn == policies.c.arn))
    return narrowed


def _write_tags(tx: Transaction, row: FoundRow, text: str | None) -> None:
    tx.connection.execute(update(policies).where(policies.c.policy_id == row.policy_id).values(tags=text))
