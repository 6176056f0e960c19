"""Two accounts on one server, by boto3 and over `/v2/`: who may do what, and that what changes counts at once.

Each account's registry has its own host; requests go to the loopback and name the host that they mean.
"""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from proxy.model.identity import Session, SessionKind
from support.oci_requests import digest_of, push_blob, push_image
from support.whole_registry import ACCOUNT, REGION, WholeRegistry, whole_registry

SUFFIX = "registry.example"
OTHER = "210987654321"
LAYER = b"a layer of the base image"
HOST, OTHER_HOST = (f"{account}.dkr.ecr.{REGION}.{SUFFIX}" for account in (ACCOUNT, OTHER))
APP = f"arn:aws:ecr:{REGION}:{ACCOUNT}:repository/team/app"
PULL_ONLY = "arn:aws:iam::aws:policy/AmazonEC2ContainerRegistryPullOnly"
POWER_USER = "arn:aws:iam::aws:policy/AmazonEC2ContainerRegistryPowerUser"
PULL = ["ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer", "ecr:BatchCheckLayerAvailability"]

_session = boto3.session.Session()
Key = tuple[str, str]


def document(effect: str, actions: Any, **more: Any) -> str:
    return json.dumps({"Version": "2012-10-17", "Statement": [{"Effect": effect, "Action": actions, **more}]})


class World:
    """The server, its two administrators, and who else is made."""

    def __init__(self, registry: WholeRegistry, owner: Key, other: Key) -> None:
        self.registry = registry
        self.owner = owner
        self.other = other

    async def aws(
        self, key: tuple[str, ...], operation: str, service: str = "ecr", **parameters: Any
    ) -> dict[str, Any]:
        """`key` may have a session's token."""
        client = _session.client(
            service,
            endpoint_url=self.registry.url,
            region_name=REGION,
            aws_access_key_id=key[0],
            aws_secret_access_key=key[1],
            aws_session_token=key[2] if len(key) > 2 else None,
            config=Config(retries={"total_max_attempts": 1}),
        )
        answer: dict[str, Any] = await asyncio.to_thread(client._make_api_call, operation, parameters)
        return answer

    async def refused(self, key: tuple[str, ...], operation: str, **parameters: Any) -> tuple[str, str]:
        with pytest.raises(ClientError) as caught:
            await self.aws(key, operation, **parameters)
        return caught.value.response["Error"]["Code"], caught.value.response["Error"]["Message"]

    async def user(self, account: str, name: str, *policies: str) -> Key:
        """A user with managed policies (ARNs) and inline ones (documents)."""
        iam = self.registry.metadata.iam
        await iam(account, "CreateUser", {"UserName": name})
        for number, policy in enumerate(policies):
            if policy.startswith("arn:"):
                await iam(account, "AttachUserPolicy", {"UserName": name, "PolicyArn": policy})
            else:
                given = {"UserName": name, "PolicyName": f"p{number}", "PolicyDocument": policy}
                await iam(account, "PutUserPolicy", given)
        return await self.registry.give_key(account, name)

    async def password(self, key: tuple[str, ...]) -> str:
        data = (await self.aws(key, "GetAuthorizationToken"))["authorizationData"][0]
        return base64.b64decode(data["authorizationToken"]).decode().removeprefix("AWS:")

    async def docker(self, key: Key, host: str = HOST) -> aiohttp.ClientSession:
        """Logged in with the key's token; to be closed."""
        return self.session(await self.password(key), host)

    def session(self, password: str, host: str = HOST) -> aiohttp.ClientSession:
        basic = base64.b64encode(f"AWS:{password}".encode()).decode()
        return aiohttp.ClientSession(self.registry.url, headers={"Authorization": f"Basic {basic}", "Host": host})


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with whole_registry(tmp_path, suffix=SUFFIX) as registry:
        owner = await registry.give_key(ACCOUNT, "administrator")
        found = World(registry, owner, await registry.open_account(OTHER))
        async with await found.docker(owner) as http:
            await push_image(http, "team/app", "v1", [LAYER])
        yield found


