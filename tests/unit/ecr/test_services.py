"""A request's head tells which of the services it is for, and in whose words to answer."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from aiohttp.test_utils import make_mocked_request
from hypothesis import given
from hypothesis import strategies as st

from proxy.ecr.services import SERVICES, service_of

TARGET = {"X-Amz-Target": "AmazonEC2ContainerRegistry_V20150921.ListImages"}
FORM = {"Content-Type": "application/x-www-form-urlencoded; charset=utf-8"}


def scoped(service: str) -> dict[str, str]:
    scope = f"AKIAEXAMPLE/20261124/eu-west-1/{service}/aws4_request"
    return {"Authorization": f"AWS4-HMAC-SHA256 Credential={scope}, SignedHeaders=host, Signature={'0' * 64}"}


def presigned(service: str) -> str:
    return f"/?Action=X&X-Amz-Credential=AKIAEXAMPLE%2F20261124%2Feu-west-1%2F{service}%2Faws4_request&X-Amz-Date=1"


CASES: list[tuple[str, str, Mapping[str, str], str]] = [
    ("POST", "/", TARGET, "ecr"),
    ("POST", "/", TARGET | scoped("ecr"), "ecr"),
    ("POST", "/", TARGET | scoped("sts"), "ecr"),
    ("POST", "/", TARGET | FORM, "ecr"),
    ("POST", "/", {"X-Amz-Target": "secretsmanager.GetSecretValue"}, "secretsmanager"),
    ("POST", "/", {"X-Amz-Target": "secretsmanager.GetSecretValue"} | scoped("ecr"), "secretsmanager"),
    ("POST", "/", {"X-Amz-Target": "AWSEvents.PutRule"}, "events"),
    ("POST", "/", {"X-Amz-Target": "secretsmanagerx.GetSecretValue"}, "ecr"),
    ("GET", "/?Action=GetSecretValue&Version=2017-10-17", {}, "sts"),
    ("POST", "/", scoped("ecr"), "ecr"),
    ("POST", "/", FORM | scoped("sts"), "sts"),
    ("POST", "/", FORM | scoped("iam"), "iam"),
    ("POST", "/", scoped("iam"), "iam"),
    ("POST", "/", FORM | scoped("s3"), "sts"),
    ("POST", "/", FORM | scoped("ecr"), "ecr"),
    ("GET", presigned("sts"), {}, "sts"),
    ("GET", presigned("iam"), {}, "iam"),
    ("GET", presigned("ecr"), {}, "ecr"),
    ("GET", presigned("s3"), {}, "sts"),
    ("GET", "/?Action=ListUsers&Version=2010-05-08", {}, "iam"),
    ("GET", "/?Version=2011-06-15&Action=AssumeRoleWithWebIdentity", {}, "sts"),
    ("POST", "/?Action=AssumeRoleWithWebIdentity&Version=2011-06-15", {}, "sts"),
    ("POST", "/?Action=GetUser", {}, "sts"),
    ("POST", "/", FORM, "sts"),
    ("GET", "/", {}, "sts"),
    ("POST", "/", {}, "ecr"),
    ("POST", "/", {"Authorization": "Basic QVdTOmFiYw=="}, "ecr"),
]


@pytest.mark.parametrize(("method", "target", "headers", "service"), CASES)
def test_the_service_is_told_by_target_then_scope_then_action(
    method: str, target: str, headers: Mapping[str, str], service: str
) -> None:
    assert service_of(make_mocked_request(method, target, headers=dict(headers))).name == service


@given(st.text("Credntial=/20561 ,%&ecrstsiamVo-X", max_size=80))
def test_any_authorization_and_query_are_for_some_service(text: str) -> None:
    request = make_mocked_request("GET", "/?" + text, headers={"Authorization": text})
    assert service_of(request) in SERVICES.values()
