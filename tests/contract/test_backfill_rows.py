"""Replication backfills in rows: what they list, what they queue, how they end, and what is told of it."""

from __future__ import annotations

import json
from collections.abc import Awaitable
from typing import Any

import pytest

from proxy.metadata.db.transaction import Registry
from proxy.metadata.operations import backfill_steps
from proxy.model.errors import Code, Failure
from proxy.model.jobs import Job
from proxy.model.quotas import Quotas
from proxy.model.records import CreateOnPush
from proxy.model.replication import ReplicaTag, ReplicationDestination, ReplicationStatus
from support.metadata import ACCOUNT, REPOSITORY, World, digest, image_manifest, index_manifest

FAR = ReplicationDestination("eu-west-1", ACCOUNT)
TO_FAR = {"region": "eu-west-1", "registryId": ACCOUNT}
TO_NEAR = {"region": "eu-central-1", "registryId": ACCOUNT}
TO_NEXT = {"region": "ap-south-1", "registryId": ACCOUNT}
DAY = 86_400.0


@pytest.fixture
def registry() -> Registry:
    regions = frozenset(each["region"] for each in (TO_FAR, TO_NEAR, TO_NEXT))
    return Registry(peer_regions=regions, quotas=Quotas(replication_backfills=2))


@pytest.fixture(autouse=True)
async def administrator(world: World) -> None:
    await world.bootstrap()


async def refused(code: Code, asking: Awaitable[Any]) -> str:
    with pytest.raises(Failure) as caught:
        await asking
    assert caught.value.code is code, caught.value
    return caught.value.message


async def configure(world: World, *destinations: dict[str, str], **rule: Any) -> None:
    rules = [{"destinations": list(destinations), **rule}] if destinations else []
    await world.call("PutReplicationConfiguration", replicationConfiguration={"rules": rules})


async def start(world: World, destination: dict[str, str] = TO_FAR) -> str:
    name: str = (await world.call("StartReplicationBackfill", destination=destination))["replicationBackfillId"]
    return name


async def stop(world: World, name: str) -> str:
    status: str = (await world.call("StopReplicationBackfill", replicationBackfillId=name))["status"]
    return status


async def results(world: World, name: str, **asked: Any) -> dict[str, Any]:
    return await world.call("DescribeReplicationBackfillResults", replicationBackfillId=name, **asked)


async def advance(world: World, name: str) -> float | None:
    """Until there is nothing to do at once."""
    while (seconds := await world.metadata.advance_backfill(ACCOUNT, backfill=name)) == 0.0:
        pass
    return seconds


async def push(world: World, name: str, *tags: str, repository: str = REPOSITORY) -> str:
    return (await world.image(name, tags, repository)).digest


async def queued(world: World) -> list[Job]:
    return list(await world.metadata.list_jobs(after=0, limit=1000, kind="replication"))


async def finish(world: World, status: str = "COMPLETE", code: str | None = None) -> list[str]:
    """What jobs do: each records its end and leaves the queue. The digests that they were about."""
    found = []
    for job in await queued(world):
        subject = json.loads(job.subject)
        found.append(subject["digest"])
        await world.metadata.end_replication(
            ACCOUNT,
            subject["repository"],
            [subject["digest"]],
            destination=ReplicationDestination(subject["region"], subject["registry"]),
            status=ReplicationStatus(status),
            failure_code=code,
            synced_at=world.metadata.now(),
        )
        await world.metadata.drop_job(job.job_id)
    return found


def told(found: dict[str, Any]) -> list[tuple[str, str | None, str, str | None]]:
    return [
        (each["imageId"]["imageDigest"], each["imageId"].get("imageTag"), each["status"], each.get("failureCode"))
        for each in found["results"]
    ]


# ---- start -------------------------------------------------------------------------------------------------------


