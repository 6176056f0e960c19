"""The condition keys of a request: which are there for whom, and what they say."""

from __future__ import annotations

from typing import Any

import pytest

from proxy.auth.policy.context import RequestInfo, info_behind, request_context, resource_account
from proxy.model.identity import Caller, Principal, PrincipalKind, Session, SessionKind

HOME, OTHER = "111122223333", "444455556666"
FACTS = RequestInfo(1764028800.9, "192.0.2.7", True, "docker/27", "eu-west-1")
REPOSITORY = f"arn:aws:ecr:eu-west-1:{OTHER}:repository/team/app"
TAGS = (("Team", "blue"), ("empty", ""), ("team", "other"))

BOB = Caller(Principal("AIDABOB", HOME, f"arn:aws:iam::{HOME}:user/x/bob", "bob", tags=(("Dept", "a"),)))
ROOT = Caller(Principal(HOME, HOME, f"arn:aws:iam::{HOME}:root", "root", PrincipalKind.ROOT))
APP = Principal(
    "AROAAPP", HOME, f"arn:aws:iam::{HOME}:role/p/app", "app", PrincipalKind.ROLE, (("dept", "a"), ("k", "v"))
)
BUILD = Caller(
    APP,
    Session(
        SessionKind.ROLE,
        "build",
        1764020000.0,
        1764030000.0,
        tags=(("Dept", "of-session"),),
        source_identity="alice",
        claims=(("aws:federatedprovider", "arn:x"), ("x:amr", "a"), ("x:amr", "b")),
        mfa=True,
    ),
)
KEYED = Caller(BOB.principal, Session(SessionKind.USER, "bob", 1764020000.0, 1764030000.0))


def value(caller: Caller | None, key: str, resource: str = REPOSITORY) -> tuple[str, ...] | None:
    found = request_context(caller, FACTS, resource, TAGS).get(key)
    return None if found is None else tuple(found)


@pytest.mark.parametrize(
    ("key", "bob", "root", "build", "keyed"),
    [
        ("aws:principalarn", BOB.arn, ROOT.arn, APP.arn, BOB.arn),
        ("aws:principalaccount", HOME, HOME, HOME, HOME),
        ("aws:principaltype", "User", "Account", "AssumedRole", "User"),
        ("aws:principaltag/dept", "a", None, "of-session", "a"),
        ("aws:principaltag/k", None, None, "v", None),
        ("aws:userid", "AIDABOB", HOME, "AROAAPP:build", "AIDABOB"),
        ("aws:username", "bob", None, None, "bob"),
        ("aws:multifactorauthpresent", None, None, "true", "false"),
        ("aws:multifactorauthage", None, None, "8800", None),
        ("aws:tokenissuetime", None, None, "2025-11-24T21:33:20Z", "2025-11-24T21:33:20Z"),
        ("aws:sourceidentity", None, None, "alice", None),
        ("aws:federatedprovider", None, None, "arn:x", None),
        ("aws:principalorgid", None, None, None, None),
    ],
)
def test_what_is_said_of_each_caller(
    key: str, bob: str | None, root: str | None, build: str | None, keyed: str | None
) -> None:
    said = [value(caller, key) for caller in (BOB, ROOT, BUILD, KEYED)]
    assert said == [None if each is None else (each,) for each in (bob, root, build, keyed)]
    assert value(None, key) is None


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("aws:sourceip", "192.0.2.7"),
        ("aws:securetransport", "true"),
        ("aws:useragent", "docker/27"),
        ("aws:requestedregion", "eu-west-1"),
        ("aws:currenttime", "2025-11-25T00:00:00Z"),
        ("aws:epochtime", "1764028800"),
        ("aws:principalisawsservice", "false"),
        ("aws:viaawsservice", "false"),
        ("aws:resourceaccount", OTHER),
        ("aws:resourcetag/team", "blue"),
        ("ecr:resourcetag/team", "blue"),
        ("ecr:resourcetag/empty", ""),
        ("iam:resourcetag/team", None),
        ("aws:resourcetag/gone", None),
        ("aws:sourcearn", None),
    ],
)
@pytest.mark.parametrize("caller", [BOB, BUILD, None], ids=["bob", "build", "web"])
def test_what_is_said_of_the_request_and_its_resource(caller: Caller | None, key: str, said: str | None) -> None:
    assert value(caller, key) == (None if said is None else (said,))


def test_a_tag_may_be_named_as_condition_keys_are() -> None:
    context = request_context(BOB, FACTS, REPOSITORY, (("a:ResourceTag/b", "v"),))
    assert context.get("aws:resourcetag/a:resourcetag/b") == ("v",)


def test_a_second_factor_is_of_no_age_until_a_second_has_gone() -> None:
    for issued in (FACTS.now, FACTS.now + 5):
        with_mfa = Caller(BOB.principal, Session(SessionKind.USER, "bob", issued, issued + 900, mfa=True))
        assert value(with_mfa, "aws:multifactorauthage") == ("0",)


