"""What a decision costs: `python -m pytest bench/test_policy.py --benchmark-columns=min,median,iqr,max`.

Twenty statements in five attached policies, the last of which allows; a repository's policy and a registry's of one
statement each. `uncached` asks with a caller that was never seen (documents are compiled, answers are not known), `from
the cache` is a door's `Access.decide` when the same caller has asked the same before, `compiled anew` adds the five
documents to the first. Marks, by median: uncached 100 µs, cached 2 µs.
"""

from __future__ import annotations

import itertools
from collections.abc import Coroutine, Iterator
from typing import Any, TypeVar

from statements import twenty_statements

from proxy.auth.access import Access
from proxy.auth.policy.context import RequestInfo
from proxy.auth.policy.decision import Question, decide
from proxy.model.identity import AttachedPolicy, Caller, RegistryAccess, RepositoryAccess
from support.policy_people import HOME, NOW, REGION, arn_of, bound, caller, context, document

T = TypeVar("T")
ROUNDS = 3000
RESOURCE = arn_of("team/app")
REPOSITORY = RepositoryAccess(
    *(HOME, "team/app", True),
    bound(document({"Effect": "Allow", "Principal": {"AWS": f"arn:aws:iam::{HOME}:user/bob"}, "Action": "ecr:*"})),
)
REGISTRY = RegistryAccess(
    *(HOME, True),
    bound(document({"Effect": "Deny", "Principal": "*", "Action": "ecr:*", "Resource": f"{RESOURCE}x"})),
)


class Rows:
    """Look-ups that have their answer at hand, as a worker's cache has."""

    async def repository_access(self, account: str, repository: str) -> RepositoryAccess:
        return REPOSITORY

    async def registry_access(self, account: str) -> RegistryAccess:
        return REGISTRY


def at_once(nothing_waits: Coroutine[Any, Any, T]) -> T:
    """Without a loop, whose own cost is not a decision's."""
    try:
        nothing_waits.send(None)
    except StopIteration as done:
        found: T = done.value
        return found
    raise RuntimeError("it waited")


def policies(salt: str = "") -> list[AttachedPolicy]:
    return [AttachedPolicy(text, f"policy-{number}") for number, text in enumerate(twenty_statements(HOME, salt))]


def asked(one: Caller) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return (one, Question("ecr:PutImage", RESOURCE, context(one, RESOURCE)), REPOSITORY, REGISTRY), {}


def test_deciding_uncached(benchmark: Any) -> None:
    held = policies()
    decision = benchmark.pedantic(decide, setup=lambda: asked(caller("alice", held)), rounds=ROUNDS, warmup_rounds=50)
    assert decision.allowed


def test_deciding_from_the_cache(benchmark: Any) -> None:
    access, one = Access(Rows()), caller("alice", policies())
    info = RequestInfo(NOW, "203.0.113.7", True, "docker/28.0", REGION)
    assert benchmark(lambda: at_once(access.decide(one, "ecr:PutImage", RESOURCE, info))).allowed


def test_deciding_with_documents_compiled_anew(benchmark: Any) -> None:
    salts: Iterator[int] = itertools.count()
    decision = benchmark.pedantic(
        decide, setup=lambda: asked(caller("alice", policies(f"-{next(salts)}"))), rounds=300, warmup_rounds=5
    )
    assert decision.allowed