async def pull(http: aiohttp.ClientSession) -> tuple[int, str]:
    """Manifest and layer; the worst status, and what was said."""
    for path in ("manifests/v1", f"blobs/{digest_of(LAYER)}"):
        async with http.get(f"/v2/team/app/{path}") as answer:
            if answer.status != 200:
                return answer.status, (await answer.json())["errors"][0]["message"]
    return 200, ""


async def push(http: aiohttp.ClientSession, repository: str = "team/app") -> tuple[int, str]:
    async with http.post(f"/v2/{repository}/blobs/uploads/") as answer:
        return answer.status, "" if answer.status == 202 else (await answer.json())["errors"][0]["message"]


async def allow(world: World, *named: str, actions: Any = "ecr:*", **more: Any) -> None:
    text = document("Allow", actions, Principal={"AWS": list(named)}, **more)
    await world.aws(world.owner, "SetRepositoryPolicy", repositoryName="team/app", policyText=text)


def denied(who: str, action: str, why: str) -> str:
    sentence = f"User: {who} is not authorized to perform: {action} on resource: {APP} because no {why} allows the"
    return f"{sentence} {action} action"


async def test_another_account_is_let_in_by_both_sides_and_out_by_either_with_one_sentence_at_both_doors(
    world: World,
) -> None:
    eve = f"arn:aws:iam::{OTHER}:user/eve"
    key = await world.user(OTHER, "eve", PULL_ONLY)
    sentence = denied(eve, "ecr:BatchGetImage", "resource-based policy")
    asking: dict[str, Any] = {
        "registryId": ACCOUNT,
        "repositoryName": "team/app",
        "imageIds": [{"imageTag": "v1"}],
    }
    async with await world.docker(key) as http:
        assert await pull(http) == (403, sentence)
        assert await world.refused(key, "BatchGetImage", **asking) == ("AccessDeniedException", sentence)
        await allow(world, eve)
        assert await pull(http) == (200, "")
        assert len((await world.aws(key, "BatchGetImage", **asking))["images"]) == 1
        assert await push(http) == (403, denied(eve, "ecr:InitiateLayerUpload", "identity-based policy"))
        await allow(world, OTHER, actions="ecr:BatchGetImage")
        assert (await pull(http))[1] == denied(eve, "ecr:GetDownloadUrlForLayer", "resource-based policy")
        await allow(world, OTHER)
        assert await pull(http) == (200, "")
        await world.aws(world.owner, "DeleteRepositoryPolicy", repositoryName="team/app")
        assert await pull(http) == (403, sentence)


async def test_a_user_made_anew_under_an_old_name_gets_nothing_of_the_old_one(world: World) -> None:
    eve = f"arn:aws:iam::{OTHER}:user/eve"
    key = await world.user(OTHER, "eve", POWER_USER)
    await allow(world, eve, actions=PULL)
    async with await world.docker(key) as http:
        assert (await pull(http))[0] == 200
        iam = world.registry.metadata.iam
        old = (await iam(OTHER, "GetUser", {"UserName": "eve"}))["User"]["UserId"]
        await iam(OTHER, "DeleteAccessKey", {"UserName": "eve", "AccessKeyId": key[0]})
        await iam(OTHER, "DetachUserPolicy", {"UserName": "eve", "PolicyArn": POWER_USER})
        await iam(OTHER, "DeleteUser", {"UserName": "eve"})
        async with http.get("/v2/") as answer:
            assert answer.status == 401
    async with await world.docker(await world.user(OTHER, "eve", POWER_USER)) as http:
        assert (await pull(http))[0] == 403
    shown = (await world.aws(world.owner, "GetRepositoryPolicy", repositoryName="team/app"))["policyText"]
    assert json.loads(shown)["Statement"][0]["Principal"]["AWS"] == [old]


