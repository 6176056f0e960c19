"""What a Condition block says to a request: every operator, with its suffix and prefixes, present and missing keys.

Each line hangs one Allow with that block on a user who has nothing else, so that allowed is true and refused is false.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from proxy.auth.policy.decision import decide
from support.naive_policy import judge
from support.policy_cases import ALLOWED, NO_IDENTITY, Case, allow, asked
from support.policy_people import HOME, arn_of

CONDITION = "IAM JSON policy elements: Condition"
OPERATORS = "IAM JSON policy elements: Condition operators"
STRING = f"{OPERATORS}: string"
NUMERIC = f"{OPERATORS}: numeric"
DATE = f"{OPERATORS}: date"
BOOL = f"{OPERATORS}: Boolean"
BINARY = f"{OPERATORS}: binary"
IP = f"{OPERATORS}: IP address"
ARN = f"{OPERATORS}: ARN"
IF_EXISTS = f"{OPERATORS}: IfExists"
NULL = f"{OPERATORS}: to check existence of condition keys"
MISSING = f"{OPERATORS}: important note on missing keys"
SEVERAL = "Conditions with multiple context keys or values"
SETS = "Single-valued vs. multivalued context keys: set operators"
VARIABLES = "IAM policy elements: Variables and tags"
VERSION = "IAM JSON policy elements: Version"

Block = dict[str, dict[str, Any]]
Keys = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Line:
    source: str
    block: Block
    keys: Keys
    true: bool
    version: str | None = "2012-10-17"


def lines(source: str, operator: str, rows: list[tuple[Any, Any, bool]], key: str = "test:Key") -> list[Line]:
    """Rows of (values in the policy, values in the request or None for a missing key, whether it is true)."""
    return [Line(source, {operator: {key: wanted}}, {key: value}, true) for wanted, value, true in rows]


STRINGS = [
    *lines(STRING, "StringEquals", [("prod", "prod", True), ("prod", "Prod", False), ("prod", "production", False)]),
    *lines(STRING, "StringEquals", [("pro*", "prod", False), ("pro*", "pro*", True), ("", "prod", False)]),
    *lines(STRING, "StringEquals", [("pro?", "prod", False), ("pro?", "pro?", True)]),
    *lines(STRING, "StringNotEquals", [("prod", "prod", False), ("prod", "Prod", True), ("prod", "dev", True)]),
    *lines(STRING, "StringEqualsIgnoreCase", [("prod", "PROD", True), ("pROD", "prod", True), ("prod", "dev", False)]),
    *lines(STRING, "StringEqualsIgnoreCase", [("pr*", "PROD", False), ("pr*", "PR*", True), ("pr?d", "prod", False)]),
    *lines(STRING, "StringNotEqualsIgnoreCase", [("prod", "PROD", False), ("prod", "dev", True)]),
    *lines(STRING, "StringLike", [("pr*", "prod", True), ("pr?d", "prod", True), ("*o*", "prod", True)]),
    *lines(STRING, "StringLike", [("pr*", "PROD", False), ("pr?", "prod", False), ("prod", "prod", True)]),
    *lines(STRING, "StringLike", [("*", "", True), ("*", "a\nb", True), ("p**d", "prod", True)]),
    *lines(STRING, "StringLike", [("p*d*", "prod", True), ("*p*r*o*d*", "prod", True), ("?*?", "p", False)]),
    *lines(STRING, "StringLike", [("p.*d", "prod", False), ("[p]rod", "prod", False), ("prod?", "prod", False)]),
    *lines(STRING, "StringNotLike", [("pr*", "prod", False), ("pr*", "dev", True), ("PR*", "prod", True)]),
]

TWO: Block = {"StringEquals": {"test:a": "1"}, "StringLike": {"test:b": "2*"}}
SEVERAL_VALUES = [
    *lines(SEVERAL, "StringEquals", [(["a", "b"], "b", True), (["a", "b"], "c", False)]),
    *lines(SEVERAL, "StringNotEquals", [(["a", "b"], "b", False), (["a", "b"], "c", True)]),
    *lines(SEVERAL, "StringNotLike", [(["a*", "b*"], "box", False), (["a*", "b*"], "cat", True)]),
    *lines(SEVERAL, "NumericNotEquals", [(["1", "2"], "2", False), (["1", "2"], "3", True)]),
    Line(SEVERAL, {"StringEquals": {"test:a": "1", "test:b": "2"}}, {"test:a": "1", "test:b": "2"}, True),
    Line(SEVERAL, {"StringEquals": {"test:a": "1", "test:b": "2"}}, {"test:a": "1", "test:b": "3"}, False),
    Line(SEVERAL, TWO, {"test:a": "1", "test:b": "22"}, True),
    Line(SEVERAL, TWO, {"test:a": "0", "test:b": "22"}, False),
    Line(SEVERAL, TWO, {"test:a": "1", "test:b": "3"}, False),
    Line(SEVERAL, {}, {}, True),
]  # fmt: skip

NUMBERS = [
    *lines(NUMERIC, "NumericEquals", [("10", "10", True), (10, "10", True), ("10", "10.0", True), ("10", "11", False)]),
    *lines(NUMERIC, "NumericNotEquals", [("10", "10", False), ("10", "10.00", False), ("10", "9", True)]),
    *lines(NUMERIC, "NumericLessThan", [("10", "9", True), ("10", "10", False), ("10", "11", False)]),
    *lines(NUMERIC, "NumericLessThan", [("10", "9.99", True), ("9", "10", False), ("-1", "-2", True)]),
    *lines(NUMERIC, "NumericLessThanEquals", [("10", "10", True), ("10", "10.01", False), ("10", "9", True)]),
    *lines(NUMERIC, "NumericGreaterThan", [("10", "11", True), ("10", "10", False), ("10", "9", False)]),
    *lines(NUMERIC, "NumericGreaterThanEquals", [("10", "10", True), ("10", "9.99", False), ("10", "11", True)]),
    *lines(NUMERIC, "NumericEquals", [("10", "ten", False)]),
    *lines(NUMERIC, "NumericLessThan", [("10", "", False), (["1", "100"], "50", True)]),
]

NOON = "2025-11-25T12:00:00Z"
DATES = [
    *lines(DATE, "DateEquals", [(NOON, NOON, True), (NOON, "2025-11-25", False)]),
    *lines(DATE, "DateEquals", [(NOON, "2025-11-25T13:00:00+01:00", True)]),
    *lines(DATE, "DateEquals", [("1764072000", NOON, True), (1764072000, NOON, True), (NOON, "1764072000", True)]),
    *lines(DATE, "DateNotEquals", [(NOON, NOON, False), (NOON, "2025-11-25T12:00:01Z", True)]),
    *lines(DATE, "DateLessThan", [(NOON, "2025-11-25T11:59:59Z", True), (NOON, NOON, False)]),
    *lines(DATE, "DateLessThan", [(NOON, "2026-01-01", False)]),
    *lines(DATE, "DateLessThan", [("2026", NOON, True), ("2025-12", NOON, True), ("2025-11-26", NOON, True)]),
    *lines(DATE, "DateLessThan", [("2025", NOON, False), ("2025-11", NOON, False), ("2025-11-25", NOON, False)]),
    *lines(DATE, "DateLessThanEquals", [(NOON, NOON, True), (NOON, "2025-11-25T12:00:01Z", False)]),
    *lines(DATE, "DateGreaterThan", [(NOON, "2025-11-25T12:00:01Z", True), (NOON, NOON, False)]),
    *lines(DATE, "DateGreaterThan", [("2025-11-25T12:00Z", "2025-11-25T12:00:00.5Z", True)]),
    *lines(DATE, "DateGreaterThanEquals", [(NOON, NOON, True), (NOON, "2025-11-25T11:59:59Z", False)]),
    *lines(DATE, "DateLessThan", [(NOON, "yesterday", False)]),
]  # fmt: skip

BOOLEANS = [
    *lines(BOOL, "Bool", [("true", "true", True), ("true", "false", False), ("false", "false", True)]),
    *lines(BOOL, "Bool", [(True, "true", True), (False, "true", False), (["true", "false"], "false", True)]),
]

BINARIES = [
    *lines(BINARY, "BinaryEquals", [("QmluYXJ5VmFsdWVJbkJhc2U2NA==", "b3RoZXI=", False)]),
    *lines(MISSING, "BinaryEquals", [("QmluYXJ5VmFsdWVJbkJhc2U2NA==", None, False)]),
    *lines(IF_EXISTS, "BinaryEqualsIfExists", [("QmluYXJ5VmFsdWVJbkJhc2U2NA==", None, True)]),
]

ADDRESSES = [
    *lines(IP, "IpAddress", [("203.0.113.0/24", "203.0.113.255", True), ("203.0.113.0/24", "203.0.114.0", False)]),
    *lines(IP, "IpAddress", [("203.0.113.7", "203.0.113.7", True), ("203.0.113.7", "203.0.113.8", False)]),
    *lines(IP, "IpAddress", [("0.0.0.0/0", "198.51.100.1", True), ("203.0.113.6/31", "203.0.113.7", True)]),
    *lines(IP, "IpAddress", [("2001:DB8:1234:5678::/64", "2001:db8:1234:5678::1", True)]),
    *lines(IP, "IpAddress", [("2001:DB8:1234:5678::/64", "2001:db8:1234:5679::1", False)]),
    *lines(IP, "IpAddress", [("2001:db8::7", "2001:DB8:0:0::7", True), ("2001:db8::7", "2001:db8::8", False)]),
    *lines(IP, "IpAddress", [("0.0.0.0/0", "2001:db8::7", False), ("::/0", "203.0.113.7", False)]),
    *lines(IP, "IpAddress", [(["203.0.113.0/24", "2001:DB8:1234:5678::/64"], "2001:db8:1234:5678::9", True)]),
    *lines(IP, "IpAddress", [("203.0.113.0/24", "nowhere", False), ("0.0.0.0/0", "", False)]),
    *lines(IP, "NotIpAddress", [("203.0.113.0/24", "203.0.113.255", False), ("203.0.113.0/24", "203.0.114.0", True)]),
    *lines(IP, "NotIpAddress", [(["10.0.0.0/8", "203.0.113.0/24"], "203.0.113.1", False)]),
    *lines(IP, "NotIpAddress", [("203.0.113.0/24", "2001:db8::7", True)]),
]

BUILD = f"arn:aws:iam::{HOME}:role/ci/build"
FINANCE = "arn:aws:someservice:*:111122223333:finance/*"
LONG = "arn:aws:someservice:us-east-2:999999999999:store/abc:111122223333:finance/document.txt"
ARNS = [
    line
    for operator in ("ArnEquals", "ArnLike")
    for line in [
        *lines(ARN, operator, [(BUILD, BUILD, True), (BUILD, BUILD.upper(), False), (BUILD + "er", BUILD, False)]),
        *lines(ARN, operator, [(f"arn:aws:iam::{HOME}:role/*", BUILD, True), ("arn:*:iam:*:*:role/*", BUILD, True)]),
        *lines(ARN, operator, [("arn:aws:iam::????22223333:role/ci/?uild", BUILD, True)]),
        *lines(ARN, operator, [("arn:aws:*:role/*", BUILD, False), ("arn:aws:iam:*:role/ci/build", BUILD, False)]),
        *lines(ARN, operator, [(FINANCE, LONG, False), ("arn:aws:someservice:*:*:store/*finance/*", LONG, True)]),
        *lines(ARN, operator, [(f"arn:aws:iam::{HOME}:role/*", "build", False)]),
        *lines(ARN, operator, [([BUILD, "arn:aws:s3:::*"], "arn:aws:s3:::bucket/key:with:colons", True)]),
    ]
]
ARNS += [
    line
    for operator in ("ArnNotEquals", "ArnNotLike")
    for line in lines(ARN, operator, [(BUILD, BUILD, False), ("arn:aws:iam::*:role/*", BUILD, False)])
    + lines(ARN, operator, [("arn:aws:iam::*:user/*", BUILD, True), (FINANCE, LONG, True)])
]
ARNS += lines(STRING, "StringLike", [(FINANCE, LONG, True)])

POSITIVE = {
    "StringEquals": "a", "StringEqualsIgnoreCase": "a", "StringLike": "*", "NumericEquals": "1", "NumericLessThan": "1",
    "NumericLessThanEquals": "1", "NumericGreaterThan": "1", "NumericGreaterThanEquals": "1", "DateEquals": NOON,
    "DateLessThan": NOON, "DateLessThanEquals": NOON, "DateGreaterThan": NOON, "DateGreaterThanEquals": NOON,
    "Bool": "false", "IpAddress": "0.0.0.0/0", "ArnEquals": "arn:*:*:*:*:*", "ArnLike": "arn:*:*:*:*:*",
}  # fmt: skip
NEGATED = {
    "StringNotEquals": "a", "StringNotEqualsIgnoreCase": "a", "StringNotLike": "*", "NumericNotEquals": "1",
    "DateNotEquals": NOON, "NotIpAddress": "0.0.0.0/0", "ArnNotEquals": BUILD, "ArnNotLike": "arn:*:*:*:*:*",
}  # fmt: skip
ABSENT = [
    *[line for operator, wanted in POSITIVE.items() for line in lines(MISSING, operator, [(wanted, None, False)])],
    *[line for operator, wanted in NEGATED.items() for line in lines(MISSING, operator, [(wanted, None, True)])],
    *[
        line
        for operator, wanted in (POSITIVE | NEGATED).items()
        for line in lines(IF_EXISTS, f"{operator}IfExists", [(wanted, None, True)])
        + lines(SETS, f"ForAllValues:{operator}", [(wanted, None, True)])
        + lines(SETS, f"ForAnyValue:{operator}", [(wanted, None, False)])
    ],
]
PRESENT = [
    *lines(IF_EXISTS, "StringEqualsIfExists", [("a", "a", True), ("a", "b", False)]),
    *lines(IF_EXISTS, "StringNotEqualsIfExists", [("a", "a", False), ("a", "b", True)]),
    *lines(IF_EXISTS, "StringLikeIfExists", [(["t1.*", "m3.*"], "m3.large", True), (["t1.*"], "m3.large", False)]),
    *lines(IF_EXISTS, "NumericLessThanIfExists", [("5", "4", True), ("5", "6", False)]),
    *lines(IF_EXISTS, "BoolIfExists", [("true", "true", True), ("true", "false", False)]),
    *lines(IF_EXISTS, "IpAddressIfExists", [("10.0.0.0/8", "10.1.1.1", True), ("10.0.0.0/8", "11.1.1.1", False)]),
    *lines(IF_EXISTS, "ArnLikeIfExists", [("arn:aws:iam::*:role/*", BUILD, True), ("arn:aws:s3:::*", BUILD, False)]),
    *lines(IF_EXISTS, "DateGreaterThanIfExists", [("2025", NOON, True), ("2026", NOON, False)]),
    *lines(NULL, "Null", [("true", None, True), ("true", "a", False), ("false", None, False), ("false", "a", True)]),
    *lines(NULL, "Null", [(["true", "false"], None, True), (["true", "false"], "a", True)]),
    *lines(NULL, "Null", [(True, None, True), (False, "a", True), (["true"], "a", False)]),
]

ATTRIBUTES = ["PostDateTime", "Message", "Tags"]
SET_OPERATORS = [
    *lines(SETS, "ForAllValues:StringEquals", [("team", [""], True), ("team", ["", "team"], False)]),
    *lines(SETS, "ForAnyValue:StringEquals", [("", [""], False), ("team", ["", "team"], True)]),
    *lines(SETS, "ForAllValues:StringEquals", [(ATTRIBUTES, ["PostDateTime", "Message"], True)]),
    *lines(SETS, "ForAllValues:StringEquals", [(ATTRIBUTES, ["PostDateTime", "UserName"], False)]),
    *lines(SETS, "ForAllValues:StringLike", [("Created*", ["CreatedBy", "CreatedAt"], True)]),
    *lines(SETS, "ForAllValues:StringLike", [("*By", ["CreatedBy", "CreatedAt"], False), ("*By", ["ABy"], True)]),
    *lines(SETS, "ForAllValues:StringNotEquals", [(["a", "b"], ["c", "d"], True), (["a", "b"], ["a", "d"], False)]),
    *lines(SETS, "ForAllValues:StringEqualsIgnoreCase", [("team", ["TEAM", "Team"], True), ("team", ["cost"], False)]),
    *lines(SETS, "ForAnyValue:StringEquals", [(["ID", "PostDateTime"], ["UserName", "Message", "PostDateTime"], True)]),
    *lines(SETS, "ForAnyValue:StringEquals", [(["ID", "PostDateTime"], ["UserName"], False)]),
    *lines(SETS, "ForAnyValue:StringLike", [("te*", ["cost", "team"], True), ("te*", ["cost"], False)]),
    *lines(SETS, "ForAnyValue:StringNotEquals", [(["DataClass", "Owner"], ["Dept", "DataClass"], True)]),
    *lines(SETS, "ForAnyValue:StringNotEquals", [(["DataClass", "Owner"], ["DataClass", "Owner"], False)]),
    *lines(SETS, "ForAnyValue:ArnLike", [("arn:aws:iam::*:role/*", ["arn:aws:iam::1:user/a", BUILD], True)]),
    *lines(SETS, "ForAllValues:NumericLessThan", [("5", ["1", "4"], True), ("5", ["1", "6"], False)]),
]  # fmt: skip

NAMES_OF_KEYS = [
    Line(CONDITION, {"StringEquals": {"AWS:USERNAME": "alice"}}, {}, True),
    Line(CONDITION, {"StringEquals": {"aws:username": "alice"}}, {}, True),
    Line(CONDITION, {"StringEquals": {"aws:PrincipalTag/LEVEL": "7"}}, {}, True),
    Line(CONDITION, {"StringEquals": {"aws:username": "Alice"}}, {}, False),
    Line(CONDITION, {"StringEquals": {"aws:PrincipalTag/other": "7"}}, {}, False),
]

READ = {"test:tag": "blue", "test:star": "a*b"}
READS_A_STAR: Block = {"StringLike": {"test:q": "${test:star}"}}
VALUES_OF_VARIABLES = [
    Line(VARIABLES, {"StringEquals": {"test:tag": "${aws:PrincipalTag/team}"}}, READ, True),
    Line(VARIABLES, {"StringEquals": {"test:tag": "${AWS:principaltag/TEAM}"}}, READ, True),
    Line(VARIABLES, {"StringNotEquals": {"test:tag": "${aws:PrincipalTag/team}"}}, READ, False),
    Line(VARIABLES, {"StringLike": {"test:tag": "${aws:PrincipalTag/team}*"}}, READ, True),
    Line(VARIABLES, {"StringLike": {"aws:userid": "AIDA*${aws:nothing, 'ALICE'}"}}, READ, True),
    Line(VARIABLES, {"StringEqualsIgnoreCase": {"test:tag": "${test:upper}"}}, READ | {"test:upper": "BLUE"}, True),
    Line(VARIABLES, {"ArnEquals": {"aws:PrincipalArn": f"arn:aws:iam::{HOME}:user/${{aws:username}}"}}, READ, True),
    Line(VARIABLES, {"ArnLike": {"aws:PrincipalArn": "arn:aws:iam::*:user/${aws:username}x"}}, READ, False),
    Line(VARIABLES, {"StringEquals": {"test:tag": "${test:nothing}"}}, READ, False),
    Line(VARIABLES, {"StringEquals": {"test:tag": ["${test:nothing}", "blue"]}}, READ, True),
    Line(VARIABLES, {"StringNotEquals": {"test:tag": "${test:nothing}"}}, READ, False),
    Line(VARIABLES, {"StringNotLike": {"test:tag": ["red", "x${test:nothing}*"]}}, READ, False),
    Line(VARIABLES, {"StringNotEquals": {"test:other": "${test:nothing}"}}, READ, False),
    Line(VARIABLES, {"ArnNotLike": {"aws:PrincipalArn": "arn:aws:iam::*:role/${test:nothing}"}}, READ, False),
    Line(VARIABLES, {"ForAnyValue:StringNotEquals": {"test:tag": "${test:nothing}"}}, READ, False),
    Line(VARIABLES, {"StringNotEqualsIfExists": {"test:tag": "${test:nothing}"}}, READ, False),
    Line(VARIABLES, {"StringNotEqualsIfExists": {"test:other": "${test:nothing}"}}, READ, True),
    Line(VARIABLES, {"StringNotEquals": {"test:tag": "${test:nothing, 'red'}"}}, READ, True),
    Line(VARIABLES, {"StringEquals": {"test:tag": "${test:nothing, 'blue'}"}}, READ, True),
    Line(VARIABLES, {"StringEquals": {"test:tag": "${aws:PrincipalTag/team, 'red'}"}}, READ, True),
    Line(VARIABLES, {"StringEquals": {"test:tag": "x-${test:nothing, 'blue'}"}}, {"test:tag": "x-blue"}, True),
    Line(VARIABLES, {"ForAnyValue:StringEquals": {"test:tag": "${aws:username}"}}, {"test:tag": ["b", "alice"]}, True),
    Line(f"{VARIABLES}: special characters", {"StringLike": {"test:star": "a${*}b"}}, READ, True),
    Line(f"{VARIABLES}: special characters", {"StringLike": {"test:star": "a${*}b"}}, {"test:star": "axb"}, False),
    Line(f"{VARIABLES}: special characters", {"StringLike": {"test:q": "a${?}*"}}, {"test:q": "a?b"}, True),
    Line(f"{VARIABLES}: special characters", {"StringLike": {"test:q": "a${?}*"}}, {"test:q": "axb"}, False),
    Line(f"{VARIABLES}: special characters", {"StringEquals": {"test:q": "${$}{x}"}}, {"test:q": "${x}"}, True),
    Line(f"{VARIABLES}: a value is no pattern", READS_A_STAR, READ | {"test:q": "axb"}, False),
    Line(f"{VARIABLES}: a value is no pattern", READS_A_STAR, READ | {"test:q": "a*b"}, True),
    *[
        Line(VERSION, {"StringEquals": {"test:tag": "${aws:PrincipalTag/team}"}}, {"test:tag": value}, true, version)
        for version in ("2008-10-17", None)
        for value, true in (("blue", False), ("${aws:PrincipalTag/team}", True))
    ],
    Line(VERSION, {"StringLike": {"test:star": "${*}"}}, {"test:star": "${anything}"}, True, "2008-10-17"),
]  # fmt: skip

LINES = [
    *[*STRINGS, *SEVERAL_VALUES, *NUMBERS, *DATES, *BOOLEANS, *BINARIES, *ADDRESSES, *ARNS, *ABSENT, *PRESENT],
    *[*SET_OPERATORS, *NAMES_OF_KEYS, *VALUES_OF_VARIABLES],
]


def told(line: Line) -> str:
    return f"{line.block} of {line.keys} in {line.version} is {line.true}"


def case_of(line: Line) -> Case:
    outcome = ALLOWED if line.true else NO_IDENTITY
    return Case(
        told(line), line.source, outcome, resource=arn_of("team/app"), keys=line.keys, version=line.version,
        identity=[allow(Condition=line.block)],
    )  # fmt: skip


@pytest.mark.parametrize("line", LINES, ids=told)
def test_the_evaluator_reads_a_condition_as_documented(line: Line) -> None:
    assert decide(*asked(case_of(line))).allowed == line.true, line.source


@pytest.mark.parametrize("line", LINES, ids=told)
def test_the_twin_reads_a_condition_as_documented(line: Line) -> None:
    assert judge(*asked(case_of(line))).allowed == line.true, line.source
