"""What `contract.Metadata` promises of blobs and uploads, on every service and through every client."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from dataclasses import replace
from typing import Any

import pytest

from proxy.model.errors import Code, Failure
from proxy.model.records import CreateOnPush, EncryptedDataKey, Segment, Upload
from support.metadata import (
    ACCOUNT,
    DATA_KEY,
    REPOSITORY,
    World,
    append,
    digest,
    image_manifest,
)

HOUR = 3600.0


async def refused(code: Code, asking: Awaitable[Any]) -> Failure:
    with pytest.raises(Failure) as caught:
        await asking
    assert caught.value.code is code, caught.value
    return caught.value


async def finish(world: World, upload_id: str, fence: int, name: str) -> Upload:
    asked = {"segment": append(0, 5), "hash_state": b"s", "frame_hashes": b""}
    return await world.metadata.finish_upload(upload_id, fence, digest=digest(name), **asked)  # type: ignore[arg-type]


async def finished(world: World, name: str) -> Upload:
    """A session whose first append has left all that the blob `name` has."""
    upload = await world.begin()
    return await finish(world, upload.upload_id, (await world.lease(upload)).fence, name)


async def close(
    world: World, upload: Upload, name: str, repository: str = REPOSITORY
) -> tuple[Upload | None, str | None]:
    return await world.metadata.close_upload(ACCOUNT, repository, upload.upload_id, digest(name), seconds=30.0)


class TestUploads:
    async def test_a_push_creates_the_repository_only_when_told_to(self, world: World) -> None:
        failure = await refused(Code.REPOSITORY_NOT_FOUND, world.begin(create=False))
        assert failure.message == (
            f"The repository with name 'team/app' does not exist in the registry with id '{ACCOUNT}'"
        )
        await world.begin(create=True)
        assert (await world.begin(create=False)).sealed.plain_size == 0

    async def test_begin_asked_again_with_its_object_key_is_the_same_session(self, world: World) -> None:
        asked = {
            "algorithm": "sha512",
            "object_key": world.object_key(),
            "data_key": DATA_KEY,
            "sealed_for": "arn",
            "frame_length": 4096,
            "create": CreateOnPush.YES,
        }
        first = await world.metadata.begin_upload(ACCOUNT, REPOSITORY, **asked)  # type: ignore[arg-type]
        again = await world.metadata.begin_upload(ACCOUNT, REPOSITORY, **asked)  # type: ignore[arg-type]
        assert first == again
        assert (first.algorithm, first.sealed.data_key, first.fence) == ("sha512", DATA_KEY, 0)

    async def test_a_session_is_seen_only_by_the_repository_that_opened_it(self, world: World) -> None:
        upload = await world.begin()
        await world.begin("other/app")
        failure = await refused(Code.UPLOAD_NOT_FOUND, world.metadata.upload(ACCOUNT, "other/app", upload.upload_id))
        assert failure.message == (
            f"Upload with id '{upload.upload_id}' could not be found for the repository with name 'other/app'"
            f" in the registry with id '{ACCOUNT}'"
        )
        await refused(
            Code.UPLOAD_NOT_FOUND,
            world.metadata.lease_upload(ACCOUNT, "other/app", upload.upload_id, seconds=1),
        )
        await refused(Code.REPOSITORY_NOT_FOUND, world.metadata.upload(ACCOUNT, "never/made", upload.upload_id))

    async def test_one_lease_at_a_time_and_a_later_one_has_a_higher_fence(self, world: World) -> None:
        upload = await world.begin()
        first = await world.lease(upload, seconds=10)
        failure = await refused(Code.UPLOAD_IN_USE, world.lease(upload))
        assert (failure.fields["offset"], failure.fields["seconds"]) == (0, 10)
        world.clock.now += 9.7
        assert (await refused(Code.UPLOAD_IN_USE, world.lease(upload))).fields["seconds"] == 1
        world.clock.now += 0.8
        second = await world.lease(upload)
        assert second.fence > first.fence > 0

    async def test_who_lost_the_lease_can_neither_renew_nor_advance_nor_commit(self, world: World) -> None:
        upload = await world.begin()
        lost = (await world.lease(upload, seconds=10)).fence
        world.clock.now += 11
        await world.lease(upload)
        uid = upload.upload_id
        await refused(Code.UPLOAD_CONFLICT, world.metadata.renew_upload(uid, lost, seconds=10))
        await refused(
            Code.UPLOAD_CONFLICT,
            world.metadata.advance_upload(uid, lost, segment=append(0, 5), hash_state=b""),
        )
        await refused(
            Code.UPLOAD_CONFLICT,
            world.metadata.commit_upload(uid, lost, digest=digest("x"), segment=None, hash_state=b""),
        )
        await world.metadata.release_upload(uid, lost)
        await refused(Code.UPLOAD_IN_USE, world.lease(upload))

    async def test_a_renewed_lease_lives_on_and_a_released_one_is_free_at_once(self, world: World) -> None:
        upload = await world.begin()
        leased = await world.lease(upload, seconds=10)
        world.clock.now += 9
        await world.metadata.renew_upload(upload.upload_id, leased.fence, seconds=10)
        world.clock.now += 9
        await refused(Code.UPLOAD_IN_USE, world.lease(upload))
        await world.metadata.release_upload(upload.upload_id, leased.fence)
        await world.lease(upload)

    async def test_a_finished_session_is_closed_by_its_digest_alone_and_once(self, world: World) -> None:
        upload = await finished(world, "one")
        assert (upload.committed, upload.fence, upload.sealed.segments) == (None, 0, (append(0, 5),))
        assert await close(world, upload, "one") == (None, None)
        blob = await world.metadata.blob(ACCOUNT, REPOSITORY, digest("one"))
        assert (blob.size, blob.sealed) == (5, upload.sealed)
        again, _ = await close(world, upload, "one")
        assert again is not None
        assert (again.committed, again.fence) == (digest("one"), 0)

    async def test_a_second_session_of_a_blob_that_is_there_leaves_its_object_over(self, world: World) -> None:
        await close(world, await finished(world, "one"), "one")
        second = await finished(world, "one")
        assert await close(world, second, "one") == (None, second.sealed.object_key)

    async def test_finish_asked_again_is_the_same_append(self, world: World) -> None:
        upload = await world.begin()
        fence = (await world.lease(upload)).fence
        once, again = [await finish(world, upload.upload_id, fence, "one") for _ in range(2)]
        assert once == again
        assert await close(world, upload, "one") == (None, None)

    @pytest.mark.parametrize("why", ["another digest", "advanced", "leased twice", "leased since", "appended since"])
    async def test_what_is_not_finished_as_that_digest_is_leased_instead_of_closed(
        self, world: World, why: str
    ) -> None:
        upload = await world.begin()
        if why == "leased twice":
            await world.metadata.release_upload(upload.upload_id, (await world.lease(upload)).fence)
        fence = (await world.lease(upload)).fence
        if why == "advanced":
            await world.metadata.advance_upload(upload.upload_id, fence, segment=append(0, 5), hash_state=b"s")
        else:
            await finish(world, upload.upload_id, fence, "one")
        if why == "leased since":
            await world.metadata.release_upload(upload.upload_id, (await world.lease(upload)).fence)
        if why == "appended since":
            fence = (await world.lease(upload)).fence
            await world.metadata.advance_upload(upload.upload_id, fence, segment=append(5, 5, 105), hash_state=b"s")
        leased, _ = await close(world, upload, "other" if why == "another digest" else "one")
        assert leased is not None
        assert (leased.committed, leased.fence > 0) == (None, True)
        await refused(Code.LAYERS_NOT_FOUND, world.metadata.blob(ACCOUNT, REPOSITORY, digest("one")))

    async def test_a_session_that_somebody_writes_to_is_not_closed_beside_it(self, world: World) -> None:
        upload = await finished(world, "one")
        await world.lease(upload, seconds=10)
        failure = await refused(Code.UPLOAD_IN_USE, close(world, upload, "one"))
        assert failure.fields["offset"] == 5

    async def test_of_many_who_close_a_session_or_go_on_with_it_one_does(self, world: World) -> None:
        upload = await finished(world, "one")
        asked = [close(world, upload, "one"), world.lease(upload), close(world, upload, "one"), world.lease(upload)]
        found = await asyncio.gather(*asked, return_exceptions=True)
        closed = [each for each in found if isinstance(each, tuple) and each[0] is None]
        leases = [each[0] if isinstance(each, tuple) else each for each in found if each not in closed]
        assert len(closed) + sum(isinstance(each, Upload) and each.fence > 0 for each in leases) == 1
        for each in leases:
            if isinstance(each, Upload) and not each.fence:
                assert closed
                assert each.committed == digest("one")

    async def test_a_session_is_closed_only_by_the_repository_that_opened_it(self, world: World) -> None:
        upload = await finished(world, "one")
        await world.begin("other/app")
        await refused(Code.UPLOAD_NOT_FOUND, close(world, upload, "one", "other/app"))
        await world.metadata.cancel_upload(ACCOUNT, REPOSITORY, upload.upload_id)
        await refused(Code.UPLOAD_NOT_FOUND, close(world, upload, "one"))

    async def test_an_append_moves_the_offset_keeps_the_state_and_frees_the_session(self, world: World) -> None:
        upload = await world.begin()
        leased = await world.lease(upload)
        advanced = await world.metadata.advance_upload(
            upload.upload_id, leased.fence, segment=append(0, 5), hash_state=b"after 5"
        )
        assert advanced == await world.metadata.upload(ACCOUNT, REPOSITORY, upload.upload_id)
        assert (advanced.sealed.plain_size, advanced.sealed.stored_size) == (5, 105)
        assert (advanced.hash_state, advanced.fence, advanced.sealed.segments) == (b"after 5", 0, (append(0, 5),))

    async def test_an_append_whose_answer_was_lost_is_answered_again(self, world: World) -> None:
        upload = await world.begin()
        fence = (await world.lease(upload)).fence
        once = await world.metadata.advance_upload(upload.upload_id, fence, segment=append(0, 5), hash_state=b"s")
        again = await world.metadata.advance_upload(upload.upload_id, fence, segment=append(0, 5), hash_state=b"s")
        assert once == again
        assert again.sealed.segment_count == 1

    async def test_an_append_that_begins_elsewhere_is_refused_with_the_true_offset(self, world: World) -> None:
        upload = await world.begin()
        fence = (await world.lease(upload)).fence
        failure = await refused(
            Code.UPLOAD_CONFLICT,
            world.metadata.advance_upload(upload.upload_id, fence, segment=append(7, 5), hash_state=b""),
        )
        assert failure.fields["offset"] == 0

    async def test_a_blob_of_several_appends_has_its_segments_in_order_beyond_the_first_page(
        self, world: World
    ) -> None:
        upload = await world.begin()
        made: list[Segment] = []
        for number in range(70):
            segment = append(number * 10, 10, number * 110)
            fence = (await world.lease(upload)).fence
            await world.metadata.advance_upload(upload.upload_id, fence, segment=segment, hash_state=b"s")
            made.append(segment)
        fence = (await world.lease(upload)).fence
        blob, leftover = await world.metadata.commit_upload(
            upload.upload_id, fence, digest=digest("long"), segment=append(700, 0, 7700), hash_state=b"s"
        )
        assert leftover is None
        assert (blob.size, blob.sealed.stored_size, blob.sealed.segment_count) == (700, 7800, 71)
        assert blob.sealed.segments == tuple(made[:64])
        key = blob.sealed.object_key
        assert await world.metadata.segments(key, 655, limit=3) == tuple(made[65:68])
        assert await world.metadata.segments(key, 690) == (made[69], append(700, 0, 7700))
        assert await world.metadata.segments(key, 0, limit=1) == (made[0],)

    async def test_a_repeated_commit_is_answered_again_for_an_hour(self, world: World) -> None:
        leased = await world.lease(await world.begin())

        def commit(name: str) -> Awaitable[Any]:
            return world.metadata.commit_upload(
                leased.upload_id, leased.fence, digest=digest(name), segment=append(0, 3), hash_state=b"s"
            )

        assert await commit("one") == await commit("one")
        await refused(Code.UPLOAD_CONFLICT, commit("another"))
        world.clock.now += HOUR - 1
        for seen in (
            await world.metadata.upload(ACCOUNT, REPOSITORY, leased.upload_id),
            await world.lease(leased),
        ):
            assert (seen.committed, seen.fence) == (digest("one"), 0)
        world.clock.now += 2
        await refused(Code.UPLOAD_NOT_FOUND, world.metadata.upload(ACCOUNT, REPOSITORY, leased.upload_id))

    async def test_of_two_uploads_of_one_digest_the_first_object_stays(self, world: World) -> None:
        first, nothing = await world.commit("same")
        second, leftover = await world.commit("same")
        assert nothing is None
        assert second == first
        assert leftover is not None
        assert leftover != first.sealed.object_key
        assert await world.metadata.known_objects([first.sealed.object_key, leftover]) == (first.sealed.object_key,)
        assert await world.metadata.segments(leftover, 0) == ()

    async def test_a_cancelled_session_is_gone_and_its_object_is_given_up(self, world: World) -> None:
        upload = await world.begin()
        assert await world.metadata.cancel_upload(ACCOUNT, REPOSITORY, upload.upload_id) == upload.sealed.object_key
        await refused(Code.UPLOAD_NOT_FOUND, world.metadata.cancel_upload(ACCOUNT, REPOSITORY, upload.upload_id))
        await refused(Code.UPLOAD_NOT_FOUND, world.lease(upload))
        assert await world.metadata.known_objects([upload.sealed.object_key]) == ()
        assert (await world.metadata.expire_uploads(idle_seconds=HOUR, limit=9)).object_keys == (
            upload.sealed.object_key,
        )

    async def test_sessions_of_a_deleted_repository_end_with_it(self, world: World) -> None:
        upload = await world.begin()
        fence = (await world.lease(upload, seconds=5)).fence
        await world.call("DeleteRepository", repositoryName=REPOSITORY)
        await refused(
            Code.UPLOAD_NOT_FOUND,
            world.metadata.commit_upload(
                upload.upload_id, fence, digest=digest("x"), segment=append(0, 1), hash_state=b""
            ),
        )
        await world.begin()
        await refused(Code.UPLOAD_NOT_FOUND, world.metadata.upload(ACCOUNT, REPOSITORY, upload.upload_id))
        assert (await world.metadata.expire_uploads(idle_seconds=HOUR, limit=9)).object_keys == ()
        world.clock.now += 6
        assert (await world.metadata.expire_uploads(idle_seconds=HOUR, limit=9)).object_keys == (
            upload.sealed.object_key,
        )

    async def test_idle_sessions_expire_but_not_under_a_lease_nor_with_their_blob(self, world: World) -> None:
        idle, leased = await world.begin(), await world.begin()
        blob, _ = await world.commit("kept")
        await world.lease(leased, seconds=10 * HOUR)
        world.clock.now += 2 * HOUR
        fresh = await world.begin()
        assert (await world.metadata.expire_uploads(idle_seconds=HOUR, limit=100)).object_keys == (
            idle.sealed.object_key,
        )
        await refused(Code.UPLOAD_NOT_FOUND, world.metadata.upload(ACCOUNT, REPOSITORY, idle.upload_id))
        await world.metadata.upload(ACCOUNT, REPOSITORY, fresh.upload_id)
        assert await world.metadata.blob(ACCOUNT, REPOSITORY, digest("kept")) == blob


class TestBlobs:
    async def test_a_blob_is_seen_only_through_repositories_that_link_it(self, world: World) -> None:
        blob, _ = await world.commit("layer")
        await world.begin("other/app")
        assert await world.metadata.blob(ACCOUNT, REPOSITORY, digest("layer")) == blob
        await refused(Code.LAYERS_NOT_FOUND, world.metadata.blob(ACCOUNT, "other/app", digest("layer")))
        await refused(Code.REPOSITORY_NOT_FOUND, world.metadata.blob(ACCOUNT, "no/where", digest("layer")))
        await refused(Code.REPOSITORY_NOT_FOUND, world.metadata.blob("999999999999", REPOSITORY, digest("layer")))

    async def test_a_mount_links_what_some_repository_holds(self, world: World) -> None:
        blob, _ = await world.commit("layer")
        mount = world.metadata.mount_blob
        await refused(
            Code.REPOSITORY_NOT_FOUND, mount(ACCOUNT, "b/b", digest("layer"), REPOSITORY, create=CreateOnPush.NO)
        )
        assert not await mount(ACCOUNT, "b/b", digest("layer"), "no/where", create=CreateOnPush.YES)
        assert not await mount(ACCOUNT, "b/b", digest("absent"), None, create=CreateOnPush.YES)
        assert await mount(ACCOUNT, "b/b", digest("layer"), REPOSITORY, create=CreateOnPush.YES)
        assert await mount(ACCOUNT, "c/c", digest("layer"), None, create=CreateOnPush.YES)
        assert await mount(ACCOUNT, "c/c", digest("layer"), None, create=CreateOnPush.YES)
        assert not await mount(ACCOUNT, "d/d", digest("layer"), "a/a", create=CreateOnPush.YES)
        assert await world.metadata.blob(ACCOUNT, "c/c", digest("layer")) == blob
        assert (await world.metadata.repositories(ACCOUNT, last="", limit=9)).names == ("b/b", "c/c", REPOSITORY)

    async def test_a_mount_from_a_repository_without_the_blob_is_none(self, world: World) -> None:
        await world.commit("layer")
        await world.begin("empty/one")
        assert not await world.metadata.mount_blob(
            ACCOUNT, "b/b", digest("layer"), "empty/one", create=CreateOnPush.YES
        )

    async def test_a_blob_that_nothing_links_any_more_cannot_be_mounted(self, world: World) -> None:
        await world.commit("layer")
        await world.metadata.unlink_blob(ACCOUNT, REPOSITORY, digest("layer"))
        assert not await world.metadata.mount_blob(ACCOUNT, "b/b", digest("layer"), None, create=CreateOnPush.YES)

    async def test_unlinking_takes_the_blob_from_one_repository(self, world: World) -> None:
        blob, _ = await world.commit("layer")
        await world.metadata.mount_blob(ACCOUNT, "b/b", digest("layer"), None, create=CreateOnPush.YES)
        await world.metadata.unlink_blob(ACCOUNT, REPOSITORY, digest("layer"))
        unlink = world.metadata.unlink_blob
        await refused(Code.LAYERS_NOT_FOUND, world.metadata.blob(ACCOUNT, REPOSITORY, digest("layer")))
        await refused(Code.LAYERS_NOT_FOUND, unlink(ACCOUNT, REPOSITORY, digest("layer")))
        await refused(Code.REPOSITORY_NOT_FOUND, unlink(ACCOUNT, "no/where", digest("layer")))
        assert await world.metadata.blob(ACCOUNT, "b/b", digest("layer")) == blob

    async def test_a_blob_that_a_manifest_of_its_repository_uses_cannot_be_unlinked(self, world: World) -> None:
        first = await world.image("one", layers=["shared"])
        second = await world.image("two", layers=["shared", "shared"])
        for image in (first, second):
            await refused(Code.LAYER_IN_USE, world.metadata.unlink_blob(ACCOUNT, REPOSITORY, digest("shared")))
            await world.metadata.delete_manifest(ACCOUNT, REPOSITORY, image.digest)
        await world.metadata.unlink_blob(ACCOUNT, REPOSITORY, digest("shared"))

    async def test_a_quarantined_blob_is_hidden_everywhere_until_a_push_heals_it(self, world: World) -> None:
        corrupt, _ = await world.commit("layer")
        await world.metadata.mount_blob(ACCOUNT, "b/b", digest("layer"), None, create=CreateOnPush.YES)
        for repository in (REPOSITORY, "b/b"):
            await world.metadata.blob(ACCOUNT, repository, digest("layer"))
        await world.metadata.quarantine(corrupt.sealed.object_key, "frame 3")
        await world.metadata.quarantine(corrupt.sealed.object_key, "frame 3 again")
        for repository in (REPOSITORY, "b/b"):
            await refused(Code.LAYERS_NOT_FOUND, world.metadata.blob(ACCOUNT, repository, digest("layer")))
        assert not await world.metadata.mount_blob(ACCOUNT, "c/c", digest("layer"), None, create=CreateOnPush.YES)
        assert await world.metadata.objects(after="", limit=9) == ((corrupt, True),)

        healed, leftover = await world.commit("layer")
        assert leftover == corrupt.sealed.object_key
        assert healed.sealed.object_key != leftover
        for repository in (REPOSITORY, "b/b"):
            assert await world.metadata.blob(ACCOUNT, repository, digest("layer")) == healed
        assert await world.metadata.objects(after="", limit=9) == ((healed, False),)

    async def test_a_manifest_that_needs_a_quarantined_blob_is_refused(self, world: World) -> None:
        await world.commit("config")
        blob, _ = await world.commit("layer")
        await world.metadata.quarantine(blob.sealed.object_key, "frame 0")
        failure = await refused(Code.LAYERS_NOT_FOUND, world.put(image_manifest("config", ["layer"])))
        assert digest("layer") in failure.message
        assert digest("config") not in failure.message


class TestUpkeep:
    async def test_a_turn_is_one_callers_until_it_is_over(self, world: World) -> None:
        assert await world.metadata.take_turn("sweep", seconds=60)
        assert not await world.metadata.take_turn("sweep", seconds=60)
        assert await world.metadata.take_turn("usage", seconds=60)
        world.clock.now += 61
        assert await world.metadata.take_turn("sweep", seconds=60)

    async def test_no_blob_goes_while_a_hold_lasts_and_the_hold_ends_by_itself(self, world: World) -> None:
        """A shorter hold does not end a longer one; a renewed one lasts from its renewal."""
        blob, _ = await world.commit("layer")
        world.clock.now += 25 * HOUR
        await world.metadata.hold_blobs(seconds=20)
        await world.metadata.hold_blobs(seconds=1)
        world.clock.now += 15
        assert (await world.metadata.collect_blobs(grace_seconds=24 * HOUR, limit=9)).object_keys == ()
        await world.metadata.hold_blobs(seconds=20)
        world.clock.now += 15
        assert (await world.metadata.collect_blobs(grace_seconds=24 * HOUR, limit=9)).object_keys == ()
        world.clock.now += 6
        assert (await world.metadata.collect_blobs(grace_seconds=24 * HOUR, limit=9)).object_keys == (
            blob.sealed.object_key,
        )

    async def test_a_blob_goes_when_nothing_uses_it_and_its_grace_is_over(self, world: World) -> None:
        blob, _ = await world.commit("layer")
        world.clock.now += 23 * HOUR
        assert (await world.metadata.collect_blobs(grace_seconds=24 * HOUR, limit=9)).object_keys == ()
        world.clock.now += 2 * HOUR
        assert (await world.metadata.collect_blobs(grace_seconds=24 * HOUR, limit=9)).object_keys == (
            blob.sealed.object_key,
        )
        await refused(Code.LAYERS_NOT_FOUND, world.metadata.blob(ACCOUNT, REPOSITORY, digest("layer")))
        assert await world.metadata.segments(blob.sealed.object_key, 0) == ()

    async def test_being_asked_for_renews_the_grace(self, world: World) -> None:
        blob, _ = await world.commit("layer")
        world.clock.now += 23 * HOUR
        await world.metadata.blob(ACCOUNT, REPOSITORY, digest("layer"))
        for task in ("one", "two"):  # each service writes what its reads deferred before it
            await world.metadata.take_turn(task, seconds=1)
        world.clock.now += 23 * HOUR
        assert (await world.metadata.collect_blobs(grace_seconds=24 * HOUR, limit=9)).object_keys == ()
        world.clock.now += 2 * HOUR
        assert (await world.metadata.collect_blobs(grace_seconds=24 * HOUR, limit=9)).object_keys == (
            blob.sealed.object_key,
        )

    async def test_a_mount_and_a_second_commit_renew_the_grace(self, world: World) -> None:
        await world.commit("a")
        await world.commit("b")
        world.clock.now += 23 * HOUR
        await world.metadata.mount_blob(ACCOUNT, REPOSITORY, digest("a"), REPOSITORY, create=CreateOnPush.NO)
        await world.commit("b")
        world.clock.now += 2 * HOUR
        assert (await world.metadata.collect_blobs(grace_seconds=24 * HOUR, limit=9)).object_keys == ()

    async def test_what_a_manifest_uses_stays_and_its_grace_begins_with_the_manifests_end(self, world: World) -> None:
        image = await world.image("app")
        world.clock.now += 100 * HOUR
        assert (await world.metadata.collect_blobs(grace_seconds=24 * HOUR, limit=9)).object_keys == ()
        await world.metadata.delete_manifest(ACCOUNT, REPOSITORY, image.digest)
        world.clock.now += 23 * HOUR
        assert (await world.metadata.collect_blobs(grace_seconds=24 * HOUR, limit=9)).object_keys == ()
        world.clock.now += 2 * HOUR
        assert len((await world.metadata.collect_blobs(grace_seconds=24 * HOUR, limit=9)).object_keys) == 2

    async def test_one_repositorys_link_ends_while_another_keeps_the_blob(self, world: World) -> None:
        await world.image("app")
        await world.metadata.mount_blob(ACCOUNT, "b/b", digest("app-layer"), None, create=CreateOnPush.YES)
        world.clock.now += 25 * HOUR
        assert (await world.metadata.collect_blobs(grace_seconds=24 * HOUR, limit=9)).object_keys == ()
        await refused(Code.LAYERS_NOT_FOUND, world.metadata.blob(ACCOUNT, "b/b", digest("app-layer")))
        await world.metadata.blob(ACCOUNT, REPOSITORY, digest("app-layer"))

    async def test_blobs_of_a_deleted_repository_go_after_their_grace(self, world: World) -> None:
        await world.image("app", ["v1"])
        await world.call("DeleteRepository", repositoryName=REPOSITORY, force=True)
        assert (await world.metadata.collect_blobs(grace_seconds=HOUR, limit=9)).object_keys == ()
        world.clock.now += 2 * HOUR
        assert len((await world.metadata.collect_blobs(grace_seconds=HOUR, limit=1)).object_keys) == 1
        assert len((await world.metadata.collect_blobs(grace_seconds=HOUR, limit=9)).object_keys) == 1
        assert await world.metadata.objects(after="", limit=9) == ()

    async def test_objects_of_blobs_and_open_sessions_are_known_and_others_are_orphans(self, world: World) -> None:
        blob, _ = await world.commit("layer")
        upload = await world.begin()
        keys = ["f" * 32, upload.sealed.object_key, blob.sealed.object_key]
        assert await world.metadata.known_objects(keys) == tuple(keys[1:])
        many = [f"{number:032x}" for number in range(10_000, 11_500)]
        assert await world.metadata.known_objects([*many, keys[1]]) == (keys[1],)

    async def test_objects_are_walked_in_pages_by_key(self, world: World) -> None:
        made = [(await world.commit(f"layer-{number}"))[0] for number in range(7)]
        walked: list[tuple[Any, bool]] = []
        after = ""
        while page := await world.metadata.objects(after=after, limit=3):
            walked += page
            after = page[-1][0].sealed.object_key
        assert walked == [(blob, False) for blob in sorted(made, key=lambda blob: blob.sealed.object_key)]

    async def test_a_data_key_is_replaced_only_if_it_is_still_the_old_one(self, world: World) -> None:
        blob, _ = await world.commit("layer")
        upload = await world.begin()
        new = EncryptedDataKey("raw", b"key-2", b"wrapped anew")
        for key in (blob.sealed.object_key, upload.sealed.object_key):
            assert await world.metadata.replace_data_key(key, DATA_KEY, new)
            assert not await world.metadata.replace_data_key(key, DATA_KEY, new)
        seen = await world.metadata.blob(ACCOUNT, REPOSITORY, digest("layer"))
        assert seen == replace(blob, sealed=replace(blob.sealed, data_key=new))
        opened = await world.metadata.upload(ACCOUNT, REPOSITORY, upload.upload_id)
        assert opened.sealed.data_key == new

    async def test_a_resealed_blob_lies_under_its_new_key(self, world: World) -> None:
        blob, _ = await world.commit("layer")
        await world.metadata.blob(ACCOUNT, REPOSITORY, digest("layer"))
        sealed = replace(
            blob.sealed, object_key=world.object_key(), segments=(Segment(0, 10, 0, 222, b"new"),), stored_size=222
        )
        anew = replace(blob, sealed=sealed)
        assert not await world.metadata.replace_object(blob.sealed.object_key, anew), "its object may be gone"
        assert await world.metadata.blob(ACCOUNT, REPOSITORY, digest("layer")) == blob
        await world.metadata.reserve_object(sealed.object_key, seconds=HOUR)
        assert await world.metadata.replace_object(blob.sealed.object_key, anew)
        assert not await world.metadata.replace_object(blob.sealed.object_key, anew)
        assert await world.metadata.blob(ACCOUNT, REPOSITORY, digest("layer")) == anew
        assert await world.metadata.segments(blob.sealed.object_key, 0) == ()
        assert not await world.metadata.any_reserved(), "its row has taken the reservation's place"

    async def test_ping_answers(self, world: World) -> None:
        await world.metadata.ping()


class TestIdentity:
    async def test_the_administrators_key_is_found_and_others_are_not(self, world: World) -> None:
        assert await world.metadata.access_key("AKIAONE") is None
        made = await world.bootstrap(access_key_id="AKIAONE", sealed_secret=b"sealed")
        key = await world.metadata.access_key("AKIAONE")
        assert key is not None
        assert made.administrator is not None
        assert (key.sealed_secret, key.principal) == (b"sealed", made.administrator)
        assert made.administrator.arn == f"arn:aws:iam::{ACCOUNT}:user/administrator"
        assert made.administrator.principal_id.startswith("AIDA")
        assert await world.metadata.principal(made.administrator.principal_id) == made.administrator
        assert await world.metadata.principal("AIDANOBODY") is None

    async def test_bootstrap_again_keeps_the_administrator_and_a_given_key_replaces_the_last(
        self, world: World
    ) -> None:
        first = await world.bootstrap(access_key_id="AKIAONE", sealed_secret=b"1")
        assert await world.metadata.access_key("AKIAONE") is not None
        again = await world.bootstrap()
        assert again == first
        await world.bootstrap(access_key_id="AKIATWO", sealed_secret=b"2")
        assert await world.metadata.access_key("AKIAONE") is None
        renewed = await world.bootstrap(access_key_id="AKIATWO", sealed_secret=b"3")
        assert renewed.administrator == first.administrator
        key = await world.metadata.access_key("AKIATWO")
        assert key is not None
        assert key.sealed_secret == b"3"