async def test_a_backfill_sends_each_image_that_is_there_once_and_counts_each_tag(world: World) -> None:
    one = await push(world, "one", "v1", "v2")
    two = await push(world, "two")
    await configure(world, TO_FAR)
    assert await queued(world) == []
    begun = await world.call("StartReplicationBackfill", destination=TO_FAR)
    name = begun["replicationBackfillId"]
    assert (begun["registryId"], begun["destination"], begun["status"]) == (ACCOUNT, TO_FAR, "PREPARING")
    [listed] = (await world.call("ListReplicationBackfills"))["backfills"]
    assert (listed["status"], "progress" in listed, "endedAt" in listed) == ("PREPARING", False, False)
    assert await advance(world, name) == backfill_steps.PAUSE_SECONDS
    found = await results(world, name)
    assert (found["status"], found["results"]) == ("IN_PROGRESS", [])
    assert found["progress"] == {
        "totalReplicationCount": 3,
        "completedReplicationCount": 0,
        "failedReplicationCount": 0,
        "failureCodes": [],
    }
    assert sorted(await finish(world)) == sorted([one, two])
    assert await advance(world, name) is None
    found = await results(world, name)
    assert (found["status"], found["progress"]["completedReplicationCount"]) == ("COMPLETE", 3)
    assert found["endedAt"] >= found["startedAt"]
    assert told(found) == sorted(
        [(one, "v1", "COMPLETE", None), (one, "v2", "COMPLETE", None), (two, None, "COMPLETE", None)],
        key=lambda each: each[:2],
    )
    assert await queued(world) == []


async def test_a_destination_that_no_rule_has_is_refused_with_both_named(world: World) -> None:
    assert "'eu-west-1'" in await refused(Code.INVALID_PARAMETER, start(world))
    await configure(world, TO_NEAR)
    assert f"'{ACCOUNT}'" in await refused(Code.INVALID_PARAMETER, start(world))


async def test_a_region_has_one_backfill_at_once_and_a_registry_as_many_as_the_quota(world: World) -> None:
    await push(world, "one", "v1")
    await configure(world, TO_FAR, TO_NEAR, TO_NEXT)
    first = await start(world)
    assert "'eu-west-1'" in await refused(Code.REPLICATION_BACKFILL_IN_PROGRESS, start(world))
    await start(world, TO_NEAR)
    assert "'2'" in await refused(Code.LIMIT_EXCEEDED, start(world, TO_NEXT))
    assert await stop(world, first) == "STOPPED"
    assert await start(world) != first


async def test_only_repositories_of_the_destinations_rules_are_sent(world: World) -> None:
    await push(world, "one", "v1")
    wanted = await push(world, "two", "v1", repository="prod-app")
    await configure(world, TO_FAR, repositoryFilters=[{"filter": "prod-", "filterType": "PREFIX_MATCH"}])
    name = await start(world)
    await advance(world, name)
    assert await finish(world) == [wanted]


async def test_archived_images_and_those_that_were_replicated_here_are_not_sent(world: World) -> None:
    one = await push(world, "one", "v1")
    await push(world, "two", "v2")
    await world.call(
        "UpdateImageStorageClass",
        repositoryName=REPOSITORY,
        imageId={"imageTag": "v2"},
        targetStorageClass="ARCHIVE",
    )
    for blob in ("far-config", "far-layer"):
        await world.commit(blob)
    content = image_manifest("far-config", ["far-layer"])
    await world.metadata.put_replica(
        ACCOUNT,
        REPOSITORY,
        content=content,
        media_type=None,
        digest=digest(content),
        tags=[ReplicaTag("far", 1.0)],
        origin=f"eu-west-1/{ACCOUNT}",
        create=CreateOnPush.REPLICA,
    )
    await configure(world, TO_FAR)
    name = await start(world)
    await advance(world, name)
    assert await finish(world) == [one]


async def test_an_image_that_was_replicated_before_is_sent_with_all_its_tags(world: World) -> None:
    await configure(world, TO_FAR)
    one = await push(world, "one", "v1")
    await finish(world)
    world.clock.now += 3600
    name = await start(world)
    await advance(world, name)
    plan = await world.metadata.replication_plan(ACCOUNT, REPOSITORY, one, destination=FAR)
    assert plan is not None
    assert [tag.name for tag in plan.manifests[-1].tags] == ["v1"]


