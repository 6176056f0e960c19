"""Credentials that SDKs and the aws command find by themselves: a profile with a role, one with a token of an issuer.

A real server, a real issuer, and ~/.aws/config as users write it.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError

from support.aws_command import REGION, Aws
from support.issuer import Issuer, github, sign
from support.policies import LOGIN, PUSH, allow, policy
from support.registry import Registry
from support.server import Server

ACCOUNT = "123456789012"
ROLES = f"arn:aws:iam::{ACCOUNT}:role"
SESSIONS = f"arn:aws:sts::{ACCOUNT}:assumed-role"
BRANCH = "repo:octo-org/app:ref:refs/heads/main"
ENVIRONMENT = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE", "AWS_ROLE_ARN")


@dataclass(frozen=True, slots=True)
class World:
    """`files` are what an SDK's environment names; `iam` is the administrator's client."""

    server: Server
    issuer: Issuer
    files: dict[str, str]
    folder: Path
    iam: Any

    async def arn(self, profile: str) -> str:
        """Who boto3 is with this profile."""
        found = await asyncio.to_thread(of_profile, profile, "sts", "GetCallerIdentity")
        arn: str = found["Arn"]
        return arn

    def aws(self) -> Aws:
        """The aws command with the same files, and no key in its environment."""
        return Aws(self.server.url, self.folder, (), self.files)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Issuer:
    return Issuer(tmp_path_factory.mktemp("issuer"))


@pytest.fixture
async def world(
    made: Issuer, start_server: Callable[..., Server], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[World]:
    """A user anna, the roles ci, next and push, and profiles that take them."""
    await made.begin()
    extra = {"WHARFAGE_STS_OIDC_ISSUERS": made.url, "WHARFAGE_STS_OIDC_CA_BUNDLE": str(made.ca)}
    server = await asyncio.to_thread(start_server, workers=2, extra=extra)
    files = {
        "AWS_CONFIG_FILE": str(tmp_path / "config"),
        "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "credentials"),
        "AWS_ENDPOINT_URL": server.url,
        "AWS_DEFAULT_REGION": REGION,
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    for name in ENVIRONMENT:
        monkeypatch.delenv(name, raising=False)
    for name, value in files.items():
        monkeypatch.setenv(name, value)
    iam = await asyncio.to_thread(_prepare, server, made, tmp_path)
    yield World(server, made, files, tmp_path, iam)
    await made.finish()
    await asyncio.to_thread(server.stop)


def _prepare(server: Server, issuer: Issuer, folder: Path) -> Any:
    key = server.credentials()
    names = {"aws_access_key_id": key[0], "aws_secret_access_key": key[1]}
    iam = boto3.session.Session(**names, region_name=REGION).client("iam")
    iam.create_user(UserName="anna")
    anna = iam.create_access_key(UserName="anna")["AccessKey"]
    url = issuer.url.removeprefix("https://")
    provider = iam.create_open_id_connect_provider(Url=issuer.url, ClientIDList=["sts.amazonaws.com"])
    federated = {"Federated": provider["OpenIDConnectProviderArn"]}
    equals = {"StringEquals": {f"{url}:sub": BRANCH, f"{url}:aud": "sts.amazonaws.com"}}
    for name, trust in (
        ("ci", allow("sts:AssumeRole", Principal={"AWS": f"arn:aws:iam::{ACCOUNT}:user/anna"})),
        ("push", allow("sts:AssumeRoleWithWebIdentity", Principal=federated, Condition=equals)),
    ):
        _role(iam, name, trust)
    _role(iam, "next", allow("sts:AssumeRole", Principal={"AWS": f"{ROLES}/ci"}))
    may = policy(allow([LOGIN, "ecr:CreateRepository", *PUSH], Resource="*"))
    iam.put_role_policy(RoleName="push", PolicyName="push", PolicyDocument=_text(may))
    (folder / "credentials").write_text(
        f"[anna]\naws_access_key_id = {anna['AccessKeyId']}\naws_secret_access_key = {anna['SecretAccessKey']}\n"
    )
    (folder / "config").write_text(
        f"[profile ci]\nrole_arn = {ROLES}/ci\nrole_session_name = build\nsource_profile = anna\n"
        f"[profile next]\nrole_arn = {ROLES}/next\nrole_session_name = onwards\nsource_profile = ci\n"
        f"[profile stranger]\nrole_arn = {ROLES}/next\nsource_profile = anna\n"
        f"[profile github]\nrole_arn = {ROLES}/push\nrole_session_name = run\n"
        f"web_identity_token_file = {folder / 'token'}\n"
    )
    _write_token(issuer, folder)
    return iam


def _role(iam: Any, name: str, trust: dict[str, Any]) -> None:
    iam.create_role(RoleName=name, AssumeRolePolicyDocument=_text(policy(trust)))


def _text(document: dict[str, Any]) -> str:
    return json.dumps(document)


def _write_token(issuer: Issuer, folder: Path, **claims: Any) -> None:
    """The token that GitHub gives a workflow, in the profile's file."""
    now = time.time()
    (folder / "token").write_text(sign(github(issuer.url, now, **claims), issuer.keys["one"], kid="one"))


