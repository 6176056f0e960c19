"""Events on rows: which pushes and deletions write them for whom, and how jobs get them in order, on both databases."""

from __future__ import annotations

import json
from typing import Any

import pytest

from proxy.model.errors import Code, Failure
from proxy.model.events import EventDelivery
from proxy.model.jobs import Job
from support.metadata import ACCOUNT, CONFIG, IMAGE, REPOSITORY, World, digest, index_manifest

ALL = json.dumps({"source": ["aws.ecr"]})
HOOK = "https://hooks.example/ci"


async def rule(world: World, name: str = "all", pattern: str = ALL, account: str = ACCOUNT, **more: Any) -> None:
    await world.metadata.events(account, "PutRule", {"Name": name, "EventPattern": pattern, **more})
    targets = {"Rule": name, "Targets": [{"Id": "hook", "Arn": HOOK}]}
    await world.metadata.events(account, "PutTargets", targets)


async def claim(world: World) -> list[Job]:
    asked: dict[str, Any] = {"limit": 9, "after": ("", ""), "running": (), "account_limit": 9, "share_limit": 9}
    found, _ = await world.metadata.claim_jobs("event", seconds=60.0, **asked)
    return list(found)


async def following(world: World, job: Job) -> EventDelivery | None:
    subject = json.loads(job.subject)
    return await world.metadata.next_event(job.account, subject["target"], subject["repository"])


async def events(world: World) -> list[dict[str, Any]]:
    """All that wait, delivered."""
    found: list[dict[str, Any]] = []
    for job in await claim(world):
        while (delivery := await following(world, job)) is not None:
            found.append(json.loads(delivery.body))
            assert await world.metadata.end_event(job.job_id, job.fence, delivery.delivery_id, error=None, dead=False)
        await world.metadata.finish_job(job.job_id, job.fence, job.revision)
    return found


async def details(world: World) -> list[dict[str, Any]]:
    """The same: "type" beside the detail's members."""
    return [{"type": event["detail-type"], **event["detail"]} for event in await events(world)]


def image(name: str, action: str, tag: str | None = None) -> dict[str, Any]:
    found = {
        "type": "ECR Image Action",
        "result": "SUCCESS",
        "repository-name": REPOSITORY,
        "image-digest": name,
        "action-type": action,
    }
    return found if tag is None else {**found, "image-tag": tag}


async def test_an_account_without_rules_has_no_events(world: World) -> None:
    await world.bootstrap()
    await world.image("one", ["v1"])
    assert await world.metadata.job_counts() == ()
    await rule(world)
    await world.metadata.events(ACCOUNT, "DisableRule", {"Name": "all"})
    await world.image("two", ["v2"])
    assert await world.metadata.job_counts() == ()


async def test_a_push_has_an_event_for_each_tag_that_it_moves_and_none_when_nothing_is_new(world: World) -> None:
    await world.bootstrap()
    await rule(world)
    one = (await world.image("one", ["v1", "latest"])).digest
    await world.image("one", ["v1"])
    await world.image("one", ["v2"])
    two = (await world.image("two", ["latest"])).digest
    three = (await world.image("three")).digest
    assert await details(world) == [
        image(one, "PUSH", "v1"),
        image(one, "PUSH", "latest"),
        image(one, "PUSH", "v2"),
        image(two, "PUSH", "latest"),
        image(three, "PUSH"),
    ]


async def test_put_image_has_the_event_that_docker_has(world: World) -> None:
    await world.bootstrap()
    await rule(world)
    await world.call("CreateRepository", repositoryName=REPOSITORY)
    content = index_manifest([]).decode()
    await world.call("PutImage", repositoryName=REPOSITORY, imageManifest=content, imageTag="v1")
    assert await details(world) == [image(digest(content), "PUSH", "v1")]


