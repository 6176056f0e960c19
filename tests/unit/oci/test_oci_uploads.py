"""Uploads through the door: every way to push a blob, and what happens when a push goes wrong."""

from __future__ import annotations

import asyncio
import os

import aiohttp
import pytest

from proxy.registry.upload_lease import LEASE_SECONDS, STORE_GRACE_SECONDS
from support.failing_registry import open_objects
from support.oci_requests import begin_upload, body, close, code_of, digest_of, patch, push_blob, range_of
from support.raw_http import Raw
from support.whole_registry import ACCOUNT, WholeRegistry, whole_registry

REPOSITORY = "team/app"
CONTENT = os.urandom(3_000_000)


async def pull(http: aiohttp.ClientSession, digest: str, repository: str = REPOSITORY) -> bytes:
    async with http.get(f"/v2/{repository}/blobs/{digest}") as answer:
        assert answer.status == 200, await answer.text()
        return await answer.read()


async def test_one_post_with_a_digest_is_a_whole_push(http: aiohttp.ClientSession) -> None:
    digest = await push_blob(http, REPOSITORY, CONTENT)
    assert await pull(http, digest) == CONTENT


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
@pytest.mark.parametrize("content", [b"", b"{}", CONTENT], ids=["empty", "two bytes", "large"])
async def test_post_then_put_is_a_push(http: aiohttp.ClientSession, content: bytes, algorithm: str) -> None:
    location = await begin_upload(http, REPOSITORY)
    digest = digest_of(content, algorithm)
    assert await close(http, location, digest, content) == 201
    assert await pull(http, digest) == content


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
async def test_chunks_with_a_range_add_up_whatever_the_closing_put_names(
    http: aiohttp.ClientSession, algorithm: str
) -> None:
    location = await begin_upload(http, REPOSITORY)
    for start in range(0, len(CONTENT), 1_000_001):
        await patch(http, location, CONTENT[start : start + 1_000_001], start)
    digest = digest_of(CONTENT, algorithm)
    assert await close(http, location, digest) == 201
    assert await pull(http, digest) == CONTENT


async def test_the_last_chunk_may_come_with_the_closing_put(http: aiohttp.ClientSession) -> None:
    location = await begin_upload(http, REPOSITORY)
    await patch(http, location, CONTENT[:1_000_000])
    assert await close(http, location, digest_of(CONTENT), CONTENT[1_000_000:]) == 201
    assert await pull(http, digest_of(CONTENT)) == CONTENT


async def test_an_algorithm_named_at_the_start_is_the_one_computed(http: aiohttp.ClientSession) -> None:
    location = await begin_upload(http, REPOSITORY, **{"digest-algorithm": "sha512"})
    await patch(http, location, CONTENT)
    assert await close(http, location, digest_of(CONTENT, "sha512")) == 201


async def test_status_says_where_an_upload_stands_as_docker_reads_it(http: aiohttp.ClientSession) -> None:
    location = await begin_upload(http, REPOSITORY)
    assert await range_of(http, location) == "0-0"
    await patch(http, location, b"x" * 100)
    async with http.get(location) as answer:
        assert answer.headers["Range"] == "0-99"
        assert answer.headers["Location"] == location
        assert location.endswith(answer.headers["Docker-Upload-UUID"])


async def test_an_empty_chunk_changes_nothing(http: aiohttp.ClientSession) -> None:
    location = await begin_upload(http, REPOSITORY)
    await patch(http, location, b"abc")
    async with http.patch(location, data=b"") as answer:
        assert (answer.status, answer.headers["Range"]) == (202, "0-2")
    assert await close(http, location, digest_of(b"abc")) == 201


@pytest.mark.parametrize("start", [0, 50, 200], ids=["again", "overlapping", "beyond"])
async def test_a_chunk_out_of_order_is_told_the_true_range_and_costs_nothing(
    http: aiohttp.ClientSession, start: int
) -> None:
    location = await begin_upload(http, REPOSITORY)
    await patch(http, location, b"x" * 100, 0)
    headers = {"Content-Range": f"{start}-{start + 99}"}
    for method in ("PATCH", "PUT"):
        query = {"digest": digest_of(b"x" * 200)} if method == "PUT" else {}
        async with http.request(method, location, data=b"x" * 100, headers=headers, params=query) as answer:
            assert answer.status == 416
            assert answer.headers["Range"] == "0-99"
            assert answer.headers["Location"] == location
    await patch(http, location, b"x" * 100, 100)
    assert await close(http, location, digest_of(b"x" * 200)) == 201


async def test_a_wrong_digest_is_refused_and_what_was_acknowledged_stays(http: aiohttp.ClientSession) -> None:
    location = await begin_upload(http, REPOSITORY)
    await patch(http, location, CONTENT[:100])
    async with http.put(location, params={"digest": digest_of(b"other")}, data=CONTENT[100:200]) as answer:
        assert answer.status == 400
        assert await code_of(answer) == "DIGEST_INVALID"
    assert await range_of(http, location) == "0-99"
    assert await close(http, location, digest_of(CONTENT), CONTENT[100:]) == 201
    assert await pull(http, digest_of(CONTENT)) == CONTENT


