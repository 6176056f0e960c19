"""Another Wharfage as an upstream: rules log in there with a user's access key."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import boto3

from support.pull_through_world import LAYER, World, digest_of, world
from support.registry import Registry
from support.server import Server

PULLS = ["ecr:GetAuthorizationToken", "ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer"]


def puller_of(far: Server) -> dict[str, str]:
    """A user at the upstream who may pull and nothing else: the value of a secret with its access key."""
    key, secret = far.credentials()
    iam = boto3.client(
        "iam", endpoint_url=far.url, region_name="us-east-1", aws_access_key_id=key, aws_secret_access_key=secret
    )
    iam.create_user(UserName="cache")
    document = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": PULLS, "Resource": "*"}]}
    iam.put_user_policy(UserName="cache", PolicyName="pulls", PolicyDocument=json.dumps(document))
    made = iam.create_access_key(UserName="cache")["AccessKey"]
    return {"username": made["AccessKeyId"], "accessToken": made["SecretAccessKey"]}


async def rule_with(there: World, prefix: str, url: str, value: dict[str, str]) -> None:
    secrets, ecr = await there.client("secretsmanager"), await there.client()
    made = await asyncio.to_thread(
        secrets.create_secret, Name=f"ecr-pullthroughcache/{prefix}", SecretString=json.dumps(value)
    )
    await asyncio.to_thread(
        ecr.create_pull_through_cache_rule,
        ecrRepositoryPrefix=prefix,
        upstreamRegistryUrl=url,
        credentialArn=made["ARN"],
    )


async def test_images_of_another_wharfage_are_pulled_with_a_users_access_key(tmp_path: Path) -> None:
    far = await asyncio.to_thread(Server.start, tmp_path / "upstream", workers=1)
    try:
        async with Registry(far.url, await asyncio.to_thread(far.password)) as owner:
            await owner.push_image("team/app", "1", [LAYER])
        value = await asyncio.to_thread(puller_of, far)
        async with world(tmp_path, upstreams=f'[{{url = "{far.url}", region = "us-east-1"}}]') as there:
            await rule_with(there, "good", far.url, value)
            await rule_with(there, "bad", far.url, value | {"accessToken": "x" * 40})
            ecr = await there.client()

            async def validated(prefix: str) -> dict[str, Any]:
                found: dict[str, Any] = await asyncio.to_thread(
                    ecr.validate_pull_through_cache_rule, ecrRepositoryPrefix=prefix
                )
                return found

            assert (await there.get("good/team/app/manifests/1"))[0] == 200
            status, _, body = await there.get(f"good/team/app/blobs/{digest_of(LAYER)}")
            assert (status, body) == (200, LAYER)
            assert (await validated("good"))["isValid"]

            status, _, body = await there.get("bad/team/app/manifests/1")
            assert (status, b"Access was denied by the upstream registry" in body) == (403, True)
            refused = await validated("bad")
            assert (refused["isValid"], "Access was denied" in refused["failure"]) == (False, True)

            await asyncio.to_thread(far.daemon.kill)  # and what it issued stays good when it is back
            far = await asyncio.to_thread(Server.start, tmp_path / "upstream", workers=1, port=far.port)
            async with Registry(far.url, await asyncio.to_thread(far.password)) as owner:
                await owner.push_image("team/app", "2", [LAYER[:100]])
            assert (await there.get("good/team/app/manifests/2"))[0] == 200
            log = (tmp_path / "data.log").read_text() + (there.server.data / "audit/audit.jsonl").read_text()
            assert value["accessToken"] not in log
    finally:
        await asyncio.to_thread(far.stop)
