"""Layers through the API: parts in their order and of their sizes, what is answered twice, and docker beside it."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
from base64 import b64encode
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from proxy.blob.keys import DataKeys
from proxy.ecr.encrypted_temp_file import EncryptedTempFile
from proxy.model.errors import Code, Failure
from proxy.model.records import Upload
from support.examples import ACCOUNT, REPOSITORY
from support.faulty import Faults, raising
from support.memory_connection import Answer
from support.oci_requests import digest_of
from support.registry_client import RegistryClient, registry_client
from support.sigv4_signer import Credentials

PART_SIZE = 10_485_760
LEAST = 5 * 1024 * 1024
NOWHERE = "00000000-0000-4000-8000-00000000ffff"


@pytest.fixture
async def doors(tmp_path: Path) -> AsyncIterator[RegistryClient]:
    async with registry_client(tmp_path) as found:
        yield found
        await found.registry.quiet()


async def _said(doors: RegistryClient, status: int, operation: str, parameters: dict[str, Any]) -> dict[str, Any]:
    asked = {"repositoryName": REPOSITORY, **parameters}
    answer = await doors.ask("ecr", operation, asked, doors.keys["administrator"])
    assert answer.status == status, answer.body
    said: dict[str, Any] = json.loads(answer.body)
    return said


async def ask(doors: RegistryClient, operation: str, **parameters: Any) -> dict[str, Any]:
    """The answer's document; AssertionError unless it succeeds."""
    return await _said(doors, 200, operation, parameters)


async def refused(doors: RegistryClient, operation: str, **parameters: Any) -> dict[str, Any]:
    """The error's document, of status 400."""
    return await _said(doors, 400, operation, parameters)


async def begin(doors: RegistryClient) -> str:
    upload_id: str = (await ask(doors, "InitiateLayerUpload"))["uploadId"]
    return upload_id


def part(upload_id: str, first: int, content: bytes, **other: Any) -> dict[str, Any]:
    return {
        "uploadId": upload_id,
        "partFirstByte": first,
        "partLastByte": first + len(content) - 1,
        "layerPartBlob": b64encode(content).decode(),
        **other,
    }


async def send(doors: RegistryClient, upload_id: str, first: int, content: bytes, **other: Any) -> int:
    said = await ask(doors, "UploadLayerPart", **part(upload_id, first, content, **other))
    assert said["uploadId"] == upload_id
    last: int = said["lastByteReceived"]
    return last


async def complete(doors: RegistryClient, upload_id: str, digest: str) -> dict[str, Any]:
    return await ask(doors, "CompleteLayerUpload", uploadId=upload_id, layerDigests=[digest])


async def upload(doors: RegistryClient, content: bytes) -> str:
    upload_id = await begin(doors)
    for first in range(0, len(content), PART_SIZE):
        await send(doors, upload_id, first, content[first : first + PART_SIZE])
    await complete(doors, upload_id, digest_of(content))
    return upload_id


async def pulled(doors: RegistryClient, digest: str, **lines: str) -> Answer:
    target = f"/v2/{REPOSITORY}/blobs/{digest}"
    return await doors.docker("GET", target, doors.registry.password, lines=list(lines.items()))


def spooled(folder: Path) -> list[str]:
    """Descriptors of this process that are open on files without a name in the folder."""
    found = []
    for number in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{number}")
        except FileNotFoundError:
            continue
        if target.startswith(str(folder)) and target.endswith(" (deleted)"):
            found.append(target)
    return found


