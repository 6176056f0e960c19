"""`wharfage rewrap` and `--reseal`: a new master key, and every blob under it; readable throughout, resumable."""

from __future__ import annotations

import asyncio
import os
import secrets
from hashlib import sha256
from pathlib import Path

import pytest

from proxy.auth.envelope import SmallSealer
from proxy.auth.event_secrets import PURPOSE as EVENT_PURPOSE
from proxy.auth.event_secrets import open_event_secret, seal_event_secret
from proxy.auth.secrets import (
    PURPOSE,
    VALUE_PURPOSE,
    SecretValue,
    open_secret,
    open_value,
    seal_secret,
    seal_value,
)
from proxy.blob.format import parse_header
from proxy.blob.keys import DataKeys
from proxy.blob.kms_keys import KmsKeys
from proxy.blob.local_keys import LocalKeys
from proxy.blob.master_file import MasterKeys
from proxy.jobs.check import check
from proxy.jobs.progress import Progress
from proxy.jobs.reseal import RESERVED_SECONDS, ResealReport, reseal
from proxy.jobs.rewrap import RewrapReport, rewrap
from proxy.jobs.sweep import OrphanWalk, expire_uploads, remove_orphans
from proxy.model.errors import Code, Failure
from proxy.model.names import parse_digest
from proxy.model.records import Blob, EncryptedDataKey
from proxy.registry.blobs import Blobs
from support.fake_kms import ARN as OWN
from support.fake_kms import fake_kms
from support.metadata import ACCOUNT, REPOSITORY
from support.upkeep_rows import DAY, HOUR, House, open_house

MIB = 2**20


async def rewrap_all(house: House, *, rotate: bool = True, steps: list[Progress] | None = None) -> RewrapReport:
    return await rewrap(
        house.metadata,
        house.keys,
        rotate=house.masters.rotate if rotate else None,
        progress=(steps if steps is not None else []).append,
    )


async def reseal_all(
    house: House, *, rotate: bool = True, steps: list[Progress] | None = None, linger: float = 0
) -> ResealReport:
    return await reseal(
        house.metadata,
        house.store,
        house.keys,
        house.pool,
        rotate=house.masters.rotate if rotate else None,
        new_key=lambda: secrets.token_hex(16),
        progress=(steps if steps is not None else []).append,
        linger=linger,
    )


async def read(house: House, digest: str, keys: DataKeys | None = None, repository: str = REPOSITORY) -> bytes:
    blobs = Blobs(house.metadata, house.store, keys or house.keys, house.pool)
    async with blobs.open(await blobs.find(ACCOUNT, repository, digest)) as opened:
        return b"".join([bytes(run) async for run in opened.runs(0, opened.blob.size)])


def wrapped_by(house: House, key: EncryptedDataKey) -> int:
    """Which master key, 0 being the active one."""
    names = [entry["name"].encode() for entry in house.masters.export()]
    return next(number for number, name in enumerate(names) if key.provider_info.startswith(name))


async def are_sound(house: House, count: int) -> None:
    """With keys freshly read from the file, so that nothing comes from a cache."""
    await house.relink()
    report = await check(
        house.metadata, house.store, house.keys, house.pool,
        repair=False, grace=DAY, now=house.clock, progress=lambda step: None,
    )  # fmt: skip
    assert (report.ok, report.status, report.orphans.count, report.in_grace.count) == (count, 0, 0, 0)


@pytest.fixture
async def blobs(house: House) -> list[Blob]:
    """Of one message, of several, of sha512, and the empty one."""
    return [
        await house.push(os.urandom(2 * MIB + 5)),
        await house.push(b"first", os.urandom(MIB), b"last"),
        await house.push(b"of sha512", algorithm="sha512"),
        await house.push(b""),
    ]


