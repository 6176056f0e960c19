"""One transaction, as an operation sees it: connection, time, changes and deferred writes.

Operations are plain functions `(transaction, …) -> record`. They report which repositories' cached answers they have
changed; the store increments their epochs after the commit, before the answer. Must not know HTTP.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from sqlalchemy import Connection, Executable

from proxy.model.quotas import ECR_QUOTAS, Quotas

FoundRow: TypeAlias = Any
"""A result row. SQLAlchemy 2.0 and 2.1 type its columns differently, and attribute access by either is unchecked."""

UNREAD = "unread"
"""The execution option of a statement whose result is discarded (`pg_pipeline`)."""


@dataclass(frozen=True, slots=True)
class Registry:
    """Settings of this registry that operations need. `repository_uri` has the fields {account}, {region} and {name};
    `account` is the default one, whose registry has the bare host name. Access keys expire `key_seconds` after their
    creation (None: never), except `lasting_key`, the id of the settings' key."""

    region: str = "us-east-1"
    repository_uri: str = "{account}.dkr.ecr.{region}.amazonaws.com/{name}"
    account: str = ""
    quotas: Quotas = ECR_QUOTAS
    key_seconds: float | None = None
    lasting_key: str = ""
    expire_unpulled: bool = False  # `[lifecycle]`
    archives: bool = False  # `[archive]` names a place where layers of archived images go
    peer_regions: frozenset[str] = frozenset()  # that images may be replicated to beside `region`

    def key_expires(self, access_key_id: str, created: float) -> float | None:
        """When a key ends by its age, in epoch seconds."""
        if self.key_seconds is None or access_key_id == self.lasting_key:
            return None
        return created + self.key_seconds


@dataclass(slots=True)
class Changes:
    """The cached answers that a write invalidates: those of (account, repository) pairs, of identities, or all."""

    repositories: set[tuple[str, str]] = field(default_factory=set)
    identity: bool = False
    everything: bool = False

    def __bool__(self) -> bool:
        return bool(self.repositories) or self.identity or self.everything

    def add(self, other: Changes) -> None:
        self.repositories |= other.repositories
        self.identity |= other.identity
        self.everything |= other.everything


class NeedsDurability(Exception):
    """A transaction that was begun as not durable must be durable after all: it is run again."""


@dataclass(slots=True)
class Transaction:
    """`now` is epoch seconds. If `durable`, its writes are durable once answered; else see `Database.write`.

    `deferred` holds writes that this read leaves for later, by a key that identifies them, so that each is deferred
    once. `pending` holds the deferred writes of earlier reads that are not done yet."""

    connection: Connection
    now: float
    registry: Registry
    new_upload_id: Callable[[], uuid.UUID] = uuid.uuid4
    changes: Changes = field(default_factory=Changes)
    deferred: dict[Hashable, Callable[[Transaction], object]] = field(default_factory=dict)
    pending: Mapping[Hashable, Callable[[Transaction], object]] = field(default_factory=dict)
    durable: bool = True
    unread: bool = False  # whether `send` was used

    def send(self, statement: Executable, values: Any = None) -> None:
        """Execute a statement and discard its result, the row count included. On PostgreSQL it takes no round trip of
        its own, and its error is raised by a later statement of the transaction or by the commit: so it is not for a
        statement whose error the caller catches."""
        self.unread = True
        self.connection.execute(statement, values, execution_options={UNREAD: True})

    def changed(self, account: str, repository: str) -> None:
        self.changes.repositories.add((account, repository))

    def need_durability(self) -> None:
        """Make the transaction durable from here on; raises NeedsDurability if it was begun otherwise."""
        if not self.durable:
            raise NeedsDurability