async def test_a_layer_of_several_parts_pulls_through_docker_byte_for_byte(doors: RegistryClient) -> None:
    begun = await ask(doors, "InitiateLayerUpload")
    assert begun["partSize"] == PART_SIZE
    upload_id = begun["uploadId"]
    content = os.urandom(PART_SIZE + LEAST + 12_345)
    assert await send(doors, upload_id, 0, content[:PART_SIZE]) == PART_SIZE - 1
    assert await send(doors, upload_id, PART_SIZE, content[PART_SIZE:]) == len(content) - 1
    done = await complete(doors, upload_id, digest_of(content))
    about = {"registryId": ACCOUNT, "repositoryName": REPOSITORY, "uploadId": upload_id}
    assert done == {**about, "layerDigest": digest_of(content)}
    assert (await pulled(doors, digest_of(content))).body == content
    assert (await pulled(doors, digest_of(content), Range="bytes=10485750-10485769")).body == content[
        PART_SIZE - 10 : PART_SIZE + 10
    ]


@pytest.mark.parametrize("order", ["blob-first", "blob-last", "blob-amid"])
async def test_a_parts_members_may_come_in_any_order(doors: RegistryClient, order: str) -> None:
    content = os.urandom(700_000)
    upload_id = await begin(doors)
    members = {"repositoryName": REPOSITORY, **part(upload_id, 0, content)}
    names = sorted(members, key=lambda name: (name == "layerPartBlob", name))
    if order != "blob-last":
        names.remove("layerPartBlob")
        names.insert(0 if order == "blob-first" else 2, "layerPartBlob")
    answer = await doors.ask(
        "ecr", "UploadLayerPart", {name: members[name] for name in names}, doors.keys["administrator"]
    )
    assert json.loads(answer.body)["lastByteReceived"] == 699_999
    await complete(doors, upload_id, digest_of(content))
    assert (await pulled(doors, digest_of(content))).body == content


# ---- the place of a part ---------------------------------------------------------------------------------------------


async def test_a_part_elsewhere_than_at_the_end_is_refused_with_the_last_byte_that_is_there(
    doors: RegistryClient,
) -> None:
    upload_id = await begin(doors)
    about = {"registryId": ACCOUNT, "repositoryName": REPOSITORY, "uploadId": upload_id}
    said = await refused(doors, "UploadLayerPart", **part(upload_id, 5, b"abc"))
    assert said.pop("message")
    assert said == {"__type": "InvalidLayerPartException", **about}  # no byte is there to be named
    await send(doors, upload_id, 0, bytes(LEAST))
    await send(doors, upload_id, LEAST, b"12345")
    for first, content in (
        (LEAST + 6, b"x"),
        (LEAST + 4, b"x"),
        (0, bytes(LEAST)),
        (LEAST, b"1234"),
        (LEAST, b"12346"),
    ):
        said = await refused(doors, "UploadLayerPart", **part(upload_id, first, content))
        assert (said["__type"], said["lastValidByteReceived"]) == ("InvalidLayerPartException", LEAST + 4)
        assert about.items() <= said.items()
    content = bytes(LEAST) + b"12345"
    await complete(doors, upload_id, digest_of(content))
    assert (await pulled(doors, digest_of(content))).body == content


@pytest.mark.parametrize("other", [{"partLastByte": 1}, {"partLastByte": 3}, {"layerPartBlob": ""}])
async def test_a_part_whose_bytes_are_not_as_many_as_it_says_is_no_part(
    doors: RegistryClient, other: dict[str, Any]
) -> None:
    upload_id = await begin(doors)
    said = await refused(doors, "UploadLayerPart", **part(upload_id, 0, b"abc", **other))
    assert said["__type"] == "InvalidLayerPartException"
    assert await send(doors, upload_id, 0, b"abc") == 2


@pytest.mark.parametrize("before", [b"", bytes(LEAST)], ids=["first", "later"])
async def test_a_last_part_that_comes_again_is_answered_and_not_doubled(doors: RegistryClient, before: bytes) -> None:
    upload_id = await begin(doors)
    if before:
        await send(doors, upload_id, 0, before)
    content = os.urandom(300_000)
    for _ in range(3):
        assert await send(doors, upload_id, len(before), content) == len(before) + 299_999
    other = content[:-1] + bytes([content[-1] ^ 1])
    said = await refused(doors, "UploadLayerPart", **part(upload_id, len(before), other))
    assert said["__type"] == "InvalidLayerPartException"
    await complete(doors, upload_id, digest_of(before + content))


