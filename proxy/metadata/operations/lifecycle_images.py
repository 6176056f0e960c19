"""The images of a repository as a lifecycle policy sees them, and what it decided about them, carried out.

A run evaluates pages of `lifecycle_page` outside of any transaction. `apply_lifecycle` looks at each image again before
it removes it: an image that was tagged, pulled, restored, or that an index or a subject holds since, stays; and all
stay when the policy is another one by now. Called by `jobs.lifecycle`.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import select

from proxy.metadata.db.schema import image_children, images, repositories, tags
from proxy.metadata.db.transaction import FoundRow, Transaction
from proxy.metadata.operations.manifests import remove_image
from proxy.metadata.operations.repositories import need_repository
from proxy.model.errors import Code, Failure
from proxy.model.lifecycle.evaluation import Image, ImageStatus, Mark, deciding_rule, is_old
from proxy.model.lifecycle.policy import Action, CountType, Rule, read_policy
from proxy.model.lifecycle.records import LifecycleOutcome

_COLUMNS = (
    images.c.image_id,
    images.c.digest,
    images.c.pushed_at,
    images.c.tags,
    images.c.last_pulled_at,
    images.c.archived_at,
    images.c.activated_at,
    images.c.status,
    images.c.subject,
)
_AT_ONCE = 500  # values in one statement: SQLite of old takes 999


def lifecycle_page(
    tx: Transaction, account: str, repository: str, after: str, limit: int
) -> tuple[Sequence[Image], bool]:
    """Images by digest beyond `after`, and whether there are more."""
    repository_id = need_repository(tx, account, repository)
    rows = tx.connection.execute(
        select(*_COLUMNS)
        .where(images.c.repository_id == repository_id, images.c.digest > after)
        .order_by(images.c.digest)
        .limit(limit + 1)
    ).all()
    return _images(tx, repository_id, rows[:limit]), len(rows) > limit


def apply_lifecycle(
    tx: Transaction, account: str, repository: str, policy: str, marks: Sequence[Mark], index_aware: bool
) -> Sequence[LifecycleOutcome]:
    """What became of each mark, in their order; nothing for any where `policy` is not the repository's any more."""
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
            kept_for = _carry_out(tx, row.repository_id, image, mark)
        outcomes.append(LifecycleOutcome(image.digest, image.tags, mark.priority, mark.action, kept_for))
    tx.changed(account, repository)
    return tuple(outcomes)


def _carry_out(tx: Transaction, repository_id: int, image: Image, mark: Mark) -> str:
    """Why it was not, if so."""
    if mark.action is not Action.EXPIRE:
        return "no archive"
    try:
        remove_image(tx, repository_id, image.image_id, image.digest)
    except Failure as failure:
        if failure.code is not Code.IMAGE_REFERENCED:
            raise
        return str(failure.code)
    return ""


def _is_as_marked(rules: Sequence[Rule], image: Image, mark: Mark, now: float, index_aware: bool) -> bool:
    """Whether the image would be marked now, were the other images as they were when it was."""
    if mark.subject is not None:
        return image.status is not ImageStatus.ACTIVATING  # its subject is gone
    if image.since != mark.since:
        return False
    rule = deciding_rule(rules, image, index_aware=index_aware)
    if rule is None or (rule.priority, rule.action) != (mark.priority, mark.action):
        return False
    return rule.count_type is CountType.IMAGE_COUNT or is_old(rule, image, now)


def _needed_for(tx: Transaction, mark: Mark) -> str:
    """Why a referrer stays: because its subject does."""
    if mark.subject is None:
        return ""
    status = tx.connection.execute(select(images.c.status).where(images.c.image_id == mark.subject)).scalar()
    follows = status is None if mark.action is Action.EXPIRE else status != ImageStatus.ACTIVE
    return "" if follows else "subject"


def _by_id(tx: Transaction, repository_id: int, image_ids: Sequence[int]) -> Sequence[Image]:
    rows: list[FoundRow] = []
    for start in range(0, len(image_ids), _AT_ONCE):
        some = image_ids[start : start + _AT_ONCE]
        rows += tx.connection.execute(
            select(*_COLUMNS)
            .where(images.c.repository_id == repository_id, images.c.image_id.in_(some))
            .with_for_update()
        ).all()
    return _images(tx, repository_id, rows)


def _images(tx: Transaction, repository_id: int, rows: Sequence[FoundRow]) -> Sequence[Image]:
    named: dict[int, list[str]] = {}
    listed: dict[int, list[int]] = {}
    subjects: dict[str, int] = {}
    run = tx.connection.execute
    for start in range(0, len(rows), _AT_ONCE):
        some = rows[start : start + _AT_ONCE]
        with_tags = [row.image_id for row in some if row.tags]
        if with_tags:
            for image_id, tag in run(select(tags.c.image_id, tags.c.name).where(tags.c.image_id.in_(with_tags))):
                named.setdefault(image_id, []).append(tag)
        keys = [row.image_id for row in some]
        children = select(image_children.c.child_id, image_children.c.image_id)
        for child_id, parent_id in run(children.where(image_children.c.child_id.in_(keys))):
            listed.setdefault(child_id, []).append(parent_id)
        referred = [row.subject for row in some if row.subject is not None]
        if referred:
            wanted = select(images.c.digest, images.c.image_id).where(
                images.c.repository_id == repository_id, images.c.digest.in_(referred)
            )
            subjects.update((digest, image_id) for digest, image_id in run(wanted))
    return tuple(
        Image(
            row.image_id,
            row.digest,
            row.pushed_at,
            tuple(sorted(named.get(row.image_id, ()))),
            row.last_pulled_at,
            row.archived_at,
            row.activated_at,
            ImageStatus(row.status),
            tuple(sorted(listed.get(row.image_id, ()))),
            subjects.get(row.subject),
        )
        for row in rows
    )
