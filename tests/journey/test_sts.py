"""Temporary credentials, by boto3 and over `/v2/`: roles taken by its own providers, sessions narrowed and revoked."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiohttp
import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from proxy.awsmodel import models
from proxy.ecr.sts.issuers import UNVERIFIABLE, Issuers
from support.issuer import DISCOVERY, Issuer, status
from support.oci_requests import digest_of, push_image
from support.whole_registry import ACCOUNT, REGION, WholeRegistry, whole_registry

models.service("sts")  # read before a loop runs that must not wait

_session = boto3.session.Session()  # it keeps the API models, which take 0.1 s to read
LAYER = b"a layer of the base image"
ANNA = f"arn:aws:iam::{ACCOUNT}:user/anna"
ROLE = f"arn:aws:iam::{ACCOUNT}:role/ci"
SESSION = f"arn:aws:sts::{ACCOUNT}:assumed-role/ci/build"
POWER_USER = "arn:aws:iam::aws:policy/AmazonEC2ContainerRegistryPowerUser"
PULLS = ["ecr:GetAuthorizationToken", "ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer"]


def policy(effect: str, action: Any, **more: Any) -> str:
    return json.dumps({"Version": "2012-10-17", "Statement": [{"Effect": effect, "Action": action, **more}]})


def trusting(principal: Any, action: str = "sts:AssumeRole", condition: Any = None) -> str:
    return policy("Allow", action, Principal=principal, **({"Condition": condition} if condition else {}))


class World:
    def __init__(self, registry: WholeRegistry, owner: tuple[str, str], anna: tuple[str, str]) -> None:
        self.registry = registry
        self.owner = owner
        self.anna = anna

    def client(self, service: str, key: tuple[str, ...]) -> Any:
        """For an access key, or one with a session token."""
        names = ("aws_access_key_id", "aws_secret_access_key", "aws_session_token")
        return _session.client(
            service,
            endpoint_url=self.registry.url,
            region_name=REGION,
            config=Config(retries={"total_max_attempts": 1}),
            **dict(zip(names, key, strict=False)),
        )

    async def aws(self, key: tuple[str, ...], service: str, operation: str, **parameters: Any) -> dict[str, Any]:
        answer: dict[str, Any] = await asyncio.to_thread(
            lambda: self.client(service, key)._make_api_call(operation, parameters)
        )
        return answer

    async def refused(self, key: tuple[str, ...], service: str, operation: str, **parameters: Any) -> tuple[str, str]:
        with pytest.raises(ClientError) as caught:
            await self.aws(key, service, operation, **parameters)
        return caught.value.response["Error"]["Code"], caught.value.response["Error"]["Message"]

    async def iam(self, operation: str, **parameters: Any) -> None:
        await self.registry.metadata.iam(ACCOUNT, operation, parameters)

    async def role(self, trust: str, attached: str = POWER_USER) -> None:
        await self.iam("CreateRole", RoleName="ci", AssumeRolePolicyDocument=trust)
        await self.iam("AttachRolePolicy", RoleName="ci", PolicyArn=attached)

    async def assume(self, key: tuple[str, ...], **more: Any) -> tuple[str, str, str]:
        answer = await self.aws(key, "sts", "AssumeRole", RoleArn=ROLE, RoleSessionName="build", **more)
        return temporary(answer)

    async def docker(self, key: tuple[str, ...]) -> aiohttp.ClientSession:
        """As `docker login` with the password that the key gets; to be closed."""
        data = (await self.aws(key, "ecr", "GetAuthorizationToken"))["authorizationData"][0]
        assert base64.b64decode(data["authorizationToken"]).startswith(b"AWS:")
        http = aiohttp.ClientSession(
            self.registry.url, headers={"Authorization": f"Basic {data['authorizationToken']}"}
        )
        async with http.get("/v2/") as answer:
            assert answer.status == 200
        return http


def temporary(answer: dict[str, Any]) -> tuple[str, str, str]:
    found = answer["Credentials"]
    return found["AccessKeyId"], found["SecretAccessKey"], found["SessionToken"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Issuer:
    return Issuer(tmp_path_factory.mktemp("issuer"))


@pytest.fixture
async def issuer(made: Issuer) -> AsyncIterator[Issuer]:
    made.paths = {}
    await made.begin()
    yield made
    await made.finish()


@pytest.fixture
def clock() -> list[float]:
    """What the issuers' keys are kept by: one number, which a test may raise."""
    return [1000.0]


