"""An event has CloudTrail's shape, and nothing in it that must not be told."""

from __future__ import annotations

import json
import uuid
from typing import Any

import pytest

from proxy.audit.events import (
    EVENT_MAX,
    UNAUTHENTICATED_EVENT_MAX,
    VALUE_MAX,
    AuditEvent,
    EventEncoder,
    encode_parameters,
    user_identity,
)
from proxy.model.identity import Caller, Session, SessionKind
from support.audit_examples import ACCOUNT, ANNA, CI, CREATED, REPOSITORY


def event(event: AuditEvent) -> dict[str, Any]:
    line = EventEncoder().encode(event)
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    found: dict[str, Any] = json.loads(line)
    return found


def test_a_call_is_told_in_cloudtrails_members() -> None:
    told = event(CREATED)
    assert told.pop("eventID")
    assert told == {
        "eventVersion": "1.11",
        "userIdentity": {
            "type": "IAMUser",
            "principalId": "AIDAANNA",
            "arn": ANNA.arn,
            "accountId": ACCOUNT,
            "accessKeyId": "AKIAANNA",
            "userName": "anna",
        },
        "eventTime": "2026-09-21T14:13:20Z",
        "eventSource": "ecr.amazonaws.com",
        "eventName": "CreateRepository",
        "awsRegion": "us-east-1",
        "sourceIPAddress": "192.0.2.7",
        "userAgent": "aws-cli/1.46",
        "requestParameters": {"repositoryName": "team/app"},
        "responseElements": {"repository": {"repositoryName": "team/app"}},
        "requestID": "r-1",
        "readOnly": False,
        "eventType": "AwsApiCall",
        "managementEvent": True,
        "recipientAccountId": ACCOUNT,
        "eventCategory": "Management",
        "resources": [{"ARN": REPOSITORY, "accountId": ACCOUNT, "type": "AWS::ECR::Repository"}],
    }


def test_a_refusal_carries_code_and_text() -> None:
    told = event(CREATED._replace(error="AccessDenied", message="User: … is not authorized", response=None))
    assert (told["errorCode"], told["errorMessage"]) == ("AccessDenied", "User: … is not authorized")
    assert told["responseElements"] is None


def test_a_data_plane_decision_tells_its_bytes_and_is_a_data_event() -> None:
    pulled = CREATED._replace(name="GetDownloadUrlForLayer", data=True, bytes_out=7, route="GET /v2/", status=206)
    told = event(pulled)
    assert told["additionalEventData"] == {"route": "GET /v2/", "status": 206, "bytesTransferredOut": 7}
    assert (told["eventCategory"], told["managementEvent"]) == ("Data", False)


def test_a_roles_session_names_its_role_and_when_it_began() -> None:
    session = Session(
        SessionKind.ROLE,
        "build-7",
        1_790_000_000.0,
        1_790_003_600.0,
        source_identity="anna",
        claims=(("aws:federatedprovider", "arn:p"),),
    )
    told = user_identity(Caller(CI, session, access_key_id="ASIA1"))
    assert told == {
        "type": "AssumedRole",
        "principalId": "AROACI:build-7",
        "arn": f"arn:aws:sts::{ACCOUNT}:assumed-role/ci/build-7",
        "accountId": ACCOUNT,
        "accessKeyId": "ASIA1",
        "sessionContext": {
            "attributes": {"creationDate": "2026-09-21T14:13:20Z", "mfaAuthenticated": "false"},
            "sessionIssuer": {
                "type": "Role",
                "principalId": "AROACI",
                "arn": CI.arn,
                "accountId": ACCOUNT,
                "userName": "ci",
            },
            "sourceIdentity": "anna",
            "webIdFederationData": {"attributes": {"aws:federatedprovider": "arn:p"}},
        },
    }


def test_who_is_nobody_is_told_as_unknown() -> None:
    assert event(CREATED._replace(caller=None))["userIdentity"] == {"type": "Unknown"}


@pytest.mark.parametrize(
    "name",
    ["SecretAccessKey", "SessionToken", "WebIdentityToken", "authorizationToken", "layerPartBlob", "TokenCode"],
)
@pytest.mark.parametrize("member", ["parameters", "response"])
def test_no_secret_gets_into_an_event_at_any_depth(name: str, member: str) -> None:
    parts: Any = {"Credentials": [{name: "must-never-be-seen", "AccessKeyId": "ASIA1"}]}
    line = EventEncoder().encode(CREATED._replace(**{member: parts}))
    assert b"must-never-be-seen" not in line
    assert b"ASIA1" in line


