"""Compares counters with the rows that they count, for `wharfage check`, and corrects them.

    accounts.repositories    repositories.images    images.tags, and images.tagged: whether there is one
    blob_links.uses: images of the repository that need the blob    blobs.links: repositories that hold it
    repositories.bytes, repositories.manifest_bytes, accounts.bytes: see `usage`

The sweep finds removable blobs by uses and links. Rows left of deleted repositories (`removal`) are not counted, except
links, which still hold blobs. Called by `jobs.counts`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    ColumnElement,
    ScalarSelect,
    Select,
    case,
    cast,
    func,
    insert,
    literal,
    select,
    tuple_,
    update,
)

from proxy.metadata.contract import UpkeepPort
from proxy.metadata.db.identity_tables import accounts
from proxy.metadata.db.schema import UPLOAD_OPEN, blob_links, blobs, image_blobs, images, repositories, tags, uploads
from proxy.metadata.db.transaction import FoundRow, Transaction
from proxy.metadata.operations.operation import operation
from proxy.metadata.operations.removal import DELETED
from proxy.model.errors import Code, Failure
from proxy.model.records import Miscount


@dataclass(frozen=True, slots=True)
class _Noun:
    """`rows` have the columns of `key`, `recorded` (the counter), `counted`, `is_correct` and `display_name`."""

    key: tuple[Column[Any], ...]
    rows: Select[Any]
    corrected: Mapping[str, Any]


def _counted(*same: ColumnElement[bool]) -> ScalarSelect[int]:
    return select(func.count()).where(*same).scalar_subquery()


_REPOSITORIES = _counted(repositories.c.account == accounts.c.account)
_IMAGES = _counted(images.c.repository_id == repositories.c.repository_id)
_TAGS = _counted(tags.c.image_id == images.c.image_id)
_TAGGED = case((_TAGS > 0, 1), else_=0)
_USES = _counted(
    image_blobs.c.blob_id == blob_links.c.blob_id, image_blobs.c.repository_id == blob_links.c.repository_id
)
_LINKS = _counted(blob_links.c.blob_id == blobs.c.blob_id)

# Bytes, as `usage` counts them.
BLOBS_SUMMED = 200_000
"""The bytes of an account with more blobs are not checked: the sum would keep a transaction open for too long."""


def _sum(column: Column[Any], *same: ColumnElement[bool]) -> ScalarSelect[int]:
    return select(cast(func.coalesce(func.sum(column), 0), BigInteger)).where(*same).scalar_subquery()


_MANIFESTS = _sum(images.c.manifest_size, images.c.repository_id == repositories.c.repository_id)
_IN_REPOSITORY = (
    _sum(
        blobs.c.size,
        blobs.c.blob_id == blob_links.c.blob_id,
        blob_links.c.repository_id == repositories.c.repository_id,
    )
    + _MANIFESTS
    + _sum(
        uploads.c.plain_size,
        uploads.c.account == repositories.c.account,
        uploads.c.repository == repositories.c.name,
        uploads.c.state == UPLOAD_OPEN,
    )
)
_STORED = select(blobs.c.size).where(blobs.c.account == accounts.c.account).limit(BLOBS_SUMMED).correlate(accounts)
_SUMMED = _STORED.subquery("limited")
_IN_ACCOUNT = (
    select(cast(func.coalesce(func.sum(_SUMMED.c.size), 0), BigInteger)).scalar_subquery()
    + _sum(repositories.c.manifest_bytes, repositories.c.account == accounts.c.account)
    + _sum(uploads.c.plain_size, uploads.c.account == accounts.c.account, uploads.c.state == UPLOAD_OPEN)
)
_TOO_MANY = select(func.count()).select_from(_STORED.subquery("limited")).scalar_subquery() >= BLOBS_SUMMED

NOUNS = {
    "accounts": _Noun(
        (accounts.c.account,),
        select(
            accounts.c.account,
            accounts.c.repositories.label("recorded"),
            _REPOSITORIES.label("counted"),
            (accounts.c.repositories == _REPOSITORIES).label("is_correct"),
            accounts.c.account.label("display_name"),
        ),
        {"repositories": _REPOSITORIES},
    ),
    "repositories": _Noun(
        (repositories.c.repository_id,),
        select(
            repositories.c.repository_id,
            repositories.c.images.label("recorded"),
            _IMAGES.label("counted"),
            (repositories.c.images == _IMAGES).label("is_correct"),
            (repositories.c.account + "/" + repositories.c.name).label("display_name"),
        ).where(repositories.c.account != DELETED),
        {"images": _IMAGES},
    ),
    "images": _Noun(
        (images.c.image_id,),
        select(
            images.c.image_id,
            images.c.tags.label("recorded"),
            _TAGS.label("counted"),
            ((images.c.tags == _TAGS) & (images.c.tagged == _TAGGED)).label("is_correct"),
            (repositories.c.account + "/" + repositories.c.name + "@" + images.c.digest).label("display_name"),
        )
        .join(repositories, repositories.c.repository_id == images.c.repository_id)
        .where(repositories.c.account != DELETED),
        {"tags": _TAGS, "tagged": _TAGGED},
    ),
    "blob_links": _Noun(
        (blob_links.c.repository_id, blob_links.c.blob_id),
        select(
            blob_links.c.repository_id,
            blob_links.c.blob_id,
            blob_links.c.uses.label("recorded"),
            _USES.label("counted"),
            (blob_links.c.uses == _USES).label("is_correct"),
            (repositories.c.account + "/" + repositories.c.name + "@" + blobs.c.digest).label("display_name"),
        )
        .join(repositories, repositories.c.repository_id == blob_links.c.repository_id)
        .join(blobs, blobs.c.blob_id == blob_links.c.blob_id)
        .where(repositories.c.account != DELETED),
        {"uses": _USES},
    ),
    "blobs": _Noun(
        (blobs.c.blob_id,),
        select(
            blobs.c.blob_id,
            blobs.c.links.label("recorded"),
            _LINKS.label("counted"),
            (blobs.c.links == _LINKS).label("is_correct"),
            (blobs.c.account + "/" + blobs.c.digest).label("display_name"),
        ),
        {"links": _LINKS},
    ),
    "repository_bytes": _Noun(
        (repositories.c.repository_id,),
        select(
            repositories.c.repository_id,
            repositories.c.bytes.label("recorded"),
            _IN_REPOSITORY.label("counted"),
            ((repositories.c.bytes == _IN_REPOSITORY) & (repositories.c.manifest_bytes == _MANIFESTS)).label(
                "is_correct"
            ),
            (repositories.c.account + "/" + repositories.c.name).label("display_name"),
        ).where(repositories.c.account != DELETED),
        {"bytes": _IN_REPOSITORY, "manifest_bytes": _MANIFESTS},
    ),
    "account_bytes": _Noun(
        (accounts.c.account,),
        select(
            accounts.c.account,
            accounts.c.bytes.label("recorded"),
            _IN_ACCOUNT.label("counted"),
            ((accounts.c.bytes == _IN_ACCOUNT) | _TOO_MANY).label("is_correct"),
            accounts.c.account.label("display_name"),
        ),
        {"bytes": _IN_ACCOUNT},
    ),
}


@operation(UpkeepPort)
def miscounts(tx: Transaction, noun: str, after: str, limit: int) -> tuple[Sequence[Miscount], str | None]:
    found = _noun(noun)
    rows = tx.connection.execute(found.rows.where(_beyond(found, after)).order_by(*found.key).limit(limit)).all()
    wrong = tuple(
        Miscount(noun, _text(found, row), row.display_name, row.recorded, row.counted)
        for row in rows
        if not row.is_correct
    )
    return wrong, _text(found, rows[-1]) if len(rows) == limit else None


@operation(UpkeepPort, write=True, settles=True)
def recount(tx: Transaction, noun: str, key: str) -> None:
    """Correct a row's counter and restart its grace: by the wrong counter it may have been overdue for removal."""
    found = _noun(noun)
    table = found.key[0].table
    renewed = {"touched_at": tx.now} if "touched_at" in table.c else {}
    this = (column == value for column, value in zip(found.key, _values(found, key), strict=True))
    tx.connection.execute(update(table).where(*this).values(**found.corrected, **renewed))