async def test_a_user_may_do_what_its_policies_say_from_one_request_to_the_next(world: World) -> None:
    ann = f"arn:aws:iam::{ACCOUNT}:user/ann"
    key = await world.user(ACCOUNT, "ann", PULL_ONLY)
    iam = world.registry.metadata.iam
    async with await world.docker(key) as http:
        assert (await pull(http))[0] == 200
        assert await push(http) == (403, denied(ann, "ecr:InitiateLayerUpload", "identity-based policy"))
        await iam(ACCOUNT, "AttachUserPolicy", {"UserName": "ann", "PolicyArn": POWER_USER})
        assert (await push(http))[0] == 202
        status, said = await push(http, "team/new")
        assert (status, "does not exist in the registry" in said) == (404, True)
        own = document("Allow", "ecr:CreateRepository", Resource=f"{APP.rpartition('/')[0]}/n*")
        await iam(ACCOUNT, "PutUserPolicy", {"UserName": "ann", "PolicyName": "own", "PolicyDocument": own})
        assert (await push(http, "team/new"))[0] == 202
        assert (await push(http, "team/other"))[0] == 404
        await iam(
            ACCOUNT,
            "PutUserPolicy",
            {"UserName": "ann", "PolicyName": "own", "PolicyDocument": document("Deny", "*", Resource="*")},
        )
        assert (await pull(http))[1].endswith("with an explicit deny in an identity-based policy")


async def test_policies_on_tags_follow_the_tags(world: World) -> None:
    text = document(
        "Allow", "ecr:*", Resource="*", Condition={"StringEquals": {"aws:ResourceTag/stage": "${aws:username}"}}
    )
    key = await world.user(ACCOUNT, "test", text, document("Allow", "ecr:GetAuthorizationToken", Resource="*"))
    async with await world.docker(key) as http:
        assert (await pull(http))[0] == 403
        await world.aws(world.owner, "TagResource", resourceArn=APP, tags=[{"Key": "stage", "Value": "test"}])
        assert (await pull(http))[0] == 200
        await world.aws(world.owner, "TagResource", resourceArn=APP, tags=[{"Key": "stage", "Value": "live"}])
        assert (await pull(http))[0] == 403
        await world.aws(world.owner, "TagResource", resourceArn=APP, tags=[{"Key": "stage", "Value": "test"}])
        await world.aws(world.owner, "UntagResource", resourceArn=APP, tagKeys=["stage"])
        assert (await pull(http))[0] == 403
    listed = await world.aws(world.owner, "ListTagsForResource", resourceArn=APP)
    assert listed["tags"] == []


async def test_a_registry_policy_has_its_say_on_every_repository_and_v1_takes_it_away(world: World) -> None:
    key = await world.user(OTHER, "eve", PULL_ONLY)
    text = document("Allow", PULL, Principal={"AWS": OTHER}, Resource=APP.replace("team/app", "*"))
    async with await world.docker(key) as http:
        assert (await world.aws(world.owner, "PutRegistryPolicy", policyText=text))["policyText"] == text
        assert (await pull(http))[0] == 200
        for scope, status in (("V1", 403), ("V2", 200)):
            await world.aws(world.owner, "PutAccountSetting", name="REGISTRY_POLICY_SCOPE", value=scope)
            assert (await pull(http))[0] == status
        assert (await world.aws(world.owner, "GetRegistryPolicy"))["registryId"] == ACCOUNT
        await world.aws(world.owner, "DeleteRegistryPolicy")
        assert (await pull(http))[0] == 403
    assert (await world.refused(world.owner, "GetRegistryPolicy"))[0] == "RegistryPolicyNotFoundException"