async def test_deletions_have_events_of_all_tags_that_go_whichever_way_they_are_asked_for(world: World) -> None:
    await world.bootstrap()
    one = (await world.image("one", ["a", "b", "c"])).digest
    two = (await world.image("two", ["d", "e"])).digest
    three = (await world.image("three")).digest
    await rule(world)
    await world.metadata.delete_tag(ACCOUNT, REPOSITORY, "a")
    await world.metadata.delete_manifest(ACCOUNT, REPOSITORY, one)
    ids = [{"imageTag": "d"}, {"imageDigest": two}, {"imageDigest": three}, {"imageTag": "none"}]
    await world.call("BatchDeleteImage", repositoryName=REPOSITORY, imageIds=ids)
    assert await details(world) == [
        image(one, "DELETE", "a"),
        image(one, "DELETE", "b"),
        image(one, "DELETE", "c"),
        image(two, "DELETE", "d"),
        image(two, "DELETE", "e"),
        image(three, "DELETE"),
    ]


async def test_a_referrer_has_an_event_of_its_own_type(world: World) -> None:
    await world.bootstrap()
    await rule(world)
    subject = {"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": digest("s"), "size": 1}
    made = await world.image("sbom", subject=subject, artifactType="application/spdx+json")
    await world.metadata.delete_manifest(ACCOUNT, REPOSITORY, made.digest)
    pushed, deleted = await details(world)
    assert pushed == {
        **image(made.digest, "PUSH"),
        "type": "ECR Referrer Action",
        "manifest-media-type": "application/vnd.oci.image.manifest.v1+json",
        "artifact-media-type": "application/spdx+json",
    }
    assert deleted == {**image(made.digest, "DELETE"), "type": "ECR Referrer Action"}


async def test_a_storage_class_has_the_json_that_eventbridge_documents_for_it(world: World) -> None:
    """An image that is archived and restored, and its referrer, whose events are of their own type."""
    await world.bootstrap()
    image_digest = (await world.image("one", ["v1"])).digest
    subject = {"mediaType": IMAGE, "digest": image_digest, "size": 1}
    referrer = (await world.image("sbom", subject=subject, artifactType="application/spdx+json")).digest
    await rule(world)
    about = {"repositoryName": REPOSITORY, "imageId": {"imageTag": "v1"}}
    await world.call("UpdateImageStorageClass", **about, targetStorageClass="ARCHIVE")
    world.clock.now += 0.25
    await world.call("UpdateImageStorageClass", **about, targetStorageClass="STANDARD")
    found = await events(world)

    def expected(number: int, detail_type: str, **detail: str) -> dict[str, Any]:
        return {
            "version": "0",
            "id": found[number]["id"],
            "detail-type": detail_type,
            "source": "aws.ecr",
            "account": ACCOUNT,
            "time": "2027-01-15T08:00:00Z",
            "region": "us-east-1",
            "resources": [],
            "detail": {
                "result": "SUCCESS",
                "repository-name": REPOSITORY,
                "action-type": "UPDATE_STORAGE_CLASS",
                "manifest-media-type": IMAGE,
                **detail,
            },
        }

    of_image = {"image-digest": image_digest, "artifact-media-type": CONFIG}
    of_referrer = {"image-digest": referrer, "artifact-media-type": "application/spdx+json"}
    restored = {"target-storage-class": "STANDARD", "last-activated-at": "2027-01-15T08:00:00.250Z"}
    assert found == [
        expected(0, "ECR Image Action", **of_image, **{"target-storage-class": "ARCHIVE"}),
        expected(1, "ECR Referrer Action", **of_referrer, **{"target-storage-class": "ARCHIVE"}),
        expected(2, "ECR Image Action", **of_image, **restored),
        expected(3, "ECR Referrer Action", **of_referrer, **restored),
    ]
    assert len({each["id"] for each in found}) == 4


async def test_only_matching_rules_of_the_account_get_an_event(world: World) -> None:
    await world.bootstrap()
    await rule(world, "other-repository", json.dumps({"detail": {"repository-name": [{"prefix": "x/"}]}}))
    await rule(world, "tags", json.dumps({"detail": {"image-tag": [{"prefix": "v"}]}}))
    await rule(world, "foreign", account="210987654321")
    await world.image("one", ["v1", "latest"])
    assert [each["image-tag"] for each in await details(world)] == ["v1"]


