"""Every condition operator, on values that are there, absent, several, and not readable as what they should be."""

from __future__ import annotations

import time

import pytest

from proxy.auth.policy.conditions import Condition
from proxy.auth.policy.errors import PolicyError

ROLE = "arn:aws:iam::111122223333:role/team/app"


def holds(operator: str, given: str | list[str], *found: str) -> bool:
    """On a key with the values `found`; none: the key is absent."""
    values = given if isinstance(given, list) else [given]
    context = {"aws:username": ("bob",)} | ({"x:key": found} if found else {})
    return Condition(operator, "x:Key", values, variables=True).holds(context)


PAIRS = [
    ("StringEquals", "a", "a", True),
    ("StringEquals", "a", "A", False),
    ("StringEquals", "a*", "ab", False),
    ("StringEquals", ["b", "a"], "a", True),
    ("StringEquals", "${aws:username}", "bob", True),
    ("StringEquals", "${aws:Gone}", "bob", False),
    ("StringEquals", "", "", True),
    ("StringNotEquals", "a", "a", False),
    ("StringNotEquals", ["b", "a"], "a", False),
    ("StringNotEquals", ["b", "c"], "a", True),
    ("StringNotEquals", "${aws:Gone}", "bob", True),
    ("StringEqualsIgnoreCase", "STRASSE", "straße", True),
    ("StringEqualsIgnoreCase", "${aws:username}", "BOB", True),
    ("StringEqualsIgnoreCase", "${aws:Gone}", "BOB", False),
    ("StringNotEqualsIgnoreCase", "A", "a", False),
    ("StringLike", "a*", "ab", True),
    ("StringLike", "a${*}", "ab", False),
    ("StringLike", "A*", "ab", False),
    ("StringNotLike", "a*", "ab", False),
    ("StringNotLike", "b*", "ab", True),
    ("NumericEquals", "10", "10.0", True),
    ("NumericEquals", "1e1", "10", True),
    ("NumericEquals", "10", "ten", False),
    ("NumericEquals", "9007199254740993", "9007199254740992", False),
    ("NumericNotEquals", "10", "10", False),
    ("NumericNotEquals", "10", "ten", True),
    ("NumericLessThan", "10", "9", True),
    ("NumericLessThan", "10", "10", False),
    ("NumericLessThan", "10", "-100", True),
    ("NumericLessThanEquals", "10", "10", True),
    ("NumericGreaterThan", "10", "9", False),
    ("NumericGreaterThan", "10", "10.5", True),
    ("NumericGreaterThanEquals", "10", "10", True),
    ("NumericGreaterThan", "10", "Infinity", False),
    ("DateEquals", "2026-01-02T03:04:05Z", "1767323045", True),
    ("DateEquals", "2026-01-02T03:04:05+01:00", "2026-01-02T02:04:05Z", True),
    ("DateEquals", "2026-01-02T03:04:05-01:30", "2026-01-02T04:34:05Z", True),
    ("DateEquals", "20260102T030405Z", "2026-01-02T03:04:05Z", True),
    ("DateEquals", "2026", "2026-01-01", True),
    ("DateNotEquals", "2026-01-02", "2026-01-02T00:00Z", False),
    ("DateLessThan", "2026-01-02T03:04:05Z", "2026-01-02T03:04:04.5Z", True),
    ("DateLessThan", "2026-01-02T03:04:05Z", "2026-01-02T03:04:05Z", False),
    ("DateLessThanEquals", "2026-01-02T03:04:05Z", "2026-01-02T03:04:05Z", True),
    ("DateGreaterThan", "2026-01-01", "2026-01-02", True),
    ("DateGreaterThan", "2026-01-01", "soon", False),
    ("DateGreaterThanEquals", "2026-01-01", "2025-12-31T23:59:59Z", False),
    ("Bool", "true", "true", True),
    ("Bool", "True", "true", True),
    ("Bool", "false", "true", False),
    ("Bool", "true", "1", False),
    ("BinaryEquals", "QUJD", "QUJD", True),
    ("BinaryEquals", "QUJD", "QUJE", False),
    ("BinaryEquals", "QUJD", "?", False),
    ("IpAddress", "10.0.0.0/8", "10.255.0.1", True),
    ("IpAddress", "10.0.0.0/8", "11.0.0.1", False),
    ("IpAddress", "10.0.0.1", "10.0.0.1", True),
    ("IpAddress", "10.0.0.7/8", "10.9.9.9", True),
    ("IpAddress", "10.0.0.0/8", "::ffff:10.0.0.1", True),
    ("IpAddress", "2001:db8::/32", "2001:db8:1::5", True),
    ("IpAddress", "2001:db8::/32", "2001:DB9::5", False),
    ("IpAddress", "0.0.0.0/0", "::1", False),
    ("IpAddress", ["10.0.0.0/8", "::/0"], "::1", True),
    ("IpAddress", "10.0.0.0/8", "nowhere", False),
    ("NotIpAddress", "10.0.0.0/8", "10.0.0.1", False),
    ("NotIpAddress", ["10.0.0.0/8", "192.0.2.0/24"], "192.0.2.1", False),
    ("NotIpAddress", ["10.0.0.0/8", "192.0.2.0/24"], "198.51.100.1", True),
    ("ArnEquals", ROLE, ROLE, True),
    ("ArnEquals", "arn:aws:iam::111122223333:role/*", ROLE, True),
    ("ArnLike", "arn:aws:iam::*:role/team/*", ROLE, True),
    ("ArnLike", "arn:aws:iam::*", ROLE, False),
    ("ArnLike", "arn:*:role/team/app", ROLE, False),
    ("ArnLike", "arn:aws:iam::11112222????:role/team/app", ROLE, True),
    ("ArnLike", "*", ROLE, True),
    ("ArnLike", "*", "no arn", False),
    ("ArnLike", "arn:*:*:*:*:*", "arn:aws:iam", False),
    ("ArnLike", "*app", ROLE, False),
    ("ArnLike", "*", "a:b:c:d:e", False),
    ("DateEquals", "2026-01-02T03:04:05.1234567Z", "2026-01-02T03:04:05.123456Z", True),
    ("DateEquals", "2026-01-02T03:04:05z", "1767323045", True),
    ("ArnLike", "arn:aws:x:::*:d", "arn:aws:x:::a:b:c:d", True),
    ("ArnLike", "arn:aws:iam::111122223333:user/${aws:username}", "arn:aws:iam::111122223333:user/bob", True),
    ("ArnLike", "arn:aws:iam::111122223333:user/${aws:Gone}", "arn:aws:iam::111122223333:user/", False),
    ("ArnNotEquals", ROLE, ROLE, False),
    ("ArnNotLike", "arn:aws:iam::*:user/*", ROLE, True),
    ("ArnNotLike", "arn:aws:iam::*:role/*", ROLE, False),
    ("Null", "true", "x", False),
    ("Null", "false", "x", True),
]