async def test_of_two_parts_at_once_one_is_taken(doors: RegistryClient) -> None:
    upload_id = await begin(doors)
    contents = [os.urandom(400_000) for _ in range(2)]

    async def pieces(content: bytes) -> AsyncIterator[bytes]:
        yield content

    add = doors.registry.uploads.add_part
    done = await asyncio.gather(
        *(add(ACCOUNT, REPOSITORY, upload_id, first=0, length=400_000, content=pieces(each)) for each in contents),
        return_exceptions=True,
    )
    taken = [content for content, found in zip(contents, done, strict=True) if isinstance(found, Upload)]
    assert len(taken) == 1
    await complete(doors, upload_id, digest_of(taken[0]))


# ---- completion ------------------------------------------------------------------------------------------------------


async def test_an_upload_without_parts_is_empty(doors: RegistryClient) -> None:
    said = await refused(doors, "CompleteLayerUpload", uploadId=await begin(doors), layerDigests=[digest_of(b"")])
    assert said["__type"] == "EmptyUploadException"


async def test_only_the_last_part_may_be_small(doors: RegistryClient) -> None:
    upload_id = await begin(doors)
    await send(doors, upload_id, 0, bytes(LEAST - 1))
    await send(doors, upload_id, LEAST - 1, bytes(LEAST))
    asked = {"uploadId": upload_id, "layerDigests": [digest_of(bytes(2 * LEAST - 1))]}
    assert (await refused(doors, "CompleteLayerUpload", **asked))["__type"] == "LayerPartTooSmallException"


async def test_a_wrong_digest_is_an_invalid_layer_and_the_right_one_may_follow(doors: RegistryClient) -> None:
    upload_id = await begin(doors)
    await send(doors, upload_id, 0, b"a layer")
    asked = {"uploadId": upload_id, "layerDigests": [digest_of(b"another")]}
    assert (await refused(doors, "CompleteLayerUpload", **asked))["__type"] == "InvalidLayerException"
    await complete(doors, upload_id, digest_of(b"a layer"))


@pytest.mark.parametrize("digests", [["sha256:00"], ["md5:" + 32 * "0"], [digest_of(b"a"), digest_of(b"b")], ["x"], []])
async def test_digests_that_name_no_layer_are_an_invalid_parameter(doors: RegistryClient, digests: list[str]) -> None:
    upload_id = await begin(doors)
    await send(doors, upload_id, 0, b"a layer")
    said = await refused(doors, "CompleteLayerUpload", uploadId=upload_id, layerDigests=digests)
    assert said["__type"] == "InvalidParameterException"


async def test_a_sha512_digest_is_checked_as_well(doors: RegistryClient) -> None:
    upload_id = await begin(doors)
    await send(doors, upload_id, 0, b"a layer")
    digest = f"sha512:{hashlib.sha512(b'a layer').hexdigest()}"
    assert (await complete(doors, upload_id, digest))["layerDigest"] == digest
    assert (await pulled(doors, digest)).body == b"a layer"


async def test_completing_again_answers_the_same_and_nothing_else_is_found_of_it(doors: RegistryClient) -> None:
    upload_id = await upload(doors, b"once")
    assert (await complete(doors, upload_id, digest_of(b"once")))["layerDigest"] == digest_of(b"once")
    for operation, asked in (
        ("CompleteLayerUpload", {"uploadId": upload_id, "layerDigests": [digest_of(b"other")]}),
        ("UploadLayerPart", part(upload_id, 4, b"more")),
    ):
        assert (await refused(doors, operation, **asked))["__type"] == "UploadNotFoundException"