async def test_each_host_is_its_own_accounts_registry(world: World) -> None:
    async with await world.docker(world.other, OTHER_HOST) as http:
        assert (await pull(http))[0] == 404
        await push_image(http, "team/app", "v1", [LAYER])
        assert (await pull(http))[0] == 200
        async with http.get("/v2/_catalog") as answer:
            assert (await answer.json())["repositories"] == ["team/app"]
    async with await world.docker(world.other, HOST) as http, http.get("/v2/_catalog") as answer:
        assert answer.status == 403
        assert f"{APP.replace('team/app', '*')} because" in (await answer.json())["errors"][0]["message"]
    own, theirs = [
        (await world.aws(key, "DescribeRepositories"))["repositories"][0] for key in (world.owner, world.other)
    ]
    assert (own["registryId"], theirs["registryId"]) == (ACCOUNT, OTHER)


async def test_a_blob_of_another_account_is_never_mounted(world: World) -> None:
    async with await world.docker(world.other, OTHER_HOST) as http:
        for query in ({"mount": digest_of(LAYER)}, {"mount": digest_of(LAYER), "from": "team/app"}):
            async with http.post("/v2/a/b/blobs/uploads/", params=query) as answer:
                assert answer.status == 202


async def test_a_mount_needs_the_right_to_pull_where_the_blob_is(world: World) -> None:
    own = document("Allow", "ecr:*", Resource=APP.replace("team/app", "ann/*"))
    key = await world.user(ACCOUNT, "ann", own, document("Allow", "ecr:GetAuthorizationToken", Resource="*"))
    mounts = ({"mount": digest_of(LAYER)}, {"mount": digest_of(LAYER), "from": "team/app"})
    async with await world.docker(key) as http:
        for query in mounts:
            async with http.post("/v2/ann/app/blobs/uploads/", params=query) as answer:
                assert answer.status == 202
        await allow(world, f"arn:aws:iam::{ACCOUNT}:user/ann", actions=PULL)
        for number, query in enumerate(mounts):
            async with http.post(f"/v2/ann/new{number}/blobs/uploads/", params=query) as answer:
                assert answer.status == 201


async def test_a_password_that_a_session_fetched_can_do_what_the_session_could_and_no_more(world: World) -> None:
    await world.user(ACCOUNT, "ann", POWER_USER)
    metadata = world.registry.metadata
    ann = (await metadata.iam(ACCOUNT, "GetUser", {"UserName": "ann"}))["User"]["UserId"]
    principal = await metadata.principal(ann)
    now = time.time()
    session = Session(SessionKind.USER, "", now, now + 900, policy=document("Allow", PULL, Resource="*"))
    password, _ = world.registry.tokens.issue(principal, ACCOUNT, REGION, now, session)
    async with world.session(password) as http:
        assert (await pull(http))[0] == 200
        status, said = await push(http)
        assert (status, "because no session policy allows" in said) == (403, True)


async def answered(http: aiohttp.ClientSession) -> int:
    async with http.get("/v2/team/app/manifests/v1") as answer:
        return answer.status


async def test_a_password_carries_the_key_that_made_it_and_dies_with_it(world: World) -> None:
    """Made inactive or deleted, from the next request on; active again, the password counts again."""
    key = await world.user(ACCOUNT, "ann", POWER_USER)
    iam, mine = world.registry.metadata.iam, {"UserName": "ann", "AccessKeyId": key[0]}
    async with await world.docker(key) as http, await world.docker(world.owner) as other:
        assert await answered(http) == 200
        for status, answer in (("Inactive", 401), ("Active", 200)):
            await iam(ACCOUNT, "UpdateAccessKey", {**mine, "Status": status})
            assert await answered(http) == answer
        await iam(ACCOUNT, "DeleteAccessKey", mine)
        assert await answered(http) == 401
        assert await answered(other) == 200


