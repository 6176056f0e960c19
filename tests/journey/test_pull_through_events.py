"""What imports tell: events as ECR sends them, and lines of the audit log."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import aiohttp.web

from support.pull_through_world import World, world


async def listen(there: World) -> None:
    """All events of pull-through caches go into a file `ptc`."""
    events = await there.client("events")
    pattern = json.dumps({"detail-type": ["ECR Pull Through Cache Action"]})
    await asyncio.to_thread(events.put_rule, Name="ptc", EventPattern=pattern)
    await asyncio.to_thread(events.put_targets, Rule="ptc", Targets=[{"Id": "f", "Arn": "file:ptc"}])


async def test_imports_and_their_failures_are_events_as_ecr_sends_them(tmp_path: Path) -> None:
    folder = tmp_path / "events"
    async with world(tmp_path, extra={"WHARFAGE_EVENTS_FOLDER": str(folder)}) as there:
        await listen(there)
        name = there.far.add_image("team/app", "1", b"layer")

        async def refused(request: aiohttp.web.Request) -> aiohttp.web.Response:
            return aiohttp.web.Response(status=403)

        there.far.answers["GET /v2/team/app/manifests/2"] = refused
        assert (await there.get("far/team/app/manifests/1"))[0] == 200
        assert (await there.get("far/team/app/manifests/1"))[0] == 200
        assert (await there.get("far/team/app/manifests/2"))[0] == 403

        def lines() -> list[dict[str, Any]]:
            return [json.loads(line) for file in sorted(folder.rglob("ptc*")) for line in file.read_text().splitlines()]

        async def both() -> bool:
            return len(await asyncio.to_thread(lines)) >= 2

        await there.until(both)
        common = {
            "rule-version": "1",
            "ecr-repository-prefix": "far",
            "repository-name": "far/team/app",
            "upstream-registry-url": there.far.address,
        }
        found = await asyncio.to_thread(lines)
        arn = f"arn:aws:ecr:us-east-1:{there.account}:repository/far/team/app"
        assert [each["resources"] for each in found] == [[arn], [arn]]
        good, bad = (each["detail"] for each in found)
        assert good == common | {"sync-status": "SUCCESS", "image-tag": "1", "image-digest": name}
        assert "Access was denied by the upstream registry" in bad.pop("failure-reason")
        failed = {"sync-status": "FAILED", "image-tag": "2", "failure-code": "UpstreamAccessDenied"}
        assert bad == common | failed


async def audited(there: World, least: int) -> list[dict[str, Any]]:
    """The audit log's events of far/team/app, once there are so many."""
    path = there.server.data / "audit/audit.jsonl"

    async def lines() -> list[dict[str, Any]]:
        found = [json.loads(line) for line in (await asyncio.to_thread(path.read_text)).splitlines()]
        return [each for each in found if "far/team/app" in json.dumps(each["requestParameters"])]

    async def all_there() -> bool:
        return len(await lines()) >= least

    await there.until(all_there)
    return await lines()


async def test_a_pull_that_imports_is_three_lines_of_the_audit_log_and_the_next_one_is_one(tmp_path: Path) -> None:
    async with world(tmp_path) as there:
        there.far.add_image("team/app", "1", b"layer")
        for _ in range(2):
            assert (await there.get("far/team/app/manifests/1"))[0] == 200
        found = await audited(there, 4)
        assert sorted(each["eventName"] for each in found) == [
            "BatchGetImage",
            "BatchGetImage",
            "BatchImportUpstreamImage",
            "CreateRepository",
        ]
        event = next(each for each in found if each["eventName"] == "BatchImportUpstreamImage")
        assert (event["readOnly"], event["requestParameters"]["imageIds"]) == (False, [{"imageTag": "1"}])


async def test_an_api_call_that_imports_has_a_line_of_the_images_that_it_imported(tmp_path: Path) -> None:
    async with world(tmp_path) as there:
        digest = there.far.add_image("team/app", "1", b"layer")
        there.far.add_image("team/app", "2", b"other")
        there.far.add_image("team/app", "3", b"third")
        ecr = await there.client()

        async def pull(*images: dict[str, str]) -> None:
            await asyncio.to_thread(ecr.batch_get_image, repositoryName="far/team/app", imageIds=list(images))

        await pull({"imageTag": "1"}, {"imageTag": "2"}, {"imageTag": "missing"})
        await pull({"imageTag": "1"}, {"imageDigest": digest})  # both are here by now
        await pull({"imageTag": "3"}, {"imageTag": "2"})
        found = await audited(there, 6)
        named = [each["eventName"] for each in found]
        assert sorted(named) == [*["BatchGetImage"] * 3, *["BatchImportUpstreamImage"] * 2, "CreateRepository"]
        imports = [each for each in found if each["eventName"] == "BatchImportUpstreamImage"]
        common = {"registryId": there.account, "repositoryName": "far/team/app"}
        images = [each["requestParameters"].pop("imageIds") for each in imports]
        assert sorted(map(len, images)) == [1, 2]
        assert {each["imageTag"] for each in max(images, key=len)} == {"1", "2"}
        assert min(images, key=len) == [{"imageTag": "3"}]
        for each in (*imports, next(each for each in found if each["eventName"] == "CreateRepository")):
            assert each["requestParameters"] == common
            assert (each["readOnly"], each["eventCategory"], "errorCode" in each) == (False, "Management", False)
        pulls = {each["requestID"] for each in found if each["eventName"] == "BatchGetImage"}
        assert {each["requestID"] for each in imports} < pulls
