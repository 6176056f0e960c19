"""Repositories with a KMS key of their own through the real doors, over a KMS that refuses on command."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import structlog

from proxy.blob.kms_keys import CHECK_SECONDS, KmsKeys
from proxy.model.records import Sealing
from support.fake_kms import ARN as SERVERS
from support.fake_kms import fake_kms
from support.keyed_registry import OWN, REPOSITORY, Clock, KeyedRegistry, encryption_in, said
from support.oci_requests import EMPTY_CONFIG, OCI_IMAGE, begin_upload, body, digest_of, image, push_blob, push_image
from support.sigv4_signer import Credentials
from support.whole_registry import ACCOUNT, whole_registry

OTHER = "arn:aws:kms:us-east-1:123456789012:key/other"
LAYER = b"a layer of own/app"
CACHE_SECONDS = 300.0

TEMPLATE: dict[str, Any] = {
    "prefix": "made",
    "appliedFor": ["CREATE_ON_PUSH"],
    "encryptionConfiguration": {"encryptionType": "KMS"},
}


@pytest.fixture
async def registry(tmp_path: Path) -> AsyncIterator[KeyedRegistry]:
    clock = Clock()
    async with fake_kms() as door:
        door.named |= {OWN: OWN, "own": OWN, "alias/own": OWN}
        kms = KmsKeys(door.kms(retry_seconds=0.5), "probe", clock=clock, cache_seconds=CACHE_SECONDS)
        async with whole_registry(tmp_path, kms=kms) as whole:
            made = KeyedRegistry(whole, door, clock, Credentials(*await whole.give_key(ACCOUNT, "administrator")))
            yield made
            await made.close()
        await kms.close()


def _levels(logged: Sequence[Mapping[str, Any]]) -> list[str]:
    """Of the lines about KMS."""
    return [each["log_level"] for each in logged if each["event"] == "KMS failed"]


@pytest.mark.parametrize("name", ["own", "alias/own", OWN])
async def test_a_key_is_shown_by_its_arn_however_it_was_named(registry: KeyedRegistry, name: str) -> None:
    kept = {"encryptionType": "KMS", "kmsKey": OWN}
    assert encryption_in(await registry.create(key=name)) == kept
    described = said(await registry.ask("DescribeRepositories", repositoryNames=[REPOSITORY]))
    assert described["repositories"][0]["encryptionConfiguration"] == kept


async def test_without_a_key_it_is_the_servers_own(registry: KeyedRegistry) -> None:
    assert encryption_in(await registry.create()) == {"encryptionType": "KMS", "kmsKey": SERVERS}
    assert encryption_in(await registry.create("plain/app", "AES256")) == {"encryptionType": "AES256"}


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("NotFoundException", "the key does not exist"),
        ("DisabledException", "the key is disabled"),
        ("KMSInvalidStateException", "not in a state to be used"),
        ("AccessDeniedException", "access is denied"),
        ("InvalidKeyUsageException", "InvalidKeyUsageException"),
    ],
)
async def test_a_key_that_cannot_be_used_makes_no_repository(registry: KeyedRegistry, code: str, words: str) -> None:
    registry.kms.refused[OWN] = code
    with structlog.testing.capture_logs() as logged:
        answer = await registry.create(key="alias/own")
    assert _levels(logged) == ["info"]  # it was the sender's to choose
    assert (answer.status, said(answer)["__type"], said(answer)["kmsError"]) == (400, "KmsException", code)
    assert words in said(answer)["message"]
    assert "somebody" not in answer.body.decode()  # KMS's own text names principals
    assert said(await registry.ask("DescribeRepositories"))["repositories"] == []


async def test_the_servers_own_key_that_cannot_be_used_is_the_operators_to_mend(registry: KeyedRegistry) -> None:
    registry.kms.refused[SERVERS] = "DisabledException"
    with structlog.testing.capture_logs() as logged:
        answer = await registry.create()
    assert (answer.status, said(answer)["__type"]) == (400, "KmsException")
    assert _levels(logged) == ["error"]
    templated = await registry.ask("CreateRepositoryCreationTemplate", **TEMPLATE)  # which declares no KmsException
    assert (templated.status, said(templated)["__type"]) == (500, "ServerException")
    assert "the key is disabled" in said(templated)["message"]


async def test_a_kms_that_does_not_answer_is_a_fault_of_ours(registry: KeyedRegistry) -> None:
    registry.kms.refuse = "KMSInternalException"
    with structlog.testing.capture_logs() as logged:
        answer = await registry.create(key=OWN)
    assert (answer.status, said(answer)["__type"]) == (500, "ServerException")
    assert _levels(logged) == ["error"]


@pytest.mark.parametrize(
    ("configuration", "member"),
    [
        ({"encryptionType": "KMS_DSSE"}, "encryptionConfiguration.encryptionType"),
        ({"encryptionType": "AES256", "kmsKey": OWN}, "encryptionConfiguration.kmsKey"),
        ({"encryptionType": "none"}, "encryptionConfiguration.encryptionType"),
        ({"encryptionType": "KMS", "kmsKey": "k" * 2049}, "encryptionConfiguration.kmsKey"),
        ({"encryptionType": "KMS", "kmsKey": 7}, "encryptionConfiguration.kmsKey"),
        ({"kmsKey": OWN}, "encryptionConfiguration.encryptionType"),
        ("KMS", "encryptionConfiguration"),
    ],
)
async def test_what_cannot_be_is_refused_before_kms_is_asked(
    registry: KeyedRegistry, configuration: object, member: str
) -> None:
    answer = await registry.ask("CreateRepository", repositoryName=REPOSITORY, encryptionConfiguration=configuration)
    assert (answer.status, said(answer)["__type"]) == (400, "InvalidParameterException")
    assert f"'{member}'" in said(answer)["message"]
    assert registry.kms.asked == []


async def test_without_a_kms_a_key_of_it_is_refused_in_words(tmp_path: Path) -> None:
    async with whole_registry(tmp_path) as whole, fake_kms() as unused:
        who = Credentials(*await whole.give_key(ACCOUNT, "administrator"))
        registry = KeyedRegistry(whole, unused, Clock(), who)
        with structlog.testing.capture_logs() as logged:
            answer = await registry.create()
        assert _levels(logged) == ["info"]
        assert (answer.status, said(answer)["__type"]) == (400, "KmsException")
        assert "no KMS is configured" in said(answer)["message"]
        templated = await registry.ask("CreateRepositoryCreationTemplate", **TEMPLATE)
        assert (templated.status, said(templated)["__type"]) == (400, "InvalidParameterException")
        assert "no KMS is configured" in said(templated)["message"]
        await registry.close()


async def test_what_is_pushed_is_under_the_repositorys_key_and_shared_where_it_is_the_same(
    registry: KeyedRegistry,
) -> None:
    """Two repositories of one key hold a layer once; another key and none have it again, each for itself."""
    registry.kms.named["alias/other"] = OTHER
    registry.kms.named[OTHER] = OTHER
    for name, key in (("own/app", "own"), ("own/again", "alias/own"), ("other/app", "alias/other")):
        encryption_in(await registry.create(name, key=key))
    names = ("own/app", "own/again", "other/app", "none/app")
    async with registry.whole.client() as http:
        for name in names:
            await push_blob(http, name, LAYER)
        sealed = {name: (await registry.whole.metadata.blob(ACCOUNT, name, digest_of(LAYER))).sealed for name in names}
        assert sealed["own/app"] == sealed["own/again"]
        assert len({each.object_key for each in sealed.values()}) == 3
        assert [sealed[name].data_key.provider_info.decode() for name in names[:3]] == [OWN, OWN, OTHER]
        assert sealed["none/app"].data_key.provider_id == "wharfage"
        for name in names:
            async with http.get(f"/v2/{name}/blobs/{digest_of(LAYER)}") as answer:
                assert await answer.read() == LAYER


async def test_a_mount_from_a_repository_of_another_key_is_an_upload(registry: KeyedRegistry) -> None:
    for name in ("own/app", "own/again"):
        encryption_in(await registry.create(name, key=OWN))
    async with registry.whole.client() as http:
        await push_blob(http, "none/app", LAYER)
        await registry.whole.metadata.call(ACCOUNT, "PutAccountSetting", {"name": "BLOB_MOUNTING", "value": "ENABLED"})

        async def mount(target: str, **source: str) -> int:
            query = {"mount": digest_of(LAYER), **source}
            async with http.post(f"/v2/{target}/blobs/uploads/", params=query) as answer:
                return answer.status

        assert await mount("own/app", **{"from": "none/app"}) == 202
        assert await mount("own/app") == 202
        await push_blob(http, "own/app", LAYER)
        assert await mount("own/again", **{"from": "none/app"}) == 202
        assert await mount("own/again", **{"from": "own/app"}) == 201
        assert await mount("none/again") == 201


async def test_a_key_that_is_disabled_hides_its_images_until_it_is_enabled(registry: KeyedRegistry) -> None:
    """Once what was kept of it has gone: manifests, layers and BatchGetImage; and nothing new is taken."""
    encryption_in(await registry.create(key="alias/own"))
    async with registry.whole.client() as http:
        digest = await push_image(http, REPOSITORY, "v1", [LAYER])
        await push_image(http, "none/app", "v1", [LAYER])
        layer = f"/v2/{REPOSITORY}/blobs/{digest_of(LAYER)}"
        paths = (f"/v2/{REPOSITORY}/manifests/v1", f"/v2/{REPOSITORY}/manifests/{digest}", layer)

        async def statuses() -> list[int]:
            found = []
            for path in paths:
                async with http.get(path) as answer:
                    found.append(answer.status)
            return found

        async def batch() -> dict[str, Any]:
            return said(await registry.ask("BatchGetImage", repositoryName=REPOSITORY, imageIds=[{"imageTag": "v1"}]))

        assert await statuses() == [200, 200, 200]
        registry.kms.refused[OWN] = "DisabledException"
        assert await statuses() == [200, 200, 200]  # what was opened a moment ago is served
        registry.clock.now += CACHE_SECONDS
        assert await statuses() == [503, 503, 503]
        async with http.get(paths[0]) as answer:
            assert "the key is disabled" in await answer.text()
        found = await batch()
        assert found["images"] == []
        [failure] = found["failures"]
        assert (failure["failureCode"], failure["imageId"]["imageTag"]) == ("KmsError", "v1")
        assert "the key is disabled" in failure["failureReason"]
        location = await begin_upload(http, REPOSITORY)
        async with http.patch(location, data=body(b"new")) as answer:
            assert answer.status == 503
        manifest = image([LAYER])
        async with http.put(
            f"/v2/{REPOSITORY}/manifests/v2", data=manifest, headers={"Content-Type": OCI_IMAGE}
        ) as answer:
            assert answer.status == 503
        async with http.get("/v2/none/app/manifests/v1") as answer:
            assert answer.status == 200
        del registry.kms.refused[OWN]
        registry.clock.now += CHECK_SECONDS
        assert await statuses() == [200, 200, 200]
        assert [each["imageId"]["imageTag"] for each in (await batch())["images"]] == ["v1"]


async def test_while_kms_is_away_manifests_go_on(registry: KeyedRegistry) -> None:
    """Nobody has taken the key away, and what is kept of it may still open the layers."""
    encryption_in(await registry.create(key=OWN))
    async with registry.whole.client() as http:
        await push_image(http, REPOSITORY, "v1", [LAYER])
        registry.clock.now += CACHE_SECONDS
        registry.kms.refuse = "KMSInternalException"
        async with http.get(f"/v2/{REPOSITORY}/manifests/v1") as answer:
            assert answer.status == 200


async def test_many_pulls_cost_kms_one_look(registry: KeyedRegistry) -> None:
    encryption_in(await registry.create(key=OWN))
    async with registry.whole.client() as http:
        await push_image(http, REPOSITORY, "v1", [LAYER])
        registry.kms.asked.clear()
        for _ in range(5):
            async with http.get(f"/v2/{REPOSITORY}/manifests/v1") as answer:
                assert answer.status == 200
    assert registry.kms.asked.count("GenerateDataKey") <= 1


async def test_a_repository_that_changes_its_key_under_an_upload_begins_with_the_new_one(
    registry: KeyedRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker may have seen it a moment before: what the rows say counts."""
    encryption_in(await registry.create(key=OWN))
    metadata = registry.whole.metadata
    seen = await metadata.repository_access(ACCOUNT, "was/there")

    async def of_before(account: str, repository: str) -> object:
        return seen

    with monkeypatch.context() as patch:
        patch.setattr(metadata, "repository_access", of_before)
        upload = await registry.whole.uploads.begin(ACCOUNT, REPOSITORY)
    assert (upload.sealed.encryption, upload.sealed.data_key.provider_info) == (OWN, OWN.encode())


