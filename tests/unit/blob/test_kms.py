"""Data keys under KMS: what is asked of it, what is kept, and what is said when it does not answer or refuses."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from proxy import observe
from proxy.blob.buffers import BufferPool
from proxy.blob.keys import DataKey, Providers
from proxy.blob.kms import Kms
from proxy.blob.kms_keys import ARN_SECONDS, CHECK_SECONDS, KmsKeys
from proxy.blob.local_keys import LocalKeys
from proxy.blob.master_file import MasterKeys
from proxy.model.errors import Code, Failure
from proxy.model.records import EncryptedDataKey
from support.encryption_sdk import sdk_decrypt_by_kms
from support.fake_kms import FakeKms, fake_kms
from support.fault_proxy import fault_proxy
from support.memory_store import MemoryStore
from support.moto import Moto
from support.sealed_objects import ARN, read_range, write_messages

PROBE = "arn:aws:ecr:us-east-1:123456789012:repository/_registry-secret"


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
async def fake() -> AsyncIterator[FakeKms]:
    async with fake_kms() as opened:
        yield opened


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def keys(fake: FakeKms, clock: Clock) -> AsyncIterator[KmsKeys]:
    made = KmsKeys(fake.kms(retry_seconds=0.5, answer_seconds=1.0), PROBE, clock=clock)
    yield made
    await made.close()


async def failure_of(asking: object) -> Failure:
    with pytest.raises(Failure) as caught:
        await asking  # type: ignore[misc]  # any awaitable
    assert caught.value.code is Code.KMS
    return caught.value


class TestOnMoto:
    async def test_a_data_key_opens_for_its_repository_only(self, moto: Moto) -> None:
        arn = await asyncio.to_thread(moto.new_key)
        keys, elsewhere = KmsKeys(Kms(moto.place(arn)), PROBE), KmsKeys(Kms(moto.place(arn)), PROBE)
        made = await keys.generate(ARN)
        assert (made.encrypted.provider_id, made.encrypted.provider_info) == ("aws-kms", arn.encode())
        assert await elsewhere.unwrap(made.encrypted, ARN) == made.plaintext
        assert (await failure_of(elsewhere.unwrap(made.encrypted, ARN + "2"))).fields == {
            "kmsError": "InvalidCiphertextException"
        }
        await keys.close()
        await elsewhere.close()

    async def test_a_key_may_be_named_by_its_alias_and_rows_name_it_by_its_arn(self, moto: Moto) -> None:
        first, second = await asyncio.to_thread(moto.new_key), await asyncio.to_thread(moto.new_key)
        client = await asyncio.to_thread(moto.client)
        await asyncio.to_thread(client.create_alias, AliasName="alias/registry", TargetKeyId=first)
        clock = Clock()
        keys = KmsKeys(Kms(moto.place("alias/registry")), PROBE, clock=clock)
        made = await keys.generate(ARN)
        assert made.encrypted.provider_info == first.encode()
        await asyncio.to_thread(client.update_alias, AliasName="alias/registry", TargetKeyId=second)
        clock.now += ARN_SECONDS
        rewrapped = await keys.rewrap(made.encrypted, ARN)
        assert rewrapped.provider_info == second.encode()
        assert await keys.rewrap(rewrapped, ARN) == rewrapped
        clock.now += 1000
        assert await keys.unwrap(made.encrypted, ARN) == await keys.unwrap(rewrapped, ARN) == made.plaintext
        await keys.close()

    async def test_the_public_sdk_opens_what_we_sealed_with_a_kms_master_key(self, moto: Moto) -> None:
        """Provider id, provider information and encryption context are those of the SDK's own KMS provider."""
        arn = await asyncio.to_thread(moto.new_key)
        keys = KmsKeys(Kms(moto.place(arn)), PROBE)
        memory = MemoryStore()
        data_key: DataKey = await keys.generate(ARN)
        written = await write_messages(memory, [[b"open to all" * 100]], data_key, pool=BufferPool(), frame_length=256)
        stored = bytes(memory.objects[written.sealed.object_key])
        client = await asyncio.to_thread(moto.client)
        opened = await asyncio.to_thread(sdk_decrypt_by_kms, stored, client, arn)
        assert opened == (b"open to all" * 100, {"aws:ecr:arn": ARN})
        await keys.close()

    async def test_a_registry_opens_keys_of_both_kinds_and_wraps_by_the_one_in_force(
        self, moto: Moto, masters: MasterKeys
    ) -> None:
        kms = KmsKeys(Kms(moto.place(await asyncio.to_thread(moto.new_key))), PROBE)
        local = LocalKeys(masters)
        to_kms, to_local = Providers(kms, local=local, kms=kms), Providers(local, local=local, kms=kms)
        ours = await to_local.generate(ARN)
        theirs = await to_kms.rewrap(ours.encrypted, ARN)
        back = await to_local.rewrap(theirs, ARN)
        assert [key.provider_id for key in (ours.encrypted, theirs, back)] == ["wharfage", "aws-kms", "wharfage"]
        for key in (ours.encrypted, theirs, back):
            assert await to_kms.unwrap(key, ARN) == await to_local.unwrap(key, ARN) == ours.plaintext
        alone = await failure_of(Providers(local, local=local, kms=None).unwrap(theirs, ARN))
        assert "no KMS is configured" in alone.message
        assert "key file" in (await failure_of(Providers(kms, local=None, kms=kms).unwrap(back, ARN))).message
        await kms.close()


