"""What is wrong with a document, in words: whoever wrote it is told what to mend, and where.

A word of the document is said back, cut so that the answer stays short.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from proxy.auth.policy.conditions import Condition
from proxy.auth.policy.documents import TEXT_MAX, compile_document
from proxy.auth.policy.errors import PolicyError
from proxy.auth.policy.variables import Template

ALLOW = {"Effect": "Allow", "Action": "ecr:Get*", "Resource": "*"}
LONG = "x" * 300
HEAD = LONG[:64]  # as much of a word as is said back
NO_ACTIONS = "Policy statement must contain actions."
NO_RESOURCES = "Policy statement must contain resources."
NO_VENDOR = "Actions/Conditions must be prefaced by a vendor, e.g., iam, sdb, ec2, etc."
NO_VERSION = "The policy must contain a valid version string: 2012-10-17 or 2008-10-17"
NO_PRINCIPAL = 'A principal is "*", or names kinds of principals: AWS, Service, Federated'


def refusal(text: str) -> str:
    with pytest.raises(PolicyError) as refused:
        compile_document(text)
    return str(refused.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (" " * (TEXT_MAX + 1), "The policy is longer than 131072 characters"),
        ('{"Id":"\\ud800","Statement":[]}', "The policy holds characters that are none"),
        ("{", "Syntax errors in policy."),
        ("[" * 50_000, "Syntax errors in policy."),
        ("[]", "Syntax errors in policy."),
        ('{"Statement":NaN}', "Syntax errors in policy."),
        (json.dumps({LONG: 1}), f"Syntax errors in policy. '{HEAD}' is no element of a policy"),
        ('{"Statement":[],"Statement":[]}', "Syntax errors in policy. An element appears twice"),
        ('{"Version":"2012-10-18","Statement":[]}', NO_VERSION),
        ('{"Version":["2012-10-17"],"Statement":[]}', NO_VERSION),
        ('{"Version":20121017,"Statement":[]}', NO_VERSION),
        ('{"Id":1,"Statement":[]}', "Id must be a text"),
        ('{"Version":"2012-10-17"}', "The policy has no Statement"),
        ('{"Statement":null}', "The policy has no Statement"),
    ],
    ids=lambda each: each[-60:],
)
def test_a_document_is_refused_as_a_whole(text: str, said: str) -> None:
    assert refusal(text) == said


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({LONG: 1}, f"Syntax errors in policy. '{HEAD}' is no element of a statement"),
        ({"Effect": "allow"}, "Effect must be Allow or Deny"),
        ({"Effect": None}, "Effect must be Allow or Deny"),
        ({"Action": None}, "Action holds nothing"),
        ({"Action": []}, NO_ACTIONS),
        ({"Action": [""]}, NO_ACTIONS),
        ({"NotAction": "*"}, "A statement has Action or NotAction, not both"),
        ({"Action": "a:b:" + LONG}, f"Actions/Condition can contain only one colon. 'a:b:{LONG[:60]}'"),
        ({"Action": LONG}, f"{NO_VENDOR} '{HEAD}'"),
        ({"Action": "ecr:Get Image"}, f"{NO_VENDOR} 'ecr:Get Image'"),
        ({"Resource": None}, "Resource holds nothing"),
        ({"Resource": []}, NO_RESOURCES),
        ({"NotResource": "*"}, "A statement has Resource or NotResource, not both"),
        ({"Principal": None}, "Principal holds nothing"),
        ({"NotPrincipal": None}, "NotPrincipal holds nothing"),
        ({"Principal": "*", "NotPrincipal": "*"}, "A statement has Principal or NotPrincipal, not both"),
        ({"Condition": []}, "Syntax errors in policy. Condition is an object"),
        ({"Condition": {LONG: "x"}}, f"Syntax errors in policy. '{HEAD}' has no keys"),
        ({"Condition": {"Bool": {}}}, "Syntax errors in policy. 'Bool' has no keys"),
        ({"Condition": {"Bool": {LONG: "true"}}}, f"{NO_VENDOR} '{HEAD}'"),
        (
            {"Condition": {"Bool": {"a:" + LONG: None}}},
            f"Syntax errors in policy. The values of 'a:{LONG[:62]}' must be texts, numbers or booleans",
        ),
        ({"Condition": {"Bool": {"a:" + LONG: []}}}, f"Syntax errors in policy. 'a:{LONG[:62]}' has no values"),
    ],
    ids=str,
)
def test_a_statement_is_refused_by_its_place(change: dict[str, Any], said: str) -> None:
    second = {"Sid": "here"} | ALLOW | change
    assert refusal(json.dumps({"Statement": [ALLOW, second, ALLOW]})) == f"{said} (in statement 2, here)"


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("*", "Syntax errors in policy. A statement is an object (in statement 1)"),
        (ALLOW | {"Sid": 1}, "Sid must be a text (in statement 1)"),
        (ALLOW | {"Sid": "", "Effect": ""}, "Effect must be Allow or Deny (in statement 1)"),
        (ALLOW | {"Sid": LONG, "Effect": ""}, f"Effect must be Allow or Deny (in statement 1, {HEAD})"),
        ({"Effect": "Allow", "Resource": "*"}, f"{NO_ACTIONS} (in statement 1)"),
    ],
    ids=str,
)
def test_a_statement_without_a_name_is_told_by_its_number(statement: object, said: str) -> None:
    assert refusal(json.dumps({"Statement": statement})) == said


@pytest.mark.parametrize(
    ("principal", "said"),
    [
        ("bob", NO_PRINCIPAL),
        ({}, NO_PRINCIPAL),
        ([], NO_PRINCIPAL),
        ({LONG: "*"}, f"Invalid principal in policy: '{HEAD}' is no kind of principal"),
        ({"AWS": []}, "Invalid principal in policy: AWS names no principal"),
        ({"Service": ""}, "Invalid principal in policy: Service names no principal"),
        ({"Federated": ["a.b", 1]}, "Invalid principal in policy: Federated names no principal"),
        ({"AWS": LONG}, f'Invalid principal in policy: "AWS":"{LONG[:256]}"'),
    ],
    ids=str,
)
def test_a_principal_is_refused_by_what_it_is_not(principal: object, said: str) -> None:
    assert refusal(json.dumps({"Statement": ALLOW | {"Principal": principal}})) == f"{said} (in statement 1)"


@pytest.mark.parametrize(
    ("operator", "value", "said"),
    [
        (LONG, "a", f"Invalid Condition type : {HEAD}"),
        ("NullIfExists", "true", "Invalid Condition type : NullIfExists"),
        ("NumericEquals", LONG, f"The value '{HEAD}' is not what NumericEquals compares"),
        ("ForAnyValue:Bool", "yes", "The value 'yes' is not what ForAnyValue:Bool compares"),
    ],
)
def test_a_condition_is_refused_by_its_operator_or_value(operator: str, value: str, said: str) -> None:
    with pytest.raises(PolicyError) as refused:
        Condition(operator, "x:Key", [value], variables=True)
    assert str(refused.value) == said


@pytest.mark.parametrize("text", ["${", "${" + LONG, "${}", "${ }", "${a${b}}" + LONG])
def test_a_variable_is_refused_from_where_it_begins(text: str) -> None:
    with pytest.raises(PolicyError) as refused:
        Template("ab" + text, variables=True, wild=True)
    assert str(refused.value) == f"A policy variable is not well formed: {text[:64]}"


@pytest.mark.parametrize("text", ["${a, none}" + LONG, "${a, 'b}", "${a, 'b' c}", "${a,}", "${a, 'b'", "${a,c 'b'}"])
def test_a_default_is_refused_from_where_its_variable_begins(text: str) -> None:
    with pytest.raises(PolicyError) as refused:
        Template("ab" + text, variables=True, wild=True)
    assert str(refused.value) == f"A policy variable's default must be in single quotes: {text[:64]}"


def test_a_text_may_be_as_long_as_iam_takes() -> None:
    text = json.dumps({"Statement": ALLOW})
    assert compile_document(text + " " * (TEXT_MAX - len(text))).statements
