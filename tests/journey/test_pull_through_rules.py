"""Pull-through cache rules by boto3 and the aws command, against a real server and an upstream that wants a login."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from support.accounts import Key, open_account
from support.aws_command import Aws
from support.other_registry import FarRegistry
from support.policies import allow, policy
from support.server import Server

REGION = "us-east-1"
USER, TOKEN = "me", "t0ken-that-must-be-nowhere"
VALUE = json.dumps({"username": USER, "accessToken": TOKEN})
NAME = "ecr-pullthroughcache/far"
UNSUPPORTED = "UnsupportedUpstreamRegistryException"

_session = boto3.session.Session()


def client(server: Server, key: Key, service: str) -> Any:
    return _session.client(
        service,
        endpoint_url=server.url,
        region_name=REGION,
        aws_access_key_id=key[0],
        aws_secret_access_key=key[1],
        config=Config(retries={"total_max_attempts": 1}),
    )


@dataclass
class World:
    """A server that lists the upstream `far`, and an account of its own."""

    server: Server
    account: str
    key: Key
    far: FarRegistry

    async def ask(self, operation: str, service: str = "ecr", **given: Any) -> dict[str, Any]:
        made = client(self.server, self.key, service)
        answer: dict[str, Any] = await asyncio.to_thread(made._make_api_call, operation, given)
        return {name: value for name, value in answer.items() if name != "ResponseMetadata"}

    async def refused(self, operation: str, **given: Any) -> tuple[str, str]:
        with pytest.raises(ClientError) as caught:
            await self.ask(operation, **given)
        return caught.value.response["Error"]["Code"], caught.value.response["Error"]["Message"]

    async def create(self, prefix: str, url: str, **more: Any) -> dict[str, Any]:
        return await self.ask("CreatePullThroughCacheRule", ecrRepositoryPrefix=prefix, upstreamRegistryUrl=url, **more)

    async def secret(self, value: str = VALUE, name: str = NAME) -> str:
        made = await self.ask("CreateSecret", "secretsmanager", Name=name, SecretString=value)
        return str(made["ARN"])

    async def validate(self, prefix: str) -> tuple[bool, str]:
        found = await self.ask("ValidatePullThroughCacheRule", ecrRepositoryPrefix=prefix)
        return found["isValid"], found.get("failure", "")


@asynccontextmanager
async def started(folder: Path, far: FarRegistry) -> AsyncIterator[World]:
    async with far.serving() as address:
        settings = folder / "wharfage.toml"
        settings.write_text(f'[pull_through]\nupstreams = ["http://{address}", "https://127.0.0.1:9"]\n')
        server = await asyncio.to_thread(Server.start, folder / "data", flags=["--config", str(settings)], watched=True)
        try:
            account = str(random.SystemRandom().randrange(10**11, 10**12))
            yield World(server, account, await asyncio.to_thread(open_account, server, account), far)
        finally:
            await asyncio.to_thread(server.stop)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with started(tmp_path, FarRegistry(basic=f"{USER}:{TOKEN}")) as there:
        yield there


async def test_what_terraform_does_to_a_rule_from_its_making_to_its_end(world: World) -> None:
    """It sends no upstreamRegistry, reads the rule by its prefix, and passes registryId as it deletes."""
    arn = await world.secret()
    made = await world.create("docker-hub", "registry-1.docker.io", credentialArn=arn)
    assert (made["upstreamRegistry"], made["registryId"]) == ("docker-hub", world.account)
    [found] = (await world.ask("DescribePullThroughCacheRules", ecrRepositoryPrefixes=["docker-hub"]))[
        "pullThroughCacheRules"
    ]
    assert (found["credentialArn"], found["upstreamRepositoryPrefix"]) == (arn, "ROOT")
    other = await world.secret(name=f"{NAME}2")
    updated = await world.ask("UpdatePullThroughCacheRule", ecrRepositoryPrefix="docker-hub", credentialArn=other)
    assert updated["credentialArn"] == other
    await world.ask("DeletePullThroughCacheRule", ecrRepositoryPrefix="docker-hub", registryId=world.account)
    code, _ = await world.refused("DescribePullThroughCacheRules", ecrRepositoryPrefixes=["docker-hub"])
    assert code == "PullThroughCacheRuleNotFoundException"


async def test_an_upstream_is_one_that_ecr_knows_or_that_the_operator_lists(world: World) -> None:
    for prefix, url, kind in (
        ("ecr-public", "public.ecr.aws", "ecr-public"),
        ("quay", "quay.io", "quay"),
        ("kubernetes", "registry.k8s.io", "k8s"),
        ("ecr", "210987654321.dkr.ecr.eu-west-1.amazonaws.com", "ecr"),
        ("far", world.far.address, None),
        ("far-by-url", f"http://{world.far.address}", None),
    ):
        assert (await world.create(prefix, url)).get("upstreamRegistry") == kind
    for url, given in (("harbor.example", {}), ("127.0.0.1:1", {}), ("quay.io", {"upstreamRegistry": "k8s"})):
        refused = await world.refused(
            "CreatePullThroughCacheRule", ecrRepositoryPrefix="other", upstreamRegistryUrl=url, **given
        )
        assert refused == (UNSUPPORTED, "The specified upstream registry isn't supported.")


@pytest.mark.parametrize("url", ["registry-1.docker.io", "ghcr.io", "x.azurecr.io", "registry.gitlab.com", "cgr.dev"])
async def test_a_registry_that_wants_a_login_needs_a_secret(world: World, url: str) -> None:
    refused = await world.refused("CreatePullThroughCacheRule", ecrRepositoryPrefix="pp", upstreamRegistryUrl=url)
    assert refused == (UNSUPPORTED, "The specified upstream registry requires authentication")


async def test_a_secret_must_be_there_and_have_the_form_of_one(world: World) -> None:
    arn = await world.secret("not JSON")
    gone = await world.secret(name=f"{NAME}-gone")
    await world.ask("DeleteSecret", "secretsmanager", SecretId=gone)
    cases = (
        (f"{arn[:-6]}AbCdEf", "SecretNotFoundException"),
        (arn.replace(REGION, "eu-west-1"), "SecretNotFoundException"),
        (gone, "UnableToAccessSecretException"),
        (arn, "UnableToDecryptSecretValueException"),
    )
    await world.create("far", world.far.address)
    for given, expected in cases:
        asked = {"ecrRepositoryPrefix": "hub", "upstreamRegistryUrl": "quay.io", "credentialArn": given}
        assert (await world.refused("CreatePullThroughCacheRule", **asked))[0] == expected
        asked = {"ecrRepositoryPrefix": "far", "credentialArn": given}
        assert (await world.refused("UpdatePullThroughCacheRule", **asked))[0] == expected


async def test_validating_asks_the_upstream_with_the_secret_of_that_moment(world: World) -> None:
    arn = await world.secret()
    await world.create("far", world.far.address, credentialArn=arn)
    assert await world.validate("far") == (True, "")
    await world.ask("PutSecretValue", "secretsmanager", SecretId=arn, SecretString=VALUE.replace(TOKEN, "another"))
    valid, failure = await world.validate("far")
    assert (valid, "Access was denied by the upstream registry" in failure) == (False, True)
    await world.ask("PutSecretValue", "secretsmanager", SecretId=arn, SecretString="no JSON")
    assert not (await world.validate("far"))[0]
    await world.ask("DeleteSecret", "secretsmanager", SecretId=arn, ForceDeleteWithoutRecovery=True)
    valid, failure = await world.validate("far")
    assert (valid, "was not found" in failure) == (False, True)
    await world.create("away", "https://127.0.0.1:9")
    valid, failure = await world.validate("away")
    assert (valid, "No answer was given" in failure) == (False, True)
    assert (await world.refused("ValidatePullThroughCacheRule", ecrRepositoryPrefix="none"))[
        0
    ] == "PullThroughCacheRuleNotFoundException"
    _nowhere(world.server)


async def test_a_pull_logs_in_at_the_upstream_with_the_rules_secret(world: World) -> None:
    """The administrator of the default account, whose registry a bare host is."""
    world.key = world.server.credentials()
    name = world.far.add_image("team/app", "1", b"layer")
    await world.create("far", world.far.address, credentialArn=await world.secret())
    password = await asyncio.to_thread(world.server.password)
    async with (
        aiohttp.ClientSession(headers={"Authorization": aiohttp.encode_basic_auth("AWS", password)}) as session,
        session.get(f"{world.server.url}/v2/far/team/app/manifests/1") as answer,
    ):
        assert (answer.status, answer.headers["Docker-Content-Digest"]) == (200, name)
    _nowhere(world.server)


async def test_a_new_secret_is_tried_at_once_by_every_worker(world: World) -> None:
    """Though both have just been refused with the old one."""
    world.key = world.server.credentials()
    name = world.far.add_image("team/new", "1", b"layer")
    arn = await world.secret(VALUE.replace(TOKEN, "old"), name=f"{NAME}-renewed")
    await world.create("renewed", world.far.address, credentialArn=arn)
    password = await asyncio.to_thread(world.server.password)
    auth, each = {"Authorization": aiohttp.encode_basic_auth("AWS", password)}, aiohttp.TCPConnector(force_close=True)
    async with aiohttp.ClientSession(headers=auth, connector=each) as session:

        async def pull() -> int:
            async with session.get(f"{world.server.url}/v2/renewed/team/new/manifests/{name}") as answer:
                return answer.status

        for _ in range(8):
            assert await pull() == 403
        await world.ask("PutSecretValue", "secretsmanager", SecretId=arn, SecretString=VALUE)
        for _ in range(8):
            assert await pull() == 200


async def test_rules_are_of_ones_own_account_and_need_a_right_of_their_own(world: World) -> None:
    rights = policy(allow(["ecr:DescribePullThroughCacheRules", "ecr:ValidatePullThroughCacheRule"], Resource="*"))
    await world.ask("CreateUser", "iam", UserName="ann")
    await world.ask("PutUserPolicy", "iam", UserName="ann", PolicyName="p", PolicyDocument=json.dumps(rights))
    made = (await world.ask("CreateAccessKey", "iam", UserName="ann"))["AccessKey"]
    await world.create("far", world.far.address)
    ann = World(world.server, world.account, (made["AccessKeyId"], made["SecretAccessKey"]), world.far)
    assert len((await ann.ask("DescribePullThroughCacheRules"))["pullThroughCacheRules"]) == 1
    code, text = await ann.refused("DeletePullThroughCacheRule", ecrRepositoryPrefix="far")
    assert (code, "ecr:DeletePullThroughCacheRule on resource" in text) == ("AccessDeniedException", True)
    other = "000000000000" if world.account != "000000000000" else "111111111111"
    for operation in ("DescribePullThroughCacheRules", "DeletePullThroughCacheRule"):
        more = {"ecrRepositoryPrefix": "far"} if operation.startswith("Delete") else {}
        assert (await world.refused(operation, registryId=other, **more))[0] == "AccessDeniedException"


async def test_the_aws_command_makes_lists_validates_and_deletes_a_rule(world: World, tmp_path: Path) -> None:
    arn = await world.secret()
    aws = Aws(world.server.url, tmp_path, world.key)
    given = f"--ecr-repository-prefix far --upstream-registry-url {world.far.address} --credential-arn {arn}"

    def run() -> None:
        aws(f"aws ecr create-pull-through-cache-rule {given} --upstream-repository-prefix team")
        [rule] = aws("aws ecr describe-pull-through-cache-rules")["pullThroughCacheRules"]
        assert (rule["upstreamRepositoryPrefix"], rule["upstreamRegistryUrl"]) == ("team", world.far.address)
        assert aws("aws ecr validate-pull-through-cache-rule --ecr-repository-prefix far")["isValid"] is True
        aws(f"aws ecr update-pull-through-cache-rule --ecr-repository-prefix far --credential-arn {arn}")
        aws("aws ecr delete-pull-through-cache-rule --ecr-repository-prefix far")
        assert aws("aws ecr describe-pull-through-cache-rules")["pullThroughCacheRules"] == []

    await asyncio.to_thread(run)


def _nowhere(server: Server) -> None:
    """The token is in no file of the server's: rows, audit trail, log."""
    files = [path for path in server.data.rglob("*") if path.is_file()]
    held = [server.data.with_name(f"{server.data.name}.log"), *files]
    assert [path for path in held if TOKEN.encode() in path.read_bytes()] == []
