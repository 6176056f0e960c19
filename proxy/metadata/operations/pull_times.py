"""Stores lastRecordedPullTime of images, which workers collect (`registry.pull_times`). Source: ECR User Guide,
"Pull-time update exclusions"; API reference, "ImageDetail"."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import bindparam, select, update

from proxy.metadata.contract import ManifestPort
from proxy.metadata.db.schema import images, pull_time_exclusions, repositories
from proxy.metadata.db.transaction import Transaction
from proxy.metadata.operations.operation import operation
from proxy.model.records import PULL_EVERY_SECONDS, Pull

_REPOSITORY = select(repositories.c.repository_id).where(
    repositories.c.account == bindparam("of_account"), repositories.c.name == bindparam("of_repository")
)
_NOTE = (
    update(images)
    .where(
        images.c.repository_id == _REPOSITORY.scalar_subquery(),
        images.c.digest == bindparam("of_digest"),
        images.c.last_pulled_at.is_(None) | (images.c.last_pulled_at <= bindparam("before")),
    )
    .values(last_pulled_at=bindparam("at"))
)


@operation(ManifestPort, write=True, settles=True)
def note_pulls(tx: Transaction, pulls: Sequence[Pull]) -> None:
    """At most one write in `PULL_EVERY_SECONDS` for each image, however many workers report pulls. Pulls by excluded
    principals and of deleted images are ignored."""
    excluded = set()
    for account in sorted({pull.account for pull in pulls}):
        named = sorted({pull.principal for pull in pulls if pull.account == account})
        rows = tx.connection.execute(
            select(pull_time_exclusions.c.principal_arn).where(
                pull_time_exclusions.c.account == account, pull_time_exclusions.c.principal_arn.in_(named)
            )
        )
        excluded |= {(account, row.principal_arn) for row in rows}
    counted = [
        {
            "of_account": pull.account,
            "of_repository": pull.repository,
            "of_digest": pull.digest,
            "at": pull.at,
            "before": pull.at - PULL_EVERY_SECONDS,
        }
        for pull in pulls
        if (pull.account, pull.principal) not in excluded
    ]
    if counted:
        tx.connection.execute(_NOTE, counted)