async def test_a_layer_that_is_there_is_checked_and_then_said_to_be_there(doors: RegistryClient) -> None:
    await upload(doors, b"twice")
    upload_id = await begin(doors)
    await send(doors, upload_id, 0, b"twice")
    wrong = await refused(doors, "CompleteLayerUpload", uploadId=upload_id, layerDigests=[digest_of(b"not it")])
    assert wrong["__type"] == "InvalidLayerException"
    asked = {"uploadId": upload_id, "layerDigests": [digest_of(b"twice")]}
    said = await refused(doors, "CompleteLayerUpload", **asked)
    assert said["__type"] == "LayerAlreadyExistsException"
    assert digest_of(b"twice") in said["message"]
    assert (await pulled(doors, digest_of(b"twice"))).body == b"twice"


async def test_a_layer_of_another_repository_is_new_in_this_one(doors: RegistryClient) -> None:
    await doors.registry.metadata.call(ACCOUNT, "CreateRepository", {"repositoryName": "other/app"})
    await upload(doors, b"shared")
    upload_id = (await ask(doors, "InitiateLayerUpload", repositoryName="other/app"))["uploadId"]
    await ask(doors, "UploadLayerPart", **part(upload_id, 0, b"shared", repositoryName="other/app"))
    asked = {"uploadId": upload_id, "layerDigests": [digest_of(b"shared")]}
    await ask(doors, "CompleteLayerUpload", **asked, repositoryName="other/app")


# ---- which upload ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("upload_id", [NOWHERE, NOWHERE.upper()])
async def test_an_unknown_upload_is_told_in_ecrs_words(doors: RegistryClient, upload_id: str) -> None:
    for operation, asked in (
        ("UploadLayerPart", part(upload_id, 0, b"x")),
        ("UploadLayerPart", part(upload_id, 0, b"x", partLastByte=7)),
        ("CompleteLayerUpload", {"uploadId": upload_id, "layerDigests": [digest_of(b"x")]}),
    ):
        assert await refused(doors, operation, **asked) == {
            "__type": "UploadNotFoundException",
            "message": f"Upload with id '{upload_id}' could not be found for the repository with name '{REPOSITORY}'"
            f" in the registry with id '{ACCOUNT}'",
        }


async def test_no_operation_makes_a_repository(doors: RegistryClient) -> None:
    for operation, asked in (
        ("InitiateLayerUpload", {}),
        ("UploadLayerPart", part(NOWHERE, 0, b"x")),
        ("CompleteLayerUpload", {"uploadId": NOWHERE, "layerDigests": [digest_of(b"x")]}),
        ("BatchCheckLayerAvailability", {"layerDigests": [digest_of(b"x")]}),
    ):
        said = await refused(doors, operation, **{**asked, "repositoryName": "never/made"})
        assert said["__type"] == "RepositoryNotFoundException"


async def test_an_upload_stays_with_the_door_that_began_it(doors: RegistryClient) -> None:
    password = doors.registry.password
    begun = await doors.docker("POST", f"/v2/{REPOSITORY}/blobs/uploads/", password)
    of_docker = begun.headers["docker-upload-uuid"]
    for operation, asked in (
        ("UploadLayerPart", part(of_docker, 0, b"x")),
        ("CompleteLayerUpload", {"uploadId": of_docker, "layerDigests": [digest_of(b"x")]}),
    ):
        assert (await refused(doors, operation, **asked))["__type"] == "UploadNotFoundException"
    of_api = f"/v2/{REPOSITORY}/blobs/uploads/{await begin(doors)}"
    assert (await doors.docker("PATCH", of_api, password, b"x")).status == 404
    assert (await doors.docker("PUT", f"{of_api}?digest={digest_of(b'x')}", password, b"x")).status == 404
    assert (await doors.docker("PATCH", begun.headers["location"], password, b"x")).status == 202
    assert (await doors.docker("DELETE", of_api, password)).status == 204


# ---- nothing before the proof ----------------------------------------------------------------------------------------


