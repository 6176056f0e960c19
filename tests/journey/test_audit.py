"""The audit trail of a real server: complete, in order, without a secret, and kept over a kill."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import http.client
import json
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import aiohttp
import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError
from yarl import URL

from proxy.audit.outputs import RotatedFile
from proxy.audit.trail import LOST, OMITTED, WrittenTrail
from proxy.awsmodel import models
from proxy.ecr.sts.issuers import Issuers
from support.connections import Connection
from support.disks import fill, mounted
from support.issuer import Issuer
from support.oci_requests import OCI_IMAGE, digest_of, image, push_image
from support.programs import Daemon
from support.server import Server, free_port
from support.whole_registry import ACCOUNT, REGION, WholeRegistry, whole_registry

models.service("sts")  # read before a loop runs that must not wait
models.service("iam")

MARKER = "xx-this-must-be-nowhere-xx"
LAYER = f"a layer with {MARKER}".encode()
_session = boto3.session.Session()


def events_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


class World:
    """A registry with a trail in a file, and every secret that it ever told anybody."""

    def __init__(self, registry: WholeRegistry, issuer: Issuer, path: Path, finish: Callable[[], None]) -> None:
        self.registry = registry
        self.issuer = issuer
        self.path = path
        self.finish = finish
        self.secrets: set[str] = {MARKER, registry.password}

    async def aws(self, key: tuple[str, ...], service: str, operation: str, **given: Any) -> dict[str, Any]:
        names = ("aws_access_key_id", "aws_secret_access_key", "aws_session_token")
        self.secrets |= set(key[1:])
        client = _session.client(
            service,
            endpoint_url=self.registry.url,
            region_name=REGION,
            config=Config(retries={"total_max_attempts": 1}),
            **dict(zip(names, key, strict=False)),
        )
        with contextlib.suppress(ClientError):
            answer: dict[str, Any] = await asyncio.to_thread(client._make_api_call, operation, given)
            self._learn(answer)
            return answer
        return {}

    def _learn(self, told: Any) -> None:
        if isinstance(told, dict):
            for name, value in told.items():
                if name in ("SecretAccessKey", "SessionToken", "authorizationToken"):
                    self.secrets.add(value)
                self._learn(value)
        elif isinstance(told, list):
            for each in told:
                self._learn(each)

    async def role(self, name: str, trust: dict[str, Any], key: tuple[str, ...]) -> None:
        statement = {"Effect": "Allow", **trust}
        document = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
        await self.aws(key, "iam", "CreateRole", RoleName=name, AssumeRolePolicyDocument=document)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    issuer = await asyncio.to_thread(Issuer, tmp_path)
    await issuer.begin()
    path = tmp_path / "audit" / "audit.jsonl"
    out = RotatedFile(path, rotate_bytes=1 << 30, keep=1)
    trail = WrittenTrail(out.write)
    issuers = Issuers([issuer.url], tls=issuer.trusting, clock=time.monotonic)
    async with whole_registry(tmp_path, trail=trail, issuers=issuers) as registry:
        yield World(registry, issuer, path, trail.close)
    await asyncio.to_thread(trail.close)
    out.close()
    await issuer.finish()


async def test_no_secret_of_any_call_gets_into_the_trail(world: World) -> None:
    """Passwords, keys, session and web tokens, signatures, layers and manifests; in calls done and refused."""
    aws, registry = world.aws, world.registry
    owner = await registry.give_key(ACCOUNT, "administrator")
    await aws(owner, "iam", "CreateUser", UserName="anna")
    made = (await aws(owner, "iam", "CreateAccessKey", UserName="anna"))["AccessKey"]
    anna = made["AccessKeyId"], made["SecretAccessKey"]
    await world.role(
        "ci", {"Principal": {"AWS": f"arn:aws:iam::{ACCOUNT}:user/anna"}, "Action": "sts:AssumeRole"}, owner
    )
    role = f"arn:aws:iam::{ACCOUNT}:role/ci"
    taken = (await aws(anna, "sts", "AssumeRole", RoleArn=role, RoleSessionName="build"))["Credentials"]
    session = taken["AccessKeyId"], taken["SecretAccessKey"], taken["SessionToken"]
    await aws(session, "sts", "GetCallerIdentity")
    await aws(session, "ecr", "CreateRepository", repositoryName="team/app")  # denied
    await aws(anna, "sts", "GetSessionToken")
    await aws(owner, "ecr", "GetAuthorizationToken")
    await aws((owner[0], MARKER + "0" * 20), "ecr", "GetAuthorizationToken")  # does not match
    await aws((session[0], session[1], MARKER * 8), "ecr", "GetAuthorizationToken")  # no token of ours
    await aws((MARKER[:20], MARKER * 2), "iam", "ListUsers")

    token = world.issuer.token()
    world.secrets |= {token, token.rpartition(".")[2]}
    provider = f"arn:aws:iam::{ACCOUNT}:oidc-provider/{world.issuer.url.partition('://')[2]}"
    await aws(owner, "iam", "CreateOpenIDConnectProvider", Url=world.issuer.url, ClientIDList=["sts.amazonaws.com"])
    await world.role("web", {"Principal": {"Federated": provider}, "Action": "sts:AssumeRoleWithWebIdentity"}, owner)
    web = {"RoleArn": f"arn:aws:iam::{ACCOUNT}:role/web", "RoleSessionName": "run"}
    await aws(owner, "sts", "AssumeRoleWithWebIdentity", WebIdentityToken=token, **web)
    await aws(owner, "sts", "AssumeRoleWithWebIdentity", WebIdentityToken=f"{MARKER}.{MARKER}.{MARKER}", **web)

    async with registry.client() as http:
        await push_image(http, "team/app", "v1", [LAYER], annotations={"note": MARKER})
        for path in ("manifests/v1", f"blobs/{digest_of(LAYER)}", "tags/list"):
            async with http.get(f"/v2/team/app/{path}") as answer:
                assert answer.status == 200
                await answer.read()
        manifest = image([LAYER + b"!"], annotations={"note": MARKER})
        async with http.put("/v2/team/app/manifests/v2", data=manifest, headers={"Content-Type": OCI_IMAGE}) as answer:
            assert answer.status == 400
    for shown in (f"AWS:{MARKER}", f"{MARKER}:x"):
        header = {"Authorization": "Basic " + base64.b64encode(shown.encode()).decode()}
        world.secrets.add(header["Authorization"].partition(" ")[2])
        async with aiohttp.ClientSession(registry.url, headers=header) as http, http.get("/v2/") as answer:
            assert answer.status == 401
    presigned = _session.client(
        "sts",
        endpoint_url=registry.url,
        region_name=REGION,
        aws_access_key_id=owner[0],
        aws_secret_access_key=owner[1],
    ).generate_presigned_url("get_caller_identity", HttpMethod="GET")
    world.secrets.add(presigned.rpartition("Signature=")[2])
    async with aiohttp.ClientSession() as http, http.get(URL(presigned, encoded=True)) as answer:
        assert answer.status == 200

    await asyncio.to_thread(world.finish)
    written = world.path.read_text()
    assert {each["eventName"] for each in events_of(world.path)} >= {
        "CreateAccessKey", "AssumeRole", "AssumeRoleWithWebIdentity", "GetSessionToken", "GetAuthorizationToken",
        "PutImage", "GetDownloadUrlForLayer", "Authenticate", "GetCallerIdentity",
    }  # fmt: skip
    assert len(world.secrets) > 12
    assert [secret for secret in world.secrets if secret and secret in written] == []
    told = {each["eventName"]: each for each in events_of(world.path) if "errorCode" not in each}
    assert told["AssumeRole"]["responseElements"]["credentials"]["accessKeyId"] == session[0]
    assert told["AssumeRoleWithWebIdentity"]["userIdentity"]["type"] == "WebIdentityUser"
    assert told["AssumeRoleWithWebIdentity"]["userIdentity"]["identityProvider"] == provider


def test_what_was_acknowledged_is_in_the_trail_after_a_kill(tmp_path: Path) -> None:
    """`kill -9` of everything, right after the answer: no write's event is lost; a fresh server goes on in the file."""
    server = Server.start(tmp_path / "data", workers=2)
    path = tmp_path / "data" / "audit" / "audit.jsonl"
    key = server.credentials()
    ecr = boto3.client(
        "ecr",
        endpoint_url=server.url,
        region_name="us-east-1",
        aws_access_key_id=key[0],
        aws_secret_access_key=key[1],
    )
    made = []
    try:
        for number in range(20):
            ecr.create_repository(repositoryName=f"team/app{number}")
            made.append(f"team/app{number}")
    finally:
        server.daemon.kill()
    told = [each["requestParameters"]["repositoryName"] for each in events_of(path)]
    assert told == made
    again = Server.start(tmp_path / "data", workers=2)
    try:
        again.password()
    finally:
        assert again.stop() == 0
    assert [each["eventName"] for each in events_of(path)][20:] == ["GetAuthorizationToken"]
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("to", ["stdout", "none"])
def test_the_trail_goes_where_the_settings_say(tmp_path: Path, to: str) -> None:
    """Standard output holds events and nothing else."""
    data, out, address = tmp_path / "data", tmp_path / "out", f"127.0.0.1:{free_port()}"
    line = f"exec {sys.executable} -m proxy serve --data {data} --listen {address} --workers 2 >{out}"
    server = Server(Daemon.start(["sh", "-c", line], tmp_path / "log", {"WHARFAGE_AUDIT_TO": to}), address, data)
    try:
        server.daemon.wait_until(server.is_ready)
        server.password()
    finally:
        assert server.stop() == 0
    assert not (data / "audit").exists()
    if to == "stdout":
        assert [each["eventName"] for each in events_of(out)] == ["GetAuthorizationToken"]
    else:
        assert '"eventVersion"' not in out.read_text()


