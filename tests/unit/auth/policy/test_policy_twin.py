"""The evaluator says what its naive twin says, on policies and requests drawn at random (`support.policy_pairs`).

`--policy-pairs N` draws as many (30,000 unless told; `make fuzz` a million), `--policy-seed S` the same ones again.
What differs is printed whole: documents, caller, question, and both answers.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from dataclasses import replace

import pytest

from proxy.auth.policy.decision import Decision, decide
from support.naive_policy import Verdict, judge
from support.policy_pairs import Pair, pairs

SHARDS = 4  # so that two processes share the work


@pytest.mark.parametrize("shard", range(SHARDS))
def test_evaluator_and_twin_agree(shard: int, request: pytest.FixtureRequest) -> None:
    seed = f"{request.config.getoption('--policy-seed') or time.time_ns()}/{shard}"
    count = request.config.getoption("--policy-pairs") // SHARDS
    print(f"--policy-seed {seed.partition('/')[0]} drew shard {shard}, {count} pairs")  # noqa: T201 - shown with a failure
    seen: Counter[str] = Counter()
    for number, pair in enumerate(pairs(seed, count)):
        verdict = judge(pair.caller, pair.question, pair.repository, pair.registry)
        decision = decide(pair.caller, pair.question, pair.repository, pair.registry)
        assert agree(decision, verdict), told(f"{seed}, pair {number}", pair, decision, verdict)
        seen["allowed" if verdict.allowed else "denied" if verdict.explicit else "not allowed"] += 1
    assert min(seen[kind] for kind in ("allowed", "denied", "not allowed")) > count / 40, f"one-sided draw: {seen}"


def test_evaluator_and_twin_agree_about_all_names_below_a_prefix(request: pytest.FixtureRequest) -> None:
    seed = str(request.config.getoption("--policy-seed") or time.time_ns())
    print(f"--policy-seed {seed}")  # noqa: T201 - shown with a failure
    seen: Counter[str] = Counter()
    for number, pair in enumerate(pairs(seed, request.config.getoption("--policy-pairs") // 10)):
        head, slash, _ = pair.question.resource.rpartition("/")
        if not slash:
            continue
        below = replace(pair.question, resource=f"{head}/*", below=True)
        verdict = judge(pair.caller, below, None, pair.registry)
        decision = decide(pair.caller, below, None, pair.registry)
        assert agree(decision, verdict), told(f"{seed}, pair {number}, below", pair, decision, verdict)
        seen["allowed" if verdict.allowed else "denied" if verdict.explicit else "not allowed"] += 1
    assert min(seen[kind] for kind in ("allowed", "denied", "not allowed")) > 20, f"one-sided draw: {seen}"


def agree(decision: Decision, verdict: Verdict) -> bool:
    if decision.allowed or verdict.allowed:
        return decision.allowed == verdict.allowed and not decision.message
    return decision.explicit == verdict.explicit and decision.message in verdict.messages


def told(drawn: str, pair: Pair, decision: Decision, verdict: Verdict) -> str:
    one = pair.caller
    texts = [(policy.name, policy.arn, policy.text) for policy in one.principal.policies]
    texts += [("boundary", one.principal.boundary.arn, one.principal.boundary.text)] if one.principal.boundary else []
    texts += [(policy.name, policy.arn, policy.text) for policy in one.session_policies or ()]
    shared = [(each.policy.principals, each.policy.text) for each in (pair.repository, pair.registry)
              if each is not None and each.policy is not None]  # fmt: skip
    return "\n".join(
        [
            f"seed {drawn}: {one.arn}",
            *(f"  {name} {arn} {json.dumps(json.loads(text))}" for name, arn, text in texts),
            *(f"  shared {json.dumps(json.loads(text))} {ids}" for ids, text in shared),
            f"  scope {pair.registry.policy_scope if pair.registry else None}",
            f"  {pair.question}",
            f"  evaluator: {decision}",
            f"  twin: {verdict}",
        ]
    )
