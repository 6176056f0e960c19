"""What a server fetches through its rules when nobody pulls: platforms of an index, images kept fresh, `warm`."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sqlite3
import time
from pathlib import Path

import aiohttp.web

from support.pull_through_world import LAYER, World, add_index, digest_of, world

OFTEN = {"WHARFAGE_PULL_THROUGH_INTERVAL_SECONDS": "1"}


async def test_the_images_of_an_index_for_a_rules_platforms_come_with_it(tmp_path: Path) -> None:
    """With their layers, and no others."""
    async with world(tmp_path, platforms=["linux/amd64"]) as there:
        found = add_index(there.far, "team/app", "1", amd64=LAYER, arm64=b"other")
        assert (await there.get("far/team/app/manifests/1"))[0] == 200
        wanted = digest_of(LAYER)
        await there.until(lambda: f"/v2/team/app/blobs/{wanted}" in there.asked("blobs"))
        await there.until(lambda: there.is_here("far/team/app", wanted))
        there.far.answers["GET /v2/team/app/manifests/1"] = there.far.answers[f"GET /v2/team/app/blobs/{wanted}"] = gone
        status, _, body = await there.get(f"far/team/app/blobs/{wanted}")
        assert (status, body == LAYER) == (200, True)
        here = {each["imageDigest"] for each in await there.images("far/team/app")}
        assert here == {found[""], found["amd64"]}
        assert f"/v2/team/app/blobs/{digest_of(b'other')}" not in there.asked("blobs")


async def gone(request: aiohttp.web.Request) -> aiohttp.web.Response:
    return aiohttp.web.Response(status=404)


async def test_an_image_that_a_rule_prefetches_is_here_before_anybody_pulls_it_and_stays_fresh(tmp_path: Path) -> None:
    async with world(tmp_path, extra=OFTEN, refresh_seconds=0, prefetch=["team/app:stable", "team/none:1"]) as there:
        first = there.far.add_image("team/app", "stable", b"one")
        await there.until(lambda: f"/v2/team/app/blobs/{digest_of(b'one')}" in there.asked("blobs"))
        second = there.far.add_image("team/app", "stable", b"two")
        await there.until(lambda: f"/v2/team/app/blobs/{digest_of(b'two')}" in there.asked("blobs"))
        await there.until(lambda: there.is_here("far/team/app", digest_of(b"two")))
        tags = {each["imageDigest"]: each.get("imageTags") for each in await there.images("far/team/app")}
        assert tags == {first: None, second: ["stable"]}

        async def is_named() -> bool:
            status, said = await there.command("jobs", "list", "--dead", "--kind", "pull-through-image")
            return (status, said.count("\n"), "Requested image not found" in said) == (0, 1, True)

        await there.until(is_named)  # the rule asks for it again and again: in between its job is no dead one


async def test_warm_fetches_images_through_rules_without_any_cache(tmp_path: Path) -> None:
    """Manifests and layers, of one platform where it is named; what cannot be had is named."""
    async with world(tmp_path) as there:
        found = add_index(there.far, "team/app", "1", amd64=b"one", arm64=b"two")
        status, said = await there.command("warm", "far/team/app:1", "--platform", "linux/arm64")
        assert (status, said) == (0, "1 images are here from their upstreams\n")
        assert {each["imageDigest"] for each in await there.images("far/team/app")} == {found[""], found["arm64"]}
        assert await there.is_here("far/team/app", digest_of(b"two"))
        status, said = await there.command("warm", "far/team/app:1", "far/team/app:2")
        assert (status, "not fetched: far/team/app:2: " in said) == (1, True), said
        assert await there.is_here("far/team/app", digest_of(b"one"))
        before = len(there.far.asked)
        assert (await there.command("warm", "far/team/app"))[0] == 0
        assert len(there.far.asked) == before
        status, said = await there.command("warm", "other/app:1")
        assert (status, "there is no cache to warm" in said) == (1, True), said


async def test_a_fetch_that_fails_is_tried_again_by_the_queue(tmp_path: Path) -> None:
    async with world(tmp_path, extra=OFTEN, prefetch=["team/app:1"]) as there:
        layer = digest_of(b"one")
        refused = asyncio.Event()

        async def once(request: aiohttp.web.Request) -> aiohttp.web.Response:
            refused.set()
            del there.far.answers[f"GET /v2/team/app/blobs/{layer}"]
            return aiohttp.web.Response(status=500)

        there.far.answers[f"GET /v2/team/app/blobs/{layer}"] = once
        there.far.add_image("team/app", "1", b"one")
        await refused.wait()
        await there.until(lambda: there.asked("blobs").count(f"/v2/team/app/blobs/{layer}") == 2)
        await there.until(lambda: there.is_here("far/team/app", layer))


async def test_a_cache_keeps_to_its_size_and_what_went_comes_back_when_it_is_pulled(tmp_path: Path) -> None:
    """The least recently pulled image goes, one that was pushed here stays, and each that goes is in the audit log."""
    extra = OFTEN | {"WHARFAGE_SWEEP_GRACE_HOURS": "0", "WHARFAGE_SWEEP_INTERVAL_SECONDS": "1"}
    layers = [os.urandom(300_000) for _ in range(4)]
    async with world(tmp_path, extra=extra, bytes=700_000) as there:
        names = [there.far.add_image(f"team/{number}", "1", layer) for number, layer in enumerate(layers)]
        for number, layer in enumerate(layers[:3]):
            assert (await there.get(f"far/team/{number}/manifests/1"))[0] == 200
            for content in (layer, b"{}"):
                assert (await there.get(f"far/team/{number}/blobs/{digest_of(content)}"))[2] == content
        where, kind = f"{there.server.url}/v2/far/team/0/manifests/mine", "application/vnd.oci.image.manifest.v1+json"
        content = there.far.manifests["team/0", "1"][1]
        async with there.session.put(where, data=content, headers={"Content-Type": kind}) as answer:
            assert answer.status == 201
        await age(there, {names[0]: 5, names[1]: 4, names[2]: 3})

        async def here() -> list[str]:
            return [
                name
                for number, name in enumerate(names[:3])
                if name in {each["imageDigest"] for each in await there.images(f"far/team/{number}")}
            ]

        async def is_trimmed() -> bool:
            return await here() == [names[0], names[2]]

        await there.until(is_trimmed)
        lines = [json.loads(line) for line in (there.server.data / "audit/audit.jsonl").read_text().splitlines()]
        [event] = [line for line in lines if line["eventName"] == "PullThroughCacheEviction"]
        assert event["requestParameters"] == {
            "repositoryName": "far/team/1",
            "imageDigest": names[1],
            "imageTags": ["1"],
            "reason": "size",
        }
        assert (await there.get("far/team/1/manifests/1"))[2] == there.far.manifests["team/1", "1"][1]
        assert (await there.get(f"far/team/1/blobs/{digest_of(layers[1])}"))[2] == layers[1]
        assert (await there.command("check"))[0] == 0


async def age(there: World, hours: dict[str, int]) -> None:
    """Make images as old as if nobody had pulled them since."""
    with contextlib.closing(sqlite3.connect(there.server.data / "metadata.db", timeout=20)) as rows, rows:
        for digest, number in hours.items():
            at = time.time() - number * 3600
            changed = rows.execute(
                "UPDATE images SET pushed_at = ?, last_pulled_at = ? WHERE digest = ?", (at, at, digest)
            )
            assert changed.rowcount == 1


async def test_images_that_nobody_pulls_go_after_a_rules_days(tmp_path: Path) -> None:
    async with world(tmp_path, extra=OFTEN, unused_days=2) as there:
        old = there.far.add_image("team/app", "old", b"old")
        new = there.far.add_image("team/app", "new", b"new")
        for tag in ("old", "new"):
            assert (await there.get(f"far/team/app/manifests/{tag}"))[0] == 200
        await age(there, {old: 24 * 3, new: 24})

        async def is_trimmed() -> bool:
            return [each["imageDigest"] for each in await there.images("far/team/app")] == [new]

        await there.until(is_trimmed)