async def test_a_registry_without_images_is_complete_at_once(world: World) -> None:
    await configure(world, TO_FAR)
    name = await start(world)
    assert await advance(world, name) is None
    found = await results(world, name)
    assert (found["status"], found["progress"]["totalReplicationCount"]) == ("COMPLETE", 0)


async def test_no_more_jobs_are_queued_at_once_than_the_window(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backfill_steps, "WINDOW", 2)
    monkeypatch.setattr(backfill_steps, "IMAGES", 2)
    monkeypatch.setattr(backfill_steps, "REPOSITORIES", 2)
    pushed = [
        await push(world, f"{repository}{number}", f"v{number}", repository=repository)
        for repository in ("a", "b", "c")
        for number in range(3)
    ]
    await configure(world, TO_FAR)
    name = await start(world)
    sent: list[str] = []
    while await advance(world, name) is not None:
        some = await finish(world)
        assert 1 <= len(some) <= 2
        sent += some
    assert sorted(sent) == sorted(pushed)
    assert (await results(world, name))["progress"]["completedReplicationCount"] == 9


# ---- how items end -----------------------------------------------------------------------------------------------


async def test_a_refused_image_is_failed_with_its_code_and_its_index_with_that_of_the_child(world: World) -> None:
    child = await push(world, "one")
    content = index_manifest([child])
    await world.put(content, ["v1"])
    await configure(world, TO_FAR)
    name = await start(world)
    await advance(world, name)
    await finish(world, "FAILED", "AccessDenied")
    assert await advance(world, name) is None
    found = await results(world, name)
    assert found["status"] == "COMPLETE"
    assert found["progress"]["failureCodes"] == ["AccessDenied"]
    by_digest = {each["imageId"]["imageDigest"]: each for each in found["results"]}
    assert by_digest[digest(content)]["subImageFailureCodes"] == ["AccessDenied"]
    assert "subImageFailureCodes" not in by_digest[child]
    assert {each["failureCode"] for each in by_digest.values()} == {"AccessDenied"}


async def test_an_image_that_is_deleted_meanwhile_is_failed(world: World) -> None:
    one = await push(world, "one", "v1")
    await configure(world, TO_FAR)
    name = await start(world)
    await advance(world, name)
    await world.call("BatchDeleteImage", repositoryName=REPOSITORY, imageIds=[{"imageDigest": one}])
    for job in await queued(world):
        await world.metadata.drop_job(job.job_id)
    assert await advance(world, name) is None
    assert told(await results(world, name)) == [(one, "v1", "FAILED", "ImageNotFound")]


async def test_an_image_whose_job_an_operator_drops_is_failed(world: World) -> None:
    one = await push(world, "one", "v1")
    await configure(world, TO_FAR)
    name = await start(world)
    await advance(world, name)
    for job in await queued(world):
        await world.metadata.drop_job(job.job_id)
    assert await advance(world, name) is None
    assert told(await results(world, name)) == [(one, "v1", "FAILED", "Dropped")]


async def test_an_image_that_is_being_sent_is_sent_again_once_that_has_ended(world: World) -> None:
    await configure(world, TO_FAR)
    one = await push(world, "one", "v1")
    [claimed], _ = await world.metadata.claim_jobs(
        kind="replication", limit=1, seconds=60, after=("", ""), running=(), account_limit=9, share_limit=9
    )
    name = await start(world)
    await advance(world, name)
    [job] = await queued(world)
    assert job.revision == claimed.revision
    await finish(world)
    await advance(world, name)
    assert await finish(world) == [one]
    assert await advance(world, name) is None


async def test_a_backfill_fails_once_no_rule_has_its_destination(world: World) -> None:
    await push(world, "one", "v1")
    await configure(world, TO_FAR)
    name = await start(world)
    await advance(world, name)
    await configure(world)
    assert await advance(world, name) is None
    found = await results(world, name)
    assert (found["status"], found["failureCode"]) == ("FAILED", "DestinationNotConfigured")


# ---- stop --------------------------------------------------------------------------------------------------------


