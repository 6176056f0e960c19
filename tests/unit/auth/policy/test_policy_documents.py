"""What a text must be to be a policy at all, and how its statements name actions and resources."""

from __future__ import annotations

import gc
import json
import time
from typing import Any

import pytest

from proxy.auth.policy import documents
from proxy.auth.policy.documents import TEXT_MAX, compile_document, keys_named
from proxy.auth.policy.errors import PolicyError

ALLOW = {"Effect": "Allow", "Action": "ecr:Get*", "Resource": "*"}


def text(*statements: object, **elements: object) -> str:
    return json.dumps({"Version": "2012-10-17", "Statement": list(statements)} | elements)


@pytest.mark.parametrize(
    ("action", "given", "named"),
    [
        ("ecr:GetImage", "ecr:GetImage", True),
        ("ecr:GetImage", "ECR:getimage", True),
        ("ecr:GetImage", "ecr:Get*", True),
        ("ecr:GetImage", "ecr:*Image", True),
        ("ecr:GetImage", "ecr:Get?mage", True),
        ("ecr:GetImage", "ecr:Get??mage", False),
        ("ecr:GetImage", "ecr:GetImag?", True),
        ("ecr:GetImage", "ecr:GetImage?", False),
        ("ecr:GetImage", "ecr:*etIm*", True),
        ("ecr:GetImage", "ecr:*im", False),
        ("ecr:GetImage", "ecr:GetImag", False),
        ("ecr:GetImage", "*", True),
        ("ecr:GetImage", "ecr:*", True),
        ("ecr-public:GetImage", "ecr:*", False),
        ("ecr:GetImage", ["s3:*", "ecr:GetImage"], True),
        ("ecr:GetImage", ["s3:*"], False),
    ],
)
@pytest.mark.parametrize("negated", [False, True])
def test_an_action_is_named_whatever_its_case(action: str, given: Any, named: bool, negated: bool) -> None:
    statement = {"Effect": "Allow", "NotAction" if negated else "Action": given, "Resource": "*"}
    (compiled,) = compile_document(text(statement)).statements
    assert compiled.names_action(action.lower()) is (named != negated)


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ("*", True),
        ("arn:aws:ecr:eu:1:repository/team/app", True),
        ("arn:aws:ecr:eu:1:repository/Team/app", False),
        ("arn:aws:ecr:*", True),
        ("arn:*/app", True),
        ("arn:aws:ecr:eu:1:repository/team", False),
        (["arn:aws:s3:::b", "arn:aws:ecr:eu:1:repository/*"], True),
        ("arn:aws:ecr:eu:1:repository/${aws:PrincipalTag/team}/*", True),
    ],
)
@pytest.mark.parametrize("negated", [False, True])
def test_a_resource_is_named_by_its_whole_arn(given: Any, named: bool, negated: bool) -> None:
    statement = {"Effect": "Allow", "Action": "*", "NotResource" if negated else "Resource": given}
    (compiled,) = compile_document(text(statement)).statements
    context = {"aws:principaltag/team": ("team",)}
    assert compiled.names_resource("arn:aws:ecr:eu:1:repository/team/app", context) is (named != negated)


def test_a_statement_without_resources_names_none() -> None:
    (compiled,) = compile_document(text({"Effect": "Allow", "Action": "*"})).statements
    assert compiled.names_resource("*", {}) is False


@pytest.mark.parametrize(
    ("effect", "element", "applies"),
    [("Allow", "Resource", False), ("Allow", "NotResource", False), ("Deny", "NotResource", True)],
)
def test_nobody_is_let_in_by_a_variable_without_a_value(effect: str, element: str, applies: bool) -> None:
    statement = {"Effect": effect, "Action": "*", element: "arn:aws:ecr:eu:1:repository/${aws:Gone}*"}
    (compiled,) = compile_document(text(statement)).statements
    assert compiled.names_resource("arn:aws:ecr:eu:1:repository/team/app", {}) is applies


