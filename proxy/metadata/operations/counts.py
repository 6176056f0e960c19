"""Counters of quotas beside what they count: read through by `wharfage check`, counted anew where they are wrong.

    accounts.repositories    repositories.images    images.tags, and images.tagged: whether there is one

What is left of deleted repositories (`removal`) is nobody's, and counted no more.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Column, ScalarSelect, Select, case, func, select, update

from proxy.metadata.identities import accounts
from proxy.metadata.operations.removal import DELETED
from proxy.metadata.schema import images, repositories, tags
from proxy.metadata.transaction import Transaction
from proxy.model.errors import Code, Failure
from proxy.model.records import Miscount


@dataclass(frozen=True, slots=True)
class _Noun:
    """`rows` have `key`, `kept`, `counted`, `stands` (the counter is right) and `shown`."""

    key: Column[Any]
    rows: Select[Any]
    corrected: Mapping[str, Any]


def _counted(owned: Column[Any], by: Column[Any]) -> ScalarSelect[int]:
    return select(func.count()).where(owned == by).scalar_subquery()


_REPOSITORIES = _counted(repositories.c.account, accounts.c.account)
_IMAGES = _counted(images.c.repository_id, repositories.c.repository_id)
_TAGS = _counted(tags.c.image_id, images.c.image_id)
_TAGGED = case((_TAGS > 0, 1), else_=0)

NOUNS = {
    "accounts": _Noun(
        accounts.c.account,
        select(
            accounts.c.account.label("key"),
            accounts.c.repositories.label("kept"),
            _REPOSITORIES.label("counted"),
            (accounts.c.repositories == _REPOSITORIES).label("stands"),
            accounts.c.account.label("shown"),
        ),
        {"repositories": _REPOSITORIES},
    ),
    "repositories": _Noun(
        repositories.c.repository_id,
        select(
            repositories.c.repository_id.label("key"),
            repositories.c.images.label("kept"),
            _IMAGES.label("counted"),
            (repositories.c.images == _IMAGES).label("stands"),
            (repositories.c.account + "/" + repositories.c.name).label("shown"),
        ).where(repositories.c.account != DELETED),
        {"images": _IMAGES},
    ),
    "images": _Noun(
        images.c.image_id,
        select(
            images.c.image_id.label("key"),
            images.c.tags.label("kept"),
            _TAGS.label("counted"),
            ((images.c.tags == _TAGS) & (images.c.tagged == _TAGGED)).label("stands"),
            (repositories.c.account + "/" + repositories.c.name + "@" + images.c.digest).label("shown"),
        )
        .join(repositories, repositories.c.repository_id == images.c.repository_id)
        .where(repositories.c.account != DELETED),
        {"tags": _TAGS, "tagged": _TAGGED},
    ),
}


def miscounts(tx: Transaction, noun: str, after: str, limit: int) -> tuple[Sequence[Miscount], str | None]:
    found = _noun(noun)
    rows = tx.connection.execute(
        found.rows.where(found.key > _key(found, after or "0")).order_by(found.key).limit(limit)
    ).all()
    wrong = tuple(Miscount(noun, str(row.key), row.shown, row.kept, row.counted) for row in rows if not row.stands)
    return wrong, str(rows[-1].key) if len(rows) == limit else None


def recount(tx: Transaction, noun: str, key: str) -> None:
    found = _noun(noun)
    tx.connection.execute(update(found.key.table).where(found.key == _key(found, key)).values(found.corrected))


def _noun(name: str) -> _Noun:
    if name not in NOUNS:
        raise Failure(Code.INVALID_PARAMETER, f"nothing is counted of {name!r}")
    return NOUNS[name]


def _key(noun: _Noun, text: str) -> str | int:
    if noun.key is accounts.c.account:
        return text
    if not text.isdecimal():
        raise Failure(Code.INVALID_PARAMETER, f"{text!r} is no row's number")
    return int(text)
