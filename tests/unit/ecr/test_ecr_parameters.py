"""Bodies become parameters or are refused; no bytes whatever make the door fail in another way."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.awsmodel.query import read_action, read_form
from proxy.awsmodel.query import read_parameters as read_query
from proxy.awsmodel.validation import validate
from proxy.ecr.errors import UnreadableRequest, query_error, render_xml
from proxy.ecr.parameters import DEPTH_MAX, read_parameters
from proxy.model.errors import Code, Failure

_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@given(st.dictionaries(st.text(), _json, max_size=5), st.booleans())
def test_any_json_object_is_read_as_it_is(document: dict[str, Any], escaped: bool) -> None:
    body = json.dumps(document, ensure_ascii=escaped).encode()
    assert read_parameters(body) == document


@given(st.binary(max_size=60) | st.text(alphabet='{}[]":,\\\\u0dD8 1e9-tn', max_size=60).map(str.encode))
def test_any_bytes_are_an_object_that_can_be_sent_on_or_unreadable(body: bytes) -> None:
    try:
        document = read_parameters(body)
    except UnreadableRequest:
        return
    assert isinstance(document, dict)
    json.dumps(document, ensure_ascii=False).encode("utf-8")


def test_nesting_is_taken_up_to_its_bound() -> None:
    lists = b"[" * (DEPTH_MAX - 1) + b"]" * (DEPTH_MAX - 1)
    assert set(read_parameters(b'{"a":' + lists + b',"b":[]}')) == {"a", "b"}
    with pytest.raises(UnreadableRequest) as caught:
        read_parameters(b'{"a":[' + lists + b"]}")
    assert caught.value.error.message == "The request body is nested too deeply."


_FORMS = st.binary(max_size=80) | st.text(alphabet="Action=GetCallerIdentity&%0fV+.member1", max_size=80).map(
    str.encode
)


def test_a_forms_map_is_read_by_its_entries() -> None:
    """No action that is served takes one; yet who asks for another is told so, and no reader fails."""
    form = {"Properties.entry.1.key": "a", "Properties.entry.1.value": "b", "Properties.entry.2.key": "c"}
    with pytest.raises(Failure) as caught:
        read_query("iam", "PutAccountProperties", form)
    assert caught.value.code is Code.MALFORMED_INPUT
    form["Properties.entry.2.value"] = "d"
    assert read_query("iam", "PutAccountProperties", form) == {"Properties": {"a": "b", "c": "d"}}
    for other in (
        {"Properties": "x"},
        {"Properties.entry": "x"},
        {"Properties.entry.1": "x"},
        {"Properties.entry.x.key": "x"},
    ):
        with pytest.raises(Failure):
            read_query("iam", "PutAccountProperties", other)


@given(_FORMS, st.sampled_from(["sts", "iam"]))
def test_any_form_is_an_input_of_the_model_or_refused_in_xml(body: bytes, service: str) -> None:
    try:
        form = read_form(body)
        action = read_action(service, form)
        validate(action, read_query(service, action, form), service)
    except Failure as failure:
        document = str(render_xml(query_error(failure), service, "id").text)
        assert "<RequestId>id</RequestId>" in document


@pytest.mark.parametrize(
    ("service", "action", "parameters", "told"),
    [
        (
            "iam",
            "GetRole",
            {"RoleName": "service-role/ci"},
            "The specified value for roleName is invalid. "
            "It must contain only alphanumeric characters and/or the following: +=,.@_-",
        ),
        (
            "iam",
            "CreateUser",
            {"UserName": "ann", "Path": "dev"},
            "The specified value for path is invalid. "
            "It must begin and end with / and contain only alphanumeric characters and/or / characters.",
        ),
        (
            "sts",
            "AssumeRole",
            {"RoleArn": "arn:aws:iam::123456789012:role/ci", "RoleSessionName": "a b"},
            "1 validation error detected: Value 'a b' at 'roleSessionName' failed to satisfy constraint: "
            r"Member must satisfy regular expression pattern: [\w+=,.@-]*",
        ),
    ],
)
def test_what_a_name_may_be_is_said_as_each_service_says_it(
    service: str, action: str, parameters: dict[str, str], told: str
) -> None:
    with pytest.raises(Failure) as caught:
        validate(action, parameters, service)
    assert (caught.value.code, caught.value.message) == (Code.VALIDATION_ERROR, told)
