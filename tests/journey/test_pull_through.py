"""A pull through a rule, from a real server with two workers: what the upstream is asked, and what clients get."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from botocore.exceptions import ClientError

from proxy.registry.mirror.blobs import FAR_BYTES
from proxy.registry.mirror.spool import FRAME
from support.other_registry import INDEX, FarRegistry
from support.pull_through_world import LAYER, digest_of, world


async def test_an_image_is_imported_when_it_is_pulled_and_stays(tmp_path: Path) -> None:
    """Manifest first, layers as they are asked for; afterwards the upstream is not needed, nor asked."""
    async with world(tmp_path) as there:
        name = there.far.add_image("team/app", "1", LAYER)
        _, content = there.far.manifests["team/app", "1"]
        status, headers, body = await there.get("far/team/app/manifests/1")
        assert (status, body, headers["docker-content-digest"]) == (200, content, name)
        [described] = await there.images("far/team/app")
        assert (described["imageTags"], described["imageSizeInBytes"]) == (["1"], len(LAYER))
        layer = digest_of(LAYER)
        status, headers, _ = await there.get(f"far/team/app/blobs/{layer}", "HEAD")
        assert (status, headers["content-length"]) == (200, str(len(LAYER)))
        assert there.asked("blobs", "HEAD") == there.asked("blobs") == []
        status, _, body = await there.get(f"far/team/app/blobs/{layer}")
        assert (status, body == LAYER) == (200, True)
        before = len(there.far.asked)
        for _ in range(4):
            assert (await there.get("far/team/app/manifests/1"))[2] == content
            assert (await there.get(f"far/team/app/manifests/{name}"))[2] == content
            assert (await there.get(f"far/team/app/blobs/{layer}"))[2] == LAYER
        status, headers, body = await there.get(f"far/team/app/blobs/{layer}", Range="bytes=5-9")
        assert (status, body) == (206, LAYER[5:10])
        assert len(there.far.asked) == before
        assert there.asked("blobs") == [f"/v2/team/app/blobs/{layer}"]


async def test_a_first_pull_by_digest_works_and_an_indexs_children_come_when_asked_for(tmp_path: Path) -> None:
    async with world(tmp_path) as there:
        child = there.far.add_image("team/app", "child", b"layer")
        _, content = there.far.manifests["team/app", child]
        index = (
            f'{{"schemaVersion":2,"mediaType":"{INDEX}","manifests":[{{"mediaType":'
            f'"application/vnd.oci.image.manifest.v1+json","digest":"{child}","size":{len(content)},'
            '"platform":{"os":"linux","architecture":"amd64"}}]}'
        ).encode()
        name = there.far.add_manifest("team/app", "1", INDEX, index)
        assert (await there.get(f"far/team/app/manifests/{name}"))[2] == index
        assert there.asked("manifests") == [f"/v2/team/app/manifests/{name}"]
        assert (await there.get(f"far/team/app/manifests/{child}"))[2] == content
        assert (await there.get(f"far/team/app/blobs/{digest_of(b'layer')}"))[2] == b"layer"


async def test_many_pullers_on_all_workers_cost_the_upstream_one_pull(tmp_path: Path) -> None:
    far = FarRegistry()
    started = asyncio.Event()

    async def slowly(content: bytes) -> AsyncIterator[bytes]:
        started.set()
        for at in range(0, len(content), 1 << 18):
            yield content[at : at + (1 << 18)]
            await asyncio.sleep(0.02)

    far.pieces = slowly
    async with world(tmp_path, far) as there:
        far.add_image("team/app", "1", LAYER)
        await there.get("far/team/app/manifests/1")
        pulls = [asyncio.create_task(there.get(f"far/team/app/blobs/{digest_of(LAYER)}")) for _ in range(15)]
        await started.wait()
        pulls.append(asyncio.create_task(there.get(f"far/team/app/blobs/{digest_of(LAYER)}")))
        for status, _, body in await asyncio.gather(*pulls):
            assert (status, body == LAYER) == (200, True)
        assert there.asked("blobs") == [f"/v2/team/app/blobs/{digest_of(LAYER)}"]


async def test_bytes_that_are_wrong_never_end_clean_and_are_not_kept(tmp_path: Path) -> None:
    far = FarRegistry(spoil=lambda content: content[:-1] + bytes([content[-1] ^ 1]))
    async with world(tmp_path, far) as there:
        far.add_image("team/app", "1", LAYER, b"small")
        await there.get("far/team/app/manifests/1")
        with pytest.raises(aiohttp.ClientPayloadError):
            await there.get(f"far/team/app/blobs/{digest_of(LAYER)}")
        assert (await there.get(f"far/team/app/blobs/{digest_of(b'small')}"))[0] == 503
        far.spoil = bytes
        status, _, body = await there.get(f"far/team/app/blobs/{digest_of(LAYER)}")
        assert (status, body == LAYER) == (200, True)


async def test_a_fetch_that_breaks_goes_on_by_range(tmp_path: Path) -> None:
    far = FarRegistry()
    cuts = iter([FRAME + 5, 100, FRAME])

    async def cut(content: bytes) -> AsyncIterator[bytes]:
        most = next(cuts, len(content))
        yield content[:most]
        if most < len(content):
            await asyncio.sleep(0.1)
            raise ConnectionResetError

    far.pieces = cut
    async with world(tmp_path, far) as there:
        far.add_image("team/app", "1", LAYER)
        await there.get("far/team/app/manifests/1")
        status, _, body = await there.get(f"far/team/app/blobs/{digest_of(LAYER)}")
        assert (status, body == LAYER) == (200, True)
        assert [each.range != "" for each in far.asked if "/blobs/" in each.path] == [False, True, True, True]


async def test_a_client_that_leaves_ends_nothing(tmp_path: Path) -> None:
    far, go_on = FarRegistry(), asyncio.Event()

    async def waiting(content: bytes) -> AsyncIterator[bytes]:
        yield content[: FRAME + 1]
        await go_on.wait()
        yield content[FRAME + 1 :]

    far.pieces = waiting
    async with world(tmp_path, far) as there:
        far.add_image("team/app", "1", LAYER)
        await there.get("far/team/app/manifests/1")
        url = f"{there.server.url}/v2/far/team/app/blobs/{digest_of(LAYER)}"
        async with there.session.get(url) as first:
            assert await first.content.readexactly(FRAME // 2) == LAYER[: FRAME // 2]
        other = asyncio.create_task(there.get(f"far/team/app/blobs/{digest_of(LAYER)}"))
        await asyncio.sleep(0)
        go_on.set()
        status, _, body = await other
        assert (status, body == LAYER) == (200, True)
        assert len(there.asked("blobs")) == 1


async def test_a_range_far_ahead_of_what_has_come_does_not_wait_for_it_and_is_not_stored(tmp_path: Path) -> None:
    """It costs the upstream a request of its own; the fetch goes on as if nobody had asked."""
    far, go_on = FarRegistry(), asyncio.Event()
    layer = os.urandom(FAR_BYTES + 8 * FRAME)

    async def waiting(content: bytes) -> AsyncIterator[bytes]:
        yield content[:FRAME]
        if len(content) == len(layer):
            await go_on.wait()
        yield content[FRAME:]

    far.pieces = waiting
    async with world(tmp_path, far) as there:
        far.add_image("team/app", "1", layer)
        await there.get("far/team/app/manifests/1")
        path = f"far/team/app/blobs/{digest_of(layer)}"
        whole = asyncio.create_task(there.get(path))
        at = FAR_BYTES + 4 * FRAME
        status, headers, body = await there.get(path, Range=f"bytes={at}-{at + 2 * FRAME - 1}")
        assert (status, headers["content-range"]) == (206, f"bytes {at}-{at + 2 * FRAME - 1}/{len(layer)}")
        assert body == layer[at : at + 2 * FRAME]
        assert not whole.done()
        go_on.set()
        status, _, body = await whole
        assert (status, body == layer) == (200, True)
        ranges = [each.range for each in far.asked if "/blobs/" in each.path]
        assert sorted(ranges) == ["", f"bytes={at}-{at + 2 * FRAME - 1}"]


async def test_a_tag_is_checked_by_head_and_served_stale_while_the_upstream_is_down(tmp_path: Path) -> None:
    async with world(tmp_path, refresh_seconds=0) as there:
        first = there.far.add_image("team/app", "1", b"one")
        assert (await there.get("far/team/app/manifests/1"))[1]["docker-content-digest"] == first
        assert (await there.get("far/team/app/manifests/1"))[1]["docker-content-digest"] == first
        assert len(there.asked("manifests")) == len(there.asked("manifests", "HEAD")) == 1
        second = there.far.add_image("team/app", "1", b"two")
        assert (await there.get("far/team/app/manifests/1"))[1]["docker-content-digest"] == second

        async def down(request: object) -> aiohttp.web.Response:
            return aiohttp.web.Response(status=500)

        there.far.answers["HEAD /v2/team/app/manifests/1"] = down
        there.far.add_image("team/app", "1", b"three")
        status, headers, _ = await there.get("far/team/app/manifests/1")
        assert (status, headers["docker-content-digest"]) == (200, second)
        assert headers["warning"].startswith("110 ")


@pytest.mark.parametrize(
    ("status", "told", "code"),
    [(404, 404, "MANIFEST_UNKNOWN"), (403, 403, "DENIED"), (429, 429, "TOOMANYREQUESTS"), (500, 503, "UNAVAILABLE")],
)
async def test_what_the_upstream_refuses_is_told(tmp_path: Path, status: int, told: int, code: str) -> None:
    async with world(tmp_path) as there:

        async def refusing(request: object) -> aiohttp.web.Response:
            return aiohttp.web.Response(status=status, headers={"Retry-After": "7"})

        there.far.answers["GET /v2/team/app/manifests/1"] = refusing
        found, headers, body = await there.get("far/team/app/manifests/1")
        assert found == told
        assert f'"{code}"'.encode() in body
        if told in (429, 503):
            assert headers["retry-after"] == "7"
        assert (await there.get("other/app/manifests/1"))[0] == 404


async def test_the_api_imports_too_and_its_links_lead_to_layers_that_are_fetched(tmp_path: Path) -> None:
    async with world(tmp_path) as there:
        name = there.far.add_image("team/app", "1", LAYER)
        ecr = await there.client()

        async def call(operation: str, **given: Any) -> dict[str, Any]:
            found: dict[str, Any] = await asyncio.to_thread(getattr(ecr, operation), **given)
            return found

        ids = [{"imageTag": "1"}, {"imageTag": "2"}]
        found = await call("batch_get_image", repositoryName="far/team/app", imageIds=ids)
        assert [each["imageId"] for each in found["images"]] == [{"imageDigest": name, "imageTag": "1"}]
        assert [each["failureCode"] for each in found["failures"]] == ["ImageNotFound"]

        async def denied(request: object) -> aiohttp.web.Response:
            return aiohttp.web.Response(status=403)

        for tag in "34":
            there.far.answers[f"GET /v2/team/app/manifests/{tag}"] = denied
        found = await call("batch_get_image", repositoryName="far/team/app", imageIds=[{"imageTag": "3"}])
        assert [each["failureCode"] for each in found["failures"]] == ["UpstreamAccessDenied"]
        layer = digest_of(LAYER)
        found = await call("batch_check_layer_availability", repositoryName="far/team/app", layerDigests=[layer])
        assert (found["layers"][0]["layerAvailability"], found["layers"][0]["layerSize"]) == ("AVAILABLE", len(LAYER))
        found = await call("get_download_url_for_layer", repositoryName="far/team/app", layerDigest=layer)
        async with there.session.get(found["downloadUrl"]) as answer:
            assert await answer.read() == LAYER
        there.far.answers["GET /v2/team/other/manifests/4"] = denied
        with pytest.raises(ClientError) as raised:
            await call("batch_get_image", repositoryName="far/team/other", imageIds=[{"imageTag": "4"}])
        assert raised.value.response["Error"]["Code"] == "UnableToGetUpstreamImageException"


async def test_a_worker_that_is_killed_while_it_fetches_is_replaced(tmp_path: Path) -> None:
    """Its lease names a socket where nobody answers: the next request takes it over at once and begins anew."""
    far, go_on, begun = FarRegistry(), asyncio.Event(), asyncio.Event()

    async def waiting(content: bytes) -> AsyncIterator[bytes]:
        yield content[: FRAME + 1]
        begun.set()
        await go_on.wait()
        yield content[FRAME + 1 :]

    far.pieces = waiting
    async with world(tmp_path, far) as there:
        far.add_image("team/app", "1", LAYER)
        await there.get("far/team/app/manifests/1")
        path = f"far/team/app/blobs/{digest_of(LAYER)}"
        first = asyncio.create_task(there.get(path))
        await begun.wait()
        for process in await asyncio.to_thread(there.server.workers):
            process.kill()
        with pytest.raises(aiohttp.ClientError):
            await first
        go_on.set()
        await asyncio.to_thread(there.server.daemon.wait_until, there.server.is_ready)
        status, _, body = await there.get(path)
        assert (status, body == LAYER) == (200, True)
        assert len(there.asked("blobs")) == 2


async def test_refresh_asks_the_upstream_about_a_tag_at_once(tmp_path: Path) -> None:
    """Whatever its age; the next pull on any worker has what it found. A tag that was pushed here stays."""
    async with world(tmp_path) as there:
        first = there.far.add_image("team/app", "1", b"one")
        status, said = await there.command("refresh", "far/team/app:1")
        assert (status, said) == (0, f"far/team/app:1: {first}, new\n")
        for _ in range(4):
            assert (await there.get("far/team/app/manifests/1"))[1]["docker-content-digest"] == first
        assert await there.command("refresh", "far/team/app:1") == (0, f"far/team/app:1: {first}, unchanged\n")
        second = there.far.add_image("team/app", "1", b"two")
        assert await there.command("refresh", "far/team/app:1") == (0, f"far/team/app:1: {second}, was {first}\n")
        for _ in range(4):
            assert (await there.get("far/team/app/manifests/1"))[1]["docker-content-digest"] == second
        _, content = there.far.manifests["team/app", first]
        where, kind = f"{there.server.url}/v2/far/team/app", "application/vnd.oci.image.manifest.v1+json"
        for layer in (b"{}", b"one"):
            assert (await there.get(f"far/team/app/blobs/{digest_of(layer)}"))[0] == 200
        async with there.session.put(f"{where}/manifests/1", data=content, headers={"Content-Type": kind}) as answer:
            assert answer.status == 201
        status, said = await there.command("refresh", "far/team/app:1", "far/team/app:2", "other/app:1")
        assert status == 1
        assert [line.partition(": ")[2][:40] for line in said.splitlines()] == [
            "stays as it is: it was pushed or moved h",
            "the upstream has no such image",
            "No pull through cache rule covers the re",
        ]
        assert (await there.get("far/team/app/manifests/1"))[1]["docker-content-digest"] == first