def test_an_event_is_bounded_and_says_what_was_left_out() -> None:
    line = EventEncoder().encode(CREATED._replace(parameters={"policyText": "x" * EVENT_MAX}))
    assert len(line) <= EVENT_MAX
    assert json.loads(line)["requestParameters"] == {"omitted": "too large for an event"}


def test_an_event_stays_in_bounds_whatever_is_long() -> None:
    long = tuple(f"arn:aws:ecr:us-east-1:{ACCOUNT}:repository/{number:0>600}" for number in range(200))
    line = EventEncoder().encode(
        CREATED._replace(resources=long, message="\U0001f40b" * 4096, user_agent="\xff" * 9000, error="E")
    )
    assert len(line) <= EVENT_MAX
    json.loads(line)


@pytest.mark.parametrize("letter", ["x", "\xff", "\U0001f40b", "\n"])
def test_no_value_of_an_unauthenticated_caller_takes_more_than_a_kibibyte_of_its_line(letter: str) -> None:
    long = letter * 5000
    given = {"RoleArn": long, "Tags": [{"Key": long}], "Short": "kept"}
    line = EventEncoder().encode(
        CREATED._replace(caller=None, user_agent=long, message=long, error="E", parameters=given, response=None)
    )
    told = json.loads(line)
    parameters = told["requestParameters"]
    values = [told["userAgent"], told["errorMessage"], parameters["roleArn"], parameters["tags"][0]["key"]]
    for value in values:
        assert len(json.dumps(value)) - 2 <= VALUE_MAX
        assert value.startswith(letter)
        assert value.endswith("... (cut, 5000 characters)")
    assert parameters["short"] == "kept"


def test_the_line_of_an_unauthenticated_caller_is_bounded_however_many_values_it_has() -> None:
    given = {f"Member{number}": "x" * 1000 for number in range(100)}
    line = EventEncoder().encode(CREATED._replace(caller=None, parameters=given))
    assert len(line) <= UNAUTHENTICATED_EVENT_MAX
    assert json.loads(line)["requestParameters"] == {"omitted": "too large for an event"}


def test_parameters_that_were_laid_out_before_stand_as_they_would_have() -> None:
    assert (
        event(CREATED._replace(parameters=encode_parameters({"ImageIds": ["a"], "Password": "p"})))["requestParameters"]
        == event(CREATED._replace(parameters={"ImageIds": ["a"], "Password": "p"}))["requestParameters"]
        == {"imageIds": ["a"], "password": "HIDDEN_DUE_TO_SECURITY_REASONS"}
    )


def test_every_event_has_an_id_of_its_own_that_is_a_uuid() -> None:
    lines, others = EventEncoder(), EventEncoder()
    ids = [json.loads(each.encode(CREATED))["eventID"] for each in (lines, lines, others)]
    assert len(set(ids)) == 3
    assert {uuid.UUID(each).version for each in ids} == {4}


def test_what_a_client_sent_cannot_begin_another_line() -> None:
    line = EventEncoder().encode(CREATED._replace(user_agent='a\n{"forged":1}\r\u2028', message="\n", error="E"))
    assert line.count(b"\n") == 1
    assert json.loads(line)["userAgent"].startswith("a\n")


def test_what_pulls_have_in_common_is_kept_and_each_has_its_own_besides() -> None:
    lines = EventEncoder(keep=2)
    pull = CREATED._replace(
        name="BatchGetImage", data=True, parameters=encode_parameters({"imageIds": ["v1"]}), response=None
    )
    own: list[dict[str, Any]] = [
        {"status": 200, "bytes_out": 7, "request_id": "a", "moment": 1.0},
        {"status": 404, "request_id": "b", "moment": 2.0, "error": "ImageNotFoundException", "message": "none"},
        {"user_agent": "another", "status": 200, "bytes_out": 8},
        {"parameters": encode_parameters({"imageIds": ["v2"]}), "status": 304},
        {"caller": None, "status": 401, "error": "Unauthorized"},
    ]
    for given in (*own, *own):
        told, fresh = json.loads(lines.encode(pull._replace(**given))), event(pull._replace(**given))
        assert told | {"eventID": ""} == fresh | {"eventID": ""}
        assert told["additionalEventData"]["status"] == given["status"]
    assert len(lines._commons) <= 2


def test_callers_that_were_laid_out_are_kept_in_bounds() -> None:
    lines = EventEncoder(keep=2)
    for _ in range(5):
        lines.encode(CREATED._replace(caller=Caller(ANNA)))
    assert len(lines._identities) == 2
