"""The steps of a replication backfill, each a transaction of bounded size, which its job takes one after the other.

    PREPARING      list images and tags as items, in order of repository and digest
    IN_PROGRESS    queue replication jobs for up to WINDOW items at once; record how the jobs of earlier ones ended
    STOPPING       wait for jobs that a worker has; the others stay ordinary jobs of the queue

An item's outcome is read from the rows of `replications`, so pushes and jobs write nothing more for a backfill. A step
may be repeated, by two workers too, as write transactions are serial. Called by `jobs.backfill` and `jobs.sweep`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import Any

from sqlalchemy import and_, bindparam, delete, insert, select, update

from proxy.metadata.db.job_tables import LIVE
from proxy.metadata.db.job_tables import jobs as job_table
from proxy.metadata.db.replication_tables import replication_backfill_items as items
from proxy.metadata.db.replication_tables import replication_backfills as backfills
from proxy.metadata.db.replication_tables import replications
from proxy.metadata.db.schema import image_children, images, repositories, tags
from proxy.metadata.db.transaction import FoundRow, Transaction
from proxy.metadata.operations import jobs, replication
from proxy.metadata.operations.operation import operation
from proxy.metadata.operations.replication_rules import rules_of
from proxy.metadata.operations.repositories import find_repository
from proxy.metadata.replication_contract import ReplicationPort
from proxy.model.backfill import ENDED, KIND, BackfillFailure, BackfillStatus, ItemStatus
from proxy.model.errors import Code, Failure
from proxy.model.lifecycle.evaluation import ImageStatus
from proxy.model.replication import KIND as REPLICATION
from proxy.model.replication import (
    FailureCode,
    ReplicationDestination,
    ReplicationRule,
    ReplicationStatus,
    destinations_of,
)

KEEP_SECONDS = 90 * 86_400.0  # after its end, as ECR keeps it
WINDOW = 256  # items whose jobs are queued at once: pushes of the account wait behind so many at most
REPOSITORIES = 100  # that a step looks at
IMAGES = 200  # that a step lists
TAGS = 1_000  # of them, unless one image has more
PAUSE_SECONDS = 1.0  # while jobs are waited for

_SETTLE = (
    update(items)
    .where(items.c.backfill_id == bindparam("b_backfill"), items.c.position == bindparam("b_position"))
    .values(status=bindparam("b_status"), failure_code=bindparam("b_code"), sub_failure_codes=bindparam("b_sub"))
)


def find(tx: Transaction, account: str, name: str) -> FoundRow:
    """ReplicationBackfillNotFound, also for one whose time is over."""
    row = _find(tx, account, name)
    if row is None or (row.ended_at is not None and row.ended_at <= tx.now - KEEP_SECONDS):
        raise Failure(
            Code.REPLICATION_BACKFILL_NOT_FOUND,
            f"The replication backfill with id '{name}' does not exist in the registry with id '{account}'",
        )
    return row


def stop(tx: Transaction, row: FoundRow) -> None:
    """STOPPED at once if nothing is being sent. The backfill has not ended."""
    _change(tx, row, status=str(BackfillStatus.STOPPING))
    if _wait_for_running(tx, row) is not None:
        jobs.enqueue(tx, KIND, row.account, row.name, {}, share=row.region)


@operation(ReplicationPort, write=True, settles=True)
def advance_backfill(tx: Transaction, account: str, backfill: str) -> float | None:
    row = _find(tx, account, backfill)
    if row is None or row.status in ENDED:
        return None
    if row.status == BackfillStatus.STOPPING:
        return _wait_for_running(tx, row)
    destination = ReplicationDestination(row.region, row.registry)
    rules = rules_of(tx, account)
    if all(destination not in rule.destinations for rule in rules):
        code = str(BackfillFailure.DESTINATION_NOT_CONFIGURED)
        _end(tx, row, BackfillStatus.FAILED, failure_code=code)
        return None
    if row.status == BackfillStatus.PREPARING:
        return _list(tx, row, rules)
    return _proceed(tx, row)


@operation(ReplicationPort, write=True)
def expire_backfills(tx: Transaction, limit: int) -> int:
    due = tx.connection.execute(
        select(backfills.c.backfill_id)
        .where(backfills.c.ended_at <= tx.now - KEEP_SECONDS)
        .order_by(backfills.c.ended_at)
        .limit(1)
    ).scalar()
    if due is None:
        return 0
    mine = items.c.backfill_id == due
    positions = select(items.c.position).where(mine).order_by(items.c.position).limit(limit)
    found = tx.connection.execute(positions).scalars().all()
    if found:
        tx.connection.execute(delete(items).where(mine, items.c.position.between(found[0], found[-1])))
    if len(found) < limit:
        tx.connection.execute(delete(backfills).where(backfills.c.backfill_id == due))
        return len(found) + 1
    return len(found)


# ---- PREPARING ---------------------------------------------------------------------------------------------------


def _list(tx: Transaction, row: FoundRow, rules: Sequence[ReplicationRule]) -> float | None:
    """Add items for the next images."""
    destination = ReplicationDestination(row.region, row.registry)
    found = tx.connection.execute(
        select(repositories.c.repository_id, repositories.c.name)
        .where(repositories.c.account == row.account, repositories.c.name >= row.at_repository)
        .order_by(repositories.c.name)
        .limit(REPOSITORIES)
    ).all()
    for repository in found:
        if destination not in destinations_of(rules, repository.name):
            continue
        after = row.at_digest if repository.name == row.at_repository else ""
        page = _images(tx, repository.repository_id, after)
        if page:
            made = _items(tx, row, repository.name, page)
            if made:
                tx.connection.execute(insert(items), made)
            at = {"at_repository": repository.name, "at_digest": page[-1].digest}
            _change(tx, row, **at, total=row.total + len(made))
            return 0.0
    if len(found) == REPOSITORIES:
        _change(tx, row, at_repository=found[-1].name, at_digest="~")  # beyond its digests
        return 0.0
    _change(tx, row, status=str(BackfillStatus.IN_PROGRESS), prepared=1)
    return 0.0


def _images(tx: Transaction, repository_id: int, after: str) -> Sequence[FoundRow]:
    """The next images of a repository, whether or not they are to be sent."""
    rows = tx.connection.execute(
        select(images.c.image_id, images.c.digest, images.c.status, images.c.origin, images.c.tags)
        .where(images.c.repository_id == repository_id, images.c.digest > after)
        .order_by(images.c.digest)
        .limit(IMAGES)
    ).all()
    held = 0
    for number, image in enumerate(rows):
        held += image.tags
        if held > TAGS:
            return rows[: max(1, number)]
    return rows


def _items(tx: Transaction, row: FoundRow, repository: str, page: Sequence[FoundRow]) -> list[dict[str, Any]]:
    """One for each tag that was pushed here, and for each image that was pushed here and has no such tag."""
    active = [image for image in page if image.status == ImageStatus.ACTIVE]
    if not active:
        return []
    pairs = tx.connection.execute(
        select(tags.c.image_id, tags.c.name)
        .where(tags.c.image_id.in_([image.image_id for image in active]), tags.c.origin.is_(None))
        .order_by(tags.c.image_id, tags.c.name)
    ).all()
    own = {image_id: [pair.name for pair in found] for image_id, found in groupby(pairs, lambda pair: pair.image_id)}
    named: list[tuple[str, str | None]] = []
    for image in active:
        named += [(image.digest, tag) for tag in own.get(image.image_id, ())]
        if image.image_id not in own and image.origin is None:
            named.append((image.digest, None))
    return [
        {
            "backfill_id": row.backfill_id,
            "position": row.total + number,
            "repository": repository,
            "digest": digest,
            "tag": tag,
            "status": str(ItemStatus.WAITING),
        }
        for number, (digest, tag) in enumerate(named)
    ]


# ---- IN_PROGRESS -------------------------------------------------------------------------------------------------


def _proceed(tx: Transaction, row: FoundRow) -> float | None:
    queued = _of_status(tx, row, ItemStatus.QUEUED, WINDOW)
    left = _settle_queued(tx, row, queued)
    more = _of_status(tx, row, ItemStatus.WAITING, WINDOW - left) if left < WINDOW else []
    for (repository, digest), same in groupby(more, lambda item: (item.repository, item.digest)):
        _send(tx, row, repository, digest, list(same))
    if not left and not more:
        _end(tx, row, BackfillStatus.COMPLETE)
        return None
    return PAUSE_SECONDS


def _send(tx: Transaction, row: FoundRow, repository: str, digest: str, same: Sequence[FoundRow]) -> None:
    """Queue an image's job, and let it send all its tags. One that is being sent now waits for the next step: when that
    ends, the tags that it had are taken for sent."""
    destination = ReplicationDestination(row.region, row.registry)
    repository_id = find_repository(tx, row.account, repository)
    image = None if repository_id is None else _image(tx, repository_id, digest)
    if repository_id is None or image is None:
        _settle(tx, row, same, ItemStatus.FAILED, FailureCode.IMAGE_NOT_FOUND)
        return
    if _jobs(tx, row, same).get(replication.key_of(row.account, destination, repository, digest)):
        return
    replication.send(tx, row.account, repository, repository_id, digest, destination, anew=True)
    mine = items.c.backfill_id == row.backfill_id, items.c.position.in_([item.position for item in same])
    tx.connection.execute(update(items).where(*mine).values(status=str(ItemStatus.QUEUED)))


def _settle_queued(tx: Transaction, row: FoundRow, queued: Sequence[FoundRow]) -> int:
    """Record how jobs ended that are no longer in the queue. Returns how many items are still queued."""
    live = _jobs(tx, row, queued)  # before their statuses: a job records its end and then leaves the queue
    destination = ReplicationDestination(row.region, row.registry)
    ended = [
        item
        for item in queued
        if replication.key_of(row.account, destination, item.repository, item.digest) not in live
    ]
    for repository, of_repository in groupby(ended, lambda item: item.repository):
        found = list(of_repository)
        repository_id = find_repository(tx, row.account, repository)
        statuses = {} if repository_id is None else _statuses(tx, row, repository_id, {item.digest for item in found})
        for digest, same in groupby(found, lambda item: item.digest):
            status = statuses.get(digest)
            if repository_id is None or status is None:
                _settle(tx, row, list(same), ItemStatus.FAILED, FailureCode.IMAGE_NOT_FOUND)
            elif status.status == ReplicationStatus.COMPLETE:
                _settle(tx, row, list(same), ItemStatus.COMPLETE)
            else:
                code = status.failure_code or FailureCode.DROPPED
                _settle(tx, row, list(same), ItemStatus.FAILED, code, _of_children(tx, row, repository_id, digest))
    return len(queued) - len(ended)


def _settle(
    tx: Transaction,
    row: FoundRow,
    same: Sequence[FoundRow],
    status: ItemStatus,
    code: str | None = None,
    of_children: Sequence[str] = (),
) -> None:
    outcome = {
        "b_backfill": row.backfill_id,
        "b_status": str(status),
        "b_code": None if code is None else str(code),
        "b_sub": json.dumps(of_children) if of_children else None,
    }
    tx.connection.execute(_SETTLE, [{**outcome, "b_position": item.position} for item in same])
    if code is None:
        _change(tx, row, completed=backfills.c.completed + len(same))
        return
    mine = backfills.c.backfill_id == row.backfill_id
    codes = json.loads(tx.connection.execute(select(backfills.c.failure_codes).where(mine)).scalar_one())
    _change(tx, row, failed=backfills.c.failed + len(same), failure_codes=json.dumps(sorted({*codes, str(code)})))


# ---- STOPPING ----------------------------------------------------------------------------------------------------


def _wait_for_running(tx: Transaction, row: FoundRow) -> float | None:
    queued = _of_status(tx, row, ItemStatus.QUEUED, WINDOW)
    _settle_queued(tx, row, queued)
    if any(_jobs(tx, row, queued).values()):
        return PAUSE_SECONDS
    _end(tx, row, BackfillStatus.STOPPED)
    return None


# ---- rows --------------------------------------------------------------------------------------------------------


def _end(tx: Transaction, row: FoundRow, status: BackfillStatus, **more: Any) -> None:
    _change(tx, row, status=str(status), ended_at=tx.now, **more)


def _change(tx: Transaction, row: FoundRow, **values: Any) -> None:
    tx.connection.execute(update(backfills).where(backfills.c.backfill_id == row.backfill_id).values(**values))


def _find(tx: Transaction, account: str, name: str) -> FoundRow | None:
    query = select(backfills).where(backfills.c.name == name.lower(), backfills.c.account == account)
    return tx.connection.execute(query).one_or_none()


def _of_status(tx: Transaction, row: FoundRow, status: ItemStatus, limit: int) -> Sequence[FoundRow]:
    return tx.connection.execute(
        select(items)
        .where(items.c.backfill_id == row.backfill_id, items.c.status == str(status))
        .order_by(items.c.position)
        .limit(limit)
    ).all()


def _jobs(tx: Transaction, row: FoundRow, of: Iterable[FoundRow]) -> Mapping[str, bool]:
    """By key, those jobs of the items that are in the queue: whether a worker has it."""
    destination = ReplicationDestination(row.region, row.registry)
    keys = {replication.key_of(row.account, destination, item.repository, item.digest) for item in of}
    if not keys:
        return {}
    mine = job_table.c.kind == REPLICATION, job_table.c.key.in_(sorted(keys)), job_table.c.state == LIVE
    found = tx.connection.execute(select(job_table.c.key, job_table.c.fence).where(*mine)).all()
    return {job.key: job.fence != 0 for job in found}


def _image(tx: Transaction, repository_id: int, digest: str) -> FoundRow | None:
    mine = images.c.repository_id == repository_id, images.c.digest == digest
    return tx.connection.execute(select(images.c.image_id).where(*mine)).one_or_none()


def _statuses(tx: Transaction, row: FoundRow, repository_id: int, digests: Iterable[str]) -> Mapping[str, FoundRow]:
    found = tx.connection.execute(
        select(replications.c.digest, replications.c.status, replications.c.failure_code).where(
            replications.c.repository_id == repository_id,
            replications.c.digest.in_(sorted(digests)),
            *_there(row),
        )
    ).all()
    return {each.digest: each for each in found}


def _of_children(tx: Transaction, row: FoundRow, repository_id: int, digest: str) -> list[str]:
    """The codes of images that an index lists and that could not be replicated either, each once."""
    image = _image(tx, repository_id, digest)
    if image is None:
        return []
    of_child = and_(
        replications.c.repository_id == repository_id, replications.c.digest == images.c.digest, *_there(row)
    )
    found = tx.connection.execute(
        select(replications.c.failure_code)
        .select_from(image_children)
        .join(images, images.c.image_id == image_children.c.child_id)
        .join(replications, of_child)
        .where(image_children.c.image_id == image.image_id, replications.c.status == str(ReplicationStatus.FAILED))
    ).scalars()
    return sorted({code for code in found if code is not None})


def _there(row: FoundRow) -> tuple[Any, Any]:
    return replications.c.region == row.region, replications.c.registry == row.registry
