"""Bad input at the OCI door: a clear error in the protocol's own form, bounded cost, nothing lost.

What is wrong below HTTP's own level (framing of headers, slow senders) is with the HTTP tests; here is what reaches the
door. After each refusal the registry must still take and give a blob.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from proxy.auth.envelope import SmallSealer
from proxy.auth.tokens import PURPOSE, Tokens
from proxy.model.identity import Principal
from support.failing_registry import open_objects
from support.oci_requests import (
    OCI_IMAGE,
    OCI_INDEX,
    begin_upload,
    body,
    close,
    code_of,
    digest_of,
    image,
    patch,
    push_blob,
    push_image,
    range_of,
)
from support.raw_http import Raw
from support.whole_registry import ACCOUNT, REGION, WholeRegistry, whole_registry

REPOSITORY = "team/app"
CONTENT = os.urandom(200_000)


@pytest.fixture
async def registry(tmp_path: Path) -> AsyncIterator[WholeRegistry]:
    async with whole_registry(tmp_path) as found:
        yield found
        async with found.client() as http:
            digest = await push_blob(http, "still/works", CONTENT)
            async with http.get(f"/v2/still/works/blobs/{digest}") as answer:
                assert await answer.read() == CONTENT
    assert found.pool.in_use == 0


@pytest.fixture
async def http(registry: WholeRegistry) -> AsyncIterator[aiohttp.ClientSession]:
    async with registry.client() as session:
        yield session


async def raw(registry: WholeRegistry, method: str, path: str) -> tuple[int, str]:
    """Status and error code of a request whose path goes out as it is."""
    async with Raw(registry) as line:
        await line.request(method, path, {"Content-Length": "0"})
        status, headers, content = await line.answer()
    assert headers["content-type"].startswith("application/json")
    return status, json.loads(content)["errors"][0]["code"]


# ---- names, tags, digests -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    ["UPPER", "a", "-a", "a-", "a..b", "a/-b", "a//b", "../etc", "a/../b", "%2e%2e/etc", "a%2fb", "a%00b", "a" * 257],
    ids=lambda name: name[:20],
)
async def test_a_name_out_of_grammar_is_name_invalid(registry: WholeRegistry, name: str) -> None:
    for method, rest in (("GET", "tags/list"), ("POST", "blobs/uploads/"), ("PUT", "manifests/v1")):
        assert await raw(registry, method, f"/v2/{name}/{rest}") == (400, "NAME_INVALID")


@pytest.mark.parametrize("tag", [".x", "-x", "a%00", "a%2e%2e", "a" * 129, "%2e%2e", "a+b"])
async def test_a_tag_out_of_grammar_is_refused_on_push_and_not_found_on_pull(registry: WholeRegistry, tag: str) -> None:
    assert await raw(registry, "PUT", f"/v2/{REPOSITORY}/manifests/{tag}") == (400, "TAG_INVALID")
    assert await raw(registry, "GET", f"/v2/{REPOSITORY}/manifests/{tag}") == (404, "MANIFEST_UNKNOWN")
    assert await raw(registry, "DELETE", f"/v2/{REPOSITORY}/manifests/{tag}") == (404, "MANIFEST_UNKNOWN")


BAD_DIGESTS = [
    "sha256:",
    "sha256:" + "a" * 63,
    "sha256:" + "a" * 65,
    "sha256:" + "A" * 64,
    "sha256:" + "g" * 64,
    "SHA256:" + "a" * 64,
    "md5:" + "a" * 32,
    "sha384:" + "a" * 96,
    "sha256:..",
    ":",
    "x:" + "a" * 5000,
]


@pytest.mark.parametrize("digest", BAD_DIGESTS, ids=lambda digest: digest[:12])
async def test_a_digest_that_is_none_is_digest_invalid(registry: WholeRegistry, digest: str) -> None:
    for path in (f"manifests/{digest}", f"blobs/{digest}", f"referrers/{digest}"):
        assert await raw(registry, "GET", f"/v2/{REPOSITORY}/{path}") == (400, "DIGEST_INVALID")
    for query in (f"digest={digest}", f"mount={digest}"):
        assert await raw(registry, "POST", f"/v2/{REPOSITORY}/blobs/uploads/?{query}") == (400, "DIGEST_INVALID")


async def test_an_unknown_digest_algorithm_for_an_upload_is_refused(registry: WholeRegistry) -> None:
    where = f"/v2/{REPOSITORY}/blobs/uploads/?digest-algorithm=md5"
    assert await raw(registry, "POST", where) == (400, "DIGEST_INVALID")


async def test_a_closing_put_without_a_digest_is_refused(http: aiohttp.ClientSession) -> None:
    location = await begin_upload(http, REPOSITORY)
    async with http.put(location) as answer:
        assert (answer.status, await code_of(answer)) == (400, "DIGEST_INVALID")


# ---- manifests ----------------------------------------------------------------------------------------------------


async def refused_manifest(http: aiohttp.ClientSession, content: bytes, kind: str = OCI_IMAGE) -> tuple[int, str, str]:
    """Push the config, then this manifest; status, code and message. Nothing may be tagged."""
    await push_blob(http, REPOSITORY, b"{}")
    where = f"/v2/{REPOSITORY}/manifests/bad"
    async with http.put(where, data=body(content), headers={"Content-Type": kind}) as answer:
        refusal = answer.status, await code_of(answer), (await answer.json())["errors"][0]["message"]
    async with http.head(where) as answer:
        assert answer.status == 404
    return refusal


@pytest.mark.parametrize(
    "content",
    [b"", b"not json", b"[]", b'{"schemaVersion": 2', b"\xff\xfe"],
    ids=["empty", "text", "list", "cut", "not utf-8"],
)
async def test_a_manifest_that_is_no_json_object_is_manifest_invalid(
    http: aiohttp.ClientSession, content: bytes
) -> None:
    assert (await refused_manifest(http, content))[:2] == (400, "MANIFEST_INVALID")


@pytest.mark.parametrize("version", [0, 3, "2", True, None])
async def test_a_manifest_of_a_wrong_schema_version_is_manifest_invalid(
    http: aiohttp.ClientSession, version: object
) -> None:
    status, code, message = await refused_manifest(http, image([], schemaVersion=version))
    assert (status, code) == (400, "MANIFEST_INVALID")
    assert "schemaVersion" in message


async def test_a_deeply_nested_manifest_is_manifest_invalid_at_little_cost(http: aiohttp.ClientSession) -> None:
    content = b'{"a":' + b"[" * 2_000_000 + b"]" * 2_000_000 + b"}"
    began = time.monotonic()
    assert (await refused_manifest(http, content))[:2] == (400, "MANIFEST_INVALID")
    assert time.monotonic() - began < 10


async def test_a_manifest_with_a_key_twice_is_manifest_invalid(http: aiohttp.ClientSession) -> None:
    content = image([]).replace(b"{", b'{"schemaVersion": 2, ', 1)
    status, code, message = await refused_manifest(http, content)
    assert (status, code) == (400, "MANIFEST_INVALID")
    assert "twice" in message


async def test_a_manifest_of_four_mebibytes_and_a_byte_is_too_large(http: aiohttp.ClientSession) -> None:
    content = image([])
    content += b" " * (4 * 2**20 + 1 - len(content))
    assert (await refused_manifest(http, content))[:2] == (413, "MANIFEST_INVALID")


async def test_a_chunked_manifest_is_not_read_past_what_is_taken(registry: WholeRegistry) -> None:
    async with Raw(registry) as line:
        await line.request("PUT", f"/v2/{REPOSITORY}/manifests/v1", {"Transfer-Encoding": "chunked"})
        for _ in range(5):
            await line.send(b"100000\r\n" + b" " * 0x100000 + b"\r\n")
        assert (await line.head()).startswith("HTTP/1.1 413")


async def test_a_manifest_whose_blob_is_missing_says_which(http: aiohttp.ClientSession) -> None:
    status, code, message = await refused_manifest(http, image([b"never pushed"]))
    assert (status, code) == (400, "MANIFEST_BLOB_UNKNOWN")
    assert digest_of(b"never pushed") in message


async def test_an_index_whose_child_is_missing_is_refused(http: aiohttp.ClientSession) -> None:
    child = {"mediaType": OCI_IMAGE, "digest": digest_of(b"no such manifest"), "size": 16}
    index = json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [child]}).encode()
    assert (await refused_manifest(http, index, OCI_INDEX))[:2] == (400, "MANIFEST_BLOB_UNKNOWN")


async def test_a_media_type_that_contradicts_the_header_is_manifest_invalid(http: aiohttp.ClientSession) -> None:
    status, code, message = await refused_manifest(http, image([]), OCI_INDEX)
    assert (status, code) == (400, "MANIFEST_INVALID")
    assert "mediaType" in message


async def test_docker_schema_1_is_unsupported(http: aiohttp.ClientSession) -> None:
    kind = "application/vnd.docker.distribution.manifest.v1+prettyjws"
    assert (await refused_manifest(http, b'{"schemaVersion": 1}', kind))[:2] == (415, "UNSUPPORTED")


# ---- ranges -------------------------------------------------------------------------------------------------------


async def ranged(http: aiohttp.ClientSession, header: str) -> tuple[int, bytes]:
    digest = await push_blob(http, REPOSITORY, CONTENT)
    async with http.get(f"/v2/{REPOSITORY}/blobs/{digest}", headers={"Range": header}) as answer:
        return answer.status, await answer.read()


async def test_a_reversed_range_is_416(http: aiohttp.ClientSession) -> None:
    assert (await ranged(http, "bytes=500-0"))[0] == 416


async def test_a_range_beyond_the_end_is_416(http: aiohttp.ClientSession) -> None:
    assert (await ranged(http, "bytes=200000-200001"))[0] == 416


async def test_a_range_with_a_number_beyond_all_sizes_is_clamped(http: aiohttp.ClientSession) -> None:
    assert await ranged(http, "bytes=199999-" + "9" * 30) == (206, CONTENT[-1:])


async def test_overlapping_ranges_never_send_a_byte_twice(http: aiohttp.ClientSession) -> None:
    header = "bytes=" + ",".join("0-" for _ in range(1024))
    assert await ranged(http, header) == (206, CONTENT)


async def test_thousands_of_ranges_are_refused(http: aiohttp.ClientSession) -> None:
    header = "bytes=" + ",".join(f"{at * 2}-{at * 2}" for at in range(3000))
    assert (await ranged(http, header))[0] == 400


# ---- bodies -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["0-98", "0-100", "99-0", "x-y", "0", "0-99999999999999999999", "-1-98"])
async def test_a_content_range_that_lies_or_is_none_is_refused_and_costs_nothing(
    http: aiohttp.ClientSession, place: str
) -> None:
    location = await begin_upload(http, REPOSITORY)
    async with http.patch(location, data=CONTENT[:100], headers={"Content-Range": place}) as answer:
        assert answer.status == 400
    assert await range_of(http, location) == "0-0"
    assert await close(http, location, digest_of(CONTENT), CONTENT) == 201


@pytest.mark.parametrize("sent", [99, 101], ids=["shorter", "longer"])
async def test_a_chunked_body_of_another_length_than_its_range_is_size_invalid(
    registry: WholeRegistry, http: aiohttp.ClientSession, sent: int
) -> None:
    location = await begin_upload(http, REPOSITORY)
    await patch(http, location, CONTENT[:50])
    headers = {"Content-Range": "50-149", "Transfer-Encoding": "chunked"}
    async with Raw(registry) as line:
        await line.request("PATCH", location, headers)
        await line.send(f"{sent:x}\r\n".encode() + CONTENT[50 : 50 + sent] + b"\r\n0\r\n\r\n")
        status, _, content = await line.answer()
    assert (status, json.loads(content)["errors"][0]["code"]) == (400, "SIZE_INVALID")
    assert await range_of(http, location) == "0-49"
    assert await close(http, location, digest_of(CONTENT), CONTENT[50:]) == 201


async def test_a_body_longer_than_its_content_length_is_no_part_of_the_blob(
    registry: WholeRegistry, http: aiohttp.ClientSession
) -> None:
    location = await begin_upload(http, REPOSITORY)
    async with Raw(registry) as line:
        await line.request("PATCH", location, {"Content-Length": "100"})
        await line.send(CONTENT[:100] + b"and more that is no request\r\n\r\n")
        answers = (await line.rest()).decode("latin-1")
    # What follows is no request. If it came in one piece with the chunk, the chunk is refused along with it.
    assert " 400 " in answers
    kept = "0-99" if answers.startswith("HTTP/1.1 202") else "0-0"
    assert await range_of(http, location) == kept


async def test_a_body_with_bad_chunk_framing_is_refused_and_costs_nothing(
    registry: WholeRegistry, http: aiohttp.ClientSession
) -> None:
    location = await begin_upload(http, REPOSITORY)
    await patch(http, location, CONTENT[:100])
    async with Raw(registry) as line:
        await line.request("PATCH", location, {"Transfer-Encoding": "chunked"})
        await line.send(b"64\r\n" + CONTENT[100:200] + b"\r\nnot a size\r\n")
        status = int((await line.head()).split()[1])
        assert status == 400
    assert await range_of(http, location) == "0-99"
    assert await close(http, location, digest_of(CONTENT), CONTENT[100:]) == 201


async def test_a_compressed_body_is_refused(http: aiohttp.ClientSession) -> None:
    location = await begin_upload(http, REPOSITORY)
    for method, where in (("PATCH", location), ("PUT", f"/v2/{REPOSITORY}/manifests/v1")):
        async with http.request(method, where, data=b"\x1f\x8b", headers={"Content-Encoding": "gzip"}) as answer:
            assert (answer.status, await code_of(answer)) == (415, "UNSUPPORTED")


async def test_a_digest_mismatch_at_commit_is_refused_and_nothing_is_visible(http: aiohttp.ClientSession) -> None:
    location = await begin_upload(http, REPOSITORY)
    async with http.put(location, params={"digest": digest_of(b"other")}, data=CONTENT) as answer:
        assert (answer.status, await code_of(answer)) == (400, "DIGEST_INVALID")
    for digest in (digest_of(b"other"), digest_of(CONTENT)):
        async with http.head(f"/v2/{REPOSITORY}/blobs/{digest}") as answer:
            assert answer.status == 404


async def test_the_upload_of_another_repository_is_unknown(http: aiohttp.ClientSession) -> None:
    location = await begin_upload(http, REPOSITORY)
    await push_blob(http, "team/other", b"{}")
    stolen = location.replace(REPOSITORY, "team/other")
    for method in ("GET", "PATCH", "PUT", "DELETE"):
        query = {"digest": digest_of(b"")} if method == "PUT" else {}
        async with http.request(method, stolen, params=query) as answer:
            assert (answer.status, await code_of(answer)) == (404, "BLOB_UPLOAD_UNKNOWN")
    assert await close(http, location, digest_of(CONTENT), CONTENT) == 201


# ---- clients that go away -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("sent", [0, 1, 100_000, 199_999])
@pytest.mark.parametrize("phase", ["post", "patch", "put"])
async def test_a_client_that_leaves_during_a_push_costs_nothing(
    registry: WholeRegistry, http: aiohttp.ClientSession, phase: str, sent: int
) -> None:
    location = await begin_upload(http, REPOSITORY)
    method, path = {
        "post": ("POST", f"/v2/{REPOSITORY}/blobs/uploads/?digest={digest_of(CONTENT)}"),
        "patch": ("PATCH", location),
        "put": ("PUT", f"{location}?digest={digest_of(CONTENT)}"),
    }[phase]
    async with Raw(registry) as line:
        await line.request(method, path, {"Content-Length": str(len(CONTENT))})
        await line.send(CONTENT[:sent])
    await asyncio.sleep(0.05)
    await registry.quiet()
    async with http.head(f"/v2/{REPOSITORY}/blobs/{digest_of(CONTENT)}") as answer:
        assert answer.status == 404
    if phase == "post":
        assert [stored async for stored in registry.store.list()] == []
    kept = int((await range_of(http, location)).partition("-")[2])
    start = kept + 1 if kept else 0  # 0-0 is none here: a single byte kept would be told apart by its digest
    if phase != "post" and sent == 1:
        return
    assert await close(http, location, digest_of(CONTENT), CONTENT[start:]) == 201


async def test_a_client_that_leaves_during_its_manifest_tags_nothing(
    registry: WholeRegistry, http: aiohttp.ClientSession
) -> None:
    await push_blob(http, REPOSITORY, b"{}")
    content = image([])
    async with Raw(registry) as line:
        await line.request("PUT", f"/v2/{REPOSITORY}/manifests/v1", {"Content-Length": str(len(content))})
        await line.send(content[:-1])
    await registry.quiet()
    async with http.head(f"/v2/{REPOSITORY}/manifests/v1") as answer:
        assert answer.status == 404


@pytest.mark.parametrize("taken", [0, 1, 4_000_000])
async def test_a_client_that_leaves_during_a_pull_leaves_nothing_open(
    registry: WholeRegistry, http: aiohttp.ClientSession, taken: int
) -> None:
    content = os.urandom(20 * 2**20)
    digest = await push_blob(http, REPOSITORY, content)
    async with Raw(registry) as line:
        await line.request("GET", f"/v2/{REPOSITORY}/blobs/{digest}")
        if taken:
            await line.head()
            assert await line.reader.readexactly(taken) == content[:taken]
    await registry.quiet()
    assert open_objects() == []


# ---- tokens -------------------------------------------------------------------------------------------------------


async def status_with(registry: WholeRegistry, password: str, user: str = "AWS") -> int:
    credentials = {"Authorization": aiohttp.encode_basic_auth(user, password)}
    async with aiohttp.ClientSession(registry.url, headers=credentials) as http, http.get("/v2/") as answer:
        if answer.status == 401:
            assert await answer.text() == "Not Authorized\n"
        return answer.status


async def test_a_token_cut_altered_or_of_another_key_is_401(registry: WholeRegistry) -> None:
    token = registry.password
    assert await status_with(registry, token) == 200
    principal = Principal("AIDAX", ACCOUNT, "arn:x", "x")
    forged, _ = Tokens(SmallSealer([("k", bytes(32))], PURPOSE)).issue(principal, ACCOUNT, REGION, time.time())
    middle = len(token) // 2
    altered = token[:middle] + ("A" if token[middle] != "A" else "B") + token[middle + 1 :]
    for password in ("", "x", token[:-1], token[: len(token) // 2], token + "A", altered, forged, "x" * 10_000):
        assert await status_with(registry, password) == 401, password[:20]
    assert await status_with(registry, token, user="root") == 401


async def test_an_expired_token_is_403_and_says_so(registry: WholeRegistry) -> None:
    principal = Principal("AIDAX", ACCOUNT, "arn:x", "x")
    old, _ = registry.tokens.issue(principal, ACCOUNT, REGION, time.time() - 13 * 3600)
    assert await status_with(registry, old) == 403


async def test_the_token_of_a_principal_that_is_gone_is_401(registry: WholeRegistry) -> None:
    principal = Principal("AIDANOSUCHPRINCIPAL", ACCOUNT, "arn:x", "x")
    token, _ = registry.tokens.issue(principal, ACCOUNT, REGION, time.time())
    assert await status_with(registry, token) == 401


async def test_a_refused_push_over_an_image_leaves_the_image(http: aiohttp.ClientSession) -> None:
    digest = await push_image(http, REPOSITORY, "v1", [CONTENT])
    async with http.put(f"/v2/{REPOSITORY}/manifests/v1", data=b"{", headers={"Content-Type": OCI_IMAGE}) as answer:
        assert answer.status == 400
    async with http.head(f"/v2/{REPOSITORY}/manifests/v1") as answer:
        assert answer.headers["Docker-Content-Digest"] == digest
