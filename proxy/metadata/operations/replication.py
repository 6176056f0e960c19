"""Images on their way to other registries: what a push or a deletion causes, what is to be sent, and how it went.

    push, restore                  image_pushed       a job for the image at each destination, a status each
    deletion, removal of a tag     image_deleted      the same job, whose subject says what is gone; a tag has its own
    the job (`jobs.replication`)   replication_plan   then end_replication

All of it in the transaction of what causes it. A job's key is an image at a destination: pushed again, it is still one
job, which sends what the image has then. Arrivals come through `replicas`, which causes nothing: no image goes further
than one step, and none comes back. Must not know how anything is sent.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from sqlalchemy import bindparam, delete, func, insert, select, update

from proxy.metadata.db.job_tables import LIVE
from proxy.metadata.db.job_tables import jobs as job_table
from proxy.metadata.db.replication_tables import replications
from proxy.metadata.db.schema import blobs, image_blobs, image_children, images, tags
from proxy.metadata.db.transaction import FoundRow, Transaction
from proxy.metadata.operations import events, jobs
from proxy.metadata.operations.operation import operation
from proxy.metadata.operations.replication_rules import rules_of
from proxy.metadata.operations.repositories import find_repository
from proxy.metadata.replication_contract import ReplicationPort
from proxy.model.events import REPLICATION_ACTION
from proxy.model.lifecycle.evaluation import ImageStatus
from proxy.model.names import repository_arn
from proxy.model.replication import (
    KIND,
    Backlog,
    RemovedTag,
    ReplicaManifest,
    ReplicaTag,
    ReplicationDestination,
    ReplicationPlan,
    ReplicationStatus,
    destinations_of,
    read_rules,
    subject_of,
)

SLACK_SECONDS = 60.0  # a push whose transaction took so long may show later than others that began after it

_ONE = update(replications).where(
    replications.c.repository_id == bindparam("b_repository"),
    replications.c.digest == bindparam("b_digest"),
    replications.c.region == bindparam("b_region"),
    replications.c.registry == bindparam("b_registry"),
)
_SET = _ONE.values(status=bindparam("b_status"), failure_code=bindparam("b_code"))
_UNSYNC = _ONE.values(synced_at=0.0)


class Leaving(NamedTuple):
    """`what` is the end of the job's key."""

    what: str
    destination: ReplicationDestination
    subject: dict[str, Any]


# ---- what causes it ----------------------------------------------------------------------------------------------


def image_pushed(
    tx: Transaction, account: str, repository: str, repository_id: int, digest: str, rules: str | None
) -> None:
    """An image was pushed, tagged or restored. `rules` is the JSON of its account's; None where it has none."""
    if rules is None:
        return
    for destination in destinations_of(read_rules(rules), repository):
        send(tx, account, repository, repository_id, digest, destination)


def send(
    tx: Transaction,
    account: str,
    repository: str,
    repository_id: int,
    digest: str,
    destination: ReplicationDestination,
    *,
    anew: bool = False,
) -> None:
    """`anew`: with all its tags, also those that were sent before."""
    values = _status(repository_id, digest, destination, ReplicationStatus.IN_PROGRESS)
    if not tx.connection.execute(_SET, values).rowcount:
        tx.connection.execute(
            insert(replications).values(
                repository_id=repository_id,
                digest=digest,
                region=destination.region,
                registry=destination.registry,
                status=str(ReplicationStatus.IN_PROGRESS),
                synced_at=0.0,
            )
        )
    elif anew:
        where = {name: value for name, value in values.items() if name not in ("b_status", "b_code")}
        tx.connection.execute(_UNSYNC, where)
    _enqueue(tx, account, repository, f"@{digest}", destination, subject_of(repository, digest))


def leaving(
    tx: Transaction,
    account: str,
    repository: str,
    repository_id: int,
    image_id: int,
    digest: str,
    tag: str | None = None,
) -> Sequence[Leaving]:
    """What other registries are to hear once an image is deleted with its tags; or, with a `tag`, that alone. Asked
    before, while rows say whose push it is that goes."""
    destinations = destinations_of(rules_of(tx, account), repository, deletes=True)
    if not destinations:
        return ()
    mine = tags.c.image_id == image_id if tag is None else tags.c.name == tag
    rows = tx.connection.execute(
        select(tags.c.name, tags.c.pushed_at, tags.c.origin, tags.c.version)
        .where(tags.c.repository_id == repository_id, mine)
        .order_by(tags.c.name)
    ).all()
    here = ReplicationDestination(tx.registry.region, account).text
    gone = [RemovedTag(row.name, version_of(row), row.origin or here) for row in rows]
    if tag is not None:
        subject = subject_of(repository, "", gone, removed=True)
        return [Leaving(f":{tag}", each, subject) for each in destinations]
    origin = tx.connection.execute(select(images.c.origin).where(images.c.image_id == image_id)).scalar()
    subject = subject_of(repository, digest, gone, removed=True) | {"origin": origin or here}
    return [Leaving(f"@{digest}", each, subject) for each in destinations]


