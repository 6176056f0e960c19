"""Who may serve together: keys held against the records, at a start and while serving."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from proxy.blob.key_consensus import AMISS_SECONDS, KeyConsensus
from proxy.blob.kms_keys import KmsKeys
from proxy.blob.local_keys import LocalKeys
from proxy.blob.master_file import MasterKeys
from proxy.model.errors import Code, Failure
from proxy.model.records import KeyRecord
from support.fake_kms import FakeKms, fake_kms

SECRET = "arn:aws:ecr:us-east-1:123456789012:repository/_registry-secret"


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


class Records:
    """The two operations in memory, as `metadata.operations.keys` does them; `failing` is raised instead."""

    def __init__(self) -> None:
        self.kept: list[KeyRecord] = []
        self.failing: Failure | None = None

    async def key_records(self) -> Sequence[KeyRecord]:
        if self.failing is not None:
            raise self.failing
        return tuple(sorted(self.kept, key=lambda record: not record.active))

    async def record_key(self, record: KeyRecord, *, replaces: str | None) -> Sequence[KeyRecord]:
        if all(record.name != known.name for known in self.kept):
            self.kept.insert(0, replace(record, active=False))
        in_force = next((known.name for known in self.kept if known.active), None)
        if record.active and in_force == replaces:
            self.kept = [replace(known, active=known.name == record.name) for known in self.kept]
        return await self.key_records()


class Nodes:
    """Nodes of one registry, each with a folder of its own."""

    def __init__(self, folder: Path, fake: FakeKms) -> None:
        self.folder = folder
        self.records = Records()
        self.clock = Clock()
        self.fake = fake
        self.masters: dict[str, MasterKeys] = {}
        self._open: list[KmsKeys] = []

    async def node(self, name: str, *, file: bool = True, kms: bool = False, prefers_kms: bool = False) -> KeyConsensus:
        path = self.folder / f"{name}.json"
        masters = await asyncio.to_thread(MasterKeys.load_or_create, path) if file else None
        if masters is not None:
            self.masters[name] = masters
        return KeyConsensus(
            self.records,
            masters=masters,
            kms=self.kms() if kms or prefers_kms else None,
            prefers_kms=prefers_kms,
            sealed_for=SECRET,
            node=name,
            clock=self.clock,
        )

    def kms(self) -> KmsKeys:
        self._open.append(KmsKeys(self.fake.kms(retry_seconds=0.0), SECRET))
        return self._open[-1]

    async def copy(self, of: str, to: str) -> None:
        def write() -> None:
            path = self.folder / f"{to}.json"
            path.touch(mode=0o600)
            path.write_bytes((self.folder / f"{of}.json").read_bytes())

        await asyncio.to_thread(write)

    async def close(self) -> None:
        for kms in self._open:
            await kms.close()


@pytest.fixture
async def nodes(tmp_path: Path) -> AsyncIterator[Nodes]:
    async with fake_kms() as fake:
        made = Nodes(tmp_path, fake)
        yield made
        await made.close()


async def refused(agreeing: object) -> Failure:
    with pytest.raises(Failure) as caught:
        await agreeing  # type: ignore[misc]  # any awaitable
    assert caught.value.code is Code.KMS
    return caught.value


async def test_the_first_node_records_its_key_and_one_with_a_copy_agrees(nodes: Nodes) -> None:
    one = await nodes.node("one")
    await one.begin()
    await nodes.copy("one", "two")
    two = await nodes.node("two")
    await two.begin()
    assert two.sealer("test").open(one.sealer("test").seal(b"x")) == b"x"


async def test_a_node_with_another_key_is_refused_by_its_name_the_keys_name_and_what_to_copy(nodes: Nodes) -> None:
    one, two = await nodes.node("one"), await nodes.node("two")
    await one.begin()
    failure = await refused(two.begin())
    [in_force] = nodes.records.kept
    assert f"two lacks the master key {in_force.name}" in failure.message
    assert f"copy {nodes.folder / 'two.json'} from a node that serves" in failure.hint
    assert len(nodes.records.kept) == 1


async def test_a_key_of_the_same_name_with_other_bytes_is_told_apart(nodes: Nodes) -> None:
    await (await nodes.node("one")).begin()
    await nodes.copy("one", "two")

    def alter() -> None:
        path = nodes.folder / "two.json"
        document = json.loads(path.read_text())
        document["keys"][0]["key_base64"] = "A" * 43 + "="
        path.write_text(json.dumps(document))

    await asyncio.to_thread(alter)
    assert "another key" in (await refused((await nodes.node("two")).begin())).message


async def test_a_record_reveals_no_key(nodes: Nodes) -> None:
    await (await nodes.node("one")).begin()
    masters = await asyncio.to_thread(MasterKeys.load, nodes.folder / "one.json")
    [record] = nodes.records.kept
    assert record.wrapped is None
    assert masters.active.key not in (record.check_value, masters.active.derive("check value"))
    assert record.check_value != masters.active.derive("check value")


async def test_a_sealer_follows_a_rotation_without_a_restart_and_opens_what_was_before(nodes: Nodes) -> None:
    """The file has the new key first; what seals is what the record says."""
    one = await nodes.node("one")
    await one.begin()
    sealer = one.sealer("test")
    before = sealer.seal(b"before")
    beside = await asyncio.to_thread(MasterKeys.load, nodes.folder / "one.json")
    added = await asyncio.to_thread(beside.add)
    await one.look()
    assert sealer.is_current(before)
    assert await one.waiting() == added.name
    await asyncio.to_thread(beside.activate, added.name)
    await one.look()
    await one.move(await one.prepare(fresh=False))
    assert not sealer.is_current(before)
    assert sealer.open(before) == b"before"
    assert added.name.encode() in sealer.seal(b"after")
    assert await one.waiting() is None


async def test_a_running_node_that_lacks_the_new_key_is_not_ready_after_a_while_and_is_again_with_it(
    nodes: Nodes,
) -> None:
    one = await nodes.node("one")
    await one.begin()
    await nodes.copy("one", "two")
    two = await nodes.node("two")
    await two.begin()
    beside = await asyncio.to_thread(MasterKeys.load, nodes.folder / "one.json")
    await asyncio.to_thread(beside.rotate)
    await one.look()
    await one.move(await one.prepare(fresh=False))
    await two.look()
    await two.check()
    nodes.clock.now += AMISS_SECONDS
    await two.look()
    assert "two lacks the master key" in (await refused(two.check())).message
    await one.check()
    await nodes.copy("one", "two")
    await two.look()
    await two.check()
    assert two.sealer("test").open(one.sealer("test").seal(b"x")) == b"x"


async def test_a_key_that_was_made_and_copied_before_the_rotation_leaves_every_node_ready(nodes: Nodes) -> None:
    one = await nodes.node("one")
    await one.begin()
    beside = await asyncio.to_thread(MasterKeys.load, nodes.folder / "one.json")
    added = await asyncio.to_thread(beside.add)
    await nodes.copy("one", "two")
    two = await nodes.node("two")
    await two.begin()
    await asyncio.to_thread(beside.activate, added.name)
    await one.look()
    await one.move(await one.prepare(fresh=False))
    for _ in range(2):
        await two.look()
        await two.check()
        nodes.clock.now += AMISS_SECONDS
    assert added.name.encode() in two.sealer("test").seal(b"x")
    await (await nodes.node("two")).begin()


async def test_a_node_wraps_under_the_key_in_force_whichever_its_own_file_has_first(nodes: Nodes) -> None:
    """A rotation changes the order in the file of one node; the others were given the key, and look at the records."""
    one = await nodes.node("one")
    await one.begin()
    beside = await asyncio.to_thread(MasterKeys.load, nodes.folder / "one.json")
    old, added = beside.active, await asyncio.to_thread(beside.add)
    await nodes.copy("one", "two")
    two = await nodes.node("two")
    await two.begin()
    wrapping = LocalKeys(nodes.masters["two"])

    async def under() -> str:
        made = await wrapping.generate(SECRET)
        assert await wrapping.is_current(made.encrypted)
        return made.encrypted.provider_info.decode(errors="replace")[: len(old.name)]

    assert await under() == old.name
    await asyncio.to_thread(beside.activate, added.name)
    await one.look()
    assert await under() == old.name
    before = await wrapping.generate(SECRET)
    await one.move(await one.prepare(fresh=False))
    await two.look()
    assert nodes.masters["two"].active == old
    assert await under() == added.name
    assert not await wrapping.is_current(before.encrypted)
    await wrapping.check()


async def test_a_node_that_lacks_the_key_in_force_goes_on_with_what_it_has(nodes: Nodes) -> None:
    """It is not ready then; what it was pushed meanwhile is wrapped anew by the next rewrap."""
    one = await nodes.node("one")
    await one.begin()
    await nodes.copy("one", "two")
    two = await nodes.node("two")
    await two.begin()
    beside = await asyncio.to_thread(MasterKeys.load, nodes.folder / "one.json")
    await asyncio.to_thread(beside.rotate)
    await one.look()
    await one.move(await one.prepare(fresh=False))
    await two.look()
    own = nodes.masters["two"]
    assert own.in_force == own.active
    await nodes.copy("one", "two")
    await two.look()
    assert own.in_force == beside.active


async def test_metadata_out_of_reach_changes_nothing(nodes: Nodes) -> None:
    one = await nodes.node("one")
    await one.begin()
    nodes.records.failing = Failure(Code.METADATA_UNAVAILABLE, "on purpose")
    nodes.clock.now += 1000
    await one.look()
    await one.check()
    assert one.sealer("test").open(one.sealer("test").seal(b"x")) == b"x"


async def test_under_kms_nodes_need_no_file_and_share_a_secret_that_kms_keeps(nodes: Nodes) -> None:
    one, two = [await nodes.node(name, file=False, prefers_kms=True) for name in ("one", "two")]
    await one.begin()
    await two.begin()
    assert two.sealer("test").open(one.sealer("test").seal(b"x")) == b"x"
    [record] = nodes.records.kept
    assert record.wrapped is not None
    assert record.sealed_for == SECRET
    assert nodes.fake.asked == ["GenerateDataKey", "Decrypt"]


async def test_nodes_under_kms_that_start_at_once_agree_on_one_secret(nodes: Nodes) -> None:
    several = [await nodes.node(f"n{number}", file=False, prefers_kms=True) for number in range(3)]
    await asyncio.gather(*(node.begin() for node in several))
    sealed = [node.sealer("test").seal(b"x") for node in several]
    assert {node.sealer("test").open(each) for node in several for each in sealed} == {b"x"}


async def test_kms_out_of_reach_at_the_start_says_so(nodes: Nodes) -> None:
    await (await nodes.node("one", file=False, prefers_kms=True)).begin()
    nodes.fake.refuse = "KMSInternalException"
    failure = await refused((await nodes.node("two", file=False, prefers_kms=True)).begin())
    assert "unavailable" in failure.fields


async def test_a_registry_moves_to_kms_and_back_and_old_values_open_throughout(nodes: Nodes) -> None:
    """`old` serves on with both configured while the other nodes move; a node without KMS is told what it lacks."""
    old = await nodes.node("one", kms=True)
    await old.begin()
    before = old.sealer("test").seal(b"x")
    new = await nodes.node("one", prefers_kms=True)
    await new.begin()
    assert new.sealer("test").is_current(before)
    await new.move(await new.prepare(fresh=True))
    await old.look()
    under_kms = new.sealer("test").seal(b"x")
    assert not new.sealer("test").is_current(before)
    assert old.sealer("test").open(under_kms) == new.sealer("test").open(before) == b"x"
    alone = await refused((await nodes.node("one")).begin())
    assert "no KMS configured" in alone.message

    back = await nodes.node("one", kms=True)
    await back.begin()
    await back.move(await back.prepare(fresh=False))
    await new.look()
    await new.check()
    assert back.sealer("test").open(under_kms) == b"x"
    assert new.sealer("test").is_current(back.sealer("test").seal(b"x"))


async def test_a_node_that_would_wrap_by_a_key_that_nobody_knows_is_refused(nodes: Nodes) -> None:
    """The registry is under KMS, and this node has just made itself a key file."""
    await (await nodes.node("one", file=False, prefers_kms=True)).begin()
    stray = await nodes.node("stray", kms=True)
    failure = await refused(stray.begin())
    assert "stray wraps by master key" in failure.message
    assert "wharfage rewrap" in failure.hint
    await stray.begin(moving=True)
    stray_file = await asyncio.to_thread(MasterKeys.load, nodes.folder / "stray.json")
    assert await stray.waiting() == stray_file.active.name
    await stray.move(await stray.prepare(fresh=False))
    await (await nodes.node("stray", kms=True)).begin()


async def test_an_older_secret_that_kms_refuses_is_asked_for_once(nodes: Nodes) -> None:
    one = await nodes.node("one", prefers_kms=True)
    await one.begin()
    await one.move(await one.prepare(fresh=True))
    two = await nodes.node("two", file=False, prefers_kms=True)
    wrapped = [record.wrapped for record in nodes.records.kept if not record.active]
    assert wrapped[0] is not None
    nodes.fake.forget(wrapped[0].ciphertext)
    await two.begin()
    asked = len(nodes.fake.asked)
    await two.look()
    assert len(nodes.fake.asked) == asked


async def test_a_secret_that_kms_refused_once_is_kept_when_it_was_opened_since(nodes: Nodes) -> None:
    """It was in force meanwhile, and what was sealed under it opens after the next rotation too."""
    one = await nodes.node("one", prefers_kms=True)
    await one.begin()
    await one.move(await one.prepare(fresh=True))
    older = next(record for record in nodes.records.kept if not record.active)
    newer = next(record for record in nodes.records.kept if record.active)
    assert older.wrapped is not None
    nodes.fake.forget(older.wrapped.ciphertext)
    two = await nodes.node("two", file=False, prefers_kms=True)
    await two.begin()
    nodes.fake.recall(older.wrapped.ciphertext)
    await one.move(older)
    await two.look()
    sealed = two.sealer("test").seal(b"x")
    await one.move(newer)
    await two.look()
    assert not two.sealer("test").is_current(sealed)
    assert two.sealer("test").open(sealed) == b"x"