async def test_of_a_part_that_is_not_proven_or_not_allowed_nothing_stays(doors: RegistryClient, tmp_path: Path) -> None:
    upload_id = await begin(doors)
    asked = {"repositoryName": REPOSITORY, **part(upload_id, 0, os.urandom(900_000))}
    before = await doors.rows()
    administrator = doors.keys["administrator"]
    wrong = Credentials(administrator.key_id, "wrong")
    assert b"InvalidSignatureException" in (await doors.ask("ecr", "UploadLayerPart", asked, wrong)).body
    assert b"AccessDeniedException" in (await doors.ask("ecr", "UploadLayerPart", asked, doors.keys["nobody"])).body
    for bad in ({"layerPartBlob": "!" * 800_000}, {"partFirstByte": "0"}, {"partFirstByte": -1}, {"more": 1}):
        assert (await doors.ask("ecr", "UploadLayerPart", asked | bad, administrator)).status == 400
    assert await doors.rows() == before
    assert spooled(tmp_path) == []


@pytest.mark.parametrize("blob", [None, 7, "x"])
async def test_a_part_without_bytes_is_an_invalid_parameter_or_unreadable(doors: RegistryClient, blob: object) -> None:
    asked = part(await begin(doors), 0, b"x") | {"layerPartBlob": blob}
    said = await refused(doors, "UploadLayerPart", **asked)
    assert said["__type"] in ("InvalidParameterException", "SerializationException")
    assert "layerPartBlob" in said["message"]


async def test_a_part_that_is_missing_its_bytes_is_told_so(doors: RegistryClient) -> None:
    asked = part(await begin(doors), 0, b"x")
    del asked["layerPartBlob"]
    said = await refused(doors, "UploadLayerPart", **asked)
    assert said["message"] == (
        "Invalid parameter at 'layerPartBlob' failed to satisfy constraint: 'Member must not be null'"
    )


# ---- availability ----------------------------------------------------------------------------------------------------


async def test_availability_is_told_of_each_digest_and_is_never_an_error(doors: RegistryClient) -> None:
    await upload(doors, b"here")
    asked = [digest_of(b"here"), digest_of(b"gone"), "none", "", digest_of(b"here")]
    said = await ask(doors, "BatchCheckLayerAvailability", layerDigests=asked)
    assert said["layers"] == [
        {"layerDigest": digest_of(b"here"), "layerAvailability": "AVAILABLE", "layerSize": 4},
        {"layerDigest": digest_of(b"gone"), "layerAvailability": "UNAVAILABLE"},
    ]
    assert [(each["layerDigest"], each["failureCode"]) for each in said["failures"]] == [
        ("none", "InvalidLayerDigest"),
        ("", "MissingLayerDigest"),
    ]
    for count, status in ((100, 200), (101, 400)):
        digests = [digest_of(str(number).encode()) for number in range(count)]
        answer = await doors.ask(
            "ecr",
            "BatchCheckLayerAvailability",
            {"repositoryName": REPOSITORY, "layerDigests": digests},
            doors.keys["administrator"],
        )
        assert answer.status == status


# ---- trouble on our side ---------------------------------------------------------------------------------------------


class _NoKeys:
    """What a key provider says of a key that was disabled."""

    async def generate(self, *asked: Any) -> Any:
        raise Failure(Code.KMS, "KMS refused", hint="enable the key", kmsError="DisabledException")

    unwrap = generate


async def test_trouble_with_kms_is_told_by_name_and_costs_nothing_that_was_there(doors: RegistryClient) -> None:
    """Of each operation that asks KMS: making a data key, unwrapping it to seal, unwrapping it to read."""
    uploads = doors.registry.uploads
    upload_id = await begin(doors)
    await send(doors, upload_id, 0, bytes(LEAST))
    digest = f"sha512:{hashlib.sha512(bytes(LEAST)).hexdigest()}"
    asked: list[tuple[str, dict[str, Any]]] = [
        ("InitiateLayerUpload", {}),
        ("UploadLayerPart", part(upload_id, LEAST, b"more")),
        ("CompleteLayerUpload", {"uploadId": upload_id, "layerDigests": [digest]}),
    ]
    rooms = uploads._context
    uploads._context = replace(rooms, keys=cast(DataKeys, _NoKeys()))
    try:
        for operation, parameters in asked:
            said = await refused(doors, operation, **parameters)
            assert said == {"__type": "KmsException", "message": "KMS refused", "kmsError": "DisabledException"}
    finally:
        uploads._context = rooms
    assert (await complete(doors, upload_id, digest))["layerDigest"] == digest