async def test_what_has_a_key_of_its_own_is_sealed_where_nothing_else_is(tmp_path: Path) -> None:
    async with fake_kms() as door:
        door.named[OWN] = OWN
        kms = KmsKeys(door.kms(), "probe")
        async with whole_registry(tmp_path, kms=kms, sealing=Sealing.NONE) as whole:
            registry = KeyedRegistry(whole, door, Clock(), Credentials(*await whole.give_key(ACCOUNT, "administrator")))
            encryption_in(await registry.create(key=OWN))
            async with whole.client() as http:
                for name, sealing in ((REPOSITORY, Sealing.AES_GCM), ("none/app", Sealing.NONE)):
                    await push_blob(http, name, LAYER)
                    blob = await whole.metadata.blob(ACCOUNT, name, digest_of(LAYER))
                    assert blob.sealed.sealing is sealing
            await registry.close()
        await kms.close()


async def test_a_push_that_a_template_makes_a_repository_for_is_under_the_templates_key(
    registry: KeyedRegistry,
) -> None:
    """A template that names no key has the server's own from then on."""
    made: dict[str, Any] = {"appliedFor": ["CREATE_ON_PUSH"], "customRoleArn": f"arn:aws:iam::{ACCOUNT}:role/maker"}
    for prefix, given in (("own", {"kmsKey": OWN}), ("managed", {})):
        answer = await registry.ask(
            "CreateRepositoryCreationTemplate",
            prefix=prefix,
            encryptionConfiguration={"encryptionType": "KMS", **given},
            **made,
        )
        assert answer.status == 200, answer.body
        shown = said(answer)["repositoryCreationTemplate"]["encryptionConfiguration"]
        assert shown == {"encryptionType": "KMS", "kmsKey": given.get("kmsKey", SERVERS)}
    async with registry.whole.client() as http:
        for name, key in (("own/pushed", OWN), ("managed/pushed", SERVERS)):
            await push_blob(http, name, LAYER)
            sealed = (await registry.whole.metadata.blob(ACCOUNT, name, digest_of(LAYER))).sealed
            assert (sealed.encryption, sealed.data_key.provider_info) == (key, key.encode())
        await registry.whole.metadata.call(ACCOUNT, "PutAccountSetting", {"name": "BLOB_MOUNTING", "value": "ENABLED"})
        for target, status in (("own/mounted", 201), ("managed/not", 202)):
            query = {"mount": digest_of(LAYER), "from": "own/pushed"}
            async with http.post(f"/v2/{target}/blobs/uploads/", params=query) as mounted:
                assert mounted.status == status


