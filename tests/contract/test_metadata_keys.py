"""What `contract.Metadata` promises of the keys that all processes agree on, on every service and client."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from proxy.model.records import EncryptedDataKey, KeyRecord
from support.metadata import ACCOUNT, DATA_KEY, World, append, digest

FIRST = KeyRecord("first", "wharfage", b"\x00check", None, "", True)
SECOND = KeyRecord("second", "aws-kms", b"\xffcheck", EncryptedDataKey("aws-kms", b"arn", b"\x00w"), "arn:of", True)


async def test_the_first_record_is_in_force_and_a_second_first_one_is_not(world: World) -> None:
    assert await world.metadata.key_records() == ()
    assert await world.metadata.record_key(FIRST, replaces=None) == (FIRST,)
    world.clock.now += 1
    kept = await world.metadata.record_key(SECOND, replaces=None)
    assert kept == (FIRST, replace(SECOND, active=False))
    assert await world.metadata.key_records() == kept


async def test_a_record_takes_the_place_of_the_one_it_names_once(world: World) -> None:
    """Asked again, as after a lost answer, it changes nothing; who names another one is not heard."""
    await world.metadata.record_key(FIRST, replaces=None)
    moved = (SECOND, replace(FIRST, active=False))
    assert await world.metadata.record_key(SECOND, replaces="first") == moved
    assert await world.metadata.record_key(SECOND, replaces="first") == moved
    assert await world.metadata.record_key(FIRST, replaces="somebody") == moved


async def test_a_record_is_never_written_over(world: World) -> None:
    await world.metadata.record_key(FIRST, replaces=None)
    other = replace(FIRST, check_value=b"another key of that name")
    assert await world.metadata.record_key(other, replaces=None) == (FIRST,)


async def test_of_many_first_records_at_once_one_is_in_force(world: World) -> None:
    records = [replace(FIRST, name=f"key{number}") for number in range(6)]
    answers = await asyncio.gather(*(world.metadata.record_key(each, replaces=None) for each in records))
    assert len({answer[0].name for answer in answers}) == 1
    assert [record.active for record in await world.metadata.key_records()] == [True] + [False] * 5


async def test_sealed_secrets_are_listed_and_replaced_by_their_old_value(world: World) -> None:
    await world.bootstrap(access_key_id="AKIA7777777777777777", sealed_secret=b"old")
    assert await world.metadata.sealed_secrets(after="", limit=5) == (("AKIA7777777777777777", b"old"),)
    assert await world.metadata.sealed_secrets(after="AKIA7777777777777777", limit=5) == ()
    found = await world.metadata.access_key("AKIA7777777777777777")
    assert found is not None
    assert not await world.metadata.replace_sealed_secret("AKIA7777777777777777", b"other", b"new")
    assert await world.metadata.replace_sealed_secret("AKIA7777777777777777", b"old", b"new")
    found = await world.metadata.access_key("AKIA7777777777777777")
    assert found is not None
    assert found.sealed_secret == b"new"


async def test_open_uploads_are_listed_in_pages_and_their_keys_replaced(world: World) -> None:
    """Committed and cancelled ones are not among them; a commit takes the new key along."""
    begun = [await world.begin() for _ in range(4)]
    await world.metadata.cancel_upload(ACCOUNT, begun[0].repository, begun[0].upload_id)
    await world.commit("one")
    keys = sorted(upload.sealed.object_key for upload in begun[1:])
    listed: list[str] = []
    while page := await world.metadata.open_uploads(after=listed[-1] if listed else "", limit=2):
        listed += [sealed.object_key for sealed in page]
    assert listed == keys
    new = EncryptedDataKey("aws-kms", b"arn", b"wrapped anew")
    assert await world.metadata.replace_data_key(begun[1].sealed.object_key, DATA_KEY, new)
    leased = await world.lease(begun[1])
    assert leased.sealed.data_key == new
    blob, _ = await world.metadata.commit_upload(
        leased.upload_id, leased.fence, digest=digest("two"), segment=append(0, 10), hash_state=b"state"
    )
    assert blob.sealed.data_key == new
