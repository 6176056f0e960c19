"""What the audit trail is told of calls at the AWS door."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from botocore.exceptions import ClientError

from proxy.audit.events import ExternalIdentity
from proxy.auth.policy.context import RequestInfo
from proxy.ecr.audit_record import ApiAuditRecord
from proxy.ecr.services import STS
from proxy.model.errors import Code, Failure
from support.aws_handler import ACCOUNT, ADMIN, ADMIN_KEY, BOB, BOB_KEY, OTHER_ACCOUNT, REGION, AwsHandler

APP = f"arn:aws:ecr:{REGION}:{ACCOUNT}:repository/team/app"


async def call(door: AwsHandler, operation: str, *, service: str = "ecr", key: Any = ADMIN_KEY, **given: Any) -> str:
    """The error's name, empty when there was none."""
    try:
        await asyncio.to_thread(door.client(service, key)._make_api_call, operation, given)
    except ClientError as error:
        return str(error.response["Error"]["Code"])
    return ""


async def test_a_call_is_one_event_with_who_what_and_from_where(door: AwsHandler) -> None:
    assert await call(door, "CreateRepository", repositoryName="team/app") == ""
    [event] = door.trail.events
    assert event["eventName"] == "CreateRepository"
    assert event["userIdentity"]["arn"] == ADMIN.arn
    assert event["userIdentity"]["accessKeyId"] == ADMIN_KEY[0]
    assert event["requestParameters"] == {"repositoryName": "team/app"}
    assert event["responseElements"]["repository"]["repositoryName"] == "team/app"
    assert [each["ARN"] for each in event["resources"]] == [APP]
    assert event["recipientAccountId"] == ACCOUNT
    assert event["sourceIPAddress"] == "127.0.0.1"
    assert event["managementEvent"] is True
    assert event["readOnly"] is False
    assert event["requestID"]
    assert "errorCode" not in event


@pytest.mark.parametrize(
    ("operation", "service", "given", "kept"),
    [
        ("CreateRepository", "ecr", {"repositoryName": "team/app"}, True),
        ("GetAuthorizationToken", "ecr", {}, True),  # it gave out a password
        ("DescribeRepositories", "ecr", {}, False),
        ("GetCallerIdentity", "sts", {}, False),
        ("GetSessionToken", "sts", {}, True),
    ],
)
async def test_what_changes_something_or_gives_credentials_is_with_the_kernel_before_the_answer(
    door: AwsHandler, operation: str, service: str, given: dict[str, Any], kept: bool
) -> None:
    assert await call(door, operation, service=service, **given) == ""
    assert [each.name for each in door.trail.durable] == ([operation] if kept else [])
    assert [each.name for each in door.trail.received] == [operation]
    assert '"*"' not in door.trail.text  # what is asked of everything names nothing


async def test_a_refusal_names_whom_it_refused_and_why(door: AwsHandler) -> None:
    assert await call(door, "CreateRepository", key=BOB_KEY, repositoryName="team/app") == "AccessDeniedException"
    [event] = door.trail.events
    assert (event["errorCode"], event["userIdentity"]["arn"]) == ("AccessDenied", BOB.arn)
    assert f"not authorized to perform: ecr:CreateRepository on resource: {APP}" in event["errorMessage"]
    assert event["responseElements"] is None


async def test_a_call_for_another_registry_is_told_to_that_account(door: AwsHandler) -> None:
    await call(door, "DescribeRepositories", registryId=OTHER_ACCOUNT)
    assert [event["recipientAccountId"] for event in door.trail.events] == [OTHER_ACCOUNT]