@pytest.fixture
async def world(tmp_path: Path, issuer: Issuer, clock: list[float]) -> AsyncIterator[World]:
    issuers = Issuers([issuer.url], tls=issuer.trusting, clock=lambda: clock[0])
    async with whole_registry(tmp_path, issuers=issuers) as registry:
        owner = await registry.give_key(ACCOUNT, "administrator")
        await registry.metadata.iam(ACCOUNT, "CreateUser", {"UserName": "anna"})
        found = World(registry, owner, await registry.give_key(ACCOUNT, "anna"))
        async with await found.docker(owner) as http:
            await push_image(http, "team/app", "v1", [LAYER])
        yield found


@pytest.fixture
def aws_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, WholeRegistry], None]:
    """Write ~/.aws/config, as far as an SDK can tell."""

    def write(text: str, registry: WholeRegistry) -> None:
        file = tmp_path / "aws-config"
        file.write_text(text)
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("AWS_CONFIG_FILE", str(file))
        monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
        monkeypatch.setenv("AWS_ENDPOINT_URL", registry.url)
        monkeypatch.setenv("AWS_REGION", REGION)
        monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")

    return write


def of_profile(name: str, operation: str, service: str = "sts", **parameters: Any) -> dict[str, Any]:
    session = boto3.session.Session(profile_name=name, region_name=REGION)
    answer: dict[str, Any] = session.client(service)._make_api_call(operation, parameters)
    return answer


async def test_a_profile_with_a_role_takes_it_by_itself(
    world: World, aws_files: Callable[[str, WholeRegistry], None]
) -> None:
    await world.role(trusting({"AWS": ANNA}, condition={"StringEquals": {"sts:ExternalId": "e-77"}}))
    aws_files(
        f"""
[profile anna]
aws_access_key_id = {world.anna[0]}
aws_secret_access_key = {world.anna[1]}
[profile ci]
role_arn = {ROLE}
role_session_name = build
source_profile = anna
external_id = e-77
[profile stranger]
role_arn = {ROLE}
source_profile = anna
""",
        world.registry,
    )
    identity = await asyncio.to_thread(of_profile, "ci", "GetCallerIdentity")
    assert identity["Arn"] == SESSION
    found = await asyncio.to_thread(of_profile, "ci", "DescribeRepositories", "ecr")
    assert [each["repositoryName"] for each in found["repositories"]] == ["team/app"]
    with pytest.raises(ClientError) as caught:
        await asyncio.to_thread(of_profile, "stranger", "GetCallerIdentity")
    assert caught.value.response["Error"] == {
        "Type": "Sender",
        "Code": "AccessDenied",
        "Message": f"User: {ANNA} is not authorized to perform: sts:AssumeRole on resource: {ROLE}",
    }


async def test_a_profile_with_a_token_file_takes_its_role_by_web_identity(
    world: World, issuer: Issuer, tmp_path: Path, aws_files: Callable[[str, WholeRegistry], None]
) -> None:
    url = issuer.url.removeprefix("https://")
    provider = f"arn:aws:iam::{ACCOUNT}:oidc-provider/{url}"
    await world.iam("CreateOpenIDConnectProvider", Url=issuer.url, ClientIDList=["sts.amazonaws.com"])
    condition = {"StringEquals": {f"{url}:sub": "system:serviceaccount:ci:build"}}
    await world.role(trusting({"Federated": provider}, "sts:AssumeRoleWithWebIdentity", condition))
    file = tmp_path / "token"
    await asyncio.to_thread(file.write_text, issuer.token())
    aws_files(
        f"[profile pod]\nrole_arn = {ROLE}\nrole_session_name = build\nweb_identity_token_file = {file}\n",
        world.registry,
    )
    identity = await asyncio.to_thread(of_profile, "pod", "GetCallerIdentity")
    assert identity["Arn"] == SESSION
    assert (await asyncio.to_thread(of_profile, "pod", "DescribeImages", "ecr", repositoryName="team/app"))[
        "imageDetails"
    ]


async def test_each_fault_of_a_web_identity_is_an_exception_of_the_model(
    world: World, issuer: Issuer, clock: list[float]
) -> None:
    url = issuer.url.removeprefix("https://")
    await world.iam("CreateOpenIDConnectProvider", Url=issuer.url, ClientIDList=["sts.amazonaws.com"])
    provider = f"arn:aws:iam::{ACCOUNT}:oidc-provider/{url}"
    await world.role(trusting({"Federated": provider}, "sts:AssumeRoleWithWebIdentity"))

    async def said(token: str, **more: Any) -> tuple[str, str]:
        given = {"RoleArn": ROLE, "RoleSessionName": "build", "WebIdentityToken": token, **more}
        return await world.refused(world.anna, "sts", "AssumeRoleWithWebIdentity", **given)

    code, message = await said(issuer.token(exp=int(time.time()) - 900))
    assert code == "ExpiredTokenException"
    assert message.startswith("Token expired: current date/time ")
    assert await said(issuer.token(aud="others")) == ("InvalidIdentityToken", "Incorrect token audience")
    assert (await said("not-a-token"))[0] == "InvalidIdentityToken"
    assert (await said(issuer.token(), Policy="{}"))[0] == "MalformedPolicyDocument"
    assert (await said(issuer.token(), DurationSeconds=43_200))[0] == "ValidationError"
    issuer.paths[DISCOVERY] = status(503)
    clock[0] += 601  # keys are kept for ten minutes
    assert await said(issuer.token()) == ("IDPCommunicationError", UNVERIFIABLE)


