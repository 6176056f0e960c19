"""The job of replication, without rows: when a tag's deletion waits."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, cast

import pytest

from proxy.jobs.queue import Postponed
from proxy.jobs.replication import SENDING_MOST, Replicating, ReplicationSource
from proxy.model.jobs import Job
from proxy.model.replication import RemovedTag, subject_of

TAG = RemovedTag("v1", 1.0, "us-east-1/123456789012")
SUBJECT = {**subject_of("team/app", "", [TAG], removed=True), "region": "eu-west-1", "registry": "123456789012"}


class Rows:
    sending = False

    def now(self) -> float:
        return 1000.0

    async def replication_sending(self, account: str, repository: str, *, destination: Any) -> bool:
        return self.sending


class Target:
    def __init__(self) -> None:
        self.removed: list[RemovedTag] = []

    async def remove(self, source: ReplicationSource, digest: str, origin: str, tags: Sequence[RemovedTag]) -> bool:
        self.removed += tags
        return True


def job(created_at: float) -> Job:
    return Job(
        job_id=1,
        kind="replication",
        account="123456789012",
        key="key",
        subject=json.dumps(SUBJECT),
        share="eu-west-1",
        attempts=0,
        due_at=0.0,
        created_at=created_at,
        fence=1,
        revision=1,
        dead=False,
        error="",
    )


async def test_a_tags_deletion_waits_for_images_on_the_line_but_not_for_ever() -> None:
    rows, target = Rows(), Target()
    as_rows, as_target = cast(Any, rows), cast(Any, target)
    made = Replicating(as_rows, lambda region: as_target, region="us-east-1")
    rows.sending = True
    with pytest.raises(Postponed):
        await made.run(job(created_at=999.0))
    assert target.removed == []
    await made.run(job(created_at=1000.0 - SENDING_MOST - 1))
    assert target.removed == [TAG]
    rows.sending = False
    await made.run(job(created_at=999.0))
    assert target.removed == [TAG, TAG]
