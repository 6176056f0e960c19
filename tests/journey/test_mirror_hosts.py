"""Pulls at a `[[mirror]]` host: the upstream's own names, who an anonymous pull counts as, and what is refused."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from proxy.metadata.client.client import MetadataClient
from support.other_registry import FarRegistry
from support.server import Server

INSIDE, OUTSIDE = "10.1.2.3", "192.0.2.7"
HUB_LOGIN = "Basic " + base64.b64encode(b"somebody:dckr_pat_s3cret").decode()
TRUST = {"Statement": [{"Effect": "Allow", "Action": "sts:AssumeRole", "Principal": {"AWS": "*"}}]}
PULLS = {
    "Statement": [
        {
            "Effect": "Allow",
            "Action": [
                "ecr:BatchGetImage",
                "ecr:GetDownloadUrlForLayer",
                "ecr:BatchCheckLayerAvailability",
                "ecr:BatchImportUpstreamImage",
                "ecr:CreateRepository",
            ],
            "Resource": "arn:aws:ecr:*:*:repository/hub/*",
        }
    ]
}


@dataclass
class World:
    hub: FarRegistry
    quay: FarRegistry
    server: Server
    session: aiohttp.ClientSession
    rows: MetadataClient
    account: str

    async def get(
        self, path: str, host: str = "docker.mirror.example", source: str = INSIDE, method: str = "GET", **headers: str
    ) -> tuple[int, dict[str, str], bytes]:
        told = {"Host": host, "X-Forwarded-For": source, **headers}
        async with self.session.request(method, f"{self.server.url}/v2/{path}", headers=told) as answer:
            return answer.status, {name.lower(): value for name, value in answer.headers.items()}, await answer.read()

    async def iam(self, operation: str, **parameters: Any) -> None:
        given = {name: json.dumps(each) if isinstance(each, dict) else each for name, each in parameters.items()}
        await self.rows.iam(self.account, operation, given)

    async def audited(self, name: str, count: int) -> list[dict[str, Any]]:
        """The events of that operation that succeeded, once there are `count`: those of reads follow soon."""
        path = self.server.data / "audit" / "audit.jsonl"
        async with asyncio.timeout(20):
            while True:
                lines = (await asyncio.to_thread(path.read_text)).splitlines() if path.exists() else []
                events = [json.loads(line) for line in lines]
                found = [each for each in events if each.get("eventName") == name and "errorCode" not in each]
                if len(found) >= count:
                    return found
                await asyncio.sleep(0.05)


@asynccontextmanager
async def world(folder: Path, **rule: str) -> AsyncIterator[World]:
    """A server with the rules `hub` and `quay`, and a host that is a mirror of both."""
    hub, quay = FarRegistry(), FarRegistry()
    settings = folder / "wharfage.toml"
    account = "123456789012"
    async with hub.serving() as first, quay.serving() as second:
        role = f"arn:aws:iam::{account}:role/mirror"
        settings.write_text(f"""
            [server]
            trusted_proxies = ["127.0.0.1"]
            [registry]
            account = "{account}"
            [pull_through]
            upstreams = ["http://{first}", "http://{second}"]
            [[mirror]]
            host = "docker.mirror.example"
            rule = "hub"
            ns = ["docker.io"]
            principal = "{role}"
            networks = ["10.0.0.0/8"]
            [[mirror]]
            host = "docker.mirror.example"
            rule = "quay"
            ns = ["quay.io"]
            principal = "{role}"
            networks = ["10.0.0.0/8"]
            [[mirror]]
            host = "private.mirror.example"
            rule = "hub"
        """)
        server = await asyncio.to_thread(
            Server.start, folder / "data", workers=2, flags=["--config", str(settings)], watched=True
        )
        try:
            rows = MetadataClient.connect(f"unix:{server.data}/run/metadata.sock")
            async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True)) as session:
                there = World(hub, quay, server, session, rows, account)
                await there.iam("CreateRole", RoleName="mirror", AssumeRolePolicyDocument=TRUST)
                await there.iam("PutRolePolicy", RoleName="mirror", PolicyName="pulls", PolicyDocument=PULLS)
                for prefix, far in (("hub", hub), ("quay", quay)):
                    made = {"ecrRepositoryPrefix": prefix, "upstreamRegistryUrl": far.address}
                    if prefix in rule:
                        made["upstreamRepositoryPrefix"] = rule[prefix]
                    await rows.call(account, "CreatePullThroughCacheRule", made)
                yield there
            await rows.close()
        finally:
            await asyncio.to_thread(server.stop)


async def test_an_anonymous_pull_of_an_upstreams_name_counts_as_the_role(tmp_path: Path) -> None:
    """The login that docker sends for Docker Hub changes nothing, goes nowhere, and stands in no log."""
    async with world(tmp_path) as there:
        name = there.hub.add_image("library/alpine", "3", b"layer")
        [config, layer] = [each["digest"] for each in _described(there.hub, "library/alpine", "3")]
        for login in ({}, {"Authorization": HUB_LOGIN}):
            assert (await there.get("", **login))[0] == 200
            status, headers, _ = await there.get("library/alpine/manifests/3", **login)
            assert (status, headers["docker-content-digest"]) == (200, name)
            assert "oci-namespace" not in headers
            assert (await there.get(f"library/alpine/blobs/{layer}", **login))[2] == b"layer"
            assert (await there.get(f"library/alpine/blobs/{config}", method="HEAD", **login))[0] == 200
        assert all(each.authorization == "" for each in there.hub.asked)
        found = await there.rows.call(there.account, "DescribeImages", {"repositoryName": "hub/library/alpine"})
        assert found["imageDetails"][0]["imageTags"] == ["3"]
        audited = await there.audited("BatchGetImage", 2)
        assert {each["userIdentity"]["arn"] for each in audited} == {
            f"arn:aws:sts::{there.account}:assumed-role/mirror/anonymous"
        }
        assert {each["requestParameters"]["repositoryName"] for each in audited} == {"hub/library/alpine"}
        assert {each["sourceIPAddress"] for each in audited} == {INSIDE}
        for log in (there.server.data / "audit" / "audit.jsonl", there.server.daemon.log):
            text = await asyncio.to_thread(log.read_text)
            assert "dckr_pat" not in text
            assert HUB_LOGIN.partition(" ")[2] not in text


async def test_ns_chooses_the_rule_and_is_echoed(tmp_path: Path) -> None:
    """What no entry names has nothing here: nobody gets another upstream's image under the name that was asked for."""
    async with world(tmp_path) as there:
        await there.iam("PutRolePolicy", RoleName="mirror", PolicyName="pulls", PolicyDocument=_everywhere())
        hub = there.hub.add_image("team/app", "1", b"of the hub")
        quay = there.quay.add_image("team/app", "1", b"of quay")
        for query, digest, namespace in (
            ("", hub, None),
            ("?ns=docker.io", hub, "docker.io"),
            ("?ns=quay.io", quay, "quay.io"),
        ):
            for _ in range(3):  # the third may come from the cache of responses
                status, headers, _ = await there.get(f"team/app/manifests/1{query}")
                assert (status, headers["docker-content-digest"]) == (200, digest)
                assert headers.get("oci-namespace") == namespace
        layer = _described(there.quay, "team/app", "1")[1]["digest"]
        status, headers, body = await there.get(f"team/app/blobs/{layer}?ns=quay.io")
        assert (status, body, headers["oci-namespace"]) == (200, b"of quay", "quay.io")
        status, _, body = await there.get("team/app/manifests/1?ns=ghcr.io")
        assert (status, json.loads(body)["errors"][0]["code"]) == (404, "NAME_UNKNOWN")