async def test_a_session_narrowed_to_pulls_logs_docker_in_pulls_and_cannot_push(world: World) -> None:
    await world.role(trusting({"AWS": ANNA}))
    whole = await world.assume(world.anna)
    narrow = await world.assume(world.anna, Policy=policy("Allow", PULLS, Resource="*"))
    for key, pushes in ((narrow, False), (whole, True)):
        async with await world.docker(key) as http:
            async with http.get("/v2/team/app/manifests/v1") as answer:
                assert answer.status == 200
            async with http.get(f"/v2/team/app/blobs/{digest_of(LAYER)}") as answer:
                assert await answer.read() == LAYER
            async with http.post("/v2/team/app/blobs/uploads/") as answer:
                if pushes:
                    assert answer.status == 202
                    continue
                assert answer.status == 403
                said = (await answer.json())["errors"][0]["message"]
                assert said.startswith(f"User: {SESSION} is not authorized to perform: ecr:InitiateLayerUpload")
                assert said.endswith("because no session policy allows the ecr:InitiateLayerUpload action")


async def test_a_session_ends_with_its_role_and_by_a_policy_on_its_issue_time(world: World) -> None:
    await world.role(trusting({"AWS": ANNA}))
    key = await world.assume(world.anna)
    assert await world.aws(key, "ecr", "DescribeRepositories")
    async with await world.docker(key) as http:
        revoking = policy(
            "Deny", "*", Resource="*", Condition={"DateLessThan": {"aws:TokenIssueTime": "2100-01-01T00:00:00Z"}}
        )
        await world.iam("PutRolePolicy", RoleName="ci", PolicyName="revoke", PolicyDocument=revoking)
        assert (await world.refused(key, "ecr", "DescribeRepositories"))[0] == "AccessDeniedException"
        async with http.get("/v2/team/app/manifests/v1") as answer:
            assert answer.status == 403
        await world.iam("DeleteRolePolicy", RoleName="ci", PolicyName="revoke")
        assert await world.aws(key, "ecr", "DescribeRepositories")
        await world.iam("DetachRolePolicy", RoleName="ci", PolicyArn=POWER_USER)
        await world.iam("DeleteRole", RoleName="ci")
        assert (await world.refused(key, "ecr", "DescribeRepositories"))[0] == "UnrecognizedClientException"
        async with http.get("/v2/team/app/manifests/v1") as answer:
            assert answer.status == 401


async def test_a_session_token_is_its_user_but_not_at_iam(world: World) -> None:
    key = temporary(await world.aws(world.owner, "sts", "GetSessionToken"))
    assert (await world.aws(key, "sts", "GetCallerIdentity"))["Arn"].endswith(":user/administrator")
    assert await world.aws(key, "ecr", "DescribeRepositories")
    assert (await world.refused(key, "iam", "ListUsers"))[0] in ("InvalidClientTokenId", "AccessDenied")
    assert await world.refused(key, "sts", "GetSessionToken") == (
        "AccessDenied",
        "Cannot call GetSessionToken with session credentials",
    )


async def test_each_fault_of_a_session_asked_for_is_an_exception_of_the_model(world: World) -> None:
    trust = policy("Allow", ["sts:AssumeRole", "sts:TagSession"], Principal={"AWS": ANNA})
    await world.role(trust)

    async def said(**more: Any) -> str:
        given = {"RoleArn": ROLE, "RoleSessionName": "build", **more}
        return (await world.refused(world.anna, "sts", "AssumeRole", **given))[0]

    words = [hashlib.sha256(str(number).encode()).hexdigest() for number in range(50)]
    assert await said(Tags=[{"Key": word[:9], "Value": word * 3} for word in words]) == "PackedPolicyTooLarge"
    assert await said(Policy="{") == "MalformedPolicyDocument"
    assert await said(DurationSeconds=3601) == "ValidationError"
    assert await said(SerialNumber="arn:aws:iam::1:mfa/anna", TokenCode="123456") == "AccessDenied"
    assert (await world.refused(world.anna, "sts", "GetFederationToken", Name="anna"))[0] == "InvalidAction"