async def test_every_operation_that_needs_the_key_says_what_kms_said(registry: KeyedRegistry) -> None:
    encryption_in(await registry.create(key=OWN))
    async with registry.whole.client() as http:
        for content in (EMPTY_CONFIG, LAYER):
            await push_blob(http, REPOSITORY, content)
    begun = said(await registry.ask("InitiateLayerUpload", repositoryName=REPOSITORY))
    part = {"partFirstByte": 0, "partLastByte": len(LAYER) - 1, "layerPartBlob": base64.b64encode(LAYER).decode()}
    upload = {"repositoryName": REPOSITORY, "uploadId": begun["uploadId"]}
    registry.kms.refused[OWN] = "DisabledException"
    registry.clock.now += CACHE_SECONDS
    asked: list[tuple[str, dict[str, Any]]] = [
        ("InitiateLayerUpload", {"repositoryName": REPOSITORY}),
        ("UploadLayerPart", {**upload, **part}),
        ("PutImage", {"repositoryName": REPOSITORY, "imageManifest": image([LAYER]).decode(), "imageTag": "v1"}),
    ]
    for operation, parameters in asked:
        answer = await registry.ask(operation, **parameters)
        error = said(answer)
        assert (answer.status, error["__type"]) == (400, "KmsException"), operation
        assert (error["kmsError"], "the key is disabled" in error["message"]) == ("DisabledException", True)
    del registry.kms.refused[OWN]
    registry.clock.now += CHECK_SECONDS
    for operation, parameters in asked[1:]:
        assert (await registry.ask(operation, **parameters)).status == 200, operation
