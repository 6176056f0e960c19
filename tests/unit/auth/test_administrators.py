"""Deny by default; an administrator may do everything at home."""

from __future__ import annotations

import pytest

from harness.identities import ADMINISTRATORS
from proxy.auth.administrators import decide, require
from proxy.model.errors import Code, Failure
from proxy.model.identity import Principal

HOME = "123456789012"
ADMIN = Principal("AIDA1", HOME, f"arn:aws:iam::{HOME}:user/admin", "admin", policies=ADMINISTRATORS)
USER = Principal("AIDA2", HOME, f"arn:aws:iam::{HOME}:user/bob", "bob")
REPOSITORY = f"arn:aws:ecr:us-east-1:{HOME}:repository/team/app"
FOREIGN = "arn:aws:ecr:us-east-1:999999999999:repository/team/app"


@pytest.mark.parametrize("resource", [REPOSITORY, f"arn:aws:ecr:us-east-1:{HOME}:repository/*", "*"])
def test_an_administrator_may_do_everything_in_its_own_account(resource: str) -> None:
    assert decide(ADMIN, "ecr:PutImage", resource).allowed


@pytest.mark.parametrize("resource", [REPOSITORY, "*"])
def test_anybody_else_may_do_nothing(resource: str) -> None:
    assert not decide(USER, "ecr:BatchGetImage", resource).allowed


@pytest.mark.parametrize(
    "resource", [FOREIGN, "", "arn", "arn:aws:ecr", f"arn:aws:ecr:us-east-1::repository/{HOME}", f"x:y:z:r:{HOME}:q"]
)
def test_an_administrator_may_do_nothing_outside_its_account(resource: str) -> None:
    assert not decide(ADMIN, "ecr:PutImage", resource).allowed


def test_the_deny_text_is_that_of_ecr() -> None:
    assert decide(USER, "ecr:PutImage", REPOSITORY).message == (
        f"User: {USER.arn} is not authorized to perform: ecr:PutImage on resource: {REPOSITORY} "
        "because no identity-based policy allows the ecr:PutImage action"
    )


def test_another_account_misses_a_resource_based_policy() -> None:
    assert decide(ADMIN, "ecr:PutImage", FOREIGN).message.endswith(
        "because no resource-based policy allows the ecr:PutImage action"
    )


def test_require_raises_what_decide_refuses() -> None:
    require(ADMIN, "ecr:PutImage", REPOSITORY)
    with pytest.raises(Failure) as caught:
        require(USER, "ecr:PutImage", REPOSITORY)
    assert caught.value.code is Code.ACCESS_DENIED
