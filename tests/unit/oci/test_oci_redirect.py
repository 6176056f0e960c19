"""GETs of blobs that are left to the store: who is sent there, with what, and what stays here."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
import structlog.testing

from proxy import observe
from proxy.model.errors import Code, Failure
from proxy.model.records import Sealing
from support.oci_requests import code_of, push_blob
from support.whole_registry import WholeRegistry, whole_registry

REPOSITORY = "team/app"
CONTENT = os.urandom(1000)
SECRET = "X-Amz-Signature=0123456789"


class Links:
    """Signs nothing."""

    def __init__(self) -> None:
        self.failing = False

    async def link(self, key: str) -> str:
        if self.failing:
            raise Failure(Code.STORE_UNAVAILABLE, "there are no credentials")
        return f"https://store.example/bucket/{key}?{SECRET}"


@pytest.fixture
def links() -> Links:
    return Links()


@pytest.fixture
async def registry(tmp_path: Path, links: Links) -> AsyncIterator[WholeRegistry]:
    async with whole_registry(tmp_path, sealing=Sealing.NONE, links=links) as found:
        yield found


@pytest.mark.parametrize("header", [{}, {"Range": "bytes=1-5"}, {"Range": "bytes=5-9,0-4"}], ids=str)
async def test_a_get_is_sent_to_the_store_which_is_left_to_no_cache(
    registry: WholeRegistry, http: aiohttp.ClientSession, header: dict[str, str]
) -> None:
    """Also with a range, or with several that are one when put together."""
    digest = await push_blob(http, REPOSITORY, CONTENT)
    key = (await registry.blobs.find("123456789012", REPOSITORY, digest)).sealed.object_key
    before = observe.metrics.blob_redirects._value.get()
    async with http.get(f"/v2/{REPOSITORY}/blobs/{digest}", headers=header, allow_redirects=False) as answer:
        assert (answer.status, await answer.read()) == (307, b"")
        assert answer.headers["Location"] == f"https://store.example/bucket/{key}?{SECRET}"
        assert answer.headers["Docker-Content-Digest"] == digest
        assert answer.headers["Cache-Control"] == "no-store"
    assert observe.metrics.blob_redirects._value.get() == before + 1


async def test_the_link_is_in_no_log(registry: WholeRegistry, http: aiohttp.ClientSession) -> None:
    digest = await push_blob(http, REPOSITORY, CONTENT)
    with structlog.testing.capture_logs(processors=[observe.add_noted]) as logs:
        async with http.get(f"/v2/{REPOSITORY}/blobs/{digest}", allow_redirects=False) as answer:
            assert SECRET in answer.headers["Location"]
        await registry.quiet()
    assert [line["status"] for line in logs if "status" in line] == [307]
    assert "Signature" not in str(logs)


async def test_head_and_conditions_are_answered_from_the_row(http: aiohttp.ClientSession) -> None:
    digest = await push_blob(http, REPOSITORY, CONTENT)
    where = f"/v2/{REPOSITORY}/blobs/{digest}"
    async with http.head(where) as answer:
        assert (answer.status, answer.headers["Content-Length"]) == (200, "1000")
    async with http.get(where, headers={"If-None-Match": f'"{digest}"'}, allow_redirects=False) as answer:
        assert answer.status == 304
    async with http.get(where, headers={"Range": "bytes=1000-"}, allow_redirects=False) as answer:
        assert answer.status == 416


@pytest.mark.parametrize(
    ("header", "status"),
    [
        ({"Range": "bytes=0-1,5-6"}, 206),
        ({"Range": "bytes=0-9", "If-Range": '"x"'}, 200),
        ({"if-modified-since": "Tue, 24 Nov 2026 00:00:00 GMT"}, 200),
    ],
    ids=str,
)
async def test_what_a_store_would_answer_otherwise_stays_here(
    http: aiohttp.ClientSession, header: dict[str, str], status: int
) -> None:
    """S3 knows no multipart answer, and has ETags and times of its own."""
    digest = await push_blob(http, REPOSITORY, CONTENT)
    async with http.get(f"/v2/{REPOSITORY}/blobs/{digest}", headers=header, allow_redirects=False) as answer:
        assert answer.status == status


async def test_nobody_without_rights_and_no_quarantined_blob_is_sent_anywhere(
    registry: WholeRegistry, http: aiohttp.ClientSession
) -> None:
    digest = await push_blob(http, REPOSITORY, CONTENT)
    where = f"/v2/{REPOSITORY}/blobs/{digest}"
    async with aiohttp.ClientSession(registry.url) as stranger, stranger.get(where, allow_redirects=False) as answer:
        assert (answer.status, "Location" in answer.headers) == (401, False)
    blob = await registry.blobs.find("123456789012", REPOSITORY, digest)
    await registry.metadata.quarantine(blob.sealed.object_key, "frame 1")
    async with http.get(where, allow_redirects=False) as answer:
        assert (answer.status, await code_of(answer)) == (404, "BLOB_UNKNOWN")


async def test_a_sealed_blob_is_served_here(tmp_path: Path, links: Links) -> None:
    async with whole_registry(tmp_path, sealing=Sealing.AES_GCM, links=links) as registry, registry.client() as http:
        digest = await push_blob(http, REPOSITORY, CONTENT)
        async with http.get(f"/v2/{REPOSITORY}/blobs/{digest}", allow_redirects=False) as answer:
            assert (answer.status, await answer.read()) == (200, CONTENT)


async def test_a_link_that_cannot_be_made_is_a_clean_503(links: Links, http: aiohttp.ClientSession) -> None:
    digest = await push_blob(http, REPOSITORY, CONTENT)
    links.failing = True
    async with http.get(f"/v2/{REPOSITORY}/blobs/{digest}", allow_redirects=False) as answer:
        assert (answer.status, await code_of(answer)) == (503, "UNAVAILABLE")