async def test_a_wrong_digest_of_another_algorithm_is_refused_after_reading_it_all_again(
    http: aiohttp.ClientSession, registry: WholeRegistry
) -> None:
    location = await begin_upload(http, REPOSITORY)
    await patch(http, location, CONTENT)
    assert await close(http, location, digest_of(b"other", "sha512")) == 400
    assert [stored async for stored in registry.store.list()] == []


async def test_a_failed_monolithic_post_leaves_no_session_and_no_object(
    http: aiohttp.ClientSession, registry: WholeRegistry
) -> None:
    where = f"/v2/{REPOSITORY}/blobs/uploads/"
    async with http.post(where, params={"digest": digest_of(b"other")}, data=body(CONTENT)) as answer:
        assert answer.status == 400
    assert [stored async for stored in registry.store.list()] == []


async def test_the_closing_put_may_be_sent_twice(http: aiohttp.ClientSession) -> None:
    location = await begin_upload(http, REPOSITORY)
    await patch(http, location, CONTENT)
    for _ in range(2):
        assert await close(http, location, digest_of(CONTENT)) == 201
    assert await close(http, location, digest_of(CONTENT), CONTENT) == 201
    assert await close(http, location, digest_of(b"other")) == 404


async def test_two_uploads_of_one_digest_both_succeed_and_one_object_stays(
    http: aiohttp.ClientSession, registry: WholeRegistry
) -> None:
    locations = [await begin_upload(http, REPOSITORY) for _ in range(2)]
    statuses = await asyncio.gather(*(close(http, each, digest_of(CONTENT), CONTENT) for each in locations))
    assert statuses == [201, 201]
    assert len([stored async for stored in registry.store.list()]) == 1
    assert await pull(http, digest_of(CONTENT)) == CONTENT


async def test_a_cancelled_upload_is_gone_with_its_object(http: aiohttp.ClientSession, registry: WholeRegistry) -> None:
    location = await begin_upload(http, REPOSITORY)
    await patch(http, location, CONTENT)
    async with http.delete(location) as answer:
        assert answer.status == 204
    async with http.get(location) as answer:
        assert answer.status == 404
        assert await code_of(answer) == "BLOB_UPLOAD_UNKNOWN"
    assert [stored async for stored in registry.store.list()] == []


async def test_a_mount_links_without_bytes(http: aiohttp.ClientSession) -> None:
    digest = await push_blob(http, REPOSITORY, CONTENT)
    for number, query in enumerate(({"mount": digest, "from": REPOSITORY}, {"mount": digest})):
        async with http.post(f"/v2/other/app{number}/blobs/uploads/", params=query) as answer:
            assert answer.status == 201
            assert answer.headers["Location"] == f"/v2/other/app{number}/blobs/{digest}"
        assert await pull(http, digest, f"other/app{number}") == CONTENT


@pytest.mark.parametrize("source", ["", "team/none", "NOT/A/NAME"])
async def test_a_mount_of_what_is_not_there_opens_an_upload(http: aiohttp.ClientSession, source: str) -> None:
    location = await begin_upload(http, REPOSITORY, mount=digest_of(b"nowhere", "sha512"), **{"from": source})
    await patch(http, location, b"nowhere")
    assert await close(http, location, digest_of(b"nowhere", "sha512")) == 201


async def test_a_client_that_leaves_during_its_patch_finds_what_arrived(
    http: aiohttp.ClientSession, registry: WholeRegistry
) -> None:
    location = await begin_upload(http, REPOSITORY)
    async with Raw(registry) as line:
        await line.request("PATCH", location, {"Content-Length": str(len(CONTENT))})
        await line.send(CONTENT[:1_500_000])
        await asyncio.sleep(0.3)  # so that the server has read it all; less is kept when it has not
    for _ in range(100):
        async with http.patch(location, data=b"") as answer:  # 503 while the lost append ends
            if answer.status == 202 and answer.headers["Range"] != "0-0":
                kept = int(answer.headers["Range"].partition("-")[2]) + 1
                break
        await asyncio.sleep(0.05)
    assert 0 < kept <= 1_500_000
    await patch(http, location, CONTENT[kept:], kept)
    assert await close(http, location, digest_of(CONTENT)) == 201
    assert await pull(http, digest_of(CONTENT)) == CONTENT


