"""What a pusher can make a browser do: nothing. Every answer of `/v2/` and of links to layers says so."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from proxy.model.records import Sealing
from support.examples import REPOSITORY
from support.memory_connection import Answer
from support.oci_requests import OCI_IMAGE, digest_of, image
from support.registry_client import LAYER, RegistryClient, registry_client

BLOB = f"/v2/{REPOSITORY}/blobs/{digest_of(LAYER)}"
MANIFEST = f"/v2/{REPOSITORY}/manifests/v1"
POLICY = "default-src 'none'; frame-ancestors 'none'; sandbox"


class Links:
    """A store that answers in our place."""

    async def link(self, key: str) -> str:
        return f"https://store.example/{key}"


@pytest.fixture
async def doors(tmp_path: Path) -> AsyncIterator[RegistryClient]:
    async with registry_client(tmp_path) as found:
        yield found
        await found.registry.quiet()


def is_inert(answer: Answer) -> bool:
    found = answer.headers
    return found.get("x-content-type-options") == "nosniff" and found.get("content-security-policy") == POLICY


@pytest.mark.parametrize(
    ("method", "target", "lines", "status"),
    [
        ("GET", "/v2/", [], 200),
        ("HEAD", MANIFEST, [], 200),
        ("GET", MANIFEST, [], 200),
        ("HEAD", BLOB, [], 200),
        ("GET", BLOB, [], 200),
        ("GET", BLOB, [("Range", "bytes=1-2")], 206),
        ("GET", BLOB, [("Range", "bytes=1-2,5-6")], 206),
        ("GET", BLOB, [("Range", "bytes=999-")], 416),
        ("GET", BLOB, [("If-None-Match", f'"{digest_of(LAYER)}"')], 304),
        ("GET", f"/v2/{REPOSITORY}/tags/list", [], 200),
        ("GET", "/v2/_catalog", [], 200),
        ("POST", f"/v2/{REPOSITORY}/blobs/uploads/", [], 202),
        ("GET", f"/v2/{REPOSITORY}/manifests/none", [], 404),
        ("GET", "/v2/A/manifests/v1", [], 400),
        ("GET", "/v2/no/such/address", [], 404),
        ("TRACE", MANIFEST, [], 405),
    ],
)
async def test_every_answer_of_the_data_plane_is_inert(
    doors: RegistryClient, method: str, target: str, lines: list[tuple[str, str]], status: int
) -> None:
    """Those too that are given again to the same request, which the third of them is where any may be."""
    for _ in range(3):
        answer = await doors.docker(method, target, doors.registry.password, lines=lines)
        assert answer.status == status
        assert is_inert(answer)


async def test_an_answer_to_a_stranger_is_inert(doors: RegistryClient) -> None:
    """The 401 is what a browser sees that is led here by a link."""
    answer = await doors.plain("GET", MANIFEST, [])
    assert answer.status == 401
    assert is_inert(answer)


async def test_a_link_to_a_layer_is_inert(doors: RegistryClient) -> None:
    """It opens without credentials, so a browser can be led to it; refused and answered alike."""
    asked = {"repositoryName": REPOSITORY, "layerDigest": digest_of(LAYER)}
    said = await doors.ask("ecr", "GetDownloadUrlForLayer", asked, doors.keys["administrator"])
    parts = urlsplit(json.loads(said.body)["downloadUrl"])
    for method, target, status in (
        ("GET", f"{parts.path}?{parts.query}", 200),
        ("HEAD", f"{parts.path}?{parts.query}", 200),
        ("GET", parts.path, 403),
        ("PUT", parts.path, 405),
    ):
        answer = await doors.plain(method, target, [])
        assert answer.status == status
        assert is_inert(answer)


async def test_a_manifest_whose_type_is_a_page_is_inert(doors: RegistryClient) -> None:
    """The pusher's own type comes back, and a browser runs nothing of what it names."""
    page = json.dumps({**json.loads(image([LAYER])), "x": "<script>alert(1)</script>"})
    page = page.replace(OCI_IMAGE, "text/html")
    target = f"/v2/{REPOSITORY}/manifests/page"
    typed = [("Content-Type", "text/html")]
    assert (await doors.docker("PUT", target, doors.registry.password, page.encode(), typed)).status == 201
    answer = await doors.docker("GET", target, doors.registry.password)
    assert (answer.headers["content-type"], answer.body) == ("text/html", page.encode())
    assert is_inert(answer)


async def test_an_answer_that_leads_to_the_store_is_inert_itself(tmp_path: Path) -> None:
    """What the store says at the link is the store's."""
    async with registry_client(tmp_path, sealing=Sealing.NONE, links=Links()) as doors:
        answer = await doors.docker("GET", BLOB, doors.registry.password)
        assert answer.status == 307
        assert is_inert(answer)
