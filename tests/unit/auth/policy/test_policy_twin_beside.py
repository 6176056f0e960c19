"""What stands beside the decision says the same as the twin, on the same drawn pairs.

Explanations, the simulator, the lock-out check, and what is read out of a text or put back into it.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from proxy.auth.policy.decision import decide
from proxy.auth.policy.explain import explain
from proxy.auth.policy.lockout import would_lock_out
from proxy.auth.policy.simulate import simulate
from proxy.auth.policy.spans import principals_of, rebound_text
from support.naive_policy import as_list, aws_principals, judge, statements
from support.policy_pairs import Pair, pairs

SHARE = 15  # of how many pairs the decision itself is asked
OUTCOMES = {(True, False): "allowed", (False, True): "explicitDeny", (False, False): "implicitDeny"}


@pytest.fixture
def drawn(request: pytest.FixtureRequest) -> Iterator[Pair]:
    seed = request.config.getoption("--policy-seed") or str(time.time_ns())
    print(f"--policy-seed {seed}")  # noqa: T201 - shown with a failure
    return pairs(f"{seed}/beside", request.config.getoption("--policy-pairs") // SHARE)


def test_an_explanation_is_of_the_decision_and_names_what_it_rests_on(drawn: Iterator[Pair]) -> None:
    for pair in drawn:
        question = pair.caller, pair.question, pair.repository, pair.registry
        explanation = explain(*question)
        assert explanation.decision == decide(*question)
        deciding = explanation.deciding
        if explanation.decision.explicit:
            assert deciding is not None
            assert (deciding.effect, deciding.matched) == ("Deny", True)
        elif deciding is not None:
            assert (deciding.effect, deciding.matched) == ("Allow", True)
        elif not explanation.decision.allowed:
            assert (explanation.decision.policy, explanation.decision.statement) == ("", 0)
        for verdict in explanation.verdicts:
            assert verdict.matched or verdict.reason, verdict


def test_an_explanation_matches_the_statements_that_the_twin_matches(drawn: Iterator[Pair]) -> None:
    for pair in drawn:
        explanation = explain(pair.caller, pair.question, pair.repository, pair.registry)
        own = {
            (policy.arn or policy.name, number): one
            for policy in pair.caller.principal.policies
            for number, one in enumerate(as_list(json.loads(policy.text)["Statement"]), 1)
        }
        fitting = {
            policy.arn or policy.name: [
                one for effect in ("Allow", "Deny") for one in statements(policy.text, effect, pair.question)
            ]
            for policy in pair.caller.principal.policies
        }
        for verdict in explanation.verdicts:
            if verdict.kind == "identity":
                one = own[verdict.policy, verdict.statement]
                assert verdict.matched == (one in fitting[verdict.policy]), (verdict, one, pair.question)


def test_the_simulator_decides_as_the_twin(drawn: Iterator[Pair]) -> None:
    for pair in drawn:
        if pair.repository is None:
            continue
        simulated = simulate(pair.caller, pair.question, pair.repository.policy, pair.repository.account)
        verdict = judge(pair.caller, pair.question, pair.repository, None)
        assert simulated.outcome == OUTCOMES[verdict.allowed, verdict.explicit], (pair, simulated)
        assert bool(simulated.matched) >= verdict.explicit


def test_who_could_not_set_a_policy_again_is_locked_out(drawn: Iterator[Pair]) -> None:
    seen = set()
    for pair in drawn:
        if pair.repository is None or pair.repository.policy is None:
            continue
        question = replace(pair.question, action="ecr:SetRepositoryPolicy")
        policy = pair.repository.policy
        bare = replace(pair.repository, policy=None)
        locked = would_lock_out(
            pair.caller, policy.text, policy.principals, bare, pair.registry, question.resource, question.context
        )
        assert locked != judge(pair.caller, question, pair.repository, pair.registry).allowed, pair
        seen.add(locked)
    assert seen == {True, False}


def test_a_text_names_its_users_and_roles_and_shows_who_is_gone(drawn: Iterator[Pair]) -> None:
    for pair in drawn:
        for policy in [each.policy for each in (pair.repository, pair.registry) if each is not None and each.policy]:
            parsed = json.loads(policy.text)
            entries = [entry for one in as_list(parsed["Statement"]) for entry in entries_of(one)]
            named = list(dict.fromkeys(entry for entry in entries if re.search(":(user|role|assumed-role)/", entry)))
            assert principals_of(policy.text) == named
            assert rebound_text(policy.text, {}) == policy.text
            gone = {arn: f"AIDA{number}" for number, arn in enumerate(named[::2])}
            shown = rebound_text(policy.text, gone)
            for one in as_list(parsed["Statement"]):
                for element in ("Principal", "NotPrincipal"):
                    if isinstance(one.get(element), dict) and "AWS" in one[element]:
                        one[element]["AWS"] = swapped(one[element]["AWS"], gone)
            assert json.loads(shown) == parsed


def entries_of(one: dict[str, Any]) -> list[str]:
    return aws_principals(one["Principal"] if "Principal" in one else one["NotPrincipal"])


def swapped(entry: Any, gone: dict[str, str]) -> Any:
    return [gone.get(each, each) for each in entry] if isinstance(entry, list) else gone.get(entry, entry)