def recount_uses(tx: Transaction, repository_id: int, blob_id: int) -> None:
    recount(tx, "blob_links", f"{repository_id}/{blob_id}")


def recount_links(tx: Transaction, blob_id: int) -> None:
    recount(tx, "blobs", str(blob_id))


def restore_links(tx: Transaction, blob_id: int) -> None:
    """Make the missing links of repositories whose images need the blob."""
    linked = select(blob_links.c.blob_id).where(
        blob_links.c.blob_id == image_blobs.c.blob_id, blob_links.c.repository_id == image_blobs.c.repository_id
    )
    missing = (
        select(image_blobs.c.repository_id, image_blobs.c.blob_id, func.count(), literal(tx.now))
        .where(image_blobs.c.blob_id == blob_id, ~linked.exists())
        .group_by(image_blobs.c.blob_id, image_blobs.c.repository_id)
    )
    columns = ["repository_id", "blob_id", "uses", "touched_at"]
    tx.connection.execute(insert(blob_links).from_select(columns, missing))


def _noun(name: str) -> _Noun:
    if name not in NOUNS:
        raise Failure(Code.INVALID_PARAMETER, f"nothing is counted of {name!r}")
    return NOUNS[name]


def _beyond(noun: _Noun, after: str) -> ColumnElement[bool]:
    values = _values(noun, after or "/".join("0" for _ in noun.key))
    if len(noun.key) == 1:
        return noun.key[0] > values[0]
    return tuple_(*noun.key) > tuple_(*map(literal, values))


def _text(noun: _Noun, row: FoundRow) -> str:
    """A row's key as text: its columns' numbers joined by slashes, or an account."""
    return "/".join(str(row[place]) for place in range(len(noun.key)))


def _values(noun: _Noun, text: str) -> Sequence[str | int]:
    if noun.key[0] is accounts.c.account:
        return [text]
    numbers = text.split("/")
    if len(numbers) != len(noun.key) or not all(number.isdecimal() for number in numbers):
        raise Failure(Code.INVALID_PARAMETER, f"{text!r} is no row's number")
    return [int(number) for number in numbers]
