"""Byte counters of repositories and accounts, updated in the transaction that changes the bytes, and their quotas.

    repositories.bytes            its layers (each once), its manifests, and what its open uploads have recorded
    repositories.manifest_bytes   the part of its manifests
    accounts.bytes                its stored layers (each once, however many repositories link it), its repositories'
                                  manifests, and what its open uploads have recorded

A layer counts from its first recorded byte. The commit of its upload changes nothing if the layer is new; otherwise it
subtracts the upload's bytes. A layer counts until the sweep has removed it: its link for a repository, its blob for an
account. Bytes are counted as clients send them, before sealing. `counts` compares the counters with the rows. Called by
`uploads`, `pushes`, `blobs`, `manifests` and `upkeep`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from typing import TypeVar

from sqlalchemy import ColumnElement, Update, bindparam, func, select, update

from proxy.metadata.db.identity_tables import accounts
from proxy.metadata.db.schema import UPLOAD_COMMITTED, UPLOAD_OPEN, repositories, uploads
from proxy.metadata.db.transaction import FoundRow, Transaction
from proxy.model.errors import Code, Failure
from proxy.model.errors import upload_not_found as not_found
from proxy.model.mirror import PULL_THROUGH
from proxy.model.quotas import bytes_exceeded
from proxy.model.records import Upload

FETCHES_OPEN = 10_000
"""Upload sessions of `PULL_THROUGH` at once, of all accounts: what nodes that died have left is among them until the
sweep takes it."""

_UNLIMITED = 2**62
Holder = TypeVar("Holder", int, str)

# Run at every append. Built once, because building a statement costs as much as running it.
_ADD_BY_NAME = (
    update(repositories)
    .where(
        repositories.c.account == bindparam("of_account"),
        repositories.c.name == bindparam("of_name"),
        repositories.c.bytes <= bindparam("most"),
    )
    .values(bytes=repositories.c.bytes + bindparam("more"))
)
_ADD_BY_ID = (
    update(repositories)
    .where(repositories.c.repository_id == bindparam("id"), repositories.c.bytes <= bindparam("most"))
    .values(
        bytes=repositories.c.bytes + bindparam("more"),
        manifest_bytes=repositories.c.manifest_bytes + bindparam("manifests"),
    )
)
_ADD_TO_ACCOUNT = (
    update(accounts)
    .where(accounts.c.account == bindparam("of_account"), accounts.c.bytes <= bindparam("most"))
    .values(bytes=accounts.c.bytes + bindparam("more"))
)
_HELD = (
    select(repositories.c.bytes, accounts.c.bytes)
    .join(accounts, accounts.c.account == repositories.c.account)
    .where(repositories.c.account == bindparam("account"), repositories.c.name == bindparam("name"))
)
_OPENED = (
    select(uploads.c.upload_id)
    .where(uploads.c.opened_by == bindparam("principal"), uploads.c.state == UPLOAD_OPEN)
    .limit(bindparam("most"))
)
OPEN_UPLOADS = select(func.count()).select_from(_OPENED.subquery("limited")).scalar_subquery()
"""How many uploads a principal has open, counted up to the limit; `of_principal` has its parameters."""


def of_principal(tx: Transaction, principal: str) -> dict[str, object]:
    return {"principal": principal, "most": _most_open(tx, principal) if principal else 0}


def _most_open(tx: Transaction, principal: str) -> int:
    """Fetches of layers are one principal for all accounts: a limit meant for a person would end them all at once."""
    return FETCHES_OPEN if principal == PULL_THROUGH else tx.registry.quotas.open_uploads


def require_open_upload(tx: Transaction, principal: str, open_uploads: int) -> None:
    """LimitExceeded if the principal has as many upload sessions open as it may have."""
    most = _most_open(tx, principal)
    if principal and open_uploads >= most:
        raise Failure(
            Code.LIMIT_EXCEEDED,
            f"This principal has the maximum allowed number of open uploads which is '{most}'",
            hint="finish or cancel some; those that are left untouched end after [uploads] idle_hours",
        )


def is_young(tx: Transaction) -> ColumnElement[bool]:
    """Condition: the upload session is not too old to continue."""
    young: ColumnElement[bool] = uploads.c.created_at > tx.now - tx.registry.quotas.upload_seconds
    return young


def with_bytes_left(tx: Transaction, row: FoundRow, leased: Upload) -> Upload:
    """A leased session with `bytes_left` under the quotas. UploadNotFound for one that has been open for too long, and
    that the sweep removes."""
    quotas = tx.registry.quotas
    if row.state == UPLOAD_COMMITTED:
        return leased
    if row.created_at <= tx.now - quotas.upload_seconds:
        raise not_found(row.upload_id, row.repository, row.account)
    if not (quotas.repository_bytes or quotas.account_bytes):
        return leased
    held = tx.connection.execute(_HELD, {"account": row.account, "name": row.repository}).one()
    limits = zip((quotas.repository_bytes, quotas.account_bytes), held, strict=True)
    return replace(leased, bytes_left=max(0, min(quota - used for quota, used in limits if quota)))


def count_append(tx: Transaction, account: str, repository: str, length: int) -> None:
    """LimitExceeded."""
    if length:
        quota = tx.registry.quotas.repository_bytes
        _add(tx, _ADD_BY_NAME, {"of_account": account, "of_name": repository}, length, quota, repository, account)
        _add_to_account(tx, account, length)


def uncount_upload(tx: Transaction, row: FoundRow, *, linked: bool = False) -> None:
    """Subtract an open session's bytes; `linked`: only from the account, as the repository now links the layer."""
    if not linked:
        _take_off(tx, _ADD_BY_NAME, {"of_account": row.account, "of_name": row.repository}, row.plain_size)
    _take_off(tx, _ADD_TO_ACCOUNT, {"of_account": row.account}, row.plain_size)