async def test_from_other_networks_and_without_a_role_credentials_are_needed(tmp_path: Path) -> None:
    async with world(tmp_path) as there:
        there.hub.add_image("library/alpine", "3", b"layer")
        assert (await there.get("library/alpine/manifests/3", source=OUTSIDE))[0] == 401
        assert (await there.get("", source=OUTSIDE))[0] == 401
        assert (await there.get("library/alpine/manifests/3", host="private.mirror.example"))[0] == 401
        assert (await there.get("hub/library/alpine/manifests/3", host="registry.example"))[0] == 401
        assert there.hub.asked == []
        password = await asyncio.to_thread(there.server.password)
        ours = {"Authorization": "Basic " + base64.b64encode(f"AWS:{password}".encode()).decode()}
        for host, source in (("private.mirror.example", INSIDE), ("docker.mirror.example:5000", OUTSIDE)):
            assert (await there.get("library/alpine/manifests/3", host, source, **ours))[0] == 200
        for event in await there.audited("BatchGetImage", 2):
            assert event["userIdentity"]["type"] == "IAMUser"


async def test_the_roles_policies_decide_and_a_change_counts_at_once(tmp_path: Path) -> None:
    async with world(tmp_path) as there:
        there.hub.add_image("team/app", "1", b"layer")
        there.quay.add_image("team/app", "1", b"layer")
        assert (await there.get("team/app/manifests/1?ns=quay.io"))[0] == 403  # its policy is about hub/*
        for _ in range(3):
            assert (await there.get("team/app/manifests/1"))[0] == 200
        for _ in range(3):
            await there.iam("DeleteRolePolicy", RoleName="mirror", PolicyName="pulls")
            assert (await there.get("team/app/manifests/1"))[0] == 403
            await there.iam("PutRolePolicy", RoleName="mirror", PolicyName="pulls", PolicyDocument=PULLS)
            assert (await there.get("team/app/manifests/1"))[0] == 200
        await there.rows.revoke(f"arn:aws:iam::{there.account}:role/mirror")
        assert (await there.get("team/app/manifests/1"))[0] == 200  # nothing was issued to anybody
        await there.iam("DeleteRolePolicy", RoleName="mirror", PolicyName="pulls")
        await there.iam("DeleteRole", RoleName="mirror")
        assert (await there.get("team/app/manifests/1"))[0] == 401


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("PUT", "team/app/manifests/1"),
        ("DELETE", "team/app/manifests/1"),
        ("POST", "team/app/blobs/uploads/"),
        ("GET", "_catalog"),
        ("GET", "team/app/tags/list"),
    ],
)
async def test_a_mirror_serves_pulls_alone(tmp_path: Path, method: str, path: str) -> None:
    async with world(tmp_path) as there:
        await there.iam("PutRolePolicy", RoleName="mirror", PolicyName="pulls", PolicyDocument=_everywhere("ecr:*"))
        assert (await there.get(path, method=method))[0] == 405
        password = await asyncio.to_thread(there.server.password)
        ours = {"Authorization": "Basic " + base64.b64encode(f"AWS:{password}".encode()).decode()}
        assert (await there.get(path, source=OUTSIDE, method=method, **ours))[0] == 405


async def test_a_rule_with_an_upstream_prefix_serves_what_is_below_it(tmp_path: Path) -> None:
    async with world(tmp_path, hub="team") as there:
        name = there.hub.add_image("team/app", "1", b"layer")
        there.hub.add_image("other/app", "1", b"layer")
        assert (await there.get("team/app/manifests/1"))[1]["docker-content-digest"] == name
        assert (await there.get("other/app/manifests/1"))[0] == 404
        found = await there.rows.call(there.account, "DescribeRepositories", {})
        assert [each["repositoryName"] for each in found["repositories"]] == ["hub/app"]


def _everywhere(*actions: str) -> dict[str, Any]:
    [statement] = PULLS["Statement"]
    return {"Statement": [{**statement, "Action": list(actions) or statement["Action"], "Resource": "*"}]}


def _described(far: FarRegistry, repository: str, tag: str) -> list[dict[str, Any]]:
    document = json.loads(far.manifests[repository, tag][1])
    return [document["config"], *document["layers"]]
