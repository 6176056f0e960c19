"""Principals, access keys and policies, as the access decision of each request reads them.

Answers are whole records with the policies' texts, so that a decision costs one look-up each of caller, repository and
registry, and none while they are cached. `iam` creates users, groups, roles and policies.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Sequence
from operator import attrgetter

from sqlalchemy import exists, select

from proxy.auth.managed import AWS_MANAGED
from proxy.metadata.contract import IdentityPort
from proxy.metadata.db.identity_tables import (
    access_keys,
    accounts,
    attached_policies,
    group_members,
    groups,
    inline_policies,
    oidc_providers,
    policies,
    policy_versions,
    principals,
)
from proxy.metadata.db.schema import repositories, repository_tags
from proxy.metadata.db.transaction import FoundRow, Transaction
from proxy.metadata.operations.operation import Caching, Scope, operation
from proxy.model.identity import (
    AccessKey,
    AttachedPolicy,
    BoundPolicy,
    OidcProvider,
    PolicyScope,
    Principal,
    PrincipalKind,
    RegistryAccess,
    RepositoryAccess,
    Role,
    Tags,
)

_ID_ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"  # as in AWS's own unique ids


@operation(IdentityPort, caching=Caching(Scope.IDENTITY, shares_policies=True))
def access_key(tx: Transaction, access_key_id: str) -> AccessKey | None:
    """None for a key that is unknown or inactive, or whose account is closed. The caller, which caches this answer,
    must check the key's age."""
    row = tx.connection.execute(
        select(access_keys.c.sealed_secret, access_keys.c.principal_id, access_keys.c.created_at).where(
            access_keys.c.access_key_id == access_key_id, access_keys.c.active
        )
    ).one_or_none()
    held = None if row is None else principal(tx, row.principal_id)
    if row is None or held is None:
        return None
    expires = tx.registry.key_expires(access_key_id, row.created_at)
    return AccessKey(access_key_id, row.sealed_secret, held, expires)


@operation(IdentityPort, caching=Caching(Scope.IDENTITY, shares_policies=True))
def principal(tx: Transaction, principal_id: str) -> Principal | None:
    """None for a principal that is unknown or disabled, or whose account is closed."""
    row = tx.connection.execute(
        select(principals)
        .join(accounts, accounts.c.account == principals.c.account)
        .where(principals.c.principal_id == principal_id, principals.c.enabled, accounts.c.closed_at.is_(None))
    ).one_or_none()
    return None if row is None else principal_of(tx, row)


def principal_of(tx: Transaction, row: FoundRow) -> Principal:
    """The principal of a row of `principals`, with its policies, groups and boundary."""
    found = held_policies(tx, row.principal_id, row.arn)
    memberships = tx.connection.execute(
        select(groups.c.group_id, groups.c.arn)
        .join(group_members, group_members.c.group_id == groups.c.group_id)
        .where(group_members.c.principal_id == row.principal_id)
    ).all()
    for group in sorted(memberships, key=lambda group: str(group.arn)):
        found += held_policies(tx, group.group_id, group.arn)
    boundary = policy_documents(tx, row.account, [row.boundary_arn]) if row.boundary_arn else ()
    if row.boundary_arn and not boundary:
        # A deleted boundary is not "no boundary": nothing is allowed.
        boundary = (AttachedPolicy('{"Version":"2012-10-17","Statement":[]}', arn=row.boundary_arn),)
    return Principal(
        row.principal_id,
        row.account,
        row.arn,
        row.name,
        PrincipalKind(row.kind),
        read_tags(row.tags),
        tuple(found),
        boundary[0] if boundary else None,
        read_revoked(row.revoked),
    )


@operation(IdentityPort, caching=Caching(Scope.IDENTITY))
def policy_documents(tx: Transaction, account: str, arns: Sequence[str]) -> Sequence[AttachedPolicy]:
    """The default versions of managed policies, AWS's and the account's own; unknown ones are left out."""
    found = {}
    own = [arn for arn in arns if arn not in AWS_MANAGED]
    if own:
        rows = tx.connection.execute(
            select(policies.c.arn, policies.c.name, policy_versions.c.document)
            .join(
                policy_versions,
                (policy_versions.c.policy_id == policies.c.policy_id)
                & (policy_versions.c.version == policies.c.default_version),
            )
            .where(policies.c.account == account, policies.c.arn.in_(own))
        )
        found = {row.arn: AttachedPolicy(row.document, row.name, row.arn) for row in rows}
    for arn in arns:
        if arn in AWS_MANAGED:
            found[arn] = AttachedPolicy(AWS_MANAGED[arn].document, AWS_MANAGED[arn].name, arn)
    return tuple(found[arn] for arn in dict.fromkeys(arns) if arn in found)


@operation(IdentityPort, caching=Caching(Scope.REPOSITORY, attrgetter("exists")))
def repository_access(tx: Transaction, account: str, repository: str) -> RepositoryAccess:
    """The repositories of a closed account do not exist."""
    return repositories_access(tx, account, [repository])[0]


