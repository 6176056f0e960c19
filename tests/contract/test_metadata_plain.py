"""What `contract.Metadata` promises of objects that are not sealed, on every service and through every client."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any

import pytest

from proxy.model.errors import Code, Failure
from proxy.model.records import FRAME_HASH, FRAME_PAGE, Sealing, Upload
from support.metadata import (
    ACCOUNT,
    REPOSITORY,
    World,
    digest,
    plain_append,
)

FRAME = 1 << 18  # of `World.begin`
PAGE = FRAME * FRAME_PAGE  # bytes of a layer whose hashes make a page
HOUR = 3600.0


async def refused(code: Code, asking: Awaitable[Any]) -> Failure:
    with pytest.raises(Failure) as caught:
        await asking
    assert caught.value.code is code, caught.value
    return caught.value


def hashes(letter: str, count: int = FRAME_PAGE) -> bytes:
    return letter.encode() * FRAME_HASH * count


async def begin(world: World) -> Upload:
    return await world.lease(await world.begin(sealing=Sealing.NONE))


async def commit(world: World, name: str, letter: str = "a") -> tuple[str, str | None]:
    """One whole upload of two frames; the blob's object, and the key left over."""
    leased = await begin(world)
    blob, leftover = await world.metadata.commit_upload(
        leased.upload_id,
        leased.fence,
        digest=digest(name),
        segment=plain_append(0, FRAME + 1),
        hash_state=b"",
        frame_hashes=hashes(letter, 2),
    )
    return blob.sealed.object_key, leftover


async def test_the_row_says_how_its_object_lies_from_the_session_to_the_blob_and_in_lists(world: World) -> None:
    assert (await begin(world)).sealed.sealing is Sealing.NONE
    key, _ = await commit(world, "plain")
    await world.commit("sealed")
    found = {blob.digest: blob.sealed.sealing for blob, _ in await world.metadata.objects(after="", limit=9)}
    assert found == {digest("plain"): Sealing.NONE, digest("sealed"): Sealing.AES_GCM}
    assert (await world.metadata.blob(ACCOUNT, REPOSITORY, digest("plain"))).sealed.object_key == key


async def test_hashes_come_with_their_append_and_are_read_by_page_across_appends(world: World) -> None:
    leased = await begin(world)
    key = leased.sealed.object_key
    await world.metadata.advance_upload(
        leased.upload_id, leased.fence, segment=plain_append(0, 5), hash_state=b"s", frame_hashes=hashes("a", 1)
    )
    leased = await world.lease(leased)
    keep = world.metadata.keep_frame_hashes
    await keep(leased.upload_id, leased.fence, plain_offset=5, hashes=hashes("b"))
    await keep(leased.upload_id, leased.fence, plain_offset=5, hashes=hashes("B"))  # asked again
    await keep(leased.upload_id, leased.fence, plain_offset=5 + PAGE, hashes=hashes("c"))
    await world.metadata.commit_upload(
        leased.upload_id,
        leased.fence,
        digest=digest("long"),
        segment=plain_append(5, 2 * PAGE + 1),
        hash_state=b"",
        frame_hashes=hashes("d", 1),
    )
    pages = [(0, hashes("a", 1)), (5, hashes("B")), (5 + PAGE, hashes("c")), (5 + 2 * PAGE, hashes("d", 1))]
    for offset, page in pages * 2:
        assert await world.metadata.frame_hashes(key, offset) == page
        assert await world.metadata.frame_hashes(key, offset, fresh=True) == page
    assert await world.metadata.frame_hashes(key, 6) == b""


async def test_an_append_whose_answer_was_lost_is_answered_again_with_its_hashes_once(world: World) -> None:
    leased = await begin(world)
    for _ in range(2):
        advanced = await world.metadata.advance_upload(
            leased.upload_id, leased.fence, segment=plain_append(0, 5), hash_state=b"s", frame_hashes=hashes("a", 1)
        )
    assert advanced.sealed.segment_count == 1
    assert await world.metadata.frame_hashes(leased.sealed.object_key, 0) == hashes("a", 1)


async def test_an_append_with_more_or_fewer_hashes_than_frames_is_not_recorded(world: World) -> None:
    leased = await begin(world)
    for count in (0, 1, 3):
        wrong = hashes("a", count)
        await refused(
            Code.INVALID_PARAMETER,
            world.metadata.advance_upload(
                leased.upload_id, leased.fence, segment=plain_append(0, FRAME + 1), hash_state=b"", frame_hashes=wrong
            ),
        )
    assert (await world.metadata.upload(ACCOUNT, REPOSITORY, leased.upload_id)).sealed.plain_size == 0