async def test_a_link_to_a_layer_dies_with_the_key_that_asked_for_it(world: World) -> None:
    key = await world.user(ACCOUNT, "ann", POWER_USER)
    asked = {"repositoryName": "team/app", "layerDigest": digest_of(LAYER)}
    path = (await world.aws(key, "GetDownloadUrlForLayer", **asked))["downloadUrl"].partition("/layers/")[2]
    url = f"{world.registry.url}/layers/{path}"
    gone = {"UserName": "ann", "AccessKeyId": key[0]}
    async with aiohttp.ClientSession() as http:
        for status in (200, 403):
            async with http.get(url) as answer:
                assert answer.status == status
            await world.registry.metadata.iam(ACCOUNT, "UpdateAccessKey", {**gone, "Status": "Inactive"})


def older_than(moment: float) -> str:
    """AWS's AWSRevokeOlderSessions."""
    before = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(moment))
    return document("Deny", "*", Resource="*", Condition={"DateLessThan": {"aws:TokenIssueTime": before}})


async def test_a_policy_on_the_token_issue_time_revokes_passwords_that_are_older(world: World) -> None:
    """A password of a long-lived key was issued when it was made, one of a session when the session was, whenever it
    was made. A signature of the key itself has no such time."""
    key = await world.user(ACCOUNT, "ann", POWER_USER)
    metadata = world.registry.metadata
    ann = (await metadata.iam(ACCOUNT, "GetUser", {"UserName": "ann"}))["User"]["UserId"]
    principal, now = await metadata.principal(ann), time.time()
    old_session, new_session = [Session(SessionKind.USER, "", now - ago, now + 900) for ago in (600, 60)]
    issue = world.registry.tokens.issue
    passwords = {
        "old": issue(principal, ACCOUNT, REGION, now - 600, None, key[0])[0],
        "new": issue(principal, ACCOUNT, REGION, now - 60, None, key[0])[0],
        "of an old session": issue(principal, ACCOUNT, REGION, now - 60, old_session, "ASIAOLD")[0],
        "of a new session": issue(principal, ACCOUNT, REGION, now - 30, new_session, "ASIANEW")[0],
    }

    async def answers() -> dict[str, int]:
        found = {}
        for name, password in passwords.items():
            async with world.session(password) as http:
                found[name] = await answered(http)
        return found

    assert set((await answers()).values()) == {200}
    given = {"UserName": "ann", "PolicyName": "AWSRevokeOlderSessions", "PolicyDocument": older_than(now - 300)}
    await metadata.iam(ACCOUNT, "PutUserPolicy", given)
    assert await answers() == {"old": 403, "new": 200, "of an old session": 403, "of a new session": 200}
    assert (await world.aws(key, "DescribeRepositories"))["repositories"]