@pytest.mark.parametrize(("operator", "given", "found", "expected"), PAIRS)
def test_an_operator_compares_one_value(operator: str, given: str | list[str], found: str, expected: bool) -> None:
    assert holds(operator, given, found) is expected
    assert holds(operator.lower(), given, found) is expected
    if operator != "Null":
        assert holds(operator + "IfExists", given, found) is expected


def test_a_date_without_a_zone_is_in_utc_wherever_the_machine_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as elsewhere:
        elsewhere.setenv("TZ", "XYZ-9")
        time.tzset()
        found = holds("DateEquals", "2026-01-02T03:04:05", "1767323045")
    time.tzset()
    assert found


VALUES = {"Numeric": "1", "Date": "2026", "Bool": "true", "Binary": "QQ==", "Ip": "10.0.0.1", "NotIp": "10.0.0.1"}
OPERATORS = sorted({operator for operator, *_ in PAIRS} - {"Null"})


@pytest.mark.parametrize("operator", OPERATORS)
def test_an_absent_key_is_what_each_prefix_and_suffix_makes_of_it(operator: str) -> None:
    value = next((VALUES[kind] for kind in VALUES if operator.startswith(kind)), ROLE)
    assert holds(operator, value) is ("Not" in operator)
    assert holds(f"{operator}IfExists", value)
    assert holds(f"ForAllValues:{operator}", value)
    assert not holds(f"ForAnyValue:{operator}", value)
    assert holds(f"ForAnyValue:{operator}IfExists", value)