class TestWhatIsAsked:
    async def test_a_blob_costs_one_generate_and_no_decrypt_where_it_was_made(
        self, fake: FakeKms, keys: KmsKeys
    ) -> None:
        made = await keys.generate(ARN)
        assert await keys.unwrap(made.encrypted, ARN) == made.plaintext
        assert fake.asked == ["GenerateDataKey"]

    async def test_equal_decrypts_at_once_are_one_request_and_are_kept_for_so_long(
        self, fake: FakeKms, keys: KmsKeys, clock: Clock
    ) -> None:
        made = await keys.generate(ARN)
        clock.now += 300
        found = await asyncio.gather(*(keys.unwrap(made.encrypted, ARN) for _ in range(20)))
        assert set(found) == {made.plaintext}
        assert fake.asked == ["GenerateDataKey", "Decrypt"]
        clock.now += 299
        await keys.unwrap(made.encrypted, ARN)
        assert fake.asked.count("Decrypt") == 1
        clock.now += 1
        await keys.unwrap(made.encrypted, ARN)
        assert fake.asked.count("Decrypt") == 2

    async def test_the_first_caller_cancelled_takes_no_answer_with_it(
        self, fake: FakeKms, keys: KmsKeys, clock: Clock
    ) -> None:
        made = await keys.generate(ARN)
        clock.now += 300
        fake.stall = asyncio.Event()
        first, second = (asyncio.create_task(keys.unwrap(made.encrypted, ARN)) for _ in range(2))
        await fake.until_asked("Decrypt")
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        fake.stall.set()
        assert await second == made.plaintext
        assert fake.asked.count("Decrypt") == 1

    async def test_readiness_asks_now_and_then_only(self, fake: FakeKms, keys: KmsKeys, clock: Clock) -> None:
        await asyncio.gather(*(keys.check() for _ in range(5)))
        assert len(fake.asked) == 1
        fake.refuse = "DisabledException"
        await keys.check()
        clock.now += CHECK_SECONDS
        assert "disabled" in (await failure_of(keys.check())).message
        assert "disabled" in (await failure_of(keys.check())).message
        assert len(fake.asked) == 2


