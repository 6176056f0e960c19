"""Blobs under keys of their repositories' own: shared where the keys are the same and nowhere else, by every client."""

from __future__ import annotations

import pytest

from proxy.model.errors import Code, Failure
from proxy.model.records import Blob, CreateOnPush, Mounted, Upload
from support.metadata import ACCOUNT, DATA_KEY, World, append, digest, image_manifest

ONE, TWO = (f"arn:aws:kms:us-east-1:{ACCOUNT}:key/{name}" for name in ("one", "two"))
KEYS = {"one/a": ONE, "one/b": ONE, "two/a": TWO, "none/a": "", "none/b": ""}
"""Repositories, by name, with their keys."""


@pytest.fixture(autouse=True)
async def repositories(world: World) -> None:
    for name, key in KEYS.items():
        encryption = {"encryptionType": "KMS", "kmsKey": key} if key else {"encryptionType": "AES256"}
        await world.call("CreateRepository", repositoryName=name, encryptionConfiguration=encryption)


async def begin(world: World, repository: str, encryption: str, *, create: CreateOnPush = CreateOnPush.NO) -> Upload:
    return await world.metadata.begin_upload(
        ACCOUNT,
        repository,
        algorithm="sha256",
        object_key=world.object_key(),
        data_key=DATA_KEY,
        sealed_for="arn",
        frame_length=1 << 18,
        create=create,
        encryption=encryption,
    )


async def push(world: World, repository: str, name: str = "layer") -> tuple[Blob, str | None]:
    leased = await world.lease(await begin(world, repository, KEYS[repository]))
    return await world.metadata.commit_upload(
        leased.upload_id, leased.fence, digest=digest(name), segment=append(0, 10), hash_state=b"s"
    )


async def refused(code: Code, asking: object) -> Failure:
    with pytest.raises(Failure) as caught:
        await asking  # type: ignore[misc]  # any awaitable
    assert caught.value.code is code
    return caught.value


async def test_a_repository_says_under_which_key_its_data_keys_are(world: World) -> None:
    found = {name: (await world.metadata.repository_access(ACCOUNT, name)).encryption for name in KEYS}
    assert found == KEYS
    assert (await world.metadata.repository_access(ACCOUNT, "not/there")).encryption == ""


async def test_a_data_key_under_another_key_begins_no_upload(world: World) -> None:
    for repository, given in (("one/a", TWO), ("one/a", ""), ("none/a", ONE)):
        failure = await refused(Code.ENCRYPTION_DIFFERS, begin(world, repository, given))
        assert failure.fields["encryption"] == KEYS[repository]
    await refused(Code.ENCRYPTION_DIFFERS, begin(world, "new/app", ONE, create=CreateOnPush.YES))
    assert not (await world.metadata.repository_access(ACCOUNT, "new/app")).exists


async def test_an_upload_carries_its_key_from_step_to_step(world: World) -> None:
    upload = await begin(world, "one/a", ONE)
    assert upload.sealed.encryption == ONE
    assert (await world.metadata.upload(ACCOUNT, "one/a", upload.upload_id)).sealed.encryption == ONE
    assert (await world.lease(upload)).sealed.encryption == ONE


async def test_the_same_bytes_are_kept_once_for_each_key(world: World) -> None:
    pushed = {name: await push(world, name) for name in KEYS}
    keys = {name: blob.sealed.object_key for name, (blob, _) in pushed.items()}
    assert keys["one/a"] == keys["one/b"]
    assert keys["none/a"] == keys["none/b"]
    assert len({keys["one/a"], keys["two/a"], keys["none/a"]}) == 3
    discarded = {name for name, (_, discard) in pushed.items() if discard is not None}
    assert discarded == {"one/b", "none/b"}
    for name, encryption in KEYS.items():
        seen = await world.metadata.blob(ACCOUNT, name, digest("layer"))
        assert (seen.sealed.object_key, seen.sealed.encryption) == (keys[name], encryption)


async def test_a_commit_that_is_asked_again_answers_with_its_own_blob(world: World) -> None:
    await push(world, "none/a")
    leased = await world.lease(await begin(world, "one/a", ONE))
    for _ in range(2):
        blob, discard = await world.metadata.commit_upload(
            leased.upload_id, leased.fence, digest=digest("layer"), segment=append(0, 10), hash_state=b"s"
        )
        assert (blob.sealed.object_key, discard) == (leased.sealed.object_key, None)


async def test_a_blob_is_mounted_only_from_where_the_key_is_the_same(world: World) -> None:
    await push(world, "one/a")

    async def mount(target: str, source: str | None, *, create: CreateOnPush = CreateOnPush.NO) -> Mounted:
        return await world.metadata.mount_blob(ACCOUNT, target, digest("layer"), source, create=create)

    for target in ("two/a", "none/a"):
        assert not await mount(target, "one/a")
        assert not await mount(target, None)
    assert not await mount("new/app", "one/a", create=CreateOnPush.YES)
    assert not (await world.metadata.repository_access(ACCOUNT, "new/app")).exists
    await push(world, "two/a")
    assert not await mount("one/b", "two/a")
    assert await mount("one/b", "one/a")
    seen = await world.metadata.blob(ACCOUNT, "one/b", digest("layer"))
    assert seen == await world.metadata.blob(ACCOUNT, "one/a", digest("layer"))


