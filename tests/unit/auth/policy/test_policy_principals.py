"""The Principal element by itself: whom it names, how strongly, and whom a NotPrincipal lets go."""

from __future__ import annotations

import pytest

from proxy.auth.policy.principals import PrincipalMatch, Principals, compile_principals, role_session
from proxy.model.identity import Caller, Principal, PrincipalKind, Session, SessionKind

HOME, OTHER = "111122223333", "444455556666"
BOB = Principal("AIDABOB", HOME, f"arn:aws:iam::{HOME}:user/bob", "bob")
APP = Principal("AROAAPP", HOME, f"arn:aws:iam::{HOME}:role/app", "app", PrincipalKind.ROLE)
BUILD = f"arn:aws:sts::{HOME}:assumed-role/app/build"

USER = Caller(BOB)
KEYED = Caller(BOB, Session(SessionKind.USER, "bob", 1.0, 2.0))
SESSION = Caller(APP, Session(SessionKind.ROLE, "build", 1.0, 2.0))
ROOT = Caller(Principal(HOME, HOME, f"arn:aws:iam::{HOME}:root", "root", PrincipalKind.ROOT))


def test_only_a_roles_session_is_a_principal_of_its_own() -> None:
    assert [role_session(each) for each in (USER, KEYED, SESSION)] == [None, None, SESSION.session]


@pytest.mark.parametrize(
    ("element", "caller", "mine", "spared"),
    [
        ("*", USER, [], True),
        ({"AWS": OTHER}, USER, [BOB.arn], False),
        ({"AWS": HOME}, USER, [], False),
        ({"AWS": HOME}, ROOT, [], True),
        ({"AWS": [HOME, BOB.arn]}, USER, [BOB.arn], True),
        ({"AWS": [HOME, BOB.arn]}, KEYED, [BOB.arn], True),
        ({"AWS": [HOME, APP.arn]}, SESSION, [APP.arn], True),
        ({"AWS": [HOME, APP.arn, BUILD]}, SESSION, [APP.arn, BUILD], True),
        ({"AWS": [HOME, APP.arn, BUILD]}, SESSION, [APP.arn], False),  # it was another role's session
        ({"AWS": [HOME, APP.arn, BUILD + "2"]}, SESSION, [APP.arn, BUILD + "2"], False),
        ({"AWS": [HOME, BUILD]}, SESSION, [], False),
    ],
)
def test_a_notprincipal_lets_go_whom_it_names_at_every_level(
    element: object, caller: Caller, mine: list[str], spared: bool
) -> None:
    assert compile_principals(element).exempts(caller, mine) is spared


def test_who_is_not_told_is_not_meant() -> None:
    nobody = Principals()
    assert [nobody.match(each, []) for each in (USER, SESSION, ROOT)] == [PrincipalMatch.NOT] * 3
    assert not nobody.exempts(USER, [])