async def test_of_two_writers_on_one_session_one_is_told_where_it_stands(
    http: aiohttp.ClientSession, registry: WholeRegistry
) -> None:
    location = await begin_upload(http, REPOSITORY)
    await patch(http, location, b"x" * 10)
    async with Raw(registry) as line:
        await line.request("PATCH", location, {"Content-Length": "10", "Expect": "100-continue"})
        assert (await line.head()).startswith("HTTP/1.1 100")  # it holds the session now
        async with http.patch(location, data=b"z" * 10) as answer:
            assert (answer.status, await code_of(answer)) == (503, "UNAVAILABLE")  # which every client tries again
            assert 1 <= int(answer.headers["Retry-After"]) <= LEASE_SECONDS + STORE_GRACE_SECONDS
            assert answer.headers["Range"] == "0-9"
        async with http.put(f"{location}?digest={digest_of(b'x' * 10)}") as answer:
            assert (answer.status, "Retry-After" in answer.headers) == (503, True)
        await line.send(b"y" * 10)
        assert (await line.head()).startswith("HTTP/1.1 202")
    assert await close(http, location, digest_of(b"x" * 10 + b"y" * 10)) == 201


async def test_100_continue_is_sent_only_when_the_body_is_wanted(
    http: aiohttp.ClientSession, registry: WholeRegistry
) -> None:
    location = await begin_upload(http, REPOSITORY)
    wanted = {"Content-Length": "3", "Expect": "100-continue"}
    refused = [
        ("PATCH", location, {**wanted, "Authorization": "Basic bm8="}, "401"),
        ("PATCH", location[:-12] + "0" * 12, wanted, "404"),
        ("PATCH", location, {**wanted, "Content-Range": "7-9"}, "416"),
        ("PATCH", location, {**wanted, "Content-Encoding": "gzip"}, "415"),
        ("PUT", f"{location}?digest=md5:00", wanted, "400"),
        ("PUT", f"/v2/{REPOSITORY}/manifests/v1", {**wanted, "Content-Length": "9999999"}, "413"),
    ]
    for method, path, headers, status in refused:
        async with Raw(registry) as line:
            await line.request(method, path, headers)
            answer = await line.head()
            assert answer.startswith(f"HTTP/1.1 {status}"), (method, path, answer)
            assert "connection: close" in answer.lower()
    async with Raw(registry) as line:
        await line.request("PATCH", location, wanted)
        assert (await line.head()).startswith("HTTP/1.1 100")
        await line.send(b"abc")
        assert (await line.head()).startswith("HTTP/1.1 202")


async def test_the_repository_is_made_by_the_push_unless_that_is_off(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("off")
    async with whole_registry(folder, create_on_push=False) as off, off.client() as http:
        await off.metadata.call(ACCOUNT, "CreateRepository", {"repositoryName": REPOSITORY})
        mount = {"mount": await push_blob(http, REPOSITORY, CONTENT)}
        for query in ({}, mount, mount | {"from": REPOSITORY}):
            async with http.post("/v2/not/there/blobs/uploads/", params=query) as answer:
                assert answer.status == 404
                error = (await answer.json())["errors"][0]
                assert error["code"] == "NAME_UNKNOWN"
                assert "The repository with name 'not/there' does not exist" in error["message"]


async def test_with_templates_they_say_which_repositories_a_push_makes(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """Also where a push would make none without them, and none that they do not speak of where it would."""
    for by_default in (False, True):
        folder = tmp_path_factory.mktemp("templates")
        async with whole_registry(folder, create_on_push=by_default) as registry, registry.client() as http:
            template = {"prefix": "prod", "appliedFor": ["CREATE_ON_PUSH"], "imageTagMutability": "IMMUTABLE"}
            await registry.metadata.call(ACCOUNT, "CreateRepositoryCreationTemplate", template)
            for name, status in (("prod/app", 202), ("production/app", 404)):
                async with http.post(f"/v2/{name}/blobs/uploads/") as answer:
                    assert answer.status == status
                    assert status == 202 or "NAME_UNKNOWN" in await answer.text()
            (made,) = (await registry.metadata.call(ACCOUNT, "DescribeRepositories", {}))["repositories"]
            assert (made["repositoryName"], made["imageTagMutability"]) == ("prod/app", "IMMUTABLE")


async def test_a_server_that_stops_abandons_an_append_cleanly(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("stopping")
    async with whole_registry(folder) as registry, registry.client() as http:
        location = await begin_upload(http, REPOSITORY)
        await patch(http, location, CONTENT[:1000])
        async with Raw(registry) as line:
            await line.request("PATCH", location, {"Content-Length": str(len(CONTENT)), "Expect": "100-continue"})
            assert (await line.head()).startswith("HTTP/1.1 100")
            await line.send(CONTENT[:1_500_000])
            await registry.server.finish(0.1)
        assert registry.pool.in_use == 0
        assert open_objects() == []
        upload = await registry.uploads.status(ACCOUNT, REPOSITORY, location.rpartition("/")[2])
        assert upload.sealed.plain_size == 1000
        append = await registry.uploads.append(ACCOUNT, REPOSITORY, upload.upload_id)  # the lease is free
        await append.abandon()