def test_null_asks_whether_a_key_is_absent() -> None:
    assert holds("Null", "true")
    assert not holds("Null", "false")


@pytest.mark.parametrize(
    ("operator", "given", "found", "expected"),
    [
        ("ForAllValues:StringEquals", ["a", "b"], ["a"], True),
        ("ForAllValues:StringEquals", ["a", "b"], ["a", "b"], True),
        ("ForAllValues:StringEquals", ["a", "b"], ["a", "c"], False),
        ("ForAllValues:StringLike", ["a*"], ["ab", "ac"], True),
        ("ForAllValues:StringNotEquals", ["a", "b"], ["c", "d"], True),
        ("ForAllValues:StringNotEquals", ["a", "b"], ["c", "a"], False),
        ("ForAnyValue:StringEquals", ["a", "b"], ["c", "b"], True),
        ("ForAnyValue:StringEquals", ["a", "b"], ["c", "d"], False),
        ("ForAnyValue:StringNotEquals", ["a", "b"], ["a", "c"], True),
        ("ForAnyValue:StringNotEquals", ["a", "b"], ["a", "b"], False),
        ("ForAnyValue:StringNotLike", ["a*"], ["ab"], False),
        ("ForAnyValue:ArnLike", ["arn:aws:iam::*:role/*"], ["x", ROLE], True),
        ("ForAllValues:StringEquals", ["a"], [""], True),
        ("ForAnyValue:StringEquals", [""], [""], False),
        ("StringEquals", ["a"], ["b", "a"], True),
        ("StringNotEquals", ["a"], ["b", "a"], False),
    ],
)
def test_set_operators_ask_of_every_value_or_of_any(
    operator: str, given: list[str], found: list[str], expected: bool
) -> None:
    assert holds(operator, given, *found) is expected


@pytest.mark.parametrize(
    ("operator", "given"),
    [
        ("StringEqual", "a"),
        ("", "a"),
        ("ForAllValues:", "a"),
        ("ForSomeValues:StringEquals", "a"),
        ("NullIfExists", "true"),
        ("StringEqualsIfExistsIfExists", "a"),
        ("Bool", "yes"),
        ("Null", "maybe"),
        ("NumericEquals", "one"),
        ("NumericEquals", "NaN"),
        ("NumericEquals", "1e9999"),
        ("DateEquals", "2026-13-01"),
        ("DateEquals", "2026-01-01T00:00:00+99:99"),
        ("IpAddress", "10.0.0.0/33"),
        ("IpAddress", "${aws:SourceIp}"),
        ("BinaryEquals", "*"),
        ("StringLike", "${open"),
    ],
)
def test_unknown_operators_and_values_that_are_none_are_refused(operator: str, given: str) -> None:
    with pytest.raises(PolicyError):
        Condition(operator, "x:Key", [given], variables=True)


def test_a_condition_tells_the_keys_that_it_reads() -> None:
    condition = Condition("StringLike", "aws:PrincipalTag/Team", ["${aws:UserName}*"], variables=True)
    assert condition.keys == {"aws:principaltag/team", "aws:username"}
    assert condition.names == ("aws:PrincipalTag/Team", "aws:UserName")
    assert condition.missing({}) == ["aws:UserName"]
