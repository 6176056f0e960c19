"""Replication in rows: configurations, what pushes and deletions cause, and what arrives."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Sequence
from typing import Any

import pytest

from proxy.metadata.db.transaction import Registry
from proxy.model.errors import Code, Failure
from proxy.model.jobs import Job
from proxy.model.records import CreateOnPush
from proxy.model.replication import RemovedTag, ReplicaTag, ReplicationDestination, ReplicationPlan, ReplicationStatus
from support.metadata import ACCOUNT, REPOSITORY, World, digest, image_manifest, index_manifest

HOME = f"us-east-1/{ACCOUNT}"
OTHER = "999988887777"
HERE = ReplicationDestination("us-east-1", OTHER)
FAR = ReplicationDestination("eu-west-1", ACCOUNT)
TO_FAR = {"region": "eu-west-1", "registryId": ACCOUNT}
TO_OTHER = {"region": "us-east-1", "registryId": OTHER}
AWAY = f"eu-west-1/{ACCOUNT}"


@pytest.fixture
def registry() -> Registry:
    return Registry(peer_regions=frozenset({"eu-west-1", "eu-central-1"}))


@pytest.fixture(autouse=True)
async def administrator(world: World) -> None:
    await world.bootstrap()


async def refused(code: Code, asking: Awaitable[Any]) -> str:
    with pytest.raises(Failure) as caught:
        await asking
    assert caught.value.code is code, caught.value
    return caught.value.message


async def configure(world: World, *destinations: dict[str, str], deletes: bool = False, **rule: Any) -> dict[str, Any]:
    found = {"destinations": list(destinations), **rule}
    if deletes:
        found["deleteReplication"] = {"enabled": True}
    return await world.call("PutReplicationConfiguration", replicationConfiguration={"rules": [found]})


async def queued(world: World) -> list[Job]:
    return list(await world.metadata.list_jobs(after=0, limit=1000, kind="replication"))


async def take(world: World) -> list[dict[str, Any]]:
    """The subjects of what waits, which is dropped."""
    found = await queued(world)
    for job in found:
        await world.metadata.drop_job(job.job_id)
    return [json.loads(job.subject) for job in found]


async def statuses(world: World, **image_id: str) -> list[dict[str, Any]]:
    found = await world.call("DescribeImageReplicationStatus", repositoryName=REPOSITORY, imageId=image_id)
    listed: list[dict[str, Any]] = found["replicationStatuses"]
    return listed


async def plan(world: World, name: str, destination: ReplicationDestination = FAR) -> ReplicationPlan:
    found = await world.metadata.replication_plan(ACCOUNT, REPOSITORY, name, destination=destination)
    assert found is not None
    return found


async def end(
    world: World, name: str, synced_at: float, status: str = "COMPLETE", code: str | None = None, revision: int = 0
) -> None:
    await world.metadata.end_replication(
        ACCOUNT,
        REPOSITORY,
        [name],
        destination=FAR,
        status=ReplicationStatus(status),
        failure_code=code,
        synced_at=synced_at,
        revision=revision,
    )


async def arrive(
    world: World, content: bytes, *tags: tuple[str, float], origin: str = AWAY, repository: str = REPOSITORY
) -> Sequence[str]:
    found = await world.metadata.put_replica(
        ACCOUNT,
        repository,
        content=content,
        media_type=None,
        digest=digest(content),
        tags=[ReplicaTag(*tag) for tag in tags],
        origin=origin,
        create=CreateOnPush.REPLICA,
    )
    return found.tags


async def tagged(world: World, tag: str) -> str | None:
    try:
        return (await world.metadata.manifest(ACCOUNT, REPOSITORY, tag)).digest
    except Failure:
        return None


async def manifest_with_layers(world: World, name: str, repository: str = REPOSITORY) -> bytes:
    for blob in (f"{name}-config", f"{name}-layer"):
        await world.commit(blob, repository)
    return image_manifest(f"{name}-config", [f"{name}-layer"])


# ---- configurations ----------------------------------------------------------------------------------------------


async def test_a_configuration_is_described_as_it_was_put_and_no_rules_remove_it(world: World) -> None:
    rule = {
        "destinations": [TO_FAR, TO_OTHER],
        "repositoryFilters": [{"filter": "team-", "filterType": "PREFIX_MATCH"}],
        "deleteReplication": {"enabled": True},
    }
    put = await world.call("PutReplicationConfiguration", replicationConfiguration={"rules": [rule]})
    assert put == {"replicationConfiguration": {"rules": [rule]}}
    assert (await world.call("DescribeRegistry"))["replicationConfiguration"] == {"rules": [rule]}
    await world.call("PutReplicationConfiguration", replicationConfiguration={"rules": []})
    assert (await world.call("DescribeRegistry"))["replicationConfiguration"] == {"rules": []}


async def test_a_registry_is_no_destination_of_its_own(world: World) -> None:
    own = {"region": "us-east-1", "registryId": ACCOUNT}
    assert await refused(Code.INVALID_PARAMETER, configure(world, own)) == (
        "Invalid parameter at 'replicationConfiguration' failed to satisfy constraint: "
        "'Replication destination cannot be the same as the source registry'"
    )


async def test_a_region_that_is_not_reached_is_refused(world: World) -> None:
    why = await refused(Code.VALIDATION, configure(world, {"region": "ap-south-1", "registryId": ACCOUNT}))
    assert "'ap-south-1' is not one that this registry reaches" in why


async def test_destinations_count_once_however_many_rules_name_them(world: World) -> None:
    many = [{"region": "eu-west-1", "registryId": f"{number:012}"} for number in range(25)]
    await world.call("PutReplicationConfiguration", replicationConfiguration={"rules": [{"destinations": many}] * 2})
    why = await refused(Code.VALIDATION, configure(world, *many, TO_OTHER))
    assert why == "The replication configuration has 26 unique destinations; at most 25 are allowed"


# ---- what pushes and deletions cause ------------------------------------------------------------------------------


async def test_an_image_that_is_pushed_again_while_it_is_sent_is_not_complete(world: World) -> None:
    """Else a client that waits for COMPLETE misses the tags that the job sends when it runs once more."""
    await configure(world, TO_FAR)
    pushed = await world.image("one", ["v1"])
    [job] = await queued(world)
    await world.put((await world.metadata.manifest(ACCOUNT, REPOSITORY, "v1")).content, ["v2"])
    await end(world, pushed.digest, 0.0, revision=job.revision)
    assert [each["status"] for each in await statuses(world, imageTag="v2")] == ["IN_PROGRESS"]
    [job] = await queued(world)
    await end(world, pushed.digest, 0.0, revision=job.revision)
    assert [each["status"] for each in await statuses(world, imageTag="v2")] == ["COMPLETE"]


async def test_a_push_is_in_progress_at_each_destination_of_the_rules_that_cover_it(world: World) -> None:
    await world.image("before", ["v0"])
    await configure(world, TO_FAR, TO_OTHER)
    pushed = await world.image("one", ["v1"])
    assert await statuses(world, imageTag="v0") == []
    wanted = [
        {"region": "eu-west-1", "registryId": ACCOUNT, "status": "IN_PROGRESS"},
        {"region": "us-east-1", "registryId": OTHER, "status": "IN_PROGRESS"},
    ]
    assert await statuses(world, imageTag="v1") == wanted
    assert await statuses(world, imageDigest=pushed.digest) == wanted
    assert {(job.account, job.share) for job in await queued(world)} == {
        (ACCOUNT, "eu-west-1"),
        (ACCOUNT, "us-east-1"),
    }


async def test_a_filter_is_a_prefix_of_the_repositorys_name(world: World) -> None:
    await configure(world, TO_FAR, repositoryFilters=[{"filter": "other", "filterType": "PREFIX_MATCH"}])
    await world.image("one", ["v1"])
    assert await queued(world) == []
    await configure(world, TO_FAR, repositoryFilters=[{"filter": REPOSITORY[:3], "filterType": "PREFIX_MATCH"}])
    await world.image("two", ["v2"])
    assert len(await queued(world)) == 1


async def test_an_image_pushed_again_while_it_waits_is_one_job(world: World) -> None:
    await configure(world, TO_FAR)
    pushed = await world.image("one", ["v1"])
    await world.put((await world.metadata.manifest(ACCOUNT, REPOSITORY, "v1")).content, ["v2", "v3"])
    [job] = await queued(world)
    assert json.loads(job.subject)["digest"] == pushed.digest
    found = await plan(world, pushed.digest)
    assert [tag.name for tag in found.manifests[-1].tags] == ["v1", "v2", "v3"]


async def test_tags_that_are_there_already_are_not_sent_again(world: World) -> None:
    await configure(world, TO_FAR)
    pushed = await world.image("one", ["v1"])
    world.clock.now += 100
    await end(world, pushed.digest, (await plan(world, pushed.digest)).planned_at)
    world.clock.now += 1000
    await world.put((await world.metadata.manifest(ACCOUNT, REPOSITORY, "v1")).content, ["v2"])
    assert [tag.name for tag in (await plan(world, pushed.digest)).manifests[-1].tags] == ["v2"]


async def test_an_image_is_being_sent_while_its_job_has_a_lease(world: World) -> None:
    async def sending(repository: str = REPOSITORY) -> bool:
        return await world.metadata.replication_sending(ACCOUNT, repository, destination=FAR)

    await configure(world, TO_FAR, deletes=True)
    pushed = await world.image("one", ["v1"])
    assert not await sending()
    jobs, _ = await world.metadata.claim_jobs(
        "replication", limit=1, seconds=60, after=("", ""), running=[], account_limit=9, share_limit=9
    )
    assert [json.loads(job.subject)["digest"] for job in jobs] == [pushed.digest]
    assert await sending()
    assert not await sending(f"{REPOSITORY}/other")
    world.clock.now += 1000  # the worker died: what it sent may have arrived
    assert await sending()
    await world.metadata.finish_job(jobs[0].job_id, jobs[0].fence, jobs[0].revision)
    await world.metadata.delete_tag(ACCOUNT, REPOSITORY, "v1")
    assert not await sending()


async def test_a_plan_has_what_an_index_lists_before_it(world: World) -> None:
    children = [(await world.image(name)).digest for name in ("a", "b")]
    index = await world.put(index_manifest(children), ["multi"])
    found = await plan(world, index.digest)
    assert [each.digest for each in found.manifests] == [*children, index.digest]
    assert [size for _, size in found.manifests[0].blobs] == [10, 10]


async def test_a_plan_has_a_subject_that_is_under_way_before_its_referrer(world: World) -> None:
    await configure(world, TO_FAR)
    subject = await world.image("subject")
    about = {"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": subject.digest, "size": 1}
    signature = await world.image("signature", subject=about)
    found = await plan(world, signature.digest)
    assert [each.digest for each in found.manifests] == [subject.digest, signature.digest]
    await end(world, subject.digest, 1.0)
    assert [each.digest for each in (await plan(world, signature.digest)).manifests] == [signature.digest]


async def test_an_archived_image_is_not_sent_and_a_restored_one_is(world: World) -> None:
    pushed = await world.image("one", ["v1"])
    await configure(world, TO_FAR)
    about = {"repositoryName": REPOSITORY, "imageId": {"imageDigest": pushed.digest}}
    await world.call("UpdateImageStorageClass", **about, targetStorageClass="ARCHIVE")
    assert (await plan(world, pushed.digest)).archived
    assert await queued(world) == []
    await world.call("UpdateImageStorageClass", **about, targetStorageClass="STANDARD")
    assert [job["digest"] for job in await take(world)] == [pushed.digest]


async def test_a_failure_is_described_with_its_code(world: World) -> None:
    await configure(world, TO_FAR)
    pushed = await world.image("one", ["v1"])
    await end(world, pushed.digest, 0.0, "FAILED", "AccessDenied")
    assert await statuses(world, imageTag="v1") == [
        {"region": "eu-west-1", "registryId": ACCOUNT, "status": "FAILED", "failureCode": "AccessDenied"}
    ]


async def test_deletions_go_only_where_a_rule_says_so(world: World) -> None:
    await configure(world, TO_FAR)
    await world.image("one", ["v1", "v2"])
    await take(world)
    await world.metadata.delete_tag(ACCOUNT, REPOSITORY, "v2")
    await world.call("BatchDeleteImage", repositoryName=REPOSITORY, imageIds=[{"imageTag": "v1"}])
    assert await take(world) == []


async def test_a_removed_tag_is_told_with_the_push_that_went(world: World) -> None:
    await configure(world, TO_FAR, deletes=True)
    pushed_at = world.clock.now
    await world.image("one", ["v1", "v2"])
    await take(world)
    world.clock.now += 10
    await world.metadata.delete_tag(ACCOUNT, REPOSITORY, "v2")
    [job] = await take(world)
    [[name, version, origin]] = job["tags"]
    assert (name, origin, job["digest"], job["removed"]) == ("v2", HOME, "", True)
    assert version == pytest.approx(pushed_at, abs=5)


async def test_a_deleted_image_is_told_with_its_tags_and_one_that_an_index_holds_is_not(world: World) -> None:
    await configure(world, TO_FAR, deletes=True)
    child = await world.image("child", ["c"])
    index = await world.put(index_manifest([child.digest]), ["multi"])
    await take(world)
    found = await world.call("BatchDeleteImage", repositoryName=REPOSITORY, imageIds=[{"imageDigest": child.digest}])
    assert found["failures"]
    assert await take(world) == []
    await world.metadata.delete_manifest(ACCOUNT, REPOSITORY, index.digest)
    [job] = await take(world)
    assert (job["digest"], [tag[0] for tag in job["tags"]], job["origin"]) == (index.digest, ["multi"], HOME)


# ---- what arrives ------------------------------------------------------------------------------------------------


async def test_what_arrives_goes_no_further(world: World) -> None:
    await configure(world, TO_FAR)
    await world.call("CreateRepository", repositoryName=REPOSITORY)
    content = await manifest_with_layers(world, "one")
    assert await arrive(world, content, ("v1", 5.0)) == ("v1",)
    assert await queued(world) == []
    assert await statuses(world, imageTag="v1") == []


async def test_the_later_push_of_a_tag_counts_and_the_other_image_stays_by_its_digest(world: World) -> None:
    mine = await world.image("mine", ["v1"])
    theirs = await manifest_with_layers(world, "theirs")
    assert await arrive(world, theirs, ("v1", world.clock.now - 100)) == ()
    assert await tagged(world, "v1") == mine.digest
    assert await tagged(world, digest(theirs)) == digest(theirs)
    assert await arrive(world, theirs, ("v1", world.clock.now + 100)) == ("v1",)
    assert await tagged(world, "v1") == digest(theirs)
    assert await tagged(world, mine.digest) == mine.digest


async def test_of_pushes_at_one_moment_the_greater_digest_counts_on_both_sides(world: World) -> None:
    await world.call("CreateRepository", repositoryName=REPOSITORY)
    contents = [await manifest_with_layers(world, name) for name in ("one", "two")]
    for order in (contents, contents[::-1]):
        for content in order:
            await arrive(world, content, ("v1", 7.0))
        assert await tagged(world, "v1") == max(map(digest, contents))
        await world.metadata.delete_tag(ACCOUNT, REPOSITORY, "v1")


async def test_an_immutable_tag_stays_and_the_image_arrives_without_it(world: World) -> None:
    mine = await world.image("mine", ["v1"])
    await world.call("PutImageTagMutability", repositoryName=REPOSITORY, imageTagMutability="IMMUTABLE")
    theirs = await manifest_with_layers(world, "theirs")
    assert await arrive(world, theirs, ("v1", world.clock.now + 100), ("v2", 1.0)) == ("v2",)
    assert await tagged(world, "v1") == mine.digest


async def test_an_archived_copy_is_restored_by_an_arrival(world: World) -> None:
    pushed = await world.image("one", ["v1"])
    content = (await world.metadata.manifest(ACCOUNT, REPOSITORY, "v1")).content
    about = {"repositoryName": REPOSITORY, "imageId": {"imageDigest": pushed.digest}}
    await world.call("UpdateImageStorageClass", **about, targetStorageClass="ARCHIVE")
    await arrive(world, content)
    assert await tagged(world, "v1") == pushed.digest


async def test_a_repository_is_made_by_a_template_for_replication_or_by_defaults(world: World) -> None:
    await world.call(
        "CreateRepositoryCreationTemplate", prefix="team", appliedFor=["REPLICATION"], imageTagMutability="IMMUTABLE"
    )
    for name in ("team/app", "other/app"):
        await arrive(world, index_manifest([]), ("v1", 1.0), repository=name)
    found = (await world.call("DescribeRepositories"))["repositories"]
    assert {each["repositoryName"]: each["imageTagMutability"] for each in found} == {
        "team/app": "IMMUTABLE",
        "other/app": "MUTABLE",
    }


async def remove(world: World, name: str, *tags: RemovedTag, origin: str = AWAY) -> bool:
    return await world.metadata.remove_replica(ACCOUNT, REPOSITORY, digest=name, origin=origin, tags=tags)


async def test_a_deletion_removes_the_tag_and_the_image_that_it_is_about(world: World) -> None:
    await world.call("CreateRepository", repositoryName=REPOSITORY)
    content = await manifest_with_layers(world, "one")
    await arrive(world, content, ("v1", 5.0), ("v2", 6.0))
    assert await remove(world, "", RemovedTag("v1", 5.0, AWAY))
    assert (await tagged(world, "v1"), await tagged(world, "v2")) == (None, digest(content))
    assert await remove(world, digest(content), RemovedTag("v2", 6.0, AWAY))
    assert await tagged(world, digest(content)) is None


@pytest.mark.parametrize("removed", [RemovedTag("v1", 4.0, AWAY), RemovedTag("v1", 9.0, "eu-central-1/1")])
async def test_a_deletion_leaves_a_tag_of_a_later_push_or_of_another_origin(world: World, removed: RemovedTag) -> None:
    await world.call("CreateRepository", repositoryName=REPOSITORY)
    content = await manifest_with_layers(world, "one")
    await arrive(world, content, ("v1", 5.0))
    assert await remove(world, digest(content), removed)
    assert await tagged(world, "v1") == digest(content)


async def test_a_tag_that_was_pushed_again_here_is_never_removed_by_a_deletion_elsewhere(world: World) -> None:
    await world.call("CreateRepository", repositoryName=REPOSITORY)
    content = await manifest_with_layers(world, "one")
    await arrive(world, content, ("v1", 5.0))
    await world.put(content, ["v1"])
    assert await remove(world, digest(content), RemovedTag("v1", 5.0, AWAY))
    assert await tagged(world, "v1") == digest(content)


async def test_a_deletion_of_what_came_from_here_comes_back_but_not_over_a_push_since(world: World) -> None:
    await configure(world, TO_FAR)
    pushed = await world.image("one", ["v1"])
    [tag] = (await plan(world, pushed.digest)).manifests[-1].tags
    world.clock.now += 10
    content = (await world.metadata.manifest(ACCOUNT, REPOSITORY, "v1")).content
    await world.put(content, ["v1"])
    assert await remove(world, "", RemovedTag("v1", tag.version, HOME))
    assert await tagged(world, "v1") == pushed.digest
    [tag] = (await plan(world, pushed.digest)).manifests[-1].tags
    assert await remove(world, "", RemovedTag("v1", tag.version, HOME))
    assert await tagged(world, "v1") is None


async def test_an_image_waits_for_a_tag_that_has_moved_there_and_not_yet_here(world: World) -> None:
    """The deletion of the image overtakes the push of the one that has its tag now, or the removal of the tag."""
    await world.call("CreateRepository", repositoryName=REPOSITORY)
    old, new = await manifest_with_layers(world, "one"), await manifest_with_layers(world, "two")
    await arrive(world, old, ("v1", 5.0))
    assert not await remove(world, digest(old))
    await arrive(world, new, ("v1", 6.0))
    assert await remove(world, digest(old))
    assert await tagged(world, digest(old)) is None
    assert await tagged(world, "v1") == digest(new)


async def test_an_image_that_an_index_lists_waits_for_the_index(world: World) -> None:
    await world.call("CreateRepository", repositoryName=REPOSITORY)
    child = await manifest_with_layers(world, "one")
    await arrive(world, child)
    await arrive(world, index_manifest([digest(child)]))
    assert not await remove(world, digest(child))
    assert await remove(world, digest(index_manifest([digest(child)])))
    assert await remove(world, digest(child))
    assert await tagged(world, digest(child)) is None


# ---- layers of another account -----------------------------------------------------------------------------------


async def other_account(world: World) -> None:
    await world.metadata.create_account(OTHER, "AKIAOTHEROTHEROTHER0", b"sealed", "admin")


async def link(world: World, *names: str, repository: str = "copy") -> Sequence[str]:
    linked = await world.metadata.link_replica(
        OTHER,
        repository,
        source_account=ACCOUNT,
        source_repository=REPOSITORY,
        digests=[digest(name) for name in names],
        create=CreateOnPush.REPLICA,
    )
    return linked.missing


async def miscounts(world: World) -> list[Any]:
    found: list[Any] = []
    for noun in ("accounts", "repositories", "images", "blob_links", "blobs"):
        found += (await world.metadata.miscounts(noun, after="", limit=100))[0]
    return found


async def test_accounts_share_an_object_until_neither_has_it(world: World) -> None:
    await other_account(world)
    blob, _ = await world.commit("one")
    assert await link(world, "one", "none") == (digest("none"),)
    theirs = await world.metadata.blob(OTHER, "copy", digest("one"))
    assert theirs.sealed.object_key == blob.sealed.object_key
    assert await miscounts(world) == []
    assert [found.digest for found, _ in await world.metadata.objects(after="", limit=10)] == [digest("one")]
    await world.metadata.unlink_blob(ACCOUNT, REPOSITORY, digest("one"))
    world.clock.now += 100_000
    assert await link(world, "one") == ()  # which renews its grace
    assert (await world.metadata.collect_blobs(grace_seconds=50_000, limit=10)).rows["blob"] == 1
    assert (await world.metadata.blob(OTHER, "copy", digest("one"))).sealed.segments == theirs.sealed.segments
    await world.metadata.unlink_blob(OTHER, "copy", digest("one"))
    world.clock.now += 100_000
    removed = await world.metadata.collect_blobs(grace_seconds=50_000, limit=10)
    assert removed.object_keys == (blob.sealed.object_key,)


async def test_a_corrupt_shared_object_is_hidden_and_healed_for_both_accounts(world: World) -> None:
    await other_account(world)
    blob, _ = await world.commit("one")
    await link(world, "one")
    await world.metadata.quarantine(blob.sealed.object_key, "why")
    await refused(Code.LAYERS_NOT_FOUND, world.metadata.blob(OTHER, "copy", digest("one")))
    healed, discard = await world.commit("one")
    assert discard == blob.sealed.object_key
    theirs = await world.metadata.blob(OTHER, "copy", digest("one"))
    assert theirs.sealed.object_key == healed.sealed.object_key != blob.sealed.object_key


async def test_a_layer_that_the_account_has_is_linked_from_its_own_repositories(world: World) -> None:
    await other_account(world)
    await world.commit("one")
    assert await link(world, "one") == ()
    assert await link(world, "one", repository="second") == ()
    assert await miscounts(world) == []


async def test_what_a_repository_does_not_have_is_not_linked_from_its_account(world: World) -> None:
    await other_account(world)
    await world.commit("one", "elsewhere")
    assert await link(world, "one") == (digest("one"),)
