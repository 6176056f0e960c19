"""Manifests, tags, catalog and referrers through the door."""

from __future__ import annotations

import json
from typing import Any

import aiohttp
import pytest

from support.oci_requests import OCI_IMAGE, OCI_INDEX, body, code_of, digest_of, image, push_blob, push_image

REPOSITORY = "team/app"


async def names(http: aiohttp.ClientSession, path: str, key: str) -> list[list[Any]]:
    """All pages of a list, by following Link."""
    pages = []
    while path:
        async with http.get(path) as answer:
            assert answer.status == 200
            pages.append((await answer.json())[key])
            link = answer.headers.get("Link", "")
            assert not link or link.endswith('>; rel="next"')
            path = link[1:].partition(">")[0]
    return pages


async def test_a_manifest_comes_back_byte_for_byte_by_tag_and_digest(http: aiohttp.ClientSession) -> None:
    await push_blob(http, REPOSITORY, b"{}")
    content = image([]).replace(b",", b" ,\n\t") + b"\n"
    digest = digest_of(content)
    async with http.put(f"/v2/{REPOSITORY}/manifests/v1", data=content, headers={"Content-Type": OCI_IMAGE}) as answer:
        assert answer.status == 201
        assert answer.headers["Docker-Content-Digest"] == digest
        location = answer.headers["Location"]
    for where in (location, f"/v2/{REPOSITORY}/manifests/v1", f"/v2/{REPOSITORY}/manifests/{digest}"):
        async with http.get(where) as answer:
            assert await answer.read() == content
            assert answer.headers["Content-Type"] == OCI_IMAGE
            assert answer.headers["Docker-Content-Digest"] == digest
            assert answer.headers["ETag"] == f'"{digest}"'
        async with http.head(where) as answer:
            assert answer.headers["Content-Length"] == str(len(content))
        async with http.get(where, headers={"If-None-Match": f'"{digest}"'}) as answer:
            assert answer.status == 304


async def test_a_push_by_digest_may_name_tags_and_they_are_echoed(http: aiohttp.ClientSession) -> None:
    await push_blob(http, REPOSITORY, b"{}")
    content = image([])
    where = f"/v2/{REPOSITORY}/manifests/{digest_of(content, 'sha512')}"
    async with http.put(
        where, params=[("tag", "a"), ("tag", "b"), ("tag", "a")], data=content, headers={"Content-Type": OCI_IMAGE}
    ) as answer:
        assert answer.status == 201
        assert answer.headers.getall("OCI-Tag") == ["a", "b"]
    for tag in "ab":
        async with http.head(f"/v2/{REPOSITORY}/manifests/{tag}") as answer:
            assert answer.headers["Docker-Content-Digest"] == digest_of(content, "sha512")


async def test_more_than_ten_tags_in_one_push_are_refused(http: aiohttp.ClientSession) -> None:
    content = image([])
    where = f"/v2/{REPOSITORY}/manifests/{digest_of(content)}"
    async with http.put(where, params=[("tag", f"t{n}") for n in range(11)], data=content) as answer:
        assert (answer.status, await code_of(answer)) == (400, "TAG_INVALID")


async def test_a_manifest_that_is_not_what_its_digest_says_is_refused(http: aiohttp.ClientSession) -> None:
    async with http.put(f"/v2/{REPOSITORY}/manifests/{digest_of(b'other')}", data=image([])) as answer:
        assert (answer.status, await code_of(answer)) == (400, "DIGEST_INVALID")


async def test_a_manifest_whose_blobs_are_missing_is_refused(http: aiohttp.ClientSession) -> None:
    await push_blob(http, REPOSITORY, b"{}")
    manifest = image([b"nowhere"])
    async with http.put(f"/v2/{REPOSITORY}/manifests/v1", data=manifest, headers={"Content-Type": OCI_IMAGE}) as answer:
        assert (answer.status, await code_of(answer)) == (400, "MANIFEST_BLOB_UNKNOWN")
        assert digest_of(b"nowhere") in await answer.text()


async def test_a_deleted_tag_leaves_the_image_and_a_deleted_image_takes_its_tags(http: aiohttp.ClientSession) -> None:
    digest = await push_image(http, REPOSITORY, "v1", [b"layer"])
    await push_image(http, REPOSITORY, "v2", [b"layer"])
    async with http.delete(f"/v2/{REPOSITORY}/manifests/v1") as answer:
        assert answer.status == 202
    for reference, status in (("v1", 404), ("v2", 200), (digest, 200)):
        async with http.head(f"/v2/{REPOSITORY}/manifests/{reference}") as answer:
            assert answer.status == status
    async with http.delete(f"/v2/{REPOSITORY}/manifests/{digest}") as answer:
        assert answer.status == 202
    for reference in ("v2", digest):
        async with http.get(f"/v2/{REPOSITORY}/manifests/{reference}") as answer:
            assert (answer.status, await code_of(answer)) == (404, "MANIFEST_UNKNOWN")