@pytest.mark.parametrize("who", ["user", "role", "session"])
async def test_what_a_principal_holds_is_revoked_from_the_next_request_on(world: World, who: str) -> None:
    """A user's keys, sessions and passwords; a role's sessions, or the one that is named, and their passwords. What is
    issued afterwards counts at once."""
    metadata, now = world.registry.metadata, time.time()
    key = await world.user(ACCOUNT, "ann", POWER_USER)
    await metadata.iam(
        ACCOUNT,
        "CreateRole",
        {"RoleName": "ci", "AssumeRolePolicyDocument": document("Allow", "sts:AssumeRole", Principal={"AWS": ACCOUNT})},
    )
    await metadata.iam(ACCOUNT, "AttachRolePolicy", {"RoleName": "ci", "PolicyArn": POWER_USER})
    role = f"arn:aws:iam::{ACCOUNT}:role/ci"

    async def keys() -> dict[str, tuple[str, ...]]:
        found: dict[str, tuple[str, ...]] = {"ann": key}
        given = (await world.aws(key, "GetSessionToken", "sts"))["Credentials"]
        found["ann's session"] = (given["AccessKeyId"], given["SecretAccessKey"], given["SessionToken"])
        for name in ("one", "two"):
            given = await world.aws(world.owner, "AssumeRole", "sts", RoleArn=role, RoleSessionName=name)
            given = given["Credentials"]
            found[name] = (given["AccessKeyId"], given["SecretAccessKey"], given["SessionToken"])
        return found

    async def passwords(held: dict[str, tuple[str, ...]]) -> dict[str, str]:
        return {name: await world.password(each) for name, each in held.items()}

    async def dead(held: dict[str, tuple[str, ...]], tokens: dict[str, str]) -> set[str]:
        """Which do not count any more; a key and its password agree."""
        found = set()
        for name, each in held.items():
            async with world.session(tokens[name]) as http:
                status = await answered(http)
            if status == 401:
                assert (await world.refused(each, "DescribeRepositories"))[0] == "UnrecognizedClientException", name
                found.add(name)
            else:
                assert (status, bool(await world.aws(each, "DescribeRepositories"))) == (200, True), name
        return found

    held = await keys()
    tokens = await passwords(held)
    assert await dead(held, tokens) == set()
    arn, gone = {
        "user": (f"arn:aws:iam::{ACCOUNT}:user/ann", {"ann", "ann's session"}),
        "role": (role, {"one", "two"}),
        "session": (f"arn:aws:sts::{ACCOUNT}:assumed-role/ci/one", {"one"}),
    }[who]
    done = await metadata.revoke(arn)
    assert done.access_key_ids == ((key[0],) if who == "user" else ())
    assert done.issued_until > now
    assert await dead(held, tokens) == gone
    active = {"UserName": "ann", "AccessKeyId": key[0], "Status": "Active"}
    await metadata.iam(ACCOUNT, "UpdateAccessKey", active)
    async with world.session(tokens["ann"]) as http:
        assert await answered(http) == (401 if who == "user" else 200)
    later = await keys()
    assert await dead(later, await passwords(later)) == set()
    assert await dead(held, tokens | {"ann": await world.password(key)}) == gone - {"ann"}


async def test_who_may_not_create_some_repositories_makes_no_template_that_would(world: World) -> None:
    """An explicit deny of any name under the template's prefix refuses it, be it the caller's or the registry's: of
    making repositories, or of what the template gives them."""
    full = document("Allow", "ecr:*", Resource="*")
    here = f"arn:aws:ecr:{REGION}:{ACCOUNT}:repository"
    no_prod = document("Deny", "ecr:CreateRepository", Resource=f"{here}/prod/secret-*")
    no_policies = document("Deny", "ecr:SetRepositoryPolicy", Resource=f"{here}/*/secret")
    key = await world.user(ACCOUNT, "ann", full, no_prod, no_policies)

    async def said(prefix: str, **more: Any) -> str:
        try:
            asked = {"prefix": prefix, "appliedFor": ["CREATE_ON_PUSH"], **more}
            await world.aws(key, "CreateRepositoryCreationTemplate", **asked)
        except ClientError as error:
            return str(error.response["Error"]["Message"])
        await world.aws(key, "DeleteRepositoryCreationTemplate", prefix=prefix)
        return ""

    policy = {"repositoryPolicy": document("Allow", PULL, Principal="*")}
    assert await said("dev") == ""
    assert await said("prod-old/") == ""
    for prefix in ("prod", "prod/", "ROOT"):
        refusal = await said(prefix)
        below = "*" if prefix == "ROOT" else "prod/*"
        assert refusal.startswith(
            f"User: arn:aws:iam::{ACCOUNT}:user/ann is not authorized to perform: ecr:CreateRepository on resource: "
            f"{here}/{below} with an explicit deny"
        )
    assert "ecr:SetRepositoryPolicy" in await said("dev", **policy)
    await world.aws(key, "CreateRepositoryCreationTemplate", prefix="dev", appliedFor=["CREATE_ON_PUSH"])
    code, refusal = await world.refused(key, "UpdateRepositoryCreationTemplate", prefix="dev", **policy)
    assert (code, "ecr:SetRepositoryPolicy" in refusal) == ("AccessDeniedException", True)
    await world.aws(
        world.owner,
        "PutRegistryPolicy",
        policyText=document("Deny", "ecr:CreateRepository", Principal="*", Resource=f"{here}/test/x"),
    )
    assert "ecr:CreateRepository" in await said("test")