async def test_a_long_append_whose_pages_were_not_kept_is_not_recorded(world: World) -> None:
    leased = await begin(world)
    append = plain_append(0, 2 * PAGE + 1)
    await world.metadata.keep_frame_hashes(leased.upload_id, leased.fence, plain_offset=PAGE, hashes=hashes("b"))
    failure = await refused(
        Code.INVALID_PARAMETER,
        world.metadata.advance_upload(
            leased.upload_id, leased.fence, segment=append, hash_state=b"", frame_hashes=hashes("c", 1)
        ),
    )
    assert "missing" in failure.message


async def test_pages_are_kept_only_by_who_holds_the_session_whole_and_in_their_place(world: World) -> None:
    leased = await begin(world)
    sealed = await world.lease(await world.begin())
    keep = world.metadata.keep_frame_hashes
    uid, fence = leased.upload_id, leased.fence
    await refused(Code.UPLOAD_CONFLICT, keep(uid, fence + 1, plain_offset=0, hashes=hashes("a")))
    await refused(Code.INVALID_PARAMETER, keep(uid, fence, plain_offset=1, hashes=hashes("a")))
    await refused(Code.INVALID_PARAMETER, keep(uid, fence, plain_offset=0, hashes=hashes("a", 1)))
    await refused(Code.INVALID_PARAMETER, keep(sealed.upload_id, sealed.fence, plain_offset=0, hashes=hashes("a")))
    assert await world.metadata.frame_hashes(leased.sealed.object_key, 0) == b""


async def test_what_a_failed_append_kept_is_written_over_or_goes_with_the_next(world: World) -> None:
    leased = await begin(world)
    for page in range(3):
        await world.metadata.keep_frame_hashes(
            leased.upload_id, leased.fence, plain_offset=page * PAGE, hashes=hashes("x")
        )
    await world.metadata.release_upload(leased.upload_id, leased.fence)
    leased = await world.lease(leased)
    key = leased.sealed.object_key
    await world.metadata.advance_upload(
        leased.upload_id, leased.fence, segment=plain_append(0, 1), hash_state=b"", frame_hashes=hashes("a", 1)
    )
    kept = [await world.metadata.frame_hashes(key, page * PAGE, fresh=True) for page in range(3)]
    assert kept == [hashes("a", 1), b"", b""]


async def test_an_empty_blob_has_no_hashes(world: World) -> None:
    leased = await begin(world)
    blob, _ = await world.metadata.commit_upload(
        leased.upload_id, leased.fence, digest=digest("empty"), segment=plain_append(0, 0), hash_state=b""
    )
    assert (blob.size, blob.sealed.segments) == (0, (plain_append(0, 0),))
    assert await world.metadata.frame_hashes(blob.sealed.object_key, 0) == b""


async def test_hashes_go_with_their_session_their_blob_and_a_second_copy_of_it(world: World) -> None:
    metadata = world.metadata
    kept, _ = await commit(world, "same")
    _, discarded = await commit(world, "same", "b")
    idle = await begin(world)
    await metadata.advance_upload(
        idle.upload_id, idle.fence, segment=plain_append(0, 1), hash_state=b"", frame_hashes=hashes("c", 1)
    )
    assert discarded is not None
    gone = [discarded]
    assert await metadata.frame_hashes(kept, 0, fresh=True) == hashes("a", 2)
    world.clock.now += 2 * HOUR
    assert idle.sealed.object_key in (await metadata.expire_uploads(idle_seconds=HOUR, limit=9)).object_keys
    gone.append(idle.sealed.object_key)
    world.clock.now += 30 * HOUR
    assert (await metadata.collect_blobs(grace_seconds=24 * HOUR, limit=9)).object_keys == (kept,)
    gone.append(kept)
    for key in gone:
        assert await metadata.frame_hashes(key, 0, fresh=True) == b""


async def test_a_push_heals_a_quarantined_blob_whichever_way_it_lies(world: World) -> None:
    sealed, _ = await world.commit("layer", size=FRAME + 1)
    await world.metadata.quarantine(sealed.sealed.object_key, "frame 1")
    key, leftover = await commit(world, "layer")
    assert leftover == sealed.sealed.object_key
    healed = await world.metadata.blob(ACCOUNT, REPOSITORY, digest("layer"))
    assert (healed.sealed.object_key, healed.sealed.sealing) == (key, Sealing.NONE)
    await world.metadata.quarantine(key, "frame 1")
    again, leftover = await world.commit("layer", size=FRAME + 1)
    assert (again.sealed.sealing, leftover) == (Sealing.AES_GCM, key)
    assert await world.metadata.frame_hashes(key, 0, fresh=True) == b""