async def test_an_event_that_fails_stays_first_with_its_body_and_a_dead_one_makes_way(world: World) -> None:
    await world.bootstrap()
    await rule(world)
    await world.image("one", ["v1", "v2"])
    [job] = await claim(world)
    first = await following(world, job)
    assert first is not None
    assert await world.metadata.end_event(job.job_id, job.fence, first.delivery_id, error="HTTP 503", dead=False)
    again = await following(world, job)
    assert again is not None
    assert (again.delivery_id, again.body, again.attempts) == (first.delivery_id, first.body, 1)
    assert await world.metadata.end_event(job.job_id, job.fence, first.delivery_id, error="HTTP 503", dead=True)
    second = await following(world, job)
    assert second is not None
    assert second.delivery_id != first.delivery_id
    [dead] = await world.metadata.list_jobs(after=0, limit=9, dead=True)
    subject = json.loads(dead.subject)
    assert (dead.kind, dead.error, subject["body"], dead.attempts) == ("event", "HTTP 503", first.body, 2)
    once_more = await world.metadata.dead_event(ACCOUNT, subject["target"], subject["body"])
    assert once_more is not None
    assert once_more.body == first.body


async def test_who_lost_the_lease_of_a_job_changes_nothing(world: World) -> None:
    await world.bootstrap()
    await rule(world)
    await world.image("one", ["v1"])
    [old] = await claim(world)
    delivery = await following(world, old)
    assert delivery is not None
    world.clock.now += 61.0
    [new] = await claim(world)
    for error, dead in ((None, False), ("x", False), ("x", True)):
        assert not await world.metadata.end_event(old.job_id, old.fence, delivery.delivery_id, error=error, dead=dead)
    assert await following(world, new) == delivery


async def test_what_was_to_go_to_a_target_that_is_gone_is_removed(world: World) -> None:
    await world.bootstrap()
    await rule(world)
    await world.image("one", ["v1", "v2"])
    [job] = await claim(world)
    target = json.loads(job.subject)["target"]
    assert await world.metadata.drop_events(target, REPOSITORY) == 0
    await world.metadata.events(ACCOUNT, "RemoveTargets", {"Rule": "all", "Ids": ["hook"]})
    assert await following(world, job) is None
    assert await world.metadata.dead_event(ACCOUNT, target, "{}") is None
    assert await world.metadata.drop_events(target, REPOSITORY) == 2
    await rule(world)
    await world.image("one", ["v3"])
    assert [json.loads(each.subject)["target"] for each in await claim(world)] != [target]


async def test_a_secret_is_made_once_and_the_one_before_signs_for_a_while_after_a_rotation(world: World) -> None:
    await world.bootstrap()
    await rule(world)
    await world.image("one", ["v1"])
    [job] = await claim(world)
    assert await world.metadata.event_secret(ACCOUNT) is None

    async def signing() -> tuple[bytes, ...]:
        delivery = await following(world, job)
        assert delivery is not None
        return tuple(delivery.secrets)

    put = world.metadata.put_event_secret
    assert await signing() == ()
    for sealed, rotates, found in (
        (b"one", False, (b"one",)),
        (b"x", False, (b"one",)),
        (b"two", True, (b"two", b"one")),
    ):
        await put(ACCOUNT, sealed, rotates=rotates, keep_seconds=60.0)
        assert await signing() == found
    world.clock.now += 60.0
    assert await signing() == (b"two",)


async def test_quotas_are_eventbridges_own(world: World) -> None:
    await world.bootstrap()
    await rule(world)
    for number in range(4):
        targets = [{"Id": f"t{number}", "Arn": HOOK}]
        await world.metadata.events(ACCOUNT, "PutTargets", {"Rule": "all", "Targets": targets})
    with pytest.raises(Failure) as refused:
        await world.metadata.events(ACCOUNT, "PutTargets", {"Rule": "all", "Targets": [{"Id": "t9", "Arn": HOOK}]})
    assert refused.value.code is Code.LIMIT_EXCEEDED