async def test_rewrap_puts_every_row_under_a_new_key(house: House, blobs: list[Blob]) -> None:
    """Objects are not touched; data keys stay; the old master key stays in the file."""
    before = {blob.digest: house.file(blob.sealed.object_key).read_bytes() for blob in blobs}
    report = await rewrap_all(house)
    assert (report.rewrapped, report.current, report.failed.count, report.status) == (4, 0, 0, 0)
    assert len(house.masters.export()) == 2
    for blob in blobs:
        row = await house.blob(blob.digest)
        assert wrapped_by(house, blob.sealed.data_key) == 1
        assert wrapped_by(house, row.sealed.data_key) == 0
        assert house.file(row.sealed.object_key).read_bytes() == before[blob.digest]
    await are_sound(house, 4)


async def test_rows_need_the_new_key_only(house: House, blobs: list[Blob]) -> None:
    """After a rewrap every blob opens with a key file that holds nothing but the new master key."""
    await rewrap_all(house)
    active = MasterKeys(house.folder / "none", (house.masters.active,))
    for blob in blobs:
        assert len(await read(house, blob.digest, LocalKeys(active))) == blob.size


async def test_a_server_that_knows_only_the_old_key_goes_on_reading(house: House, blobs: list[Blob]) -> None:
    """Rewrap runs in a process of its own; the server reads the key file again when it meets the new key."""
    server = LocalKeys(await asyncio.to_thread(MasterKeys.load_or_create, house.folder / "master.json"))
    await rewrap_all(house)
    for blob in blobs:
        assert len(await read(house, blob.digest, server)) == blob.size