def count_link(tx: Transaction, account: str, repository: str, repository_id: int, size: int) -> None:
    """Count a layer that the account has and the repository now links. LimitExceeded."""
    quota = tx.registry.quotas.repository_bytes
    _add(tx, _ADD_BY_ID, {"id": repository_id, "manifests": 0}, size, quota, repository, account)


def count_manifest(tx: Transaction, account: str, repository: str, repository_id: int, size: int) -> None:
    """LimitExceeded."""
    quota = tx.registry.quotas.repository_bytes
    _add(tx, _ADD_BY_ID, {"id": repository_id, "manifests": size}, size, quota, repository, account)
    _add_to_account(tx, account, size)


def uncount_manifest(tx: Transaction, repository_id: int, size: int) -> None:
    of_account = select(repositories.c.account).where(repositories.c.repository_id == repository_id)
    holder = accounts.c.account == of_account.scalar_subquery()
    tx.connection.execute(update(accounts).where(holder).values(bytes=accounts.c.bytes - size))
    _take_off(tx, _ADD_BY_ID, {"id": repository_id, "manifests": -size}, size)


def uncount_links(tx: Transaction, removed: Iterable[tuple[int, int]]) -> None:
    """(repository id, size) of each link that was removed."""
    for repository_id, size in _summed(removed):
        _take_off(tx, _ADD_BY_ID, {"id": repository_id, "manifests": 0}, size)


def uncount_blobs(tx: Transaction, removed: Iterable[tuple[str, int]]) -> None:
    """(account, size) of each blob that was removed."""
    for account, size in _summed(removed):
        _take_off(tx, _ADD_TO_ACCOUNT, {"of_account": account}, size)


def uncount_repository(tx: Transaction, account: str, repository_id: int, open_bytes: int) -> None:
    """Subtract a deleted repository's manifests and open uploads; its layers count for the account until swept."""
    manifests = select(repositories.c.manifest_bytes).where(repositories.c.repository_id == repository_id)
    _take_off(tx, _ADD_TO_ACCOUNT, {"of_account": account}, tx.connection.execute(manifests).scalar_one() + open_bytes)


def _add_to_account(tx: Transaction, account: str, length: int) -> None:
    _add(tx, _ADD_TO_ACCOUNT, {"of_account": account}, length, tx.registry.quotas.account_bytes, "", account)


def _add(
    tx: Transaction, adding: Update, where: dict[str, object], more: int, quota: int, repository: str, account: str
) -> None:
    """`quota` 0: none. The statement that changes the counter also compares it."""
    if not quota:
        return tx.send(adding, where | {"more": more, "most": _UNLIMITED})
    if not tx.connection.execute(adding, where | {"more": more, "most": quota - more}).rowcount:
        named = f"repository with name '{repository}' in the registry" if repository else "registry"
        raise bytes_exceeded(f"The {named} with id '{account}'", quota)


def _take_off(tx: Transaction, adding: Update, where: dict[str, object], less: int) -> None:
    if less:
        tx.send(adding, where | {"more": -less, "most": _UNLIMITED})


def _summed(removed: Iterable[tuple[Holder, int]]) -> Iterable[tuple[Holder, int]]:
    found: Counter[Holder] = Counter()
    for holder, size in removed:
        found[holder] += size
    return found.items()