def of_profile(name: str, service: str, operation: str, **parameters: Any) -> dict[str, Any]:
    """A call by boto3 with nothing but a profile."""
    client = boto3.session.Session(profile_name=name).client(service)
    answer: dict[str, Any] = client._make_api_call(operation, parameters)
    return answer


async def test_boto3_takes_the_roles_of_profiles_one_after_the_other(world: World) -> None:
    assert await world.arn("ci") == f"{SESSIONS}/ci/build"
    assert await world.arn("next") == f"{SESSIONS}/next/onwards"
    with pytest.raises(ClientError) as caught:
        await world.arn("stranger")
    anna = f"User: arn:aws:iam::{ACCOUNT}:user/anna"
    denied = f"{anna} is not authorized to perform: sts:AssumeRole on resource: {ROLES}/next"
    assert caught.value.response["Error"]["Message"].startswith(denied)


async def test_boto3_takes_a_role_by_a_token_in_a_file_and_not_by_another_branchs(world: World) -> None:
    assert await world.arn("github") == f"{SESSIONS}/push/run"
    await asyncio.to_thread(_write_token, world.issuer, world.folder, sub=BRANCH.replace("main", "fork"))
    with pytest.raises(ClientError) as caught:
        await world.arn("github")
    assert caught.value.response["Error"]["Message"] == "Not authorized to perform sts:AssumeRoleWithWebIdentity"
    await asyncio.to_thread(_write_token, world.issuer, world.folder, exp=int(time.time()) - 900)
    with pytest.raises(ClientError) as caught:
        await world.arn("github")
    assert caught.value.response["Error"]["Code"] == "ExpiredTokenException"


@pytest.mark.clients
@pytest.mark.needs("aws")
async def test_a_workflow_logs_in_with_its_token_and_pushes(world: World) -> None:
    """`aws ecr get-login-password --profile github`: no key anywhere. It may not do more than its role."""
    aws = world.aws()
    who = await asyncio.to_thread(aws, "aws sts get-caller-identity --profile github")
    assert who["Arn"] == f"{SESSIONS}/push/run"
    assert (await asyncio.to_thread(aws, "aws sts get-caller-identity --profile next"))["Arn"].endswith("/onwards")
    password = await asyncio.to_thread(aws.text, "aws ecr get-login-password --profile github")
    refused = await asyncio.to_thread(aws.error, "aws ecr describe-repositories --profile github")
    assert f"User: {SESSIONS}/push/run is not authorized to perform: ecr:DescribeRepositories" in refused
    async with Registry(world.server.url, password) as docker:
        await docker.push_image("octo-org/app", "main", [b"a layer"])
