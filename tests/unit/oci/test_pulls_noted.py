"""Which requests count as pulls, at either door, and of whom."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from proxy.model.records import Pull
from proxy.registry.pull_times import PullTimes
from support.oci_requests import push_image
from support.registry_client import registry_client
from support.whole_registry import ACCOUNT, whole_registry

ADMINISTRATOR = f"arn:aws:iam::{ACCOUNT}:user/administrator"


async def test_a_manifest_got_is_a_pull_and_a_look_at_it_is_none(tmp_path: Path) -> None:
    noted: list[Pull] = []

    async def note(pulls: Sequence[Pull]) -> None:
        noted.extend(pulls)

    times = PullTimes(note, lambda: 7.0, flush_seconds=3600.0)
    async with whole_registry(tmp_path, pulls=times) as registry, registry.client() as http:
        await push_image(http, "team/app", "v1", [b"layer"])
        for method, path, status in (
            ("HEAD", "manifests/v1", 200),
            ("GET", "manifests/none", 404),
            ("GET", "tags/list", 200),
        ):
            async with http.request(method, f"/v2/team/app/{path}") as answer:
                assert answer.status == status
        await times.close()
        assert noted == []
        for _ in range(2):
            async with http.get("/v2/team/app/manifests/v1") as answer:
                digest = answer.headers["Docker-Content-Digest"]
        assert noted == []  # no call of its own
        await times.close()
        assert noted == [Pull(ACCOUNT, "team/app", digest, ADMINISTRATOR, 7.0)]


async def test_batch_get_image_is_a_pull_of_each_image_that_it_gives(tmp_path: Path) -> None:
    noted: list[Pull] = []

    async def note(pulls: Sequence[Pull]) -> None:
        noted.extend(pulls)

    times = PullTimes(note, lambda: 7.0, flush_seconds=3600.0)
    async with registry_client(tmp_path, pulls=times) as doors:
        await times.close()
        noted.clear()
        calls: dict[str, Mapping[str, Any]] = {
            "DescribeImages": {},
            "BatchGetImage": {"imageIds": [{"imageTag": "v1"}, {"imageTag": "none"}]},
        }
        for operation, more in calls.items():
            asked = {"repositoryName": "team/app", **more}
            answer = await doors.ask("ecr", operation, asked, doors.keys["administrator"])
        (image,) = json.loads(answer.body)["images"]
    await times.close()
    assert noted == [Pull(ACCOUNT, "team/app", image["imageId"]["imageDigest"], ADMINISTRATOR, 7.0)]