def test_a_flood_of_wrong_passwords_leaves_the_main_log_as_it_was(tmp_path: Path) -> None:
    """Its lines go to a bounded file of their own; those it has no room for are counted there."""
    settings = {
        "WHARFAGE_AUDIT_ROTATE_MIB": "1",
        "WHARFAGE_AUDIT_KEEP": "0",
        "WHARFAGE_AUDIT_UNAUTHENTICATED_PER_SECOND": "5",
        "WHARFAGE_SERVER_LOGIN_FAILURES": "0",
    }
    server = Server.start(tmp_path / "data", workers=1, extra=settings)
    folder = tmp_path / "data" / "audit"
    try:
        server.password()
        asyncio.run(_wrong_passwords(server.url, 2000))
    finally:
        assert server.stop() == 0
    assert [each["eventName"] for each in events_of(folder / "audit.jsonl")] == ["GetAuthorizationToken"]
    told = events_of(folder / "unauthenticated.jsonl")
    omitted = [each["requestParameters"]["omittedEvents"] for each in told if each["eventName"] == OMITTED]
    assert len(told) - len(omitted) + sum(omitted) == 2000
    assert len(told) < 500
    assert max(map(len, (folder / "unauthenticated.jsonl").read_bytes().splitlines())) < 4096
    assert {each["userIdentity"]["type"] for each in told} == {"Unknown", "AWSService"}


