"""Events of an account: `emit` writes them for the targets of matching rules, in the transaction that causes them.

    emit(tx, account, IMAGE_ACTION, "team/app", {"result": "SUCCESS", "action-type": "PUSH", …})

Nothing is written if no enabled rule matches; an account without rules costs one index probe. A job of the queue for
each target and repository delivers the events in order: `jobs.event_delivery` calls `next_event`, then `end_event` with
the outcome.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import bindparam, delete, insert, select, true, update

from proxy.metadata.db.event_tables import event_deliveries, event_rules, event_secrets, event_targets
from proxy.metadata.db.job_tables import jobs as job_table
from proxy.metadata.db.transaction import FoundRow, Transaction
from proxy.metadata.event_contract import EventPort
from proxy.metadata.operations import jobs
from proxy.metadata.operations.operation import operation
from proxy.model.event_pattern import matches, parse_pattern
from proxy.model.events import IMAGE_ACTION, REFERRER_ACTION, EventDelivery, EventSecret, envelope, precise_time
from proxy.model.jobs import Job

KIND = "event"
_PURGED = 500  # deliveries of a removed target that are deleted at a time

_ENABLED = select(event_rules.c.name, event_rules.c.pattern).where(
    event_rules.c.account == bindparam("account"), event_rules.c.enabled == true()
)
_TARGETS = (
    select(event_targets.c.target_number)
    .where(event_targets.c.account == bindparam("account"), event_targets.c.rule == bindparam("rule"))
    .order_by(event_targets.c.target_id)
)
_FIRST = (
    select(event_deliveries)
    .where(
        event_deliveries.c.target_number == bindparam("target"),
        event_deliveries.c.repository == bindparam("repository"),
    )
    .order_by(event_deliveries.c.delivery_id)
    .limit(1)
)


def emit(
    tx: Transaction,
    account: str,
    detail_type: str,
    repository: str,
    details: Mapping[str, Any] | Iterable[Mapping[str, Any]],
    resources: Sequence[str] = (),
) -> None:
    """Write one event for each of the details, about a repository of the account."""
    rules = tx.connection.execute(_ENABLED, {"account": account}).all()
    if not rules:
        return
    for detail in [details] if isinstance(details, Mapping) else details:
        event_id = str(uuid.uuid4())
        event = envelope(event_id, detail_type, account, tx.registry.region, tx.now, detail, resources)
        body = json.dumps(event, separators=(",", ":"))
        for rule in rules:
            if matches(parse_pattern(rule.pattern), event):
                for target in tx.connection.execute(_TARGETS, {"account": account, "rule": rule.name}).scalars().all():
                    _deliver(tx, account, target, repository, body)


def image_pushed(
    tx: Transaction,
    account: str,
    repository: str,
    digest: str,
    tags: Sequence[str],
    *,
    media_type: str,
    artifact_type: str | None,
    subject: str | None,
) -> None:
    """PUSH of an image: an event for each tag that now points to it, or one without a tag if there is none."""
    about = _image(repository, digest, "PUSH")
    if subject is not None:
        about |= {"manifest-media-type": media_type} | ({"artifact-media-type": artifact_type} if artifact_type else {})
    emit(tx, account, REFERRER_ACTION if subject else IMAGE_ACTION, repository, _each_tag(about, tags))


def image_deleted(
    tx: Transaction, account: str, repository: str, digest: str, tags: Sequence[str], *, subject: str | None = None
) -> None:
    """DELETE of an image, or of some of its tags: an event for each of `tags`, or one without a tag if there are
    none."""
    about = _image(repository, digest, "DELETE")
    emit(tx, account, REFERRER_ACTION if subject else IMAGE_ACTION, repository, _each_tag(about, tags))


def storage_class_changed(tx: Transaction, account: str, repository: str, row: FoundRow, target: str) -> None:
    """UPDATE_STORAGE_CLASS of an image, whose row is given: it was archived, or is active again, now."""
    about = _image(repository, row.digest, "UPDATE_STORAGE_CLASS") | {
        "target-storage-class": target,
        "manifest-media-type": row.media_type,
    }
    if row.artifact_type:
        about["artifact-media-type"] = row.artifact_type
    if target == "STANDARD":
        about["last-activated-at"] = precise_time(tx.now)
    emit(tx, account, REFERRER_ACTION if row.subject else IMAGE_ACTION, repository, about)


def has_rules(tx: Transaction, account: str) -> bool:
    """Whether the account has rules. Check it before reading rows for an event."""
    return tx.connection.execute(_ENABLED.limit(1), {"account": account}).first() is not None


def _image(repository: str, digest: str, action: str) -> dict[str, Any]:
    return {"result": "SUCCESS", "repository-name": repository, "image-digest": digest, "action-type": action}


def _each_tag(about: Mapping[str, Any], tags: Sequence[str]) -> list[Mapping[str, Any]]:
    return [{**about, "image-tag": tag} for tag in tags] or [about]


def _deliver(tx: Transaction, account: str, target: int, repository: str, body: str) -> None:
    tx.connection.execute(
        insert(event_deliveries).values(
            target_number=target, repository=repository, body=body, attempts=0, created_at=tx.now
        )
    )
    subject = {"target": target, "repository": repository}
    jobs.enqueue(tx, KIND, account, f"{target}/{repository}", subject, share=str(target))


# ---- what a job asks ---------------------------------------------------------------------------------------------


@operation(EventPort)
def next_event(tx: Transaction, account: str, target: int, repository: str) -> EventDelivery | None:
    """The first undelivered event; None: there is none, or its target is gone."""
    found = _target(tx, account, target)
    row = tx.connection.execute(_FIRST, {"target": target, "repository": repository}).first()
    if found is None or row is None:
        return None
    return EventDelivery(
        row.delivery_id, row.body, row.attempts, row.created_at, found.definition, _secrets(tx, account)
    )


@operation(EventPort)
def dead_event(tx: Transaction, account: str, target: int, body: str) -> EventDelivery | None:
    """The event of a dead job that an operator retries; None: its target is gone."""
    found = _target(tx, account, target)
    if found is None:
        return None
    return EventDelivery(0, body, 0, tx.now, found.definition, _secrets(tx, account))


@operation(EventPort, write=True)
def end_event(tx: Transaction, job_id: int, fence: int, delivery_id: int, error: str | None, dead: bool) -> bool:
    """Record the outcome of an attempt. Without an error the event is delivered. With one it stays first; if `dead`, it
    becomes a dead job of its own and the next event follows. False when the lease is lost: the runner must stop."""
    if not jobs.holds(tx, job_id, fence):
        return False
    mine = event_deliveries.c.delivery_id == delivery_id
    if error is not None and not dead:
        tx.connection.execute(update(event_deliveries).where(mine).values(attempts=event_deliveries.c.attempts + 1))
        return True
    row = tx.connection.execute(select(event_deliveries).where(mine)).first()
    if error is not None and row is not None:
        owner = tx.connection.execute(select(job_table).where(job_table.c.job_id == job_id)).one()
        subject = {"target": row.target_number, "repository": row.repository, "body": row.body}
        job = Job(job_id, KIND, owner.account, owner.key, owner.subject, owner.share, row.attempts, tx.now, tx.now)
        key = f"dead/{row.target_number}/{json.loads(row.body)['id']}"
        jobs.enqueue_dead(tx, job, key, subject, error)
    tx.connection.execute(delete(event_deliveries).where(mine))
    return True


@operation(EventPort, write=True)
def drop_events(tx: Transaction, target: int, repository: str) -> int:
    """Delete some deliveries of a removed target; how many."""
    if tx.connection.execute(
        select(event_targets.c.target_number).where(event_targets.c.target_number == target)
    ).first():
        return 0
    some = (
        select(event_deliveries.c.delivery_id)
        .where(event_deliveries.c.target_number == target, event_deliveries.c.repository == repository)
        .order_by(event_deliveries.c.delivery_id)
        .limit(_PURGED)
    )
    ids = tx.connection.execute(some).scalars().all()
    if ids:
        tx.connection.execute(delete(event_deliveries).where(event_deliveries.c.delivery_id.in_(ids)))
    return len(ids)


@operation(EventPort)
def event_secret(tx: Transaction, account: str) -> EventSecret | None:
    row = tx.connection.execute(select(event_secrets).where(event_secrets.c.account == account)).first()
    return None if row is None else EventSecret(row.sealed, row.previous, row.previous_until)


@operation(EventPort, write=True)
def put_event_secret(tx: Transaction, account: str, sealed: bytes, rotates: bool, keep_seconds: float) -> EventSecret:
    """Store the secret if there is none yet, or if it `rotates`; then the previous one signs too for `keep_seconds`.
    The secret in force afterwards."""
    row = tx.connection.execute(select(event_secrets).where(event_secrets.c.account == account)).first()
    if row is None:
        tx.connection.execute(insert(event_secrets).values(account=account, sealed=sealed, previous_until=0.0))
        return EventSecret(sealed, None, 0.0)
    if not rotates:
        return EventSecret(row.sealed, row.previous, row.previous_until)
    until = tx.now + keep_seconds
    tx.connection.execute(
        update(event_secrets)
        .where(event_secrets.c.account == account)
        .values(sealed=sealed, previous=row.sealed, previous_until=until)
    )
    return EventSecret(sealed, row.sealed, until)


@operation(EventPort)
def sealed_event_secrets(tx: Transaction, after: str, limit: int) -> Sequence[tuple[str, EventSecret]]:
    query = select(event_secrets).where(event_secrets.c.account > after).order_by(event_secrets.c.account).limit(limit)
    return tuple(
        (row.account, EventSecret(row.sealed, row.previous, row.previous_until)) for row in tx.connection.execute(query)
    )


@operation(EventPort, write=True)
def replace_event_secret(tx: Transaction, account: str, old: EventSecret, new: EventSecret) -> bool:
    """The current one and the one before it together; when that ends stays as it is."""
    previous = event_secrets.c.previous.is_(None) if old.previous is None else event_secrets.c.previous == old.previous
    result = tx.connection.execute(
        update(event_secrets)
        .where(event_secrets.c.account == account, event_secrets.c.sealed == old.sealed, previous)
        .values(sealed=new.sealed, previous=new.previous)
    )
    return bool(result.rowcount)


def _target(tx: Transaction, account: str, target: int) -> FoundRow | None:
    return tx.connection.execute(
        select(event_targets.c.definition).where(
            event_targets.c.target_number == target, event_targets.c.account == account
        )
    ).first()


def _secrets(tx: Transaction, account: str) -> Sequence[bytes]:
    found = event_secret(tx, account)
    if found is None:
        return ()
    previous = found.previous if found.previous_until > tx.now else None
    return (found.sealed,) if previous is None else (found.sealed, previous)