def test_a_claim_may_have_several_values() -> None:
    assert value(BUILD, "x:amr") == ("a", "b")


def test_what_a_peer_or_client_does_not_tell_is_absent() -> None:
    context = request_context(BOB, RequestInfo(0.0, "", False, "", ""), "*")
    assert context.get("aws:requestedregion") is None
    assert context.get("aws:sourceip") is None
    assert context.get("aws:useragent") is None
    assert context["aws:securetransport"] == ("false",)
    with pytest.raises(KeyError):
        context["aws:sourceip"]


def test_keys_of_one_request_win_and_an_empty_list_is_absent() -> None:
    extra = {"aws:tagkeys": ["a", "b"], "aws:requesttag/a": [], "aws:sourceip": ["198.51.100.1"]}
    context = request_context(BOB, FACTS, "*", (), extra)
    assert context.get("aws:tagkeys") == ("a", "b")
    assert context.get("aws:requesttag/a") is None
    assert context.get("aws:sourceip") == ("198.51.100.1",)


OF_EVERY_REQUEST = {
    *(
        "aws:currenttime",
        "aws:epochtime",
        "aws:securetransport",
        "aws:requestedregion",
        "aws:useragent",
        "aws:sourceip",
    ),
    *("aws:principalisawsservice", "aws:viaawsservice", "aws:resourceaccount"),
    *("aws:principalaccount", "aws:principalarn", "aws:principaltype", "aws:userid"),
}


def test_a_context_lists_exactly_what_is_there() -> None:
    context = request_context(BUILD, FACTS, REPOSITORY, TAGS, {"aws:tagkeys": ("a",), "x:none": ()})
    assert set(context) == OF_EVERY_REQUEST | {
        *("aws:multifactorauthpresent", "aws:multifactorauthage", "aws:tokenissuetime", "aws:sourceidentity"),
        *("aws:principaltag/dept", "aws:principaltag/k", "aws:federatedprovider", "x:amr", "aws:tagkeys"),
        *(f"{service}:resourcetag/{tag}" for service in ("aws", "ecr") for tag in ("team", "empty")),
    }
    assert len(context) == len(set(context)) == len(list(context))
    assert dict(context) == {key: context.get(key) for key in context}


def test_of_a_user_and_no_one_resource_a_context_lists_less() -> None:
    context = request_context(BOB, FACTS, "*", TAGS)
    of_resource = {"aws:resourcetag/team", "aws:resourcetag/empty"}
    assert set(context) == OF_EVERY_REQUEST | of_resource | {"aws:username", "aws:principaltag/dept"}


def test_a_context_shows_all_that_it_lists() -> None:
    context = request_context(BUILD, FACTS, REPOSITORY)
    assert repr(context) == repr(dict(context))


@pytest.mark.parametrize(
    ("resource", "account"),
    [
        (REPOSITORY, OTHER),
        ("*", HOME),
        ("arn:aws:iam::aws:policy/AdministratorAccess", HOME),
        ("arn:aws:s3:::bucket", HOME),
        (f"arn:aws:iam::{OTHER}:user/a:b", OTHER),
        ("not:an:arn", HOME),
        ("arn:aws:ecr:*:*:repository/*", HOME),
    ],
)
def test_a_resource_is_of_the_account_in_its_arn_or_of_the_callers(resource: str, account: str) -> None:
    assert resource_account(resource, BOB) == account


FACT_KEYS: dict[str, tuple[dict[str, Any], ...]] = {
    "aws:sourceip": ({"source_ip": "192.0.2.8"}, {"source_ip": ""}),
    "aws:useragent": ({"user_agent": "curl"},),
    "aws:securetransport": ({"secure": False},),
    "aws:requestedregion": ({"region": "us-east-1"},),
    "aws:currenttime": ({"now": 1764028801.0},),
    "aws:epochtime": ({"now": 1764028801.0},),
    "aws:multifactorauthage": ({"now": 1764028801.0},),
}


@pytest.mark.parametrize("keys", [*((key,) for key in FACT_KEYS), tuple(FACT_KEYS), ("aws:useragent", "aws:sourceip")])
def test_facts_behind_keys_differ_exactly_when_their_values_can(keys: tuple[str, ...]) -> None:
    behind = info_behind((*keys, "aws:principalarn"))
    assert behind(FACTS) == behind(FACTS._replace()) == behind(FACTS._replace(now=FACTS.now + 0.05))
    for key, changes in FACT_KEYS.items():
        for change in changes:
            is_read = any(change in FACT_KEYS[each] for each in keys)
            assert (behind(FACTS._replace(**change)) != behind(FACTS)) is is_read, key


def test_no_facts_are_behind_keys_of_the_caller_or_of_one_operation() -> None:
    behind = info_behind(("aws:principalarn", "aws:tagkeys"))
    assert behind(FACTS) == behind(RequestInfo(0.0, "", False, "", ""))