@pytest.mark.parametrize("version", [None, "2008-10-17"])
def test_only_the_newer_version_has_variables(version: str | None) -> None:
    document = {"Statement": {"Effect": "Allow", "Action": "*", "Resource": "arn:${aws:username"}}
    (compiled,) = compile_document(json.dumps(document | ({"Version": version} if version else {}))).statements
    assert compiled.names_resource("arn:${aws:username", {"aws:username": ("bob",)})
    with pytest.raises(PolicyError):
        compile_document(json.dumps(document | {"Version": "2012-10-17"}))


def test_a_single_statement_needs_no_list_and_numbers_and_booleans_are_values() -> None:
    condition = {"NumericLessThan": {"x:n": 10}, "Bool": {"x:b": True}, "StringEquals": {"x:f": [1.50, "a"]}}
    document = compile_document(json.dumps({"Statement": ALLOW | {"Condition": condition}}))
    assert [each.values for each in document.statements[0].conditions] == [("10",), ("true",), ("1.5", "a")]
    assert document.keys == {"x:n", "x:b", "x:f"}


def test_keys_are_named_as_they_are_spelled_each_once() -> None:
    first = compile_document(text(ALLOW | {"Condition": {"StringLike": {"aws:UserName": "${AWS:UserId}"}}}))
    second = compile_document(text(ALLOW | {"Resource": "arn:${aws:username}/${aws:PrincipalTag/Team}"}))
    assert keys_named([first, second]) == ["aws:UserName", "AWS:UserId", "aws:PrincipalTag/Team"]
    assert first.keys == {"aws:username", "aws:userid"}
    assert second.keys == {"aws:username", "aws:principaltag/team"}


NO_TEXTS: list[Any] = [[], None, "", 1, {}, [[]], ["*", 1]]
NO_CONDITIONS: list[Any] = [[], None, "x", {"Bool": []}, {"Bool": {}}]
NO_VALUES: list[Any] = [None, {}, [None], [["x"]], [{}]]

NO_PRINCIPALS: list[Any] = [
    *(None, "", [], {}, "bob", ["*"], 1, "111122223333", {"aws": "*"}, {"AWS": "*", "Group": "g"}),
    *({"AWS": []}, {"AWS": None}, {"AWS": {}}, {"AWS": ["*", 1]}, {"AWS": 111122223333}),
    *({"AWS": given} for given in ("1111", "AIDA1234567890ABCDEF")),
    *({"AWS": f"arn:aws:iam::{given}"} for given in ("*:root", "111122223333", "111122223333:group/g")),
    *(
        {"AWS": f"arn:aws:iam::111122223333:{given}"}
        for given in ("user/*", "role/a?c", "user/", "user/a/", "user", "root/x")
    ),
    *({"AWS": f"arn:aws:sts::111122223333:{given}"} for given in ("assumed-role/R", "assumed-role/R/*", "root")),
    *({"AWS": given} for given in ("111122223333:root", "arn:aws-cn:iam::111122223333:root")),
]

