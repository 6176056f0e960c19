"""What a decision about an IAM entity needs: its full ARN, tags and boundary.

Called by `ecr.iam` before every call that names an entity.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from sqlalchemy import select

from proxy.metadata.contract import IdentityPort
from proxy.metadata.db.identity_tables import access_keys, groups, oidc_providers, policies, principals
from proxy.metadata.db.transaction import FoundRow, Transaction
from proxy.metadata.operations.iam import names
from proxy.metadata.operations.identity import read_tags
from proxy.metadata.operations.operation import operation
from proxy.model.identity import IamResource, PrincipalKind


@operation(IdentityPort)
def iam_resource(tx: Transaction, account: str, kind: str, name: str) -> IamResource | None:
    """The entity `name`: a name in any case for a user, role or group; an ARN for a policy, an oidc-provider and a
    source (a user, role or group); an access key id for its user. None: not in this account."""
    find = _KINDS.get(kind)
    return None if find is None else find(tx, account, name)


def _named(noun: names.Noun) -> Callable[[Transaction, str, str], IamResource | None]:
    def find(tx: Transaction, account: str, name: str) -> IamResource | None:
        return _described(names.find(tx, account, noun, name))

    return find


def _holder_of_key(tx: Transaction, account: str, access_key_id: str) -> IamResource | None:
    holder = select(access_keys.c.principal_id).where(access_keys.c.access_key_id == access_key_id)
    found = tx.connection.execute(holder).scalar()
    return None if found is None else _principal(tx, account, found)


def _principal(tx: Transaction, account: str, principal_id: str) -> IamResource | None:
    mine = select(principals).where(principals.c.principal_id == principal_id, principals.c.account == account)
    return _described(tx.connection.execute(mine).one_or_none())


def _policy(tx: Transaction, account: str, arn: str) -> IamResource | None:
    row = tx.connection.execute(select(policies).where(policies.c.arn == arn, policies.c.account == account))
    return _described(row.one_or_none())


def _provider(tx: Transaction, account: str, arn: str) -> IamResource | None:
    mine = select(oidc_providers).where(oidc_providers.c.arn == arn, oidc_providers.c.account == account)
    return _described(tx.connection.execute(mine).one_or_none())


def source_row(tx: Transaction, account: str, arn: str) -> FoundRow | None:
    """The row of the user, role or group that an ARN names, whatever its path."""
    mine = select(principals).where(
        principals.c.account == account, principals.c.arn == arn, principals.c.kind != PrincipalKind.ROOT
    )
    row = tx.connection.execute(mine).one_or_none()
    if row is None:
        name = arn.rpartition("/")[2]
        key = (groups.c.account == account) & (groups.c.name_key == name.lower())
        row = tx.connection.execute(select(groups).where(key, groups.c.arn == arn)).one_or_none()
    return row


def _source(tx: Transaction, account: str, arn: str) -> IamResource | None:
    return _described(source_row(tx, account, arn))


def _described(row: FoundRow | None) -> IamResource | None:
    if row is None:
        return None
    held = row._mapping
    tags = read_tags(held.get("tags"))
    return IamResource(held["arn"], tags, held.get("boundary_arn") or "")


_KINDS: Mapping[str, Callable[[Transaction, str, str], IamResource | None]] = {
    "user": _named(names.USER),
    "role": _named(names.ROLE),
    "group": _named(names.GROUP),
    "policy": _policy,
    "oidc-provider": _provider,
    "access-key": _holder_of_key,
    "source": _source,
}
