"""Where principals and statements stand in a text, and how a principal that is gone is shown."""

from __future__ import annotations

import json

import pytest

from proxy.auth.policy.errors import PolicyError
from proxy.auth.policy.spans import principals_of, rebound_text, statement_spans

BOB = "arn:aws:iam::111122223333:user/bob"
APP = "arn:aws:iam::111122223333:role/team/app"

POLICY = """ { "Version":"2012-10-17", "Id" : "<bob>",
  "Statement" : [ {"Sid":"Principal", "Effect":"Allow", "Action":["ecr:*"],
      "Principal" : { "AWS" : [ "<bob>" , "444455556666", "<app>" ], "Service":"x.example.com" },
      "Condition":{"ArnLike":{"aws:PrincipalArn":["<bob>", "}{][\\",:"]},"NumericEquals":{"x:n":[1, 2.5]}} },
    {"Effect":"Deny","Action":"ecr:*","NotPrincipal":{"AWS":"arn:aws:iam::111122223333:user\\/bob"}}
  ]}""".replace("<bob>", BOB).replace("<app>", APP)


def test_users_and_roles_are_found_in_principal_and_not_principal_alone() -> None:
    assert principals_of(POLICY) == [BOB, APP]


@pytest.mark.parametrize("principal", ["*", {"AWS": "*"}, {"AWS": "111122223333"}, {"Service": "a.b"}])
def test_accounts_and_everyone_are_no_users(principal: object) -> None:
    statement = {"Effect": "Allow", "Principal": principal, "Action": "ecr:*"}
    assert principals_of(json.dumps({"Statement": statement})) == []


def test_one_that_is_gone_is_shown_by_its_id_and_nothing_else_changes() -> None:
    shown = rebound_text(POLICY, {BOB: "AIDABOB"})
    expected = POLICY.replace(f'[ "{BOB}" ,', '[ "AIDABOB" ,').replace(
        '"arn:aws:iam::111122223333:user\\/bob"', '"AIDABOB"'
    )
    assert shown == expected
    assert json.loads(shown)["Statement"][0]["Condition"] == json.loads(POLICY)["Statement"][0]["Condition"]


def test_as_long_as_all_are_there_the_text_is_verbatim() -> None:
    assert rebound_text(POLICY, {}) == POLICY


def test_statements_are_found_whether_in_a_list_or_alone() -> None:
    first, second = (POLICY[start:end] for start, end in statement_spans(POLICY))
    assert [json.loads(each)["Effect"] for each in (first, second)] == ["Allow", "Deny"]
    alone = '{"Statement":{"Effect":"Allow","Action":"*","Resource":"*"}}'
    assert statement_spans(alone) == [(13, len(alone) - 1)]


def test_a_statement_without_principal_names_nobody() -> None:
    alone = {"Effect": "Allow", "Action": "*", "Resource": BOB}
    assert principals_of(json.dumps({"Statement": [alone, alone | {"Principal": {"AWS": APP}}]})) == [APP]


def test_a_text_that_is_no_policy_names_nobody() -> None:
    with pytest.raises(PolicyError):
        principals_of("{")
    with pytest.raises(PolicyError):
        rebound_text("{", {BOB: "AIDABOB"})