@operation(IdentityPort, caching=Caching(Scope.REPOSITORY, each="repository_access"))
def repositories_access(tx: Transaction, account: str, names: Sequence[str]) -> Sequence[RepositoryAccess]:
    """The same for at most a hundred, in the order of `names`."""
    rows = tx.connection.execute(
        select(
            repositories.c.repository_id,
            repositories.c.name,
            repositories.c.policy,
            repositories.c.policy_principals,
            repositories.c.encryption,
        ).where(
            repositories.c.account == account,
            repositories.c.name.in_(names),
            ~exists().where(accounts.c.account == account, accounts.c.closed_at.is_not(None)),
        )
    ).all()
    tags: dict[int, list[tuple[str, str]]] = {row.repository_id: [] for row in rows}
    if tags:
        found = tx.connection.execute(
            select(repository_tags)
            .where(repository_tags.c.repository_id.in_(tags))
            .order_by(repository_tags.c.repository_id, repository_tags.c.key)
        )
        for tag in found:
            tags[tag.repository_id].append((tag.key, tag.value))
    there = {
        row.name: RepositoryAccess(
            account,
            row.name,
            True,
            bound_policy(tx, row.policy, row.policy_principals),
            tuple(tags[row.repository_id]),
            row.encryption,
        )
        for row in rows
    }
    return tuple(there.get(name) or RepositoryAccess(account, name, exists=False) for name in names)


@operation(IdentityPort, caching=Caching(Scope.REGISTRY, attrgetter("exists")))
def registry_access(tx: Transaction, account: str) -> RegistryAccess:
    row = tx.connection.execute(
        select(accounts).where(accounts.c.account == account, accounts.c.closed_at.is_(None))
    ).one_or_none()
    if row is None:
        return RegistryAccess(account, exists=False)
    return RegistryAccess(
        account,
        True,
        bound_policy(tx, row.registry_policy, row.registry_policy_principals),
        PolicyScope(row.policy_scope),
        row.blob_mounting == "ENABLED",
    )


@operation(IdentityPort, caching=Caching(Scope.IDENTITY))
def role(tx: Transaction, account: str, name: str) -> Role | None:
    """The role with this name, in any case; None if there is none."""
    row = tx.connection.execute(
        select(principals)
        .join(accounts, accounts.c.account == principals.c.account)
        .where(
            principals.c.account == account,
            principals.c.name_key == f"role/{name.lower()}",
            principals.c.enabled,
            accounts.c.closed_at.is_(None),
        )
    ).one_or_none()
    if row is None:
        return None
    trust = bound_policy(tx, row.trust_policy, row.trust_policy_principals)
    if trust is None:
        return None
    return Role(principal_of(tx, row), trust, row.max_session_seconds or 3600)


@operation(IdentityPort)
def oidc_provider(tx: Transaction, account: str, url: str) -> OidcProvider | None:
    row = tx.connection.execute(
        select(oidc_providers)
        .join(accounts, accounts.c.account == oidc_providers.c.account)
        .where(oidc_providers.c.account == account, oidc_providers.c.url == url, accounts.c.closed_at.is_(None))
    ).one_or_none()
    if row is None:
        return None
    return OidcProvider(row.arn, account, url, tuple(json.loads(row.client_ids)), tuple(json.loads(row.thumbprints)))


def bound_policy(tx: Transaction, text: str | None, principals_of_it: str | None) -> BoundPolicy | None:
    """A stored policy with the ids of its principals; the id of a deleted one becomes empty."""
    if text is None:
        return None
    saved: list[tuple[str, str]] = [(arn, found) for arn, found in json.loads(principals_of_it or "[]")]
    if saved:
        ids = [found for _, found in saved]
        there = set(
            tx.connection.execute(select(principals.c.principal_id).where(principals.c.principal_id.in_(ids))).scalars()
        )
        saved = [(arn, found if found in there else "") for arn, found in saved]
    return BoundPolicy(text, tuple(saved))


def read_tags(text: str | None) -> Tags:
    return tuple((key, value) for key, value in json.loads(text)) if text else ()


def read_revoked(text: str | None) -> tuple[tuple[str, float], ...]:
    """`Principal.revoked` from the value of its column."""
    return tuple((name, until) for name, until in json.loads(text)) if text else ()


def unique_id(prefix: str) -> str:
    """AIDA… for users, AROA… roles, AGPA… groups, ANPA… policies, as AWS makes them."""
    return prefix + "".join(secrets.choice(_ID_ALPHABET) for _ in range(17))


def held_policies(tx: Transaction, holder_id: str, holder_arn: str) -> list[AttachedPolicy]:
    """The policies of one user, role or group: inline first, then managed, each by name."""
    inline = tx.connection.execute(
        select(inline_policies.c.name, inline_policies.c.document)
        .where(inline_policies.c.holder_id == holder_id)
        .order_by(inline_policies.c.name)
    ).all()
    found = [AttachedPolicy(row.document, row.name, holder=holder_arn) for row in inline]
    arns = tx.connection.execute(
        select(attached_policies.c.policy_arn)
        .where(attached_policies.c.holder_id == holder_id)
        .order_by(attached_policies.c.policy_arn)
    ).scalars()
    account = holder_arn.split(":")[4]
    for each in policy_documents(tx, account, list(arns)):
        found.append(AttachedPolicy(each.text, each.name, each.arn, holder_arn))
    return found