@pytest.mark.parametrize(
    ("service", "code"),
    [("ecr", "InvalidSignatureException"), ("sts", "SignatureDoesNotMatch"), ("iam", "SignatureDoesNotMatch")],
)
async def test_who_did_not_sign_right_is_nobody_and_says_nothing(door: AwsHandler, service: str, code: str) -> None:
    operation, given = {
        "ecr": ("CreateRepository", {"repositoryName": "forged/name"}),
        "sts": ("GetCallerIdentity", {}),
        "iam": ("CreateUser", {"UserName": "forged"}),
    }[service]
    assert await call(door, operation, service=service, key=(ADMIN_KEY[0], "a-wrong-secret-of-40"), **given) == code
    [event] = door.trail.events
    assert (event["errorCode"], event["userIdentity"]) == (code, {"type": "Unknown"})
    assert event["eventSource"] == f"{service}.amazonaws.com"
    assert event["requestParameters"] is None
    assert "forged" not in door.trail.text
    assert door.trail.durable == []  # whom nobody knows makes nobody wait for a disk


async def test_an_unsigned_request_is_an_event(door: AwsHandler) -> None:
    answer = await door.send([("Host", door.address), ("X-Amz-Target", "nonsense\u00ff")])
    assert answer.status == 400
    [event] = door.trail.events
    assert (event["eventName"], event["errorCode"]) == ("Unknown", "MissingAuthenticationTokenException")


async def test_an_operation_that_is_not_served_is_told_by_its_name(door: AwsHandler) -> None:
    assert await call(door, "PutSigningConfiguration", signingConfiguration={"rules": []}) != ""
    assert [event["eventName"] for event in door.trail.events] == ["PutSigningConfiguration"]


async def test_our_own_failure_is_told(door: AwsHandler) -> None:
    door.metadata.fail_with = Failure(Code.METADATA_UNAVAILABLE, "the inside says /secret/path")
    assert await call(door, "DescribeRepositories") == "ServerException"
    assert [event["errorCode"] for event in door.trail.events] == ["ServerException"]
    assert "/secret/path" not in door.trail.text


def test_a_web_identity_is_who_its_issuer_said_and_its_roles_account_is_concerned() -> None:
    told = ApiAuditRecord(STS, ACCOUNT, RequestInfo(0, "", True, "", REGION), "r")
    told.set_role(f"arn:aws:iam::{OTHER_ACCOUNT}:role/ci")
    provider = f"arn:aws:iam::{OTHER_ACCOUNT}:oidc-provider/issuer.example"
    told.succeeded({"SubjectFromWebIdentityToken": "repo:a/b", "Provider": provider, "Audience": "sts.amazonaws.com"})
    assert told.account == OTHER_ACCOUNT
    assert isinstance(told.caller, ExternalIdentity)
    assert dict(told.caller.members) == {
        "principalId": f"{provider}:sts.amazonaws.com:repo:a/b",
        "userName": "repo:a/b",
        "identityProvider": provider,
    }


@pytest.mark.parametrize("role", ["", "x", "arn:aws:iam::123:role/a", "a:b:c:d:e:f", "\ud800" * 600])
def test_whatever_stands_for_a_role_changes_no_account(role: str) -> None:
    told = ApiAuditRecord(STS, ACCOUNT, RequestInfo(0, "", True, "", REGION), "r")
    told.set_role(role)
    assert told.account == ACCOUNT


@pytest.mark.parametrize(
    ("operation", "service", "given", "code"),
    [
        ("CreateRepository", "ecr", {"repositoryName": "team/app"}, "ServerException"),
        ("CreateUser", "iam", {"UserName": "anna"}, "InternalFailure"),
        ("DescribeRepositories", "ecr", {}, ""),
        ("GetAuthorizationToken", "ecr", {}, ""),
        ("GetCallerIdentity", "sts", {}, ""),
    ],
)
async def test_while_the_log_cannot_be_written_writes_are_refused_before_anything_is_done(
    door: AwsHandler, operation: str, service: str, given: dict[str, Any], code: str
) -> None:
    door.trail.fails = Failure(Code.STORE_UNAVAILABLE, "the audit log cannot be written")
    assert await call(door, operation, service=service, **given) == code
    assert door.trail.required == bool(code)
    door.trail.fails = None
    if service == "ecr" and code:
        assert await call(door, operation, service=service, **given) == ""  # nothing of it was there