class TestWhenItFails:
    @pytest.mark.parametrize(
        ("name", "said", "hint"),
        [
            ("AccessDeniedException", "access is denied", "kms:GenerateDataKey"),
            ("DisabledException", "disabled", "enable the key"),
            ("NotFoundException", "does not exist", "key_id and region"),
            ("KMSInvalidStateException", "state", "deletion"),
            ("UnrecognizedClientException", "UnrecognizedClientException", "kms_access_key_id"),
        ],
    )
    async def test_what_it_refuses_is_not_asked_again_and_has_a_hint_of_its_own(
        self, fake: FakeKms, keys: KmsKeys, name: str, said: str, hint: str
    ) -> None:
        fake.refuse = name
        failure = await failure_of(keys.generate(ARN))
        assert said in failure.message
        assert hint in failure.hint
        assert failure.fields["kmsError"] == name
        assert "somebody" not in str(failure)
        assert len(fake.asked) == 1

    async def test_a_busy_service_is_asked_again(self, fake: FakeKms) -> None:
        keys = KmsKeys(fake.kms(retry_seconds=10.0, answer_seconds=5.0), PROBE)  # its client is made within it
        fake.refuse_next = 2
        await keys.generate(ARN)
        assert len(fake.asked) == 3
        await keys.close()

    async def test_after_its_patience_the_failure_says_unavailable_and_keys_in_memory_go_on(
        self, fake: FakeKms, keys: KmsKeys
    ) -> None:
        made = await keys.generate(ARN)
        fake.refuse = "KMSInternalException"
        assert "unavailable" in (await failure_of(keys.generate(ARN))).fields
        assert await keys.unwrap(made.encrypted, ARN) == made.plaintext

    async def test_a_dead_service_is_refused_in_milliseconds_and_used_again_when_it_is_back(self, moto: Moto) -> None:
        """By the breaker's clock, which the test turns."""
        clock = Clock()
        arn = await asyncio.to_thread(moto.new_key)
        async with fault_proxy(moto.port) as line:
            kms = Kms(moto.place(arn, endpoint=line.url), clock=clock, retry_seconds=10.0)
            keys = KmsKeys(kms, PROBE)
            await keys.generate(ARN)
            line.mode = "refuse"
            for _ in range(4):
                clock.now += 11.0  # each asking is one try: the next would begin too late
                asking = asyncio.create_task(keys.generate(ARN))
                await asyncio.sleep(0)
                clock.now += 11.0
                await failure_of(asking)
            assert "open" in repr(kms.breaker)
            tried = len(line.requests)
            assert "does not answer" in (await failure_of(keys.generate(ARN))).message
            assert len(line.requests) == tried
            line.mode = "open"
            clock.now += 2.0
            await keys.generate(ARN)
            assert "closed" in repr(kms.breaker)
            await keys.close()

    async def test_a_service_that_stalls_is_given_up_in_time(self, fake: FakeKms) -> None:
        keys = KmsKeys(fake.kms(retry_seconds=0.0, answer_seconds=0.2), PROBE)
        fake.stall = asyncio.Event()
        began = asyncio.get_running_loop().time()
        assert "unavailable" in (await failure_of(keys.generate(ARN))).fields
        assert asyncio.get_running_loop().time() - began < 4.0
        fake.stall.set()
        await keys.close()

    async def test_an_answer_about_another_key_is_refused(self, fake: FakeKms, keys: KmsKeys, clock: Clock) -> None:
        made = await keys.generate(ARN)
        clock.now += 300
        swapped = EncryptedDataKey(
            "aws-kms", b"arn:aws:kms:us-east-1:123456789012:key/other", made.encrypted.ciphertext
        )
        assert "another key" in (await failure_of(keys.unwrap(swapped, ARN))).message

    async def test_no_secret_is_in_a_failure_or_a_repr(self, fake: FakeKms, keys: KmsKeys) -> None:
        made = await keys.generate(ARN)
        assert repr(made.plaintext) not in repr(made)
        fake.refuse = "AccessDeniedException"
        failure = await failure_of(keys.generate(ARN))
        assert "secret" not in json.dumps([str(failure), failure.hint]).replace("kms_secret_access_key", "")

    async def test_requests_are_counted_by_outcome(self, fake: FakeKms, keys: KmsKeys) -> None:
        def count(outcome: str) -> float:
            return float(observe.metrics.kms_requests.labels("generate_data_key", outcome)._value.get())

        before = {outcome: count(outcome) for outcome in ("ok", "refused")}
        await keys.generate(ARN)
        fake.refuse = "DisabledException"
        await failure_of(keys.generate(ARN))
        assert {outcome: count(outcome) - before[outcome] for outcome in before} == {"ok": 1, "refused": 1}


async def test_a_range_of_a_blob_sealed_under_kms_reads_back(fake: FakeKms, keys: KmsKeys) -> None:
    memory, pool = MemoryStore(), BufferPool()
    made = await keys.generate(ARN)
    written = await write_messages(memory, [[b"a" * 1000], [b"b" * 1000]], made, pool=pool, frame_length=256)
    assert await read_range(memory, written, 990, 1010, pool) == b"a" * 10 + b"b" * 10


OWN = "arn:aws:kms:us-east-1:123456789012:key/of-a-repository"


async def test_a_repositorys_own_key_wraps_in_place_of_the_servers(fake: FakeKms, keys: KmsKeys) -> None:
    fake.named[OWN] = OWN
    made = await keys.generate(ARN, OWN)
    assert made.encrypted.provider_info == OWN.encode()
    assert await keys.unwrap(made.encrypted, ARN) == made.plaintext
    assert await keys.rewrap(made.encrypted, ARN, OWN) == made.encrypted
    servers = await keys.rewrap(made.encrypted, ARN)
    assert servers.provider_info == fake.arn.encode()
    assert (await keys.rewrap(servers, ARN, OWN)).provider_info == OWN.encode()


async def test_a_key_is_known_by_its_arn_however_it_is_named(fake: FakeKms, keys: KmsKeys) -> None:
    fake.named |= {OWN: OWN, "of-a-repository": OWN, "alias/own": OWN}
    assert [await keys.arn_of(name, ARN) for name in ("alias/own", "of-a-repository", OWN)] == [OWN] * 3
    assert await keys.arn_of("", ARN) == fake.arn
    await keys.generate(ARN, OWN)
    assert (await keys.generate(ARN)).encrypted.provider_info == fake.arn.encode()  # the server's is as it was