async def test_holders_are_those_from_which_it_could_be_mounted(world: World) -> None:
    for name in KEYS:
        await push(world, name)
    for key in ("", ONE, TWO):
        found = await world.metadata.blob_holders(ACCOUNT, digest("layer"), limit=20, encryption=key)
        assert sorted(found) == sorted(name for name, own in KEYS.items() if own == key)


async def test_a_manifest_needs_its_layers_under_its_repositorys_key(world: World) -> None:
    await push(world, "one/a", "config")
    await push(world, "one/a")
    manifest = image_manifest("config", ["layer"])
    await refused(Code.LAYERS_NOT_FOUND, world.put(manifest, ["v1"], "two/a"))
    await world.put(manifest, ["v1"], "one/a")
    await push(world, "two/a", "config")
    await push(world, "two/a")
    await world.put(manifest, ["v1"], "two/a")
    await refused(Code.LAYER_IN_USE, world.metadata.unlink_blob(ACCOUNT, "two/a", digest("layer")))


async def test_what_is_hidden_under_one_key_is_served_under_the_other_and_healed_alone(world: World) -> None:
    (one, _), (two, _) = await push(world, "one/a"), await push(world, "two/a")
    await world.metadata.quarantine(one.sealed.object_key, "a bad frame")
    await refused(Code.LAYERS_NOT_FOUND, world.metadata.blob(ACCOUNT, "one/a", digest("layer")))
    assert await world.metadata.blob(ACCOUNT, "two/a", digest("layer")) == two
    healed, discard = await push(world, "one/a")
    assert discard == one.sealed.object_key
    assert await world.metadata.blob(ACCOUNT, "one/a", digest("layer")) == healed
    assert await world.metadata.blob(ACCOUNT, "two/a", digest("layer")) == two


async def test_the_sweep_takes_a_blob_of_one_key_and_leaves_the_others(world: World) -> None:
    (one, _), (two, _) = await push(world, "one/a"), await push(world, "two/a")
    await world.metadata.unlink_blob(ACCOUNT, "one/a", digest("layer"))
    world.clock.now += 10
    await world.metadata.blob(ACCOUNT, "two/a", digest("layer"))
    await push(world, "two/a")  # renews its grace
    assert (await world.metadata.collect_blobs(grace_seconds=5, limit=10)).object_keys == (one.sealed.object_key,)
    assert await world.metadata.blob(ACCOUNT, "two/a", digest("layer")) == two


async def test_a_key_is_for_the_life_of_its_repository_and_ends_with_it(world: World) -> None:
    """Made anew with another key, a repository takes no upload of before."""
    await begin(world, "one/a", ONE)
    open_upload = await begin(world, "one/a", ONE)
    await world.call("DeleteRepository", repositoryName="one/a", force=True)
    encryption = {"encryptionType": "KMS", "kmsKey": TWO}
    made = await world.call("CreateRepository", repositoryName="one/a", encryptionConfiguration=encryption)
    assert made["repository"]["encryptionConfiguration"] == encryption
    assert (await world.metadata.repository_access(ACCOUNT, "one/a")).encryption == TWO
    await refused(Code.UPLOAD_NOT_FOUND, world.lease(open_upload))


async def test_a_push_makes_a_repository_with_the_key_of_its_template(world: World) -> None:
    """A data key under another is refused, and a layer under another is not mounted; neither makes anything."""
    one = {"encryptionType": "KMS", "kmsKey": KEYS["one/a"]}
    template = {"appliedFor": ["CREATE_ON_PUSH"], "customRoleArn": f"arn:aws:iam::{ACCOUNT}:role/r"}
    await world.call("CreateRepositoryCreationTemplate", prefix="new", encryptionConfiguration=one, **template)
    for name in ("one/a", "two/a", "none/a"):
        await push(world, name)
    yes = CreateOnPush.YES
    for source in ("two/a", "none/a"):
        assert not await world.metadata.mount_blob(ACCOUNT, "new/a", digest("layer"), source, create=yes)
        with pytest.raises(Failure) as caught:
            await begin(world, "new/a", KEYS[source], create=yes)
        assert (caught.value.code, caught.value.fields["encryption"]) == (Code.ENCRYPTION_DIFFERS, KEYS["one/a"])
    assert not (await world.metadata.repository_access(ACCOUNT, "new/a")).exists
    assert await world.metadata.mount_blob(ACCOUNT, "new/a", digest("layer"), "one/a", create=yes) is Mounted.CREATED
    assert (await begin(world, "new/b", KEYS["one/a"], create=yes)).created_repository
    for name in ("new/a", "new/b"):
        assert (await world.metadata.repository_access(ACCOUNT, name)).encryption == KEYS["one/a"]
