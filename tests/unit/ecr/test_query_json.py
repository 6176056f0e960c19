"""The query protocol's answers as JSON: the same facts as in XML, and for whom they are."""

from __future__ import annotations

import json

import pytest
from aiohttp.test_utils import make_mocked_request
from botocore.parsers import QueryParser
from botocore.session import get_session

from proxy.awsmodel.query import render, render_json
from proxy.ecr.errors import query_error, render_query_json
from proxy.ecr.query import accepts_json
from proxy.model.errors import Code, Failure

ROLE = {"Path": "/", "RoleName": "ci", "RoleId": "AROA1", "Arn": "arn:<&>", "CreateDate": 1_700_000_000}


@pytest.mark.parametrize(
    ("service", "action", "result"),
    [
        ("sts", "GetCallerIdentity", {"UserId": "AIDA1", "Account": "123456789012", "Arn": "arn:aws:iam::1:user/ann"}),
        ("iam", "ListRoles", {"Roles": [{**ROLE, "MaxSessionDuration": 3600}], "IsTruncated": False, "Marker": None}),
        ("iam", "GetAccountSummary", {"SummaryMap": {"Users": 2, "Roles": 0}}),
        ("iam", "DeleteUser", {}),
    ],
)
def test_json_says_what_xml_says(service: str, action: str, result: dict[str, object]) -> None:
    """XML as botocore reads it: it makes datetimes of times, and drops what is None."""
    model = get_session().get_service_model(service).operation_model(action)
    answer = {"headers": {}, "status_code": 200, "body": render(service, action, result, "id").encode()}
    read = QueryParser(timestamp_parser=lambda text: text).parse(answer, model.output_shape)
    found = json.loads(render_json(service, action, result, "id"))[f"{action}Response"]
    assert found.pop("ResponseMetadata") == {"RequestId": "id"}
    read.pop("ResponseMetadata")
    if service == "iam" and action == "ListRoles":
        assert read["Roles"][0].pop("CreateDate") == "2023-11-14T22:13:20Z"
        assert found["ListRolesResult"]["Roles"][0].pop("CreateDate") == 1_700_000_000
    assert found == ({f"{action}Result": read} if model.output_shape else {})


def test_an_error_is_the_same_in_json() -> None:
    answer = render_query_json(query_error(Failure(Code.NO_SUCH_ENTITY, "The user with name a cannot be found.")), "id")
    assert (answer.status, answer.content_type, answer.headers["x-amzn-RequestId"]) == (404, "application/json", "id")
    assert json.loads(answer.text or "") == {
        "Error": {"Type": "Sender", "Code": "NoSuchEntity", "Message": "The user with name a cannot be found."},
        "RequestId": "id",
    }


@pytest.mark.parametrize(
    ("accept", "wanted"),
    [
        ("application/json", True),
        ("Application/JSON, text/plain, */*", True),
        ("text/xml, application/json", False),
        ("*/*", False),
        ("", False),
    ],
)
def test_json_is_for_who_names_it_and_not_xml(accept: str, wanted: bool) -> None:
    assert accepts_json(make_mocked_request("POST", "/", headers={"Accept": accept})) is wanted
    assert not accepts_json(make_mocked_request("POST", "/"))