@pytest.mark.parametrize(
    "code", ["DisabledException", "AccessDeniedException", "KMSInvalidStateException", "InvalidKeyUsageException"]
)
async def test_a_key_that_cannot_be_used_is_refused_with_kmss_own_error(
    fake: FakeKms, keys: KmsKeys, code: str
) -> None:
    fake.named["alias/own"], fake.refused[OWN] = OWN, code
    assert (await failure_of(keys.arn_of("alias/own", ARN))).fields["kmsError"] == code
    assert (await failure_of(keys.arn_of("alias/none", ARN))).fields["kmsError"] == "NotFoundException"
    await keys.generate(ARN)  # the server's own key is another one


async def test_an_answer_under_another_key_than_was_asked_for_is_refused(fake: FakeKms, keys: KmsKeys) -> None:
    """An alias where an ARN should be, or a service that answers as it likes: the row would name a wrong key."""
    fake.named["alias/own"] = OWN
    assert "another key" in (await failure_of(keys.generate(ARN, "alias/own"))).message
    made = await keys.generate(ARN)
    assert "another key" in (await failure_of(keys.rewrap(made.encrypted, ARN, "alias/own"))).message


async def test_without_a_kms_no_key_of_it_can_be_had(tmp_path: Path) -> None:
    local = LocalKeys(await asyncio.to_thread(MasterKeys.load_or_create, tmp_path / "master.json"))
    made = await local.generate(ARN)
    for keys in (local, Providers(local, local=local, kms=None)):
        for asking in (keys.generate(ARN, OWN), keys.arn_of("", ARN), keys.arn_of(OWN, ARN)):
            assert "no KMS is configured" in (await failure_of(asking)).message
    assert "no KMS" in (await failure_of(local.wrap(made.plaintext, ARN, OWN))).message
    own = EncryptedDataKey("aws-kms", OWN.encode(), b"wrapped")
    assert await Providers(local, local=local, kms=None).rewrap(own, ARN, OWN) == own


async def test_a_refused_key_is_looked_at_again_soon_and_a_good_one_after_the_cache(
    fake: FakeKms, keys: KmsKeys, clock: Clock
) -> None:
    fake.named[OWN] = OWN
    for _ in range(3):
        await keys.require(OWN, ARN)
    assert fake.asked == ["GenerateDataKey"]
    fake.refused[OWN] = "DisabledException"
    clock.now += 299
    await keys.require(OWN, ARN)
    clock.now += 1
    for _ in range(3):
        assert (await failure_of(keys.require(OWN, ARN))).fields["kmsError"] == "DisabledException"
    assert len(fake.asked) == 2
    del fake.refused[OWN]
    clock.now += CHECK_SECONDS
    await keys.require(OWN, ARN)


async def test_a_kms_that_does_not_answer_refuses_no_key(fake: FakeKms, keys: KmsKeys, clock: Clock) -> None:
    fake.named[OWN] = OWN
    fake.refuse = "KMSInternalException"
    await keys.require(OWN, ARN)
    fake.refuse, fake.refused[OWN] = "", "AccessDeniedException"
    clock.now += CHECK_SECONDS
    await failure_of(keys.require(OWN, ARN))


async def test_those_who_ask_about_one_key_at_once_share_a_look(fake: FakeKms, keys: KmsKeys) -> None:
    """One who leaves takes nobody else's answer along."""
    fake.named[OWN] = OWN
    fake.stall = asyncio.Event()
    first, *others = [asyncio.create_task(keys.require(OWN, ARN)) for _ in range(5)]
    await fake.until_asked("GenerateDataKey")
    first.cancel()
    fake.stall.set()
    await asyncio.gather(*others)
    assert first.cancelled()
    assert fake.asked == ["GenerateDataKey"]


async def test_a_look_that_comes_to_no_end_is_not_kept(
    fake: FakeKms, keys: KmsKeys, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake.named[OWN] = OWN

    async def broken(*asked: object) -> DataKey:
        raise RuntimeError("a bug")

    with monkeypatch.context() as patch:
        patch.setattr(keys, "_generate", broken)
        with pytest.raises(RuntimeError):
            await keys.require(OWN, ARN)
    await keys.require(OWN, ARN)


async def test_the_servers_own_key_is_not_looked_at(fake: FakeKms, keys: KmsKeys, tmp_path: Path) -> None:
    """What it wraps, its health check speaks of; and a key of KMS without a KMS is refused."""
    local = LocalKeys(await asyncio.to_thread(MasterKeys.load_or_create, tmp_path / "master.json"))
    for any_of in (Providers(keys, local=None, kms=keys), Providers(local, local=local, kms=None), local):
        await any_of.require("", ARN)
    assert fake.asked == []
    for without in (Providers(local, local=local, kms=None), local):
        assert "no KMS" in (await failure_of(without.require(OWN, ARN))).message