def image_deleted(tx: Transaction, account: str, repository: str, told: Sequence[Leaving]) -> None:
    """What `leaving` found has gone."""
    for each in told:
        _enqueue(tx, account, repository, each.what, each.destination, each.subject)


def forget(tx: Transaction, repository_id: int, digest: str) -> None:
    """Of an image that is deleted: how far it was."""
    mine = replications.c.repository_id == repository_id, replications.c.digest == digest
    tx.send(delete(replications).where(*mine))


def key_of(account: str, destination: ReplicationDestination, repository: str, digest: str) -> str:
    """Of an image's job."""
    return _key(account, destination, repository, f"@{digest}")


def version_of(row: FoundRow) -> float:
    """Of a row of `tags`: when it was pushed at its origin."""
    return float(row.pushed_at if row.origin is None else row.version)


# ---- what a job asks ---------------------------------------------------------------------------------------------


@operation(ReplicationPort)
def replication_plan(
    tx: Transaction, account: str, repository: str, digest: str, destination: ReplicationDestination
) -> ReplicationPlan | None:
    """None: the image is gone."""
    repository_id = find_repository(tx, account, repository)
    image = None if repository_id is None else _image(tx, repository_id, digest)
    if repository_id is None or image is None:
        return None
    if image.status != ImageStatus.ACTIVE:
        return ReplicationPlan((), tx.now, archived=True)
    ordered: dict[int, FoundRow] = {}
    if image.subject is not None and _is_under_way(tx, repository_id, image.subject, destination):
        subject = _image(tx, repository_id, image.subject)
        if subject is not None and subject.status == ImageStatus.ACTIVE:
            _descend(tx, subject, ordered)
    _descend(tx, image, ordered)
    manifests = tuple(
        ReplicaManifest(
            row.digest,
            row.media_type,
            _blobs(tx, row.image_id),
            _tags(tx, repository_id, row, destination) if row.image_id == image.image_id else (),
        )
        for row in ordered.values()
    )
    return ReplicationPlan(manifests, tx.now)


@operation(ReplicationPort, write=True)
def end_replication(
    tx: Transaction,
    account: str,
    repository: str,
    digests: Sequence[str],
    destination: ReplicationDestination,
    status: ReplicationStatus,
    failure_code: str | None,
    synced_at: float,
    revision: int = 0,
) -> None:
    """The last of `digests` is the image whose job it was: `synced_at` is when its plan was made, 0 where none was."""
    repository_id = find_repository(tx, account, repository)
    if repository_id is None:
        return
    over = digests[:-1] if _is_queued_again(tx, account, repository, digests[-1], destination, revision) else digests
    for digest in over:
        tx.connection.execute(_SET, _status(repository_id, digest, destination, status, failure_code))
    here = ReplicationDestination(tx.registry.region, account)
    if status is ReplicationStatus.FAILED and destination.region == here.region:
        emit(tx, destination.registry, repository, digests[-1], (), here.text, "FAILED")
    if synced_at and status is ReplicationStatus.COMPLETE:
        mine = replications.c.repository_id == repository_id, replications.c.digest == digests[-1]
        there = replications.c.region == destination.region, replications.c.registry == destination.registry
        tx.connection.execute(update(replications).where(*mine, *there).values(synced_at=synced_at))


@operation(ReplicationPort)
def replication_sending(tx: Transaction, account: str, repository: str, destination: ReplicationDestination) -> bool:
    """A lease that ended without an end counts too: what it sent may have arrived."""
    first = _key(account, destination, repository, "@")
    beyond = _key(account, destination, repository, "A")  # the letter after "@"
    of_images = job_table.c.kind == KIND, job_table.c.key >= first, job_table.c.key < beyond
    leased = select(job_table.c.job_id).where(*of_images, job_table.c.state == LIVE, job_table.c.fence != 0)
    return tx.connection.execute(leased.limit(1)).first() is not None


@operation(ReplicationPort)
def replication_backlog(tx: Transaction) -> Sequence[Backlog]:
    """Regions with something that waits, in order."""
    rows = tx.connection.execute(
        select(job_table.c.share, func.count().label("waiting"), func.min(job_table.c.created_at).label("oldest"))
        .where(job_table.c.kind == KIND, job_table.c.state == LIVE)
        .group_by(job_table.c.account, job_table.c.share)  # the order of an index
    )
    found: dict[str, Backlog] = {}
    for row in rows:
        before = found.get(row.share, Backlog(row.share, 0, row.oldest))
        found[row.share] = Backlog(row.share, before.waiting + row.waiting, min(before.oldest, row.oldest))
    return tuple(found[share] for share in sorted(found))