MALFORMED = [
    "",
    "null",
    "[]",
    '"text"',
    "{",
    '{"Statement":[]} x',
    "[" * 50_000,
    '{"Statement":' * 9_000,
    '{"Statement":[],"Statement":[]}',
    '{"Version":"2012-10-17"}',
    '{"Version":"2012-10-18","Statement":[]}',
    '{"Version":2012,"Statement":[]}',
    '{"Version":null,"Statement":[]}',
    '{"Id":1,"Statement":[]}',
    '{"Id":"\\ud800","Statement":[]}',
    '{"statement":[]}',
    '{"Statement":"*"}',
    '{"Statement":[[]]}',
    '{"Statement":[null]}',
    '{"Statement":[{"Effect":"Allow","Effect":"Deny","Action":"*","Resource":"*"}]}',
    '{"Statement":{"Effect":"Allow","Action":"*","Resource":"*","Condition":{"NumericEquals":{"a:b":NaN}}}}',
    " " * 131_073,
    text(ALLOW | {"Effect": "allow"}),
    text(ALLOW | {"Effect": ["Allow"]}),
    text(ALLOW | {"Sid": 1}),
    text(ALLOW | {"Sid": None}),
    text(ALLOW | {"Actions": "*"}),
    text(ALLOW | {"NotAction": "*"}),
    text(ALLOW | {"NotResource": "*"}),
    text(ALLOW | {"Principal": "*", "NotPrincipal": "*"}),
    text({"Effect": "Allow", "Resource": "*"}),
    *(text(ALLOW | {"Action": given}) for given in NO_TEXTS),
    *(text(ALLOW | {"Action": given}) for given in ("Get", "e*", "ecr:", ":Get", "a:b:c", "e*:x", "ecr:Get Image")),
    *(text(ALLOW | {"Resource": given}) for given in (*NO_TEXTS, "${", "${a")),
    *(text(ALLOW | {"Condition": given}) for given in NO_CONDITIONS),
    text(ALLOW | {"Condition": {"Bool": {"a:b": []}}}),
    *(text(ALLOW | {"Condition": {"StringEquals": {"a:b": given}}}) for given in NO_VALUES),
    text(ALLOW | {"Condition": {"StringEquals": {"key": "x"}}}),
    text(ALLOW | {"Condition": {"Equals": {"a:b": "x"}}}),
    *(text(ALLOW | {"Principal": given}) for given in NO_PRINCIPALS),
]


@pytest.mark.parametrize("malformed", MALFORMED, ids=lambda each: each[-60:])
def test_what_is_no_policy_is_refused_at_once(malformed: str) -> None:
    began = time.perf_counter()
    with pytest.raises(PolicyError) as refused:
        compile_document(malformed)
    assert time.perf_counter() - began < 1
    assert str(refused.value).encode()
    assert len(str(refused.value)) < 400


def test_a_fault_is_said_with_its_statement() -> None:
    with pytest.raises(PolicyError, match=r"^Policy statement must contain actions\. \(in statement 2, second\)$"):
        compile_document(text(ALLOW, {"Sid": "second", "Effect": "Deny", "Resource": "*"}))


def test_a_text_is_compiled_once(monkeypatch: pytest.MonkeyPatch) -> None:
    first = compile_document(text(ALLOW))
    monkeypatch.setattr(documents, "_compile", pytest.fail)
    assert compile_document(text(ALLOW)) is first


def test_two_threads_that_compile_a_text_at_a_time_get_one_document() -> None:
    kept = documents._DocumentCache()
    first, second = (documents._compile(text(ALLOW)) for _ in range(2))
    assert kept.put(first) is first
    assert kept.put(second) is first


def long_text(sid: str) -> str:
    """As long as a text may be."""
    found = text(ALLOW | {"Sid": sid})
    return found + " " * (TEXT_MAX - len(found))


def is_kept(sid: str) -> bool:
    return documents._kept._alive.get(long_text(sid)) is not None


def test_the_latest_documents_are_kept_though_nobody_holds_them_as_long_as_their_texts_come_to_512_kib() -> None:
    for sid in "abcd":
        compile_document(long_text(sid))
    gc.collect()
    assert all(map(is_kept, "abcd"))
    compile_document(long_text("a"))  # now the latest
    compile_document(text(ALLOW | {"Sid": "short"}))
    gc.collect()
    assert [sid for sid in "abcd" if is_kept(sid)] == ["a", "c", "d"]


def test_a_document_that_somebody_holds_is_compiled_once_however_many_come_between() -> None:
    held = compile_document(text(ALLOW))
    for at in range(6):
        compile_document(long_text(f"t{at}"))
    assert compile_document(text(ALLOW)) is held