@pytest.mark.parametrize("code", [Code.METADATA_UNAVAILABLE, Code.STORE_UNAVAILABLE, Code.STORE_FULL])
async def test_a_fault_of_ours_is_a_server_exception_that_says_to_try_again(doors: RegistryClient, code: Code) -> None:
    uploads = doors.registry.uploads
    upload_id = await begin(doors)
    await send(doors, upload_id, 0, b"abc")
    faults = Faults()
    for call in ("begin_upload", "lease_upload", "call"):
        faults.before[call] = raising(Failure(code, "of the inside"), times=100)
    rooms = uploads._context
    uploads._context = replace(rooms, metadata=faults.wrap(rooms.metadata))
    layer = {"layerDigests": [digest_of(b"abc")]}
    try:
        for operation, parameters in (
            ("InitiateLayerUpload", {}),
            ("UploadLayerPart", part(upload_id, 3, b"more")),
            ("CompleteLayerUpload", {"uploadId": upload_id, **layer}),
        ):
            said = await _said(doors, 500, operation, parameters)
            assert (said["__type"], "inside" in said["message"]) == ("ServerException", False)
    finally:
        uploads._context = rooms
    await complete(doors, upload_id, digest_of(b"abc"))


async def test_who_comes_while_another_writes_is_to_try_again(doors: RegistryClient) -> None:
    upload_id = await begin(doors)
    metadata = doors.registry.metadata
    leased = await metadata.lease_upload(ACCOUNT, REPOSITORY, upload_id, seconds=30)
    said = await _said(doors, 500, "UploadLayerPart", part(upload_id, 0, b"x"))
    assert said["__type"] == "ServerException"
    await metadata.release_upload(upload_id, leased.fence)
    await send(doors, upload_id, 0, b"x")


async def test_a_full_disk_is_a_server_exception_and_nothing_stays_open(doors: RegistryClient, tmp_path: Path) -> None:
    upload_id = await begin(doors)
    asked = part(upload_id, 0, bytes(600_000))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "pwrite", lambda *given: 1)
        assert (await _said(doors, 500, "UploadLayerPart", asked))["__type"] == "ServerException"
    assert spooled(tmp_path) == []
    await send(doors, upload_id, 0, bytes(600_000))


async def test_what_lies_on_disk_meanwhile_is_sealed(tmp_path: Path) -> None:
    """Each spool under a key of its own; it gives back what was written, and is gone afterwards."""
    content = b"plain words " * 50_000
    found = []
    for _ in range(2):
        async with EncryptedTempFile(tmp_path) as spool:
            for at in range(0, len(content), 100_001):
                await spool.write(content[at : at + 100_001])
            assert len(spooled(tmp_path)) == 1
            found.append(await asyncio.to_thread(_read_open, tmp_path))
            assert b"".join([piece async for piece in spool.content()]) == content
        assert spooled(tmp_path) == []
    assert b"plain words" not in found[0]
    assert found[0] != found[1]
    assert await asyncio.to_thread(os.listdir, tmp_path) == []


def _read_open(folder: Path) -> bytes:
    for number in os.listdir("/proc/self/fd"):
        path = f"/proc/self/fd/{number}"
        if os.path.lexists(path) and os.readlink(path).startswith(str(folder)):
            return Path(path).read_bytes()
    raise AssertionError("nothing is open there")