async def test_rewrap_goes_on_where_it_was_broken_off(
    house: House, blobs: list[Blob], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second run makes no key and takes only the rows that are left."""
    replace = house.metadata.replace_data_key
    replaced: list[str] = []
    one_at_a_time = asyncio.Lock()  # a call that is cut off under way may have changed its row or not

    async def twice(object_key: str, old: EncryptedDataKey, new: EncryptedDataKey) -> bool:
        async with one_at_a_time:
            if len(replaced) == 2:
                raise Failure(Code.METADATA_UNAVAILABLE, "on purpose")
            replaced.append(object_key)
            return await replace(object_key, old, new)

    with monkeypatch.context() as patch:
        patch.setattr(house.metadata, "replace_data_key", twice)
        with pytest.raises(Failure, match="on purpose"):
            await rewrap_all(house)
    await are_sound(house, 4)
    report = await rewrap_all(house, rotate=False)
    assert (report.rewrapped, report.current) == (2, 2)
    assert len(house.masters.export()) == 2
    await are_sound(house, 4)


async def test_rewrap_passes_over_a_row_that_changed(
    house: House, blobs: list[Blob], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody else replaced the key, or the blob went: theirs stands."""

    async def changed(object_key: str, old: EncryptedDataKey, new: EncryptedDataKey) -> bool:
        return False

    monkeypatch.setattr(house.metadata, "replace_data_key", changed)
    report = await rewrap_all(house)
    assert (report.rewrapped, report.changed, report.status) == (0, 4, 0)


async def test_rewrap_names_what_it_cannot_unwrap(house: House) -> None:
    """A key that is lost costs its blobs only; the others are rewrapped, and the status says so."""
    lost = await house.push(b"of a lost key")
    (house.folder / "master.json").unlink()
    await house.relink()
    other = LocalKeys(house.masters)
    row = await house.blob(lost.digest)
    found = (await other.generate(row.sealed.sealed_for)).encrypted
    good = await house.push(b"of a good key")
    assert await house.metadata.replace_data_key(good.sealed.object_key, good.sealed.data_key, found)
    report = await rewrap_all(house)
    assert (report.rewrapped, report.failed.count, report.status) == (1, 1, 1)
    assert report.failed.named[0].digest == lost.digest


async def test_rewrap_ends_when_kms_is_out_of_reach_and_goes_on_later(
    house: House, blobs: list[Blob], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One failure, not one for each blob."""
    real, asked = house.keys.rewrap, 0

    async def away(encrypted: EncryptedDataKey, sealed_for: str, kms_key: str) -> EncryptedDataKey:
        nonlocal asked
        asked += 1
        if asked > 2:
            raise Failure(Code.KMS, "away", unavailable=1)
        return await real(encrypted, sealed_for, kms_key)

    with monkeypatch.context() as patch:
        patch.setattr(house.keys, "rewrap", away)
        with pytest.raises(Failure, match="away"):
            await rewrap_all(house)
    report = await rewrap_all(house, rotate=False)
    assert report.rewrapped + report.current + report.changed == 4  # what the first run sent last may come late
    assert (await rewrap_all(house, rotate=False)).current == 4
    await are_sound(house, 4)


async def test_rewrap_seals_stored_secrets_anew_and_names_what_does_not_open(house: House) -> None:
    old, new = ("old", bytes(32)), ("new", bytes(range(32)))
    before, after = SmallSealer([old], PURPOSE), SmallSealer([new, old], PURPOSE)
    await house.bootstrap("AKIA7777777777777777", seal_secret(before, "AKIA7777777777777777", "the secret"))
    report = await rewrap(house.metadata, house.keys, rotate=None, secrets=after, progress=lambda step: None)
    assert (report.secrets, report.status) == (1, 0)
    row = await house.metadata.access_key("AKIA7777777777777777")
    assert row is not None
    assert open_secret(SmallSealer([new], PURPOSE), row.access_key_id, row.sealed_secret) == "the secret"
    again = await rewrap(house.metadata, house.keys, rotate=None, secrets=after, progress=lambda step: None)
    assert again.secrets == 0
    stranger = SmallSealer([("other", bytes(32))], PURPOSE)
    lost = await rewrap(house.metadata, house.keys, rotate=None, secrets=stranger, progress=lambda step: None)
    assert (lost.failed.count, lost.status) == (1, 1)
    assert "AKIA7777777777777777" in str(lost.failed.named[0])


async def test_rewrap_seals_the_values_of_secrets_anew_and_names_what_does_not_open(house: House) -> None:
    old, new = ("old", bytes(32)), ("new", bytes(range(32)))
    before, after = SmallSealer([old], VALUE_PURPOSE), SmallSealer([new, old], VALUE_PURPOSE)
    await house.bootstrap("AKIA7777777777777777", b"sealed")
    arns = [f"arn:aws:secretsmanager:us-east-1:{ACCOUNT}:secret:{name}-AbCdEf" for name in ("a", "b")]
    value, version = SecretValue(text="the value"), "v" * 36
    for name, arn in zip(("a", "b"), arns, strict=True):
        asked = {"Name": name, "ARN": arn, "ClientRequestToken": version}
        sealed = seal_value(before, arn, version, value)
        await house.metadata.write_secrets(ACCOUNT, "CreateSecret", asked, sealed=sealed)
    await house.metadata.write_secrets(ACCOUNT, "DeleteSecret", {"SecretId": arns[1]})
    report = await rewrap(house.metadata, house.keys, rotate=None, values=after, progress=lambda step: None)
    assert (report.secrets, report.status) == (2, 0)
    for row in await house.metadata.sealed_versions(after=(), limit=9):
        assert open_value(SmallSealer([new], VALUE_PURPOSE), row.arn, row.version_id, row.sealed) == value
    again = await rewrap(house.metadata, house.keys, rotate=None, values=after, progress=lambda step: None)
    assert again.secrets == 0
    stranger = SmallSealer([("other", bytes(32))], VALUE_PURPOSE)
    lost = await rewrap(house.metadata, house.keys, rotate=None, values=stranger, progress=lambda step: None)
    assert (lost.failed.count, lost.status) == (2, 1)
    assert arns[0] in str(lost.failed.named[0])


async def test_rewrap_seals_what_signs_events_anew_and_both_secrets_sign_on(house: House) -> None:
    """The one before the current one too, for as long as it would have signed."""
    old, new = ("old", bytes(32)), ("new", bytes(range(32)))
    before, after = SmallSealer([old], EVENT_PURPOSE), SmallSealer([new, old], EVENT_PURPOSE)
    other = "210987654321"
    for account, rotates in ((ACCOUNT, False), (ACCOUNT, True), (other, False)):
        sealed = seal_event_secret(before, account, f"secret {account} {rotates}")
        await house.metadata.put_event_secret(account, sealed, rotates=rotates, keep_seconds=60.0)
    report = await rewrap(house.metadata, house.keys, rotate=None, event_secrets=after, progress=lambda step: None)
    assert (report.secrets, report.status) == (3, 0)
    alone = SmallSealer([new], EVENT_PURPOSE)
    found = dict(await house.metadata.sealed_event_secrets(after="", limit=9))
    assert open_event_secret(alone, ACCOUNT, found[ACCOUNT].sealed) == f"secret {ACCOUNT} True"
    assert open_event_secret(alone, ACCOUNT, found[ACCOUNT].previous or b"") == f"secret {ACCOUNT} False"
    assert found[ACCOUNT].previous_until == house.clock.now + 60
    assert (open_event_secret(alone, other, found[other].sealed), found[other].previous) == (
        f"secret {other} False",
        None,
    )
    again = await rewrap(house.metadata, house.keys, rotate=None, event_secrets=after, progress=lambda step: None)
    assert again.secrets == 0
    stranger = SmallSealer([("other", bytes(32))], EVENT_PURPOSE)
    lost = await rewrap(house.metadata, house.keys, rotate=None, event_secrets=stranger, progress=lambda step: None)
    assert (lost.failed.count, lost.status) == (2, 1)
    rotated = seal_event_secret(after, ACCOUNT, "later")
    await house.metadata.put_event_secret(ACCOUNT, rotated, rotates=True, keep_seconds=60.0)
    assert not await house.metadata.replace_event_secret(ACCOUNT, found[ACCOUNT], found[other]), "one that was rotated"


async def test_rewrap_tells_progress(house: House, blobs: list[Blob]) -> None:
    steps: list[Progress] = []
    await rewrap_all(house, steps=steps)
    assert [(step.done, step.total, step.unit) for step in steps] == [(0, 4, "keys"), (4, 4, "keys")]


async def test_an_open_upload_survives_a_rewrap(house: House, blobs: list[Blob]) -> None:
    """Its data key comes under the new master key at once, and nothing is left for a next run."""
    upload = await house.append(await house.uploads.begin(ACCOUNT, REPOSITORY), b"begun before, ")
    report = await rewrap_all(house)
    assert (report.rewrapped, report.current) == (5, 0)
    upload = await house.append(upload, b"ended after")
    content = b"begun before, ended after"
    digest = parse_digest(f"sha256:{sha256(content).hexdigest()}")
    async with await house.uploads.append(ACCOUNT, REPOSITORY, upload.upload_id, closing=digest) as last:
        await last.commit_blob(digest)
    assert await read(house, str(digest)) == content
    assert wrapped_by(house, (await house.blob(str(digest))).sealed.data_key) == 0
    assert (await rewrap_all(house, rotate=False)).rewrapped == 0
    await are_sound(house, 5)


async def test_reseal_gives_every_blob_a_new_object_and_a_new_data_key(house: House, blobs: list[Blob]) -> None:
    """Same digests, same bytes; the old objects are gone; each is one message under the new master key."""
    contents = {blob.digest: await read(house, blob.digest) for blob in blobs}
    data_keys = {blob.digest: await house.keys.unwrap(blob.sealed.data_key, blob.sealed.sealed_for) for blob in blobs}
    report = await reseal_all(house)
    assert (report.resealed, report.resealed_bytes, report.current) == (4, sum(b.size for b in blobs), 0)
    assert report.status == 0
    for blob in blobs:
        row = await house.blob(blob.digest)
        assert row.sealed.object_key != blob.sealed.object_key
        assert row.sealed.segment_count == len(row.sealed.segments) == 1
        assert row.sealed.sealed_for == blob.sealed.sealed_for
        assert wrapped_by(house, row.sealed.data_key) == 0
        assert wrapped_by(house, parse_header(row.sealed.segments[0].header).data_keys[0]) == 0
        assert await house.keys.unwrap(row.sealed.data_key, row.sealed.sealed_for) != data_keys[blob.digest]
        assert await read(house, blob.digest) == contents[blob.digest]
    rows = {(await house.blob(blob.digest)).sealed.object_key for blob in blobs}
    assert set(await house.objects()) == rows
    await are_sound(house, 4)


async def test_reseal_after_a_rewrap_still_takes_all(house: House, blobs: list[Blob]) -> None:
    """What counts is under which key the object was sealed, not what its row was rewrapped with since."""
    await rewrap_all(house)
    report = await reseal_all(house, rotate=False)
    assert (report.resealed, report.current) == (4, 0)
    again = await reseal_all(house, rotate=False)
    assert (again.resealed, again.current) == (0, 4)


async def test_the_old_object_outlives_its_row_for_a_while(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever read the row just before it changed still finds the object that it named."""
    blob = await house.push(b"read meanwhile")
    replace, delete = house.metadata.replace_object, house.store.delete
    times: dict[str, float] = {}

    async def replacing(object_key: str, new: Blob) -> bool:
        times["replaced"] = asyncio.get_running_loop().time()
        return await replace(object_key, new)

    async def deleting(key: str) -> bool:
        times[key] = asyncio.get_running_loop().time()
        return await delete(key)

    monkeypatch.setattr(house.metadata, "replace_object", replacing)
    monkeypatch.setattr(house.store, "delete", deleting)
    await reseal_all(house, linger=0.2)
    assert times[blob.sealed.object_key] - times["replaced"] >= 0.2
    assert blob.sealed.object_key not in await house.objects()


@pytest.mark.parametrize("fails", ["replace_object", "begin", "finish"])
async def test_reseal_goes_on_where_it_was_broken_off(
    house: House, blobs: list[Blob], monkeypatch: pytest.MonkeyPatch, fails: str
) -> None:
    """Wherever it ended, every blob is readable, and the second run takes only what is left."""
    calls = 0
    place = house.metadata if fails == "replace_object" else house.store
    if fails == "finish":
        begin = house.store.begin

        async def begin_failing(key: str, expected_size: int | None = None) -> object:
            nonlocal calls
            calls += 1
            appender = await begin(key, expected_size)
            if calls == 3:

                async def finish() -> None:
                    raise Failure(Code.STORE_FULL, "on purpose")

                monkeypatch.setattr(appender, "finish", finish)
            return appender

        monkeypatch.setattr(house.store, "begin", begin_failing)
    else:
        real = getattr(place, fails)

        async def failing(*args: object) -> object:
            nonlocal calls
            calls += 1
            if calls == 3:
                raise Failure(Code.METADATA_UNAVAILABLE, "on purpose")
            return await real(*args)

        monkeypatch.setattr(place, fails, failing)
    with pytest.raises(Failure, match="on purpose"):
        await reseal_all(house)
    for blob in blobs:
        assert len(await read(house, blob.digest)) == blob.size
    extra = 1 if fails == "replace_object" else 0  # whose row may point at it: not for us to delete
    assert 4 + extra <= len(await house.objects()) <= 4 + extra + 2  # superseded ones may wait for the sweep
    report = await reseal_all(house, rotate=False)
    assert (report.resealed, report.current) == (2, 2)
    assert len(house.masters.export()) == 2


async def test_a_cancelled_reseal_leaves_no_object_behind(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cancelled in the middle of a blob: the half-made object is gone, the old one stands."""
    blob = await house.push(os.urandom(4 * MIB))
    halfway = asyncio.Event()

    def tell(step: Progress) -> None:
        if step.done > MIB:
            halfway.set()

    running = asyncio.create_task(
        reseal(
            house.metadata, house.store, house.keys, house.pool,
            rotate=house.masters.rotate, new_key=lambda: secrets.token_hex(16), progress=tell,
        )
    )  # fmt: skip
    async with asyncio.timeout(20):
        await halfway.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert await house.objects() == [blob.sealed.object_key]
    assert len(await read(house, blob.digest)) == blob.size


async def test_reseal_names_damaged_blobs_and_leaves_them(house: House, blobs: list[Blob]) -> None:
    """It neither hides them nor copies them; the others are sealed anew. Quarantined ones are not read."""
    house.flip(blobs[0].sealed.object_key, MIB)
    house.file(blobs[1].sealed.object_key).unlink()
    await house.metadata.quarantine(blobs[2].sealed.object_key, "on purpose")
    report = await reseal_all(house)
    assert (report.resealed, report.quarantined, report.status) == (1, 1, 1)
    assert {finding.digest for finding in report.failed.named} == {blobs[0].digest, blobs[1].digest}
    assert (await house.blob(blobs[0].digest)).sealed.object_key == blobs[0].sealed.object_key
    assert len(await house.objects()) == 3


async def test_bytes_that_hash_to_something_else_are_not_sealed_anew(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A row that names the wrong object must not come out of it looking sound: named, and nothing is changed."""
    blob = await house.push(b"sound")
    objects = house.metadata.objects

    async def renamed(*, after: str, limit: int) -> list[tuple[Blob, bool]]:
        rows = await objects(after=after, limit=limit)
        return [(Blob("sha256:" + "0" * 64, row.size, row.sealed), hidden) for row, hidden in rows]

    monkeypatch.setattr(house.metadata, "objects", renamed)
    report = await reseal_all(house)
    assert (report.resealed, report.failed.count) == (0, 1)
    assert "hash to" in report.failed.named[0].reason
    assert await house.objects() == [blob.sealed.object_key]


async def test_a_blob_that_changed_meanwhile_is_left_as_it_is(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """Healed or deleted while it was sealed anew: the new object is of no use and goes."""
    blob = await house.push(b"changing")
    replace = house.metadata.replace_object

    async def healed_before(object_key: str, new: Blob) -> bool:
        await house.metadata.quarantine(object_key, "on purpose")
        await house.push(b"changing")
        return await replace(object_key, new)

    monkeypatch.setattr(house.metadata, "replace_object", healed_before)
    report = await reseal_all(house)
    assert (report.resealed, report.changed, report.status) == (0, 1, 0)
    assert await house.objects() == [(await house.blob(blob.digest)).sealed.object_key]
    assert not await house.metadata.any_reserved()


async def test_the_sweep_leaves_an_object_that_took_longer_than_the_grace(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """S3 dates an object of several parts from its beginning: finished, without a row as yet, it looks like an orphan
    of long ago."""
    blob = await house.push(b"large")
    replace = house.metadata.replace_object

    async def swept_before(object_key: str, new: Blob) -> bool:
        house.age(new.sealed.object_key, 30 * HOUR)
        assert await remove_orphans(house.metadata, house.store, OrphanWalk(), grace=DAY, now=house.clock) == 0
        return await replace(object_key, new)

    monkeypatch.setattr(house.metadata, "replace_object", swept_before)
    report = await reseal_all(house)
    assert (report.resealed, report.status) == (1, 0)
    assert await read(house, blob.digest) == b"large"
    assert not await house.metadata.any_reserved()


async def test_a_blob_is_never_pointed_at_an_object_whose_reservation_has_ended(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reseal that stood still for longer: the sweep has deleted the new object, so the old one stays in force."""
    blob = await house.push(b"left alone")
    replace = house.metadata.replace_object

    async def late(object_key: str, new: Blob) -> bool:
        await house.blob(blob.digest)
        house.clock.now += RESERVED_SECONDS + 1
        house.age(new.sealed.object_key, RESERVED_SECONDS + 1)
        await expire_uploads(house.metadata, house.store, idle=DAY)
        assert await remove_orphans(house.metadata, house.store, OrphanWalk(), grace=DAY, now=house.clock) == 1
        return await replace(object_key, new)

    monkeypatch.setattr(house.metadata, "replace_object", late)
    report = await reseal_all(house)
    assert (report.resealed, report.changed, report.status) == (0, 0, 1)
    assert "longer than 48 hours" in report.failed.named[0].reason
    assert await read(house, blob.digest) == b"left alone"


async def test_a_blob_deleted_meanwhile_is_no_failure(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """Collected after its row was read: there is nothing to seal, and nothing wrong."""
    await house.push(b"short-lived")

    async def collect_first(key: str, *, fresh: bool = False, size: int | None = None) -> object:
        house.clock.now += 2 * DAY
        for gone in (await house.metadata.collect_blobs(grace_seconds=DAY, limit=10)).object_keys:
            await house.store.delete(gone)
        return await opening(key, fresh=fresh)

    opening = house.store.open
    monkeypatch.setattr(house.store, "open", collect_first)
    report = await reseal_all(house)
    assert (report.resealed, report.changed, report.failed.count) == (0, 1, 0)
    assert await house.objects() == []


async def test_reseal_tells_progress_in_bytes(house: House, blobs: list[Blob]) -> None:
    steps: list[Progress] = []
    await reseal_all(house, steps=steps)
    total = sum(blob.size for blob in blobs)
    assert {step.total for step in steps} == {total}
    assert [step.done for step in steps] == sorted(step.done for step in steps)
    assert (steps[0].done, steps[-1].done) == (0, total)


async def test_a_repositorys_own_kms_key_stays_its_key(tmp_path: Path) -> None:
    """Of two blobs with the same bytes only the one under the server's master key is wrapped, and sealed, anew."""
    async with fake_kms() as fake:
        kms = KmsKeys(fake.kms(), "probe")
        async with open_house(tmp_path, kms) as house:
            own = {"encryptionType": "KMS", "kmsKey": OWN}
            asked = {"repositoryName": "own/key", "encryptionConfiguration": own}
            await house.metadata.call(ACCOUNT, "CreateRepository", asked)
            shared, apart = [await house.push(b"the same", repository=name) for name in (REPOSITORY, "own/key")]
            assert (apart.sealed.data_key.provider_info, apart.sealed.encryption) == (OWN.encode(), OWN)
            assert shared.sealed.encryption == ""
            rewrapped = await rewrap_all(house)
            assert (rewrapped.rewrapped, rewrapped.current, rewrapped.failed.count) == (1, 1, 0)
            resealed = await reseal_all(house)
            assert (resealed.resealed, resealed.current, resealed.failed.count) == (1, 1, 0)
            assert await house.metadata.blob(ACCOUNT, "own/key", apart.digest) == apart
            for repository in (REPOSITORY, "own/key"):
                assert await read(house, apart.digest, repository=repository) == b"the same"
        await kms.close()


async def test_a_data_key_that_is_not_under_its_repositorys_own_key_comes_under_it(tmp_path: Path) -> None:
    async with fake_kms() as fake:
        kms = KmsKeys(fake.kms(), "probe")
        async with open_house(tmp_path, kms) as house:
            asked = {"repositoryName": REPOSITORY, "encryptionConfiguration": {"encryptionType": "KMS", "kmsKey": OWN}}
            await house.metadata.call(ACCOUNT, "CreateRepository", asked)
            blob = await house.push(b"bytes")
            plain = await house.keys.unwrap(blob.sealed.data_key, blob.sealed.sealed_for)
            astray = await LocalKeys(house.masters).wrap(plain, blob.sealed.sealed_for)
            assert await house.metadata.replace_data_key(blob.sealed.object_key, blob.sealed.data_key, astray)
            assert (await rewrap_all(house)).rewrapped == 1
            mended = await house.blob(blob.digest)
            assert mended.sealed.data_key.provider_info == OWN.encode()
            assert await read(house, blob.digest) == b"bytes"
        await kms.close()
