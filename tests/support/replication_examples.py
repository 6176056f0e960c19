"""One call of each operation on rows about replication, for the tests of every operation."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from sqlalchemy import update

from proxy.metadata.db.replication_tables import replication_backfills
from proxy.metadata.db.transaction import Transaction
from proxy.metadata.operations import (
    accounts,
    archive,
    backfill_steps,
    backfills,
    jobs,
    manifests,
    replicas,
    replication,
    replication_rules,
    replication_status,
)
from proxy.model.records import CreateOnPush
from proxy.model.replication import RemovedTag, ReplicaTag, ReplicationDestination, ReplicationStatus
from support.metadata import digest

OTHER = "999988887777"
HERE = ReplicationDestination("us-east-1", OTHER)


def of_replication(tx: Transaction, account: str, repository: str, push: Any) -> Mapping[str, Callable[[], Any]]:
    """By name, in an order in which each finds what it is about. Ends without rules."""
    one = push.image("far", "far-1", "far-2", subject={"mediaType": "m", "digest": digest("subject"), "size": 1})
    named: dict[str, Any] = {"repositoryName": repository}
    rule: dict[str, Any] = {
        "destinations": [{"region": HERE.region, "registryId": OTHER}],
        "deleteReplication": {"enabled": True},
    }

    def configured() -> None:
        for rules in ([rule], [rule]):
            asked = {"replicationConfiguration": {"rules": rules}}
            replication_rules.put_replication_configuration(tx, account, asked)
        push.image("near", "near")
        push.image("far", "far-1", subject={"mediaType": "m", "digest": digest("subject"), "size": 1})
        for storage_class in ("ARCHIVE", "STANDARD"):
            about = {**named, "imageId": {"imageTag": "near"}, "targetStorageClass": storage_class}
            archive.update_image_storage_class(tx, account, about)
        manifests.delete_tag(tx, account, repository, "near")

    def backfilled() -> None:
        """With items of each status, and a failed index."""
        asked = {"destination": rule["destinations"][0]}
        started = backfills.start_replication_backfill(tx, account, asked)
        began.append(started["replicationBackfillId"])

    def advanced() -> None:
        while backfill_steps.advance_backfill(tx, account, began[0]) == 0.0:
            pass
        backfill_steps.advance_backfill(tx, account, began[0])
        for job in jobs.list_jobs(tx, 0, 1000, kind="replication"):
            jobs.drop_job(tx, job.job_id)
        backfill_steps.advance_backfill(tx, account, began[0])

    def expired() -> None:
        named = replication_backfills.c.name == began[0]
        tx.connection.execute(update(replication_backfills).where(named).values(ended_at=1.0))
        while backfill_steps.expire_backfills(tx, 9):
            pass

    def described() -> None:
        for more in ({}, {"resultStatusFilter": "FAILED"}):
            asked = {"replicationBackfillId": began[0], "maxResults": 1, **more}
            found = backfills.describe_replication_backfill_results(tx, account, asked)
            if "nextToken" in found:
                token = {"nextToken": found["nextToken"]}
                backfills.describe_replication_backfill_results(tx, account, {**asked, **token})

    def listed() -> None:
        backfills.start_replication_backfill(tx, account, {"destination": rule["destinations"][0]})
        found = backfills.list_replication_backfills(tx, account, {"maxResults": 1})
        backfills.list_replication_backfills(tx, account, {"nextToken": found["nextToken"]})

    def stopped() -> None:
        [newest, *_] = backfills.list_replication_backfills(tx, account, {})["backfills"]
        name = newest["replicationBackfillId"]
        backfill_steps.advance_backfill(tx, account, name)
        backfills.stop_replication_backfill(tx, account, {"replicationBackfillId": name})

    began: list[str] = []

    def arrived() -> None:
        content = manifests.manifest(tx, account, repository, one).content
        for version in (1.0, tx.now + 9):
            tags = [ReplicaTag("far-1", version), ReplicaTag("far-3", version)]
            asked = ("from/1", CreateOnPush.REPLICA)
            prepared = replicas.examine_replica(account, repository, content, None, one, tags, *asked)
            replicas.put_replica(tx, **prepared)

    def linked() -> None:
        accounts.create_account(tx, OTHER, "AKIA4444", b"sealed", "boss")
        digests = [digest("far"), digest("none")]
        for _ in range(2):
            replicas.link_replica(tx, OTHER, "copy", account, repository, digests, CreateOnPush.REPLICA)

    def removed() -> None:
        tags = [RemovedTag("far-3", tx.now + 9, "from/1")]
        replicas.remove_replica(tx, account, repository, one, "from/1", tags)
        replication_rules.put_replication_configuration(tx, account, {"replicationConfiguration": {"rules": []}})

    return {
        "PutReplicationConfiguration": configured,
        "DescribeRegistry": lambda: replication_rules.describe_registry(tx, account, {}),
        "DescribeImageReplicationStatus": lambda: replication_status.describe_image_replication_status(
            tx, account, {**named, "imageId": {"imageTag": "far-1"}}
        ),
        "replication_plan": lambda: replication.replication_plan(tx, account, repository, one, HERE),
        "end_replication": lambda: replication.end_replication(
            tx, account, repository, [one], HERE, ReplicationStatus.COMPLETE, None, 1.0
        ),
        "replication_sending": lambda: replication.replication_sending(tx, account, repository, HERE),
        "replication_backlog": lambda: replication.replication_backlog(tx),
        "StartReplicationBackfill": backfilled,
        "advance_backfill": advanced,
        "DescribeReplicationBackfillResults": described,
        "ListReplicationBackfills": listed,
        "StopReplicationBackfill": stopped,
        "expire_backfills": expired,
        "put_replica": arrived,
        "link_replica": linked,
        "remove_replica": removed,
    }
