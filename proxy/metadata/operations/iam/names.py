"""Names of IAM entities: ARNs, look-ups by name, and failures that every noun shares.

Names are unique in any case (`name_key`) within an account and a noun, and are returned as they were given.
Sources: IAM User Guide, "IAM identifiers"; texts as IAM answers them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from sqlalchemy import ColumnElement, func, select

from proxy.metadata.db.identity_tables import groups, principals
from proxy.metadata.db.transaction import FoundRow, Transaction
from proxy.model.errors import Code, Failure

Parameters = Mapping[str, Any]
Run = Callable[[Transaction, str, Parameters], dict[str, Any]]
"""An operation: by transaction, account and parameters, the model's output."""


@dataclass(frozen=True, slots=True)
class Noun:
    """A kind of entity. `word` is its word in ARNs and messages; `id_prefix` begins its unique ids."""

    word: str
    id_prefix: str

    @property
    def parameter(self) -> str:
        """The member with its name in input and output: `UserName`."""
        return f"{self.word.capitalize()}Name"


USER = Noun("user", "AIDA")
ROLE = Noun("role", "AROA")
GROUP = Noun("group", "AGPA")
POLICY = Noun("policy", "ANPA")


def arn(account: str, noun: Noun, path: str, name: str) -> str:
    """`path` begins and ends with a slash."""
    return f"arn:aws:iam::{account}:{noun.word}{path}{name}"


def principal_key(noun: Noun, name: str) -> str:
    """`name_key` of a user or role, which share a table; that of a group or policy is `name.lower()`."""
    return f"{noun.word}/{name.lower()}"


def find(tx: Transaction, account: str, noun: Noun, name: str) -> FoundRow | None:
    """The row of a user, role or group, by its name in any case."""
    if noun is GROUP:
        asked = select(groups).where(groups.c.account == account, groups.c.name_key == name.lower())
    else:
        key = principal_key(noun, name)
        asked = select(principals).where(principals.c.account == account, principals.c.name_key == key)
    return tx.connection.execute(asked).one_or_none()


def need(tx: Transaction, account: str, noun: Noun, name: str) -> FoundRow:
    """`find`; Failure(NoSuchEntity) if there is none."""
    row = find(tx, account, noun, name)
    if row is None:
        raise no_such(noun, name)
    return row


def need_unused(tx: Transaction, account: str, noun: Noun, name: str) -> None:
    """Failure(EntityAlreadyExists) if a user, role or group has this name already."""
    if find(tx, account, noun, name) is not None:
        raise already_exists(noun, name)


def holder_id(row: FoundRow) -> str:
    """The unique id in a user's, role's or group's row, which its policies refer to."""
    found: str = row.group_id if "group_id" in row._mapping else row.principal_id
    return found


def need_holder_id(tx: Transaction, account: str, noun: Noun, parameters: Parameters) -> str:
    """`holder_id` of the user, role or group that a request names. Failure(NoSuchEntity)."""
    return holder_id(need(tx, account, noun, parameters[noun.parameter]))


def under(path: ColumnElement[str], prefix: str) -> ColumnElement[bool]:
    """Condition: a path begins with PathPrefix. Not LIKE, which ignores case in SQLite."""
    return func.substr(path, 1, len(prefix)) == prefix


def no_such(noun: Noun, name: str) -> Failure:
    return Failure(Code.NO_SUCH_ENTITY, f"The {noun.word} with name {name} cannot be found.")


def already_exists(noun: Noun, name: str) -> Failure:
    return Failure(Code.ENTITY_ALREADY_EXISTS, f"{noun.word.capitalize()} with name {name} already exists.")


def delete_conflict(first: str) -> Failure:
    """`first` names what must be done first: `delete access keys`."""
    return Failure(Code.DELETE_CONFLICT, f"Cannot delete entity, must {first} first.")


def encode_document(text: str) -> str:
    """A policy as in answers: percent-encoded (RFC 3986)."""
    return quote(text, safe="")