def emit(
    tx: Transaction, account: str, repository: str, digest: str, placed: Sequence[str], origin: str, result: str
) -> None:
    """To the rules of the destination's account: an event for each tag, or one without any."""
    region, _, source = origin.partition("/")
    about = {
        "result": result,
        "repository-name": repository,
        "image-digest": digest,
        "source-account": source,
        "action-type": "REPLICATE",
        "source-region": region,
    }
    details = [{**about, "image-tag": tag} for tag in placed] or [about]
    arn = repository_arn(tx.registry.region, account, repository)
    events.emit(tx, account, REPLICATION_ACTION, repository, details, [arn])


# ---- private -----------------------------------------------------------------------------------------------------


def _is_queued_again(
    tx: Transaction, account: str, repository: str, digest: str, destination: ReplicationDestination, revision: int
) -> bool:
    """Whether the image's job was enqueued since it had this revision; 0: does not matter."""
    mine = job_table.c.kind == KIND, job_table.c.key == key_of(account, destination, repository, digest)
    found = tx.connection.execute(select(job_table.c.revision).where(*mine)).scalar() if revision else None
    return found is not None and found != revision


def _enqueue(
    tx: Transaction,
    account: str,
    repository: str,
    what: str,
    destination: ReplicationDestination,
    subject: dict[str, Any],
) -> None:
    told = subject | {"region": destination.region, "registry": destination.registry}
    key = _key(account, destination, repository, what)
    jobs.enqueue(tx, KIND, account, key, told, share=destination.region)


def _key(account: str, destination: ReplicationDestination, repository: str, what: str) -> str:
    return f"{account}/{destination.text}/{repository}{what}"


def _status(
    repository_id: int,
    digest: str,
    destination: ReplicationDestination,
    status: ReplicationStatus,
    code: str | None = None,
) -> dict[str, object]:
    return {
        "b_repository": repository_id,
        "b_digest": digest,
        "b_region": destination.region,
        "b_registry": destination.registry,
        "b_status": str(status),
        "b_code": code,
    }


def _image(tx: Transaction, repository_id: int, digest: str) -> FoundRow | None:
    columns = images.c.image_id, images.c.digest, images.c.media_type, images.c.status, images.c.subject
    mine = images.c.repository_id == repository_id, images.c.digest == digest
    return tx.connection.execute(select(*columns).where(*mine)).one_or_none()


def _is_under_way(tx: Transaction, repository_id: int, digest: str, destination: ReplicationDestination) -> bool:
    found = tx.connection.execute(
        select(replications.c.status).where(
            replications.c.repository_id == repository_id,
            replications.c.digest == digest,
            replications.c.region == destination.region,
            replications.c.registry == destination.registry,
        )
    ).scalar()
    return found == ReplicationStatus.IN_PROGRESS


def _descend(tx: Transaction, image: FoundRow, ordered: dict[int, FoundRow]) -> None:
    """What an index lists before the index, each once. An index cannot list itself: what it lists was there before."""
    columns = images.c.image_id, images.c.digest, images.c.media_type
    listed = (
        select(*columns)
        .join(image_children, image_children.c.child_id == images.c.image_id)
        .where(image_children.c.image_id == image.image_id)
    )
    for child in sorted(tx.connection.execute(listed).all()):  # by their ids: as they were pushed
        if child.image_id not in ordered:
            _descend(tx, child, ordered)
    ordered[image.image_id] = image


def _blobs(tx: Transaction, image_id: int) -> tuple[tuple[str, int], ...]:
    rows = tx.connection.execute(
        select(blobs.c.digest, blobs.c.size)
        .join(image_blobs, image_blobs.c.blob_id == blobs.c.blob_id)
        .where(image_blobs.c.image_id == image_id)
    )
    return tuple(sorted((row.digest, row.size) for row in rows))


def _tags(
    tx: Transaction, repository_id: int, image: FoundRow, destination: ReplicationDestination
) -> tuple[ReplicaTag, ...]:
    """Those that were pushed here, and that the destination may lack."""
    synced: float | None = tx.connection.execute(
        select(replications.c.synced_at).where(
            replications.c.repository_id == repository_id,
            replications.c.digest == image.digest,
            replications.c.region == destination.region,
            replications.c.registry == destination.registry,
        )
    ).scalar()
    rows = tx.connection.execute(
        select(tags.c.name, tags.c.pushed_at)
        .where(tags.c.image_id == image.image_id, tags.c.origin.is_(None))
        .order_by(tags.c.name)
    )
    after = (synced or 0.0) - SLACK_SECONDS
    return tuple(ReplicaTag(row.name, row.pushed_at) for row in rows if row.pushed_at > after)
