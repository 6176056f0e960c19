"""The AWS door through boto3: what it serves, what it refuses, in AWS's words."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import datetime
import json
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from botocore.exceptions import ClientError

from proxy.auth.tokens import LIFETIME
from proxy.awsmodel.models import operations
from proxy.ecr.routes import ROUTES
from proxy.model.errors import Code, Failure
from proxy.model.identity import BoundPolicy
from support.aws_handler import (
    ACCOUNT,
    ADMIN,
    ADMIN_KEY,
    BOB,
    BOB_KEY,
    EVE,
    EVE_KEY,
    OTHER_ACCOUNT,
    REGION,
    AwsHandler,
)
from support.examples import ECR as EXAMPLES
from support.examples import Example


async def call(client: Any, operation: str, **parameters: Any) -> dict[str, Any]:
    """Run one operation in a thread: boto3 blocks."""
    answer: dict[str, Any] = await asyncio.to_thread(client._make_api_call, operation, parameters)
    return answer


async def refused(client: Any, operation: str, **parameters: Any) -> tuple[str, str, int]:
    """(name, message, status) of the error that boto3 raises."""
    with pytest.raises(ClientError) as caught:
        await call(client, operation, **parameters)
    error = caught.value.response
    return error["Error"]["Code"], error["Error"]["Message"], error["ResponseMetadata"]["HTTPStatusCode"]


def test_the_table_holds_only_operations_of_the_api_model() -> None:
    """The installed one, with what `awsmodel/overlay` adds of a newer one."""
    assert set(ROUTES) <= operations("ecr")


# ---- GetAuthorizationToken -------------------------------------------------------------------------------------------


async def test_the_token_is_a_password_for_user_aws_that_names_its_principal(door: AwsHandler) -> None:
    data = (await call(door.client(), "GetAuthorizationToken"))["authorizationData"]
    assert len(data) == 1
    user, password = base64.b64decode(data[0]["authorizationToken"]).decode().split(":")
    claims = door.tokens.read(password, time.time())
    assert (user, claims.principal_id, claims.account, claims.region) == ("AWS", ADMIN.principal_id, ACCOUNT, REGION)


async def test_the_token_ends_in_twelve_hours(door: AwsHandler) -> None:
    data = (await call(door.client(), "GetAuthorizationToken"))["authorizationData"]
    left = data[0]["expiresAt"] - datetime.datetime.now(datetime.UTC)
    assert LIFETIME - 60 < left.total_seconds() <= LIFETIME


async def test_the_endpoint_is_the_address_that_the_client_used(door: AwsHandler) -> None:
    data = (await call(door.client(), "GetAuthorizationToken"))["authorizationData"]
    assert data[0]["proxyEndpoint"] == door.url


@contextlib.asynccontextmanager
async def listening(url: str = "", suffix: str = "") -> AsyncIterator[AwsHandler]:
    door = AwsHandler(url, suffix)
    await door.begin()
    try:
        yield door
    finally:
        await door.finish()


async def endpoints(door: AwsHandler, key: tuple[str, str] = ADMIN_KEY, host: str = "", **parameters: Any) -> list[str]:
    body = json.dumps(parameters).encode()
    answer = await door.send(door.signed("GetAuthorizationToken", body, key=key, host=host), body)
    assert answer.status == 200, answer.body
    return [each["proxyEndpoint"] for each in json.loads(answer.body)["authorizationData"]]


async def test_the_endpoint_is_the_address_that_is_configured() -> None:
    async with listening("https://registry.example") as door:
        assert await endpoints(door) == ["https://registry.example"]


async def test_with_a_suffix_each_registry_has_its_own_endpoint_at_the_port_that_was_used() -> None:
    async with listening(suffix="registry.example") as door:
        own = f"https://{ACCOUNT}.dkr.ecr.{REGION}.registry.example"
        other = f"https://{OTHER_ACCOUNT}.dkr.ecr.{REGION}.registry.example"
        port = door.address.partition(":")[2]
        assert await endpoints(door) == [f"{own}:{port}"]
        assert await endpoints(door, host=f"api.ecr.{REGION}.registry.example") == [own]
        assert await endpoints(door, EVE_KEY, host=f"ecr.{REGION}.registry.example:5000") == [f"{other}:5000"]
        assert await endpoints(door, host="x", registryIds=[OTHER_ACCOUNT, ACCOUNT]) == [other, own]
    async with listening("https://registry.example:8443", "registry.example") as door:
        assert await endpoints(door) == [f"{own}:8443"]


@pytest.mark.parametrize(
    ("url", "suffix", "host", "base"),
    [
        ("", "", "used.example:5000", "http://used.example:5000"),
        ("https://registry.example", "", "used.example", "https://registry.example"),
        ("", "a.example", f"ecr.{REGION}.a.example:5000", f"https://{OTHER_ACCOUNT}.dkr.ecr.{REGION}.a.example:5000"),
        ("https://a.example:8443", "a.example", "x", f"https://{OTHER_ACCOUNT}.dkr.ecr.{REGION}.a.example:8443"),
    ],
    ids=["used", "configured", "suffix", "suffix-and-port"],
)
async def test_a_link_to_a_layer_leads_to_where_its_registry_is_reached(
    url: str, suffix: str, host: str, base: str
) -> None:
    async with listening(url, suffix) as door:
        door.metadata.repositories["a/b"] = {"repositoryName": "a/b"}
        body = json.dumps({"repositoryName": "a/b", "layerDigest": "sha256:00"}).encode()
        answer = await door.send(door.signed("GetDownloadUrlForLayer", body, key=EVE_KEY, host=host), body)
        assert json.loads(answer.body)["downloadUrl"].startswith(f"{base}/layers/sha256:00?token=")


async def test_without_a_suffix_who_is_of_another_account_can_log_in_where_there_is_an_address(
    door: AwsHandler,
) -> None:
    assert await endpoints(door, EVE_KEY) == [door.url]
    name, message, _ = await refused(door.client(key=EVE_KEY), "GetAuthorizationToken", registryIds=[OTHER_ACCOUNT])
    assert name == "InvalidParameterException"
    assert "[registry] suffix" in message


async def test_an_api_host_of_another_region_is_refused_in_words() -> None:
    async with listening(suffix="registry.example") as door:
        answer = await door.send(door.signed(host="api.ecr.eu-west-1.registry.example"))
        assert answer.error() == (
            "InvalidParameterException",
            "This server is the registry of the region us-east-1, not of eu-west-1.",
        )


async def test_each_registry_id_has_its_element(door: AwsHandler) -> None:
    data = await call(door.client(), "GetAuthorizationToken", registryIds=[ACCOUNT, ACCOUNT])
    assert len(data["authorizationData"]) == 2


@pytest.mark.parametrize(
    "registry_ids", [[], ["999999999999"], [ACCOUNT] * 11, ["x"]], ids=["none", "another", "eleven", "no-id"]
)
async def test_registry_ids_that_will_not_do_are_an_invalid_parameter(
    door: AwsHandler, registry_ids: list[str]
) -> None:
    name, message, status = await refused(door.client(), "GetAuthorizationToken", registryIds=registry_ids)
    assert (name, status) == ("InvalidParameterException", 400)
    assert message.startswith("Invalid parameter at 'registryIds' failed to satisfy constraint: ")


# ---- what is forwarded -----------------------------------------------------------------------------------------------


async def test_a_repository_is_created_described_and_deleted(door: AwsHandler) -> None:
    client = door.client()
    made = (await call(client, "CreateRepository", repositoryName="team/app"))["repository"]
    assert made["repositoryArn"] == f"arn:aws:ecr:{REGION}:{ACCOUNT}:repository/team/app"
    assert made["createdAt"].timestamp() == 1_800_000_000.25
    listed = (await call(client, "DescribeRepositories"))["repositories"]
    assert [each["repositoryName"] for each in listed] == ["team/app"]
    await call(client, "DeleteRepository", repositoryName="team/app", force=True)
    assert (await call(client, "DescribeRepositories"))["repositories"] == []


async def test_parameters_are_forwarded_as_they_came(door: AwsHandler) -> None:
    client = door.client()
    await call(client, "CreateRepository", repositoryName="a/b", tags=[{"Key": "k", "Value": "ü\u2028"}])
    await call(client, "BatchGetImage", registryId=ACCOUNT, repositoryName="a/b", imageIds=[{"imageTag": "v1"}])
    assert door.metadata.calls == [
        ("CreateRepository", {"repositoryName": "a/b", "tags": [{"Key": "k", "Value": "ü\u2028"}]}),
        ("BatchGetImage", {"registryId": ACCOUNT, "repositoryName": "a/b", "imageIds": [{"imageTag": "v1"}]}),
    ]


async def test_a_failure_of_the_api_keeps_its_name_and_text(door: AwsHandler) -> None:
    name, message, status = await refused(door.client(), "ListImages", repositoryName="none")
    assert (name, status) == ("RepositoryNotFoundException", 400)
    assert message == f"The repository with name 'none' does not exist in the registry with id '{ACCOUNT}'"


async def test_a_failure_is_an_exception_of_its_own_in_boto3(door: AwsHandler) -> None:
    client = door.client()
    with pytest.raises(client.exceptions.RepositoryNotFoundException):
        await call(client, "DescribeImages", repositoryName="none")


async def test_a_registry_of_another_account_is_asked_when_both_sides_allow(door: AwsHandler) -> None:
    door.metadata.repositories["a/b"] = {"repositoryName": "a/b"}
    asking = {"registryId": ACCOUNT, "repositoryName": "a/b"}
    name, message, _ = await refused(door.client(key=EVE_KEY), "ListImages", **asking)
    assert (name, message) == (
        "AccessDeniedException",
        f"User: {EVE.arn} is not authorized to perform: ecr:ListImages on resource: "
        f"arn:aws:ecr:{REGION}:{ACCOUNT}:repository/a/b "
        "because no resource-based policy allows the ecr:ListImages action",
    )
    assert door.metadata.calls == []
    statement = {"Effect": "Allow", "Principal": {"AWS": OTHER_ACCOUNT}, "Action": "ecr:ListImages"}
    door.metadata.repository_policies[ACCOUNT, "a/b"] = BoundPolicy(
        json.dumps({"Version": "2012-10-17", "Statement": [statement]})
    )
    assert (await call(door.client(key=EVE_KEY), "ListImages", **asking))["imageIds"] == []
    assert door.metadata.accounts == [ACCOUNT]


async def test_who_names_no_registry_asks_its_own(door: AwsHandler) -> None:
    await call(door.client(key=EVE_KEY), "DescribeRepositories")
    assert door.metadata.accounts == [OTHER_ACCOUNT]


@pytest.mark.parametrize("registry_id", ["1", "x" * 12, "1234567890123", "*", "１２３４５６７８９０１２"])
async def test_a_registry_id_that_is_none_is_an_invalid_parameter(door: AwsHandler, registry_id: str) -> None:
    name, message, _ = await refused(door.client(), "ListImages", registryId=registry_id, repositoryName="a/b")
    assert (name, "'registryId'" in message) == ("InvalidParameterException", True)
    assert door.metadata.calls == []


async def test_a_metadata_service_that_is_away_is_a_server_exception_to_try_again(door: AwsHandler) -> None:
    client = door.client()
    door.metadata.fail_with = Failure(Code.METADATA_UNAVAILABLE, "no answer from /run/secret.sock", hint="is it up?")
    name, message, status = await refused(client, "DescribeRepositories")
    assert (name, status) == ("ServerException", 500)
    assert "try again" in message
    assert "/run/secret.sock" not in message


async def test_what_kms_refuses_is_a_kms_exception_with_kmss_own_error(door: AwsHandler) -> None:
    client = door.client()
    door.metadata.fail_with = Failure(Code.KMS, "KMS refused", hint="enable it", kmsError="DisabledException")
    with pytest.raises(client.exceptions.KmsException) as caught:
        await call(client, "BatchGetImage", repositoryName="a/b", imageIds=[{"imageTag": "v1"}])
    assert caught.value.response["kmsError"] == "DisabledException"
    assert caught.value.response["Error"]["Message"] == "KMS refused"
    assert "enable" not in str(caught.value.response)
    door.metadata.fail_with = Failure(Code.KMS, "away", unavailable=1)
    name, message, status = await refused(client, "DescribeRepositories")
    assert (name, status) == ("ServerException", 500)
    assert "try again" in message


# ---- policy ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("example", EXAMPLES, ids=[each.operation for each in EXAMPLES])
async def test_who_has_no_permission_is_denied_before_anything_is_forwarded(door: AwsHandler, example: Example) -> None:
    """What each is asked about is in `test_ecr_actions`."""
    body = json.dumps(example.parameters).encode()
    answer = await door.send(door.signed(example.operation, body, key=BOB_KEY), body)
    name, message = answer.error()
    assert (answer.status, name) == (403, "AccessDeniedException")
    action = example.actions[0]
    assert message.startswith(f"User: {BOB.arn} is not authorized to perform: {action} on resource: ")
    assert message.endswith(f" because no identity-based policy allows the {action} action")
    assert door.metadata.calls == []


async def test_each_repository_that_is_named_is_asked_of_the_policy(door: AwsHandler) -> None:
    _, message, _ = await refused(door.client(key=BOB_KEY), "DescribeRepositories", repositoryNames=["one/x", "two/y"])
    assert "repository/one/x because" in message


@pytest.mark.parametrize("name", [None, 7, "*", "team/*", "tea?", "a" * 257])
async def test_a_repository_name_that_a_policy_cannot_be_asked_about_is_invalid(door: AwsHandler, name: object) -> None:
    parameters = {} if name is None else {"repositoryName": name}
    code, message, _ = await refused(door.client(), "ListImages", **parameters)
    assert code == "InvalidParameterException" or (code, name) == ("SerializationException", 7)
    assert "repositoryName" in message
    assert door.metadata.calls == []


# ---- sts -------------------------------------------------------------------------------------------------------------


async def test_get_caller_identity_says_who_signed(door: AwsHandler) -> None:
    answer = await call(door.client("sts"), "GetCallerIdentity")
    assert (answer["Account"], answer["Arn"], answer["UserId"]) == (ACCOUNT, ADMIN.arn, ADMIN.principal_id)


async def test_get_caller_identity_needs_no_permission(door: AwsHandler) -> None:
    assert (await call(door.client("sts", BOB_KEY), "GetCallerIdentity"))["UserId"] == BOB.principal_id


async def test_another_sts_action_is_an_invalid_action(door: AwsHandler) -> None:
    name, message, status = await refused(door.client("sts"), "GetFederationToken", Name="anna")
    assert (name, status) == ("InvalidAction", 400)
    assert "GetFederationToken" in message


async def test_sts_names_a_wrong_secret_as_sts_does(door: AwsHandler) -> None:
    name, _, status = await refused(door.client("sts", (ADMIN_KEY[0], "wrong")), "GetCallerIdentity")
    assert (name, status) == ("SignatureDoesNotMatch", 403)


async def test_sts_names_an_unknown_key_as_sts_does(door: AwsHandler) -> None:
    name, message, status = await refused(door.client("sts", ("AKIANOBODY", "x")), "GetCallerIdentity")
    assert (name, status) == ("InvalidClientTokenId", 403)
    assert message == "The security token included in the request is invalid."


async def test_sts_allows_fifteen_minutes(door: AwsHandler) -> None:
    door.clock_shift = 14 * 60
    assert (await call(door.client("sts"), "GetCallerIdentity"))["Account"] == ACCOUNT
    door.clock_shift = 16 * 60
    name, message, _ = await refused(door.client("sts"), "GetCallerIdentity")
    assert name == "SignatureDoesNotMatch"
    assert message.startswith("Signature expired: ")
    assert message.endswith(" - 15 min.)")


async def test_sts_answers_a_failing_metadata_service_as_an_internal_failure(door: AwsHandler) -> None:
    client = door.client("sts")
    door.metadata.fail_with = Failure(Code.METADATA_UNAVAILABLE, "away")
    name, _, status = await refused(client, "GetCallerIdentity")
    assert (name, status) == ("InternalFailure", 500)