async def test_an_image_that_an_index_needs_is_not_deleted(http: aiohttp.ClientSession) -> None:
    digest = await push_image(http, REPOSITORY, None, [b"layer"])
    size = len(image([b"layer"]))
    child = {"mediaType": OCI_IMAGE, "digest": digest, "size": size}
    index = json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [child]}).encode()
    async with http.put(f"/v2/{REPOSITORY}/manifests/all", data=index, headers={"Content-Type": OCI_INDEX}) as answer:
        assert answer.status == 201
    async with http.delete(f"/v2/{REPOSITORY}/manifests/{digest}") as answer:
        assert (answer.status, await code_of(answer)) == (409, "UNSUPPORTED")


async def test_tags_are_listed_in_order_by_pages_that_link(http: aiohttp.ClientSession) -> None:
    for tag in ("b", "a", "c", "A", "1"):
        await push_image(http, REPOSITORY, tag, [])
    where = f"/v2/{REPOSITORY}/tags/list"
    assert await names(http, where, "tags") == [["1", "A", "a", "b", "c"]]
    assert await names(http, f"{where}?n=2", "tags") == [["1", "A"], ["a", "b"], ["c"]]
    assert await names(http, f"{where}?n=100000&last=a", "tags") == [["b", "c"]]
    assert await names(http, f"{where}?n=0", "tags") == [[]]


@pytest.mark.parametrize("n", ["-1", "x", "1.5", "99999999999"])
async def test_a_page_size_that_is_no_number_is_refused(http: aiohttp.ClientSession, n: str) -> None:
    await push_blob(http, REPOSITORY, b"{}")
    async with http.get(f"/v2/{REPOSITORY}/tags/list", params={"n": n}) as answer:
        assert (answer.status, await code_of(answer)) == (400, "UNSUPPORTED")


async def test_the_catalog_lists_repositories_by_pages(http: aiohttp.ClientSession) -> None:
    for name in ("b/x", "a-1", "a/x"):
        await push_blob(http, name, b"{}")
    assert await names(http, "/v2/_catalog?n=2", "repositories") == [["a-1", "a/x"], ["b/x"]]


async def test_lists_of_a_repository_that_is_not_there_are_404(http: aiohttp.ClientSession) -> None:
    async with http.get("/v2/not/there/tags/list") as answer:
        assert (answer.status, await code_of(answer)) == (404, "NAME_UNKNOWN")


async def test_referrers_are_found_filtered_and_paged(http: aiohttp.ClientSession) -> None:
    subject = {"mediaType": OCI_IMAGE, "digest": digest_of(b"not pushed yet"), "size": 14}
    pushed = {}
    for number in range(5):
        kind = "application/vnd.example.sbom" if number % 2 else "application/vnd.example.signature"
        extra = {"subject": subject, "artifactType": kind, "annotations": {"number": str(number)}}
        manifest = image([], **extra)
        await push_blob(http, REPOSITORY, b"{}")
        where = f"/v2/{REPOSITORY}/manifests/{digest_of(manifest)}"
        async with http.put(where, data=manifest, headers={"Content-Type": OCI_IMAGE}) as answer:
            assert answer.headers["OCI-Subject"] == subject["digest"]
        pushed[digest_of(manifest)] = (kind, str(number), len(manifest))
    base = f"/v2/{REPOSITORY}/referrers/{subject['digest']}"
    pages = await names(http, f"{base}?n=2", "manifests")
    assert [len(page) for page in pages] == [2, 2, 1]
    found = {d["digest"]: (d["artifactType"], d["annotations"]["number"], d["size"]) for page in pages for d in page}
    assert found == pushed
    async with http.get(base, params={"artifactType": "application/vnd.example.sbom"}) as answer:
        assert answer.headers["Content-Type"] == OCI_INDEX
        assert answer.headers["OCI-Filters-Applied"] == "artifactType"
        assert len((await answer.json(content_type=None))["manifests"]) == 2


async def test_nothing_refers_to_what_is_not_there(http: aiohttp.ClientSession) -> None:
    async with http.get(f"/v2/not/there/referrers/{digest_of(b'')}") as answer:
        assert (answer.status, answer.headers["Content-Type"]) == (200, OCI_INDEX)
        assert await answer.json(content_type=None) == {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": []}


async def test_a_manifest_of_four_mebibytes_is_taken(http: aiohttp.ClientSession) -> None:
    await push_blob(http, REPOSITORY, b"{}")
    content = image([])
    content += b" " * (4 * 2**20 - len(content))
    headers = {"Content-Type": OCI_IMAGE}
    async with http.put(f"/v2/{REPOSITORY}/manifests/big", data=body(content), headers=headers) as answer:
        assert answer.status == 201
    async with http.get(f"/v2/{REPOSITORY}/manifests/big") as answer:
        assert await answer.read() == content