async def test_a_role_made_anew_under_its_name_is_somebody_else_also_by_its_sessions(world: World) -> None:
    """A repository's policy and a role's trust policy that name a session mean the role of the moment they were set."""
    iam, session = world.registry.metadata.iam, f"arn:aws:sts::{ACCOUNT}:assumed-role/ci/one"
    trust = document("Allow", "sts:AssumeRole", Principal={"AWS": ACCOUNT})
    target = f"arn:aws:iam::{ACCOUNT}:role/target"

    async def assumed() -> tuple[str, ...]:
        asked = {"RoleArn": f"arn:aws:iam::{ACCOUNT}:role/ci", "RoleSessionName": "one"}
        given = (await world.aws(world.owner, "AssumeRole", "sts", **asked))["Credentials"]
        return given["AccessKeyId"], given["SecretAccessKey"], given["SessionToken"]

    async def may() -> tuple[bool, bool]:
        """Whether a session of that name may list the repository's images, and take the other role."""
        key, found = await assumed(), []
        for service, operation, asked in (
            ("ecr", "ListImages", {"repositoryName": "team/app"}),
            ("sts", "AssumeRole", {"RoleArn": target, "RoleSessionName": "further"}),
        ):
            try:
                found.append(bool(await world.aws(key, operation, service, **asked)))
            except ClientError as error:
                found.append(not error.response["Error"]["Code"].startswith("AccessDenied"))
        return found[0], found[1]

    await iam(ACCOUNT, "CreateRole", {"RoleName": "ci", "AssumeRolePolicyDocument": trust})
    named = document("Allow", "ecr:ListImages", Principal={"AWS": session})
    await world.aws(world.owner, "SetRepositoryPolicy", repositoryName="team/app", policyText=named)
    by_session = document("Allow", "sts:AssumeRole", Principal={"AWS": session})
    await iam(ACCOUNT, "CreateRole", {"RoleName": "target", "AssumeRolePolicyDocument": by_session})
    assert await may() == (True, True)
    await iam(ACCOUNT, "DeleteRole", {"RoleName": "ci"})
    await iam(ACCOUNT, "CreateRole", {"RoleName": "ci", "AssumeRolePolicyDocument": trust})
    assert await may() == (False, False)


async def test_who_denies_everybody_needs_force_and_may_still_delete_it(world: World) -> None:
    text = document("Deny", "ecr:SetRepositoryPolicy", Principal="*")
    asking = {"repositoryName": "team/app", "policyText": text}
    assert (await world.refused(world.owner, "SetRepositoryPolicy", **asking))[0] == "InvalidParameterException"
    await world.aws(world.owner, "SetRepositoryPolicy", **asking, force=True)
    code, said = await world.refused(world.owner, "SetRepositoryPolicy", **asking)
    assert (code, said.endswith("with an explicit deny in a resource-based policy")) == ("AccessDeniedException", True)
    await world.aws(world.owner, "DeleteRepositoryPolicy", repositoryName="team/app")


async def test_without_a_suffix_who_is_refused_is_told_what_to_set(tmp_path: Path) -> None:
    async with whole_registry(tmp_path) as registry:
        world = World(registry, await registry.give_key(ACCOUNT, "administrator"), await registry.open_account(OTHER))
        http = await world.docker(world.other, registry.address)
        async with http, http.post("/v2/team/app/blobs/uploads/") as answer:
            assert answer.status == 403
            assert "[registry] suffix" in (await answer.json())["errors"][0]["detail"]["hint"]
        async with await world.docker(world.owner, registry.address) as http:
            assert await push_blob(http, "team/app", LAYER)