async def _wrong_passwords(url: str, count: int) -> None:
    header = {"Authorization": "Basic " + base64.b64encode(b"AWS:wrong").decode(), "User-Agent": "x" * 8000}
    async with aiohttp.ClientSession(url, headers=header) as http:

        async def send() -> None:
            for _ in range(count // 20):
                async with http.get("/v2/team/app/manifests/v1") as answer:
                    assert answer.status == 401

        await asyncio.gather(*(send() for _ in range(20)))


def _verify(*given: str) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-m", "proxy", "audit", "verify", *given], capture_output=True, text=True, check=False
    )
    return done.returncode, done.stdout + done.stderr


def test_audit_verify_names_the_line_that_was_changed_or_removed(tmp_path: Path) -> None:
    """While the server runs, over a kill of everything and the start after it, and of copies."""
    data, path = tmp_path / "data", tmp_path / "data" / "audit" / "audit.jsonl"
    server = Server.start(data, workers=2)
    try:
        for _ in range(3):
            server.password()
    finally:
        server.daemon.kill()
    again = Server.start(data, workers=2)
    try:
        for _ in range(3):
            again.password()
        asyncio.run(_wrong_passwords(again.url, 20))
        assert _verify("--data", str(data))[0] == 0
    finally:
        assert again.stop() == 0
    status, said = _verify("--data", str(data))
    assert status == 0, said
    assert f"{path}: whole: 6 lines in 1 files\n" in said
    assert f"{path.with_name('unauthenticated.jsonl')}: whole: " in said
    lines = path.read_bytes().splitlines(keepends=True)
    copy = tmp_path / "audit.jsonl"
    copy.write_bytes(b"".join(lines))
    assert _verify(str(copy))[0] == 0
    copy.write_bytes(b"".join([*lines[:2], lines[2].replace(b"127.0.0.1", b"127.0.0.9"), *lines[3:]]))
    status, said = _verify(str(copy))
    assert status == 1
    assert "line 3: was changed" in said
    path.write_bytes(b"".join([*lines[:1], *lines[3:]]))
    status, said = _verify("--data", str(data))
    assert status == 1
    assert "line 2: 2 lines before it were removed" in said
    path.write_bytes(b"".join(lines[:4]))
    status, said = _verify("--data", str(data))
    assert status == 1
    assert "line 4: the newest 2 lines were removed after it" in said