async def test_a_stopped_backfill_waits_for_what_is_being_sent_and_sends_no_more(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backfill_steps, "WINDOW", 1)
    pushed = sorted([await push(world, "one", "v1"), await push(world, "two", "v2")])
    await configure(world, TO_FAR)
    name = await start(world)
    await advance(world, name)
    await world.metadata.claim_jobs(
        kind="replication", limit=1, seconds=60, after=("", ""), running=(), account_limit=9, share_limit=9
    )
    assert await stop(world, name) == "STOPPING"
    assert await stop(world, name) == "STOPPING"
    assert await advance(world, name) == backfill_steps.PAUSE_SECONDS
    assert await finish(world) == pushed[:1]
    assert await advance(world, name) is None
    assert await queued(world) == []
    found = await results(world, name)
    assert (found["status"], found["progress"]["completedReplicationCount"]) == ("STOPPED", 1)
    assert [each[0] for each in told(found)] == pushed[:1]
    assert "STOPPED" in await refused(Code.REPLICATION_BACKFILL_INVALID_STATUS, stop(world, name))


async def test_an_unknown_backfill_is_not_found_in_any_operation(world: World) -> None:
    none = "00000000-0000-0000-0000-000000000000"
    assert none in await refused(Code.REPLICATION_BACKFILL_NOT_FOUND, stop(world, none))
    assert none in await refused(Code.REPLICATION_BACKFILL_NOT_FOUND, results(world, none))
    assert await world.metadata.advance_backfill(ACCOUNT, backfill=none) is None


# ---- lists -------------------------------------------------------------------------------------------------------


async def test_lists_are_paged_the_newest_backfill_first(world: World) -> None:
    await configure(world, TO_FAR)
    names = []
    for _ in range(3):
        names.append(await start(world))
        await advance(world, names[-1])
    found = await world.call("ListReplicationBackfills", maxResults=2)
    assert [each["replicationBackfillId"] for each in found["backfills"]] == [names[2], names[1]]
    rest = await world.call("ListReplicationBackfills", maxResults=2, nextToken=found["nextToken"])
    assert [each["replicationBackfillId"] for each in rest["backfills"]] == [names[0]]
    assert "nextToken" not in rest


async def test_results_are_paged_and_filtered_by_status(world: World) -> None:
    for number in range(5):
        await push(world, f"image{number}", f"v{number}")
    await configure(world, TO_FAR)
    name = await start(world)
    await advance(world, name)
    dropped = (await queued(world))[0]
    await world.metadata.drop_job(dropped.job_id)
    await finish(world)
    await advance(world, name)
    everything = told(await results(world, name))
    paged: list[Any] = []
    token: dict[str, Any] = {}
    while True:
        found = await results(world, name, maxResults=2, **token)
        paged += told(found)
        if "nextToken" not in found:
            break
        token = {"nextToken": found["nextToken"]}
    assert paged == everything
    assert len(everything) == 5
    assert [each[3] for each in told(await results(world, name, resultStatusFilter="FAILED"))] == ["Dropped"]
    assert len(told(await results(world, name, resultStatusFilter="COMPLETE"))) == 4
    await refused(
        Code.INVALID_PARAMETER, results(world, name, resultStatusFilter="FAILED", nextToken=token["nextToken"])
    )


async def test_a_backfill_is_kept_for_ninety_days_after_its_end(world: World) -> None:
    await push(world, "one", "v1")
    await configure(world, TO_FAR)
    name = await start(world)
    await advance(world, name)
    await finish(world)
    await advance(world, name)
    world.clock.now += 89 * DAY
    assert await world.metadata.expire_backfills(limit=10) == 0
    assert len((await results(world, name))["results"]) == 1
    world.clock.now += 2 * DAY
    assert (await world.call("ListReplicationBackfills"))["backfills"] == []
    await refused(Code.REPLICATION_BACKFILL_NOT_FOUND, results(world, name))
    assert await world.metadata.expire_backfills(limit=10) == 2
    assert await world.metadata.expire_backfills(limit=10) == 0
