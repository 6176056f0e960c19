"""Reads a repository's images for a lifecycle policy, and applies its decisions.

A run evaluates pages of `lifecycle_page` outside of any transaction. `apply_lifecycle` checks each image again before
it removes it: an image that was tagged, pulled or restored meanwhile, or that an index or a subject now holds, stays;
all stay if the policy has changed. Called by `jobs.lifecycle`.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import ColumnElement, and_, select

from proxy.metadata.contract import LifecyclePort
from proxy.metadata.db.schema import image_children, images, repositories, tags
from proxy.metadata.db.transaction import FoundRow, Transaction
from proxy.metadata.operations import archive, events
from proxy.metadata.operations.manifests import remove_image
from proxy.metadata.operations.operation import operation
from proxy.metadata.operations.repositories import need_repository
from proxy.model.errors import Code, Failure
from proxy.model.lifecycle.evaluation import Image, ImageStatus, Mark, deciding_rule, is_old
from proxy.model.lifecycle.policy import CountType, LifecycleAction, Rule, read_policy
from proxy.model.lifecycle.records import LifecycleOutcome

_COLUMNS = (
    images.c.image_id,
    images.c.digest,
    images.c.pushed_at,
    images.c.last_pulled_at,
    images.c.archived_at,
    images.c.activated_at,
    images.c.status,
)


@operation(LifecyclePort)
def lifecycle_page(
    tx: Transaction, account: str, repository: str, after: str, limit: int
) -> tuple[Sequence[Image], bool]:
    """Images by digest beyond `after`, and whether there are more."""
    repository_id = need_repository(tx, account, repository)
    mine = images.c.repository_id == repository_id, images.c.digest > after
    rows = tx.connection.execute(select(*_COLUMNS).where(*mine).order_by(images.c.digest).limit(limit + 1)).all()
    page = rows[:limit]
    if not page:
        return (), False
    return _images(tx, page, and_(*mine, images.c.digest <= page[-1].digest)), len(rows) > limit


@operation(LifecyclePort, write=True)
def apply_lifecycle(
    tx: Transaction, account: str, repository: str, policy: str, marks: Sequence[Mark], index_aware: bool
) -> Sequence[LifecycleOutcome]:
    """The outcome of each mark, in order; none if `policy` is no longer the repository's."""
    row = tx.connection.execute(
        select(repositories.c.repository_id, repositories.c.lifecycle_policy)
        .where(repositories.c.account == account, repositories.c.name == repository)
        .with_for_update()
    ).one_or_none()
    if row is None or row.lifecycle_policy != policy:
        return ()
    rules = read_policy(policy, expire_unpulled=tx.registry.expire_unpulled)
    held = {image.image_id: image for image in _by_id(tx, row.repository_id, [mark.image_id for mark in marks])}
    outcomes = []
    for mark in marks:
        image = held.get(mark.image_id)
        if image is None:
            continue
        kept_for = _needed_for(tx, mark)
        if not kept_for and not _is_as_marked(rules, image, mark, tx.now, index_aware):
            kept_for = "changed"
        if not kept_for:
            kept_for = _carry_out(tx, account, repository, row.repository_id, image, mark)
            if not kept_for and mark.action is LifecycleAction.EXPIRE:
                subject = None if image.subject is None else str(image.subject)
                events.image_deleted(tx, account, repository, image.digest, image.tags, subject=subject)
        outcomes.append(LifecycleOutcome(image.digest, image.tags, mark.priority, mark.action, kept_for))
    tx.changed(account, repository)
    return tuple(outcomes)


def _carry_out(tx: Transaction, account: str, repository: str, repository_id: int, image: Image, mark: Mark) -> str:
    """Apply a mark; why it was not applied, if so."""
    if mark.action is LifecycleAction.TRANSITION:
        if archive.is_listed_by_active(tx, image.image_id):
            return str(Code.IMAGE_REFERENCED)
        archive.archive(tx, account, repository, repository_id, image.image_id)
        return ""
    try:
        remove_image(tx, repository_id, image.image_id, image.digest)
    except Failure as failure:
        if failure.code is not Code.IMAGE_REFERENCED:
            raise
        return str(failure.code)
    return ""


def _is_as_marked(rules: Sequence[Rule], image: Image, mark: Mark, now: float, index_aware: bool) -> bool:
    """Whether the image would still be marked, with the other images as they were at the run."""
    if mark.subject is not None:
        return image.status is not ImageStatus.ACTIVATING  # its subject is gone
    if image.since != mark.since:
        return False
    rule = deciding_rule(rules, image, index_aware=index_aware)
    if rule is None or (rule.priority, rule.action) != (mark.priority, mark.action):
        return False
    return rule.count_type is CountType.IMAGE_COUNT or is_old(rule, image, now)


def _needed_for(tx: Transaction, mark: Mark) -> str:
    """Why a referrer stays: its subject stays."""
    if mark.subject is None:
        return ""
    status = tx.connection.execute(select(images.c.status).where(images.c.image_id == mark.subject)).scalar()
    follows = status is None if mark.action is LifecycleAction.EXPIRE else status != ImageStatus.ACTIVE
    return "" if follows else "subject"


def _by_id(tx: Transaction, repository_id: int, image_ids: Sequence[int]) -> Sequence[Image]:
    these = and_(images.c.repository_id == repository_id, images.c.image_id.in_(image_ids))
    rows = tx.connection.execute(select(*_COLUMNS).where(these).with_for_update()).all()
    return _images(tx, rows, these)


def _images(tx: Transaction, rows: Sequence[FoundRow], these: ColumnElement[bool]) -> Sequence[Image]:
    """Images of rows. `these` is the condition that found the rows, for one statement each about tags, indexes and
    subjects."""
    named: dict[int, list[str]] = {}
    listed: dict[int, list[int]] = {}
    run = tx.connection.execute
    of_tags = select(tags.c.image_id, tags.c.name).join(images, images.c.image_id == tags.c.image_id)
    for image_id, tag in run(of_tags.where(these, images.c.tags > 0)):
        named.setdefault(image_id, []).append(tag)
    of_indexes = select(image_children.c.child_id, image_children.c.image_id)
    for child_id, parent_id in run(
        of_indexes.join(images, images.c.image_id == image_children.c.child_id).where(these)
    ):
        listed.setdefault(child_id, []).append(parent_id)
    subject = images.alias()
    of_subjects = (
        select(images.c.image_id, subject.c.image_id)
        .join(
            subject,
            (subject.c.repository_id == images.c.repository_id) & (subject.c.digest == images.c.subject),
        )
        .where(these, images.c.subject.is_not(None))
    )
    subjects: dict[int, int] = {}
    for image_id, subject_id in run(of_subjects):
        subjects[image_id] = subject_id
    return tuple(
        Image(
            image_id,
            digest,
            pushed_at,
            tuple(sorted(named[image_id])) if image_id in named else (),
            last_pulled_at,
            archived_at,
            activated_at,
            ImageStatus(status),
            tuple(sorted(listed[image_id])) if image_id in listed else (),
            subjects.get(image_id),
        )
        for image_id, digest, pushed_at, last_pulled_at, archived_at, activated_at, status in rows
    )