def test_audit_verify_without_a_log_says_so_in_one_line(tmp_path: Path) -> None:
    status, said = _verify("--data", str(tmp_path))
    assert (status, said.count("\n")) == (1, 1)
    assert "there is no audit log" in said


def readiness(address: str, query: str = "") -> tuple[int, dict[str, Any]]:
    with closing(http.client.HTTPConnection(address, timeout=30)) as line:
        line.request("GET", f"/readyz{query}")
        answer = line.getresponse()
        return answer.status, json.loads(answer.read())


def test_on_a_full_disk_a_required_log_refuses_writes_and_reads_go_on_until_there_is_space(tmp_path: Path) -> None:
    """Each write that was answered as done is in the log, before and after."""
    with mounted(tmp_path / "disk", 4) as disk:
        log = disk / "audit.jsonl"
        settings = {"WHARFAGE_AUDIT_REQUIRED": "true", "WHARFAGE_AUDIT_FILE": str(log)}
        server = Server.start(tmp_path / "data", workers=2, extra=settings)
        try:
            key = server.credentials()
            ecr = boto3.client(
                "ecr",
                endpoint_url=server.url,
                region_name="us-east-1",
                aws_access_key_id=key[0],
                aws_secret_access_key=key[1],
                config=Config(retries={"total_max_attempts": 1}),
            )
            password, made = server.password(), []
            ecr.create_repository(repositoryName="team/first")
            made.append("team/first")
            filler = fill(disk)
            refused = 0
            for number in range(3000):
                with contextlib.suppress(ClientError):
                    ecr.create_repository(repositoryName=f"team/app{number}")
                    made.append(f"team/app{number}")
                    continue
                refused += 1
                if refused == 5:
                    break
            assert refused == 5
            found = [each["repositoryName"] for each in ecr.describe_repositories(maxResults=1000)["repositories"]]
            assert sorted(found) == sorted(made)  # what was refused was not done
            with closing(Connection(server, password)) as line:
                answer = line.ask("POST", "/v2/team/first/blobs/uploads/").expect(503)
                assert b"audit log cannot be written" in answer.body
                line.ask("GET", "/v2/team/first/tags/list").expect(200)
            status, parts = readiness(server.address)
            assert (status, parts["ready"]) == (503, False)
            assert "audit log cannot be written" in parts["audit"]
            assert readiness(server.address, "?exclude=audit")[0] == 200
            filler.unlink()
            ecr.create_repository(repositoryName="team/last")
            made.append("team/last")
            assert readiness(server.address)[0] == 200
        finally:
            assert server.stop() == 0
        told = [
            each["requestParameters"]["repositoryName"]
            for each in events_of(log)
            if each["eventName"] == "CreateRepository" and "errorCode" not in each
        ]
        assert told == made
        assert LOST in {each["eventName"] for each in events_of(log)}
        status, said = _verify(str(log))
        assert status == 0, said
