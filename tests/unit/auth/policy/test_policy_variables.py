"""Policy variables: what is put in, what stays text, and what has no value."""

from __future__ import annotations

import pytest

from proxy.auth.policy.errors import PolicyError
from proxy.auth.policy.variables import Template

CONTEXT = {
    "aws:username": ("bob",),
    "aws:principaltag/team": ("blue",),
    "aws:principaltag/all": ("*",),
    "aws:principaltag/odd key": ("o",),
    "aws:tagkeys": ("a", "b"),
}


@pytest.mark.parametrize(
    ("text", "found", "matches"),
    [
        ("${aws:username}", "bob", True),
        ("${AWS:UserName}", "bob", True),
        ("${aws:username}", "${aws:username}", False),
        ("home/${aws:username}/*", "home/bob/x", True),
        ("home/${aws:username}/*", "home/bobby/x", False),
        ("${aws:PrincipalTag/team}-${aws:username}", "blue-bob", True),
        ("${aws:PrincipalTag/Team, 'none'}", "blue", True),
        ("${aws:PrincipalTag/gone, 'none'}", "none", True),
        ("${aws:PrincipalTag/gone,'a, b} c'}", "a, b} c", True),
        ("${aws:PrincipalTag/gone, ''}", "", True),
        ("${aws:PrincipalTag/gone}", "", False),
        ("x*${aws:PrincipalTag/gone}", "x", False),
        ("${aws:PrincipalTag/odd key}", "o", True),
        # A value is text, whatever is in it.
        ("${aws:PrincipalTag/all}", "*", True),
        ("${aws:PrincipalTag/all}", "anything", False),
        ("${aws:PrincipalTag/gone, '*'}", "anything", False),
        # One of several values would be a guess.
        ("${aws:TagKeys}", "a", False),
        ("${aws:TagKeys, 'none'}", "none", True),
        ("${*, 'x'}", "x", True),
        ("${*, 'x'}", "*", False),
        ("a${*}b", "a*b", True),
        ("a${*}b", "axb", False),
        ("a${?}b", "axb", False),
        ("a${?}b", "a?b", True),
        ("${$}{aws:username}", "${aws:username}", True),
        ("$x", "$x", True),
        ("*${*}", "a*", True),
    ],
)
def test_a_template_matches_with_its_variables_put_in(text: str, found: str, matches: bool) -> None:
    assert Template(text, variables=True, wild=True).matches(found, CONTEXT) is matches


@pytest.mark.parametrize("text", ["${aws:username}", "${*}", "${", "${}"])
def test_without_variables_a_dollar_is_a_dollar(text: str) -> None:
    template = Template(text, variables=False, wild=False)
    assert template.matches(text, CONTEXT)
    assert template.keys == frozenset()


def test_without_wildcards_a_star_is_a_star() -> None:
    template = Template("*${aws:username}", variables=True, wild=False)
    assert template.matches("*bob", CONTEXT)
    assert not template.matches("xbob", CONTEXT)


def test_a_template_tells_which_keys_it_reads_and_which_of_them_lack_a_value() -> None:
    template = Template("${aws:UserName}${aws:Gone}${aws:Gone2, 'x'}${*}", variables=True, wild=True)
    assert template.keys == {"aws:username", "aws:gone", "aws:gone2"}
    assert template.names == ("aws:UserName", "aws:Gone", "aws:Gone2")
    assert template.missing(CONTEXT) == ["aws:Gone"]


@pytest.mark.parametrize(
    "text",
    ["${", "${aws:username", "${}", "${ }", "${a${b}}", "${a, none}", "${a, 'b}", "${a, 'b' c}", "${, 'b'}", "${a,}"],
)
def test_what_is_no_variable_is_refused(text: str) -> None:
    with pytest.raises(PolicyError):
        Template(text, variables=True, wild=True)


@pytest.mark.parametrize("text", ["${a,x'b'}", "${a, 'b'x}", "${a, 'b'"])
def test_nothing_but_space_stands_around_a_default(text: str) -> None:
    with pytest.raises(PolicyError):
        Template(text, variables=True, wild=True)
