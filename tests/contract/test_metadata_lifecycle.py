"""Lifecycle policies through every client: kept verbatim, evaluated, carried out, previewed."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Sequence
from typing import Any

import pytest

from proxy.jobs.lifecycle import LifecycleRun
from proxy.jobs.previews import Previews
from proxy.model.errors import Code, Failure
from proxy.model.lifecycle.evaluation import Mark
from proxy.model.lifecycle.policy import CountType, LifecycleAction
from proxy.model.records import Pull
from support.metadata import ACCOUNT, INDEX, REPOSITORY, World, index_manifest
from support.recording_trail import RecordingTrail

DAY = 86_400.0
ARCHIVE = {"type": "transition", "targetStorageClass": "archive"}
NAMED: dict[str, Any] = {"repositoryName": REPOSITORY}


def rule(
    priority: int, count_type: str, number: int, *, tags: Sequence[str] | str = "untagged", **more: Any
) -> dict[str, Any]:
    selection: dict[str, Any] = {"countType": count_type, "countNumber": number}
    if count_type != CountType.IMAGE_COUNT:
        selection["countUnit"] = "days"
    if isinstance(tags, str):
        selection["tagStatus"] = tags
    else:
        selection |= {"tagStatus": "tagged", "tagPatternList": list(tags)}
    action = more.pop("action", {"type": "expire"})
    return {"rulePriority": priority, "selection": selection | more, "action": action}


def policy(*rules: dict[str, Any]) -> str:
    return json.dumps({"rules": list(rules)}, indent=1)


OLD = policy(rule(1, "sinceImagePushed", 1, tags="any"))
KEEP_ONE = policy(rule(10, "imageCountMoreThan", 1, tags=["v*"]))


async def refused(code: Code, asking: Awaitable[Any]) -> Failure:
    with pytest.raises(Failure) as caught:
        await asking
    assert caught.value.code is code, caught.value
    return caught.value


async def put_policy(world: World, text: str) -> dict[str, Any]:
    return await world.call("PutLifecyclePolicy", **NAMED, lifecyclePolicyText=text)


def run(world: World, heard: RecordingTrail | None = None, **more: Any) -> LifecycleRun:
    return LifecycleRun(world.metadata, heard or RecordingTrail(), "us-east-1", world.clock, **more)


async def carried_out(
    world: World, text: str, heard: RecordingTrail | None = None, **more: Any
) -> list[tuple[str, str]]:
    """What became of the images that were marked: digest, and why one stays."""
    return [
        (outcome.digest, outcome.kept_for) async for outcome in run(world, heard, **more).run(ACCOUNT, REPOSITORY, text)
    ]


async def left(world: World) -> set[str]:
    found = await world.call("DescribeImages", **NAMED, filter={"imageStatus": "ANY"})
    return {each["imageDigest"] for each in found["imageDetails"]}


async def aged(world: World, *names: str, **more: Any) -> list[str]:
    """Images with a tag of their own each, pushed a minute apart; digests."""
    made = []
    for name in names:
        made.append((await world.image(name, [name], **more)).digest)
        world.clock.now += 60
    return made


async def test_a_policy_is_kept_and_given_back_verbatim(world: World) -> None:
    await world.image("one")
    missing = await refused(Code.LIFECYCLE_POLICY_NOT_FOUND, world.call("GetLifecyclePolicy", **NAMED))
    assert missing.message == (
        f"Lifecycle policy does not exist for the repository with name '{REPOSITORY}' in the registry with id"
        f" '{ACCOUNT}'"
    )
    kept = {"registryId": ACCOUNT, "repositoryName": REPOSITORY, "lifecyclePolicyText": OLD}
    assert await put_policy(world, OLD) == kept
    assert await world.call("GetLifecyclePolicy", **NAMED) == kept
    await world.metadata.lifecycle_evaluated(ACCOUNT, REPOSITORY, policy="another one")
    assert await world.call("GetLifecyclePolicy", **NAMED) == kept
    await world.metadata.lifecycle_evaluated(ACCOUNT, REPOSITORY, policy=OLD)
    evaluated = kept | {"lastEvaluatedAt": world.clock.now}
    assert await world.call("GetLifecyclePolicy", **NAMED) == evaluated
    assert await world.call("DeleteLifecyclePolicy", **NAMED) == evaluated
    await refused(Code.LIFECYCLE_POLICY_NOT_FOUND, world.call("DeleteLifecyclePolicy", **NAMED))


async def test_what_is_no_policy_is_refused_and_changes_nothing(world: World) -> None:
    await world.image("one")
    await put_policy(world, OLD)
    for text in (" " * 100, "[" * 200, OLD.replace("expire", "exhale")):
        failure = await refused(Code.INVALID_PARAMETER, put_policy(world, text))
        assert "Lifecycle policy validation failure: " in failure.message
    assert (await world.call("GetLifecyclePolicy", **NAMED))["lifecyclePolicyText"] == OLD
    await refused(Code.INVALID_PARAMETER, put_policy(world, "{}"))  # below the model's 100 characters
    absent = {"repositoryName": "no/such", "lifecyclePolicyText": OLD}
    await refused(Code.REPOSITORY_NOT_FOUND, world.call("PutLifecyclePolicy", **absent))


async def test_a_run_removes_what_the_policy_expires_and_says_so_in_the_audit_log(world: World) -> None:
    first, second, third = await aged(world, "v1", "v2", "v3")
    await put_policy(world, KEEP_ONE)
    heard = RecordingTrail()
    assert await carried_out(world, KEEP_ONE, heard) == [(first, ""), (second, "")]
    assert await left(world) == {third}
    assert [(each.name, each.account, each.parameters) for each in heard.received] == [
        (
            "PolicyExecutionEvent",
            ACCOUNT,
            {
                "repositoryName": REPOSITORY,
                "imageDigest": gone,
                "imageTags": [tag],
                "rulePriority": 10,
                "action": "expire",
            },
        )
        for gone, tag in ((first, "v1"), (second, "v2"))
    ]
    assert await carried_out(world, KEEP_ONE) == []
    assert (await world.call("GetLifecyclePolicy", **NAMED))["lastEvaluatedAt"] == world.clock.now
    removed = await world.metadata.collect_blobs(grace_seconds=0, limit=100)
    assert removed.rows == {"blob-link": 4, "blob": 4}  # a config and a layer of each
    assert [each for each, _ in [await world.metadata.miscounts("repositories", after="", limit=10)]] == [()]


async def test_an_index_goes_before_its_children_and_holds_them_until_then(world: World) -> None:
    children = await aged(world, "amd64", "arm64")
    index = (await world.put(index_manifest(children), ["app"])).digest
    world.clock.now += 2 * DAY
    await put_policy(world, OLD)
    assert [gone for gone, _ in await carried_out(world, OLD)] == [index, *children]
    held = await aged(world, "v1", "v2")
    await world.put(index_manifest(held), ["kept"])
    only = policy(rule(1, "imageCountMoreThan", 1, tags=["kept"]), rule(2, "imageCountMoreThan", 1, tags=["v*"]))
    await put_policy(world, only)
    assert await carried_out(world, only) == []
    [page, _] = await world.metadata.lifecycle_page(ACCOUNT, REPOSITORY, after="", limit=10)
    [image] = [each for each in page if each.digest == held[0]]
    # Marked all the same, as where the index was pushed after the evaluation.
    mark = Mark(image.image_id, image.digest, image.since, 2, LifecycleAction.EXPIRE)
    [outcome] = await world.metadata.apply_lifecycle(ACCOUNT, REPOSITORY, policy=only, marks=[mark], index_aware=False)
    assert outcome.kept_for == "ImageReferencedByManifestList"


async def test_a_referrer_goes_with_its_subject_and_no_rule_selects_it(world: World) -> None:
    [subject] = await aged(world, "v1")
    about = {"mediaType": INDEX, "digest": subject, "size": 3}
    signature = (await world.put(index_manifest([], subject=about, artifactType="a/signature"))).digest
    note = {"mediaType": INDEX, "digest": signature, "size": 3}
    signed = (await world.put(index_manifest([], subject=note, artifactType="a/signature"))).digest
    world.clock.now += 2 * DAY
    untagged = policy(rule(1, "sinceImagePushed", 1))
    await put_policy(world, untagged)
    assert await carried_out(world, untagged) == []
    await put_policy(world, OLD)
    assert [gone for gone, _ in await carried_out(world, OLD)] == [subject, signature, signed]
    assert await left(world) == set()


@pytest.mark.parametrize("what", ["tagged", "untagged", "pulled", "removed", "policy", "referred"])
async def test_an_image_that_changed_since_the_evaluation_stays(world: World, what: str) -> None:
    [old] = await aged(world, "v1")
    about = {"mediaType": INDEX, "digest": old, "size": 3}
    world.clock.now += 2 * DAY
    unpulled = rule(2, "sinceImagePulled", 1, tags=["v1"], action=ARCHIVE)
    second = unpulled if what == "pulled" else rule(2, "sinceImagePushed", 1, tags=["v1"])
    text = policy(rule(1, "imageCountMoreThan", 1, tags=["keep"]), second)
    await put_policy(world, text)
    marks = await run(world).marks(ACCOUNT, REPOSITORY, text)
    assert [mark.digest for mark in marks] == [old]
    if what == "tagged":
        await world.put(index_manifest([], number=1), ["x"])
        await world.image("v1", ["keep"])
    elif what == "untagged":
        await world.put(index_manifest([], number=1), ["v1"])
    elif what == "removed":
        await world.metadata.delete_manifest(ACCOUNT, REPOSITORY, old)
    elif what == "policy":
        await world.call("DeleteLifecyclePolicy", **NAMED)
    elif what == "referred":
        signature = (await world.put(index_manifest([], subject=about))).digest
        marks = await run(world).marks(ACCOUNT, REPOSITORY, text)
        assert [mark.digest for mark in marks] == [old, signature]
        marks = marks[1:]  # as if its subject had been kept
    elif what == "pulled":
        pull = Pull(ACCOUNT, REPOSITORY, old, "arn:aws:iam::123456789012:user/ann", world.clock.now)
        await world.metadata.note_pulls([pull])
    outcomes = await world.metadata.apply_lifecycle(ACCOUNT, REPOSITORY, policy=text, marks=marks, index_aware=False)
    kept = {"removed": [], "policy": [], "referred": ["subject"]}.get(what, ["changed"])
    assert [outcome.kept_for for outcome in outcomes] == kept


async def test_a_policy_that_was_put_anew_is_due_and_one_that_was_evaluated_waits_its_time(world: World) -> None:
    await world.image("one")
    assert await world.metadata.lifecycle_due(older_than_seconds=60, limit=10) == ()
    await put_policy(world, KEEP_ONE)

    async def due() -> list[tuple[str, str, str]]:
        found = await world.metadata.lifecycle_due(older_than_seconds=60, limit=10)
        return [(each.account, each.repository, each.policy) for each in found]

    assert await due() == [(ACCOUNT, REPOSITORY, KEEP_ONE)]
    await run(world).run_due(80)
    assert await due() == []
    world.clock.now += 61
    assert await due() == [(ACCOUNT, REPOSITORY, KEEP_ONE)]
    await run(world).run_due(80)
    await put_policy(world, OLD)
    assert await due() == [(ACCOUNT, REPOSITORY, OLD)]


async def test_a_template_gives_its_policy_to_the_repositories_that_pushes_make(world: World) -> None:
    await world.call(
        "CreateRepositoryCreationTemplate", prefix="team", appliedFor=["CREATE_ON_PUSH"], lifecyclePolicy=KEEP_ONE
    )
    await aged(world, "v1", "v2")
    assert (await world.call("GetLifecyclePolicy", **NAMED))["lifecyclePolicyText"] == KEEP_ONE
    await run(world).run_due(80)
    assert len(await left(world)) == 1
    wrong = {"prefix": "other", "appliedFor": ["CREATE_ON_PUSH"], "lifecyclePolicy": '{"rules": [{}]}'}
    await refused(Code.INVALID_PARAMETER, world.call("CreateRepositoryCreationTemplate", **wrong))


async def preview(world: World, **more: Any) -> dict[str, Any]:
    return await world.call("GetLifecyclePolicyPreview", **NAMED, **more)


async def computed(world: World) -> None:
    previews = Previews(run(world))
    previews.begin(ACCOUNT, REPOSITORY)
    await asyncio.gather(*previews._running.values())


async def test_a_preview_says_what_would_be_done_and_does_nothing(world: World) -> None:
    images = await aged(world, "v1", "v2", "v3")
    missing = await refused(Code.LIFECYCLE_POLICY_PREVIEW_NOT_FOUND, preview(world))
    assert missing.message == "There is no dry run for this repository."
    await refused(Code.LIFECYCLE_POLICY_NOT_FOUND, world.call("StartLifecyclePolicyPreview", **NAMED))
    started = await world.call("StartLifecyclePolicyPreview", **NAMED, lifecyclePolicyText=KEEP_ONE)
    about = {"registryId": ACCOUNT, "repositoryName": REPOSITORY, "lifecyclePolicyText": KEEP_ONE}
    assert started == about | {"status": "IN_PROGRESS"}
    waiting = {"status": "IN_PROGRESS", "previewResults": [], "summary": {"expiringImageTotalCount": 0}}
    assert await preview(world) == about | waiting
    busy = await refused(
        Code.LIFECYCLE_POLICY_PREVIEW_IN_PROGRESS,
        world.call("StartLifecyclePolicyPreview", **NAMED, lifecyclePolicyText=OLD),
    )
    assert busy.message == ("The previous lifecycle policy preview request has not completed. Wait and try again.")
    await computed(world)
    found = await preview(world)
    assert found == about | {
        "status": "COMPLETE",
        "previewResults": [
            {
                "imageTags": [tag],
                "imageDigest": image,
                "imagePushedAt": world.clock.now - 60 * (3 - number),
                "action": {"type": "EXPIRE"},
                "appliedRulePriority": 10,
                "storageClass": "STANDARD",
            }
            for number, (tag, image) in enumerate(zip(("v1", "v2"), images, strict=False))
        ],
        "summary": {"expiringImageTotalCount": 2},
    }
    page = await preview(world, maxResults=1)
    assert page["previewResults"] == found["previewResults"][:1]
    rest = await preview(world, maxResults=1, nextToken=page["nextToken"])
    assert (rest["previewResults"], "nextToken" in rest) == (found["previewResults"][1:], False)
    named = await preview(world, imageIds=[{"imageTag": "v2"}, {"imageDigest": images[2]}])
    assert named["previewResults"] == found["previewResults"][1:]
    await refused(Code.INVALID_PARAMETER, preview(world, imageIds=[{"imageTag": "v2"}], maxResults=1))
    assert (await preview(world, filter={"tagStatus": "UNTAGGED"}))["previewResults"] == []
    assert (await preview(world, filter={"tagStatus": "TAGGED"}))["previewResults"] == found["previewResults"]
    assert await left(world) == set(images)


async def test_a_preview_is_computed_by_one_and_taken_over_from_one_who_is_gone(world: World) -> None:
    await aged(world, "v1", "v2")
    await put_policy(world, KEEP_ONE)
    await world.call("StartLifecyclePolicyPreview", **NAMED)
    leased = await world.metadata.lease_preview(ACCOUNT, REPOSITORY, seconds=60)
    assert leased is not None
    assert await world.metadata.lease_preview(ACCOUNT, REPOSITORY, seconds=60) is None
    world.clock.now += 61
    await computed(world)
    assert len((await preview(world))["previewResults"]) == 1
    assert not await world.metadata.keep_preview(ACCOUNT, REPOSITORY, run=leased.run, results=[])
    await world.metadata.finish_preview(
        ACCOUNT, REPOSITORY, run=leased.run, status="FAILED", expiring=0, transitioning=0
    )
    assert (await preview(world))["status"] == "COMPLETE"


async def test_a_preview_expires_after_a_day_with_its_results(world: World) -> None:
    await aged(world, "v1", "v2")
    await put_policy(world, KEEP_ONE)
    await world.call("StartLifecyclePolicyPreview", **NAMED)
    await computed(world)
    assert await world.metadata.expire_previews(limit=10) == 0
    world.clock.now += DAY
    assert (await preview(world))["status"] == "EXPIRED"
    assert await world.metadata.expire_previews(limit=10) == 2
    assert await world.metadata.expire_previews(limit=10) == 0
    gone = await preview(world)
    assert (gone["status"], gone["previewResults"]) == ("EXPIRED", [])
    await world.call("StartLifecyclePolicyPreview", **NAMED)
    await computed(world)
    assert (await preview(world))["status"] == "COMPLETE"
    await world.call("DeleteRepository", **NAMED, force=True)
    while await world.metadata.remove_deleted(limit=100):
        pass


async def test_untagged_images_of_an_index_count_with_it_where_the_setting_says_so(world: World) -> None:
    children = [(await world.image(name)).digest for name in ("amd64", "arm64")]
    await world.put(index_manifest(children), ["v1"])
    alone = (await world.image("alone")).digest
    text = policy(rule(1, "imageCountMoreThan", 1))
    await put_policy(world, text)
    assert [mark.digest for mark in await run(world).marks(ACCOUNT, REPOSITORY, text)] == []
    world.clock.now += 60
    newest = (await world.image("newest")).digest
    assert await carried_out(world, text, index_aware=True) == [(alone, "")]
    assert await left(world) > {newest, *children}
