"""What a protocol is answered, cached or not, is what the naive twin says of that moment.

The same caller asks over and over, from other addresses, at other times, with other tags, while what the look-ups
answer changes between two requests and changes back. The twin keeps nothing and reads condition keys that the test
wrote down itself, so that a kept answer used once too often, or a key that is filled wrongly, shows.
"""

from __future__ import annotations

import random
import time
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

import pytest

from proxy.auth.access import Access
from proxy.auth.policy.context import RequestInfo
from proxy.auth.policy.decision import Question
from proxy.model.errors import Code, Failure
from proxy.model.identity import Caller, RegistryAccess, RepositoryAccess
from support.naive_policy import judge
from support.policy_pairs import ACTIONS, ADDRESSES, REPOSITORIES, WHOLE_REGISTRY, draw_world, drawn_keys
from support.policy_people import NOW, REGION, arn_of, context

REQUESTS = 40  # of each caller
SHARE = 5  # of how many pairs the decision itself is asked
MOMENTS = [NOW, NOW - 1800, NOW + 86_400 * 60]


@dataclass(slots=True)
class Rows:
    """What the look-ups answer at this moment; `asked` counts them."""

    repositories: dict[tuple[str, str], RepositoryAccess] = field(default_factory=dict)
    registries: dict[str, RegistryAccess] = field(default_factory=dict)
    asked: int = 0

    async def repository_access(self, account: str, repository: str) -> RepositoryAccess:
        self.asked += 1
        return self.repositories.get((account, repository), RepositoryAccess(account, repository, False))

    async def registry_access(self, account: str) -> RegistryAccess:
        self.asked += 1
        return self.registries.get(account, RegistryAccess(account, False))


async def test_a_kept_answer_is_the_answer_of_the_moment(request: pytest.FixtureRequest) -> None:
    seed = request.config.getoption("--policy-seed") or str(time.time_ns())
    print(f"--policy-seed {seed}")  # noqa: T201 - shown with a failure
    draw = random.Random(f"{seed}/access")
    rows = Rows()
    access = Access(rows)  # one for all, as in a worker
    for _ in range(request.config.getoption("--policy-pairs") // SHARE // REQUESTS):
        one, account, repository_policy, registry_policy, scope = draw_world(draw)
        names = draw.sample(REPOSITORIES[:5], 2)
        policies = [repository_policy, draw_world(draw)[2], None]
        rows.registries[account] = RegistryAccess(account, True, registry_policy, scope)
        for number in range(REQUESTS):
            name = draw.choice(names)
            if number % 7 == 0:  # somebody writes: a policy, tags, the registry's
                tags = draw.choice([(), (("env", "prod"),), (("env", "dev"),)])
                rows.repositories[account, name] = RepositoryAccess(account, name, True, draw.choice(policies), tags)
            if number % 19 == 0:
                rows.registries[account] = replace(
                    rows.registries[account], policy=draw.choice([registry_policy, draw_world(draw)[3]])
                )
            await ask(draw, access, rows, one, account, name)


async def ask(draw: random.Random, access: Access, rows: Rows, one: Caller, account: str, name: str) -> None:
    action, resource = draw.choice(ACTIONS), arn_of(name, account)
    if account == one.account and draw.random() < 0.1:
        action, resource = draw.choice(WHOLE_REGISTRY), "*"
    drawn = drawn_keys(draw)
    info = RequestInfo(
        now=draw.choice(MOMENTS),
        source_ip=draw.choice([*ADDRESSES, ""]),
        secure=draw.random() < 0.7,
        user_agent=str(drawn["aws:UserAgent"]),
        region=REGION,
    )
    extra = {
        key.lower(): [value] if isinstance(value, str) else value
        for key, value in drawn.items()
        if value is not None and key in ("aws:RequestTag/team", "aws:TagKeys", "aws:SourceArn", "test:size")
    }
    repository = rows.repositories.get((account, name)) if resource != "*" else None
    tags = dict(repository.tags) if repository is not None else {}
    keys = context(
        one,
        resource,
        {
            **extra,
            **{f"{service}:ResourceTag/env": tags.get("env") for service in ("aws", "ecr")},
            "aws:CurrentTime": datetime.fromtimestamp(info.now, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "aws:EpochTime": str(int(info.now)),
            "aws:SourceIp": info.source_ip or None,
            "aws:SecureTransport": "true" if info.secure else "false",
            "aws:UserAgent": info.user_agent,
        },
    )
    verdict = judge(one, Question(action, resource, keys), repository, rows.registries.get(account))
    decision = await access.decide(one, action, resource, info, extra)
    told = f"{one.arn} {action} {resource} {info} {extra}\n{decision}\n{verdict}\n{one}\n{repository}\n{rows}"
    assert decision.allowed == verdict.allowed, told
    assert decision.allowed or decision.message in verdict.messages, told


async def test_nothing_of_one_caller_is_told_another() -> None:
    """Callers that differ in nothing but their policies, one after the other at the same address in memory."""
    draw = random.Random("one after the other")
    rows = Rows()
    access = Access(rows)
    info = RequestInfo(NOW, "203.0.113.7", True, "docker/28.0", REGION)
    seen = set()
    for _ in range(200):
        one, *_ = draw_world(draw)
        resource = arn_of("team/app", one.account)
        rows.registries[one.account] = RegistryAccess(one.account, True)
        keys = context(one, resource)
        decision = await access.decide(one, "ecr:PutImage", resource, info)
        verdict = judge(one, Question("ecr:PutImage", resource, keys), None, None)
        assert decision.allowed == verdict.allowed
        seen.add(decision.allowed)
        del one
    assert seen == {True, False}


async def test_a_refusal_is_raised_in_its_own_words() -> None:
    access = Access(Rows())
    one, *_ = draw_world(random.Random("3"))
    nobody = replace(one, principal=replace(one.principal, policies=()))
    info = RequestInfo(NOW, "", True, "", REGION)
    with pytest.raises(Failure) as refusal:
        await access.require(nobody, "ecr:PutImage", arn_of("team/app", "999999999999"), info)
    assert refusal.value.code is Code.ACCESS_DENIED
    assert refusal.value.message.startswith(f"User: {one.arn} is not authorized to perform: ecr:PutImage on resource: ")


async def test_a_closed_account_is_asked_for_nothing_but_itself() -> None:
    """Its repositories are not looked up: whether one is there is not for strangers to learn, nor worth the time."""
    rows = Rows()
    one, *_ = draw_world(random.Random("3"))
    info = RequestInfo(NOW, "", True, "", REGION)
    decision = await Access(rows).decide(one, "ecr:PutImage", arn_of("team/app", "999999999999"), info)
    assert not decision.allowed
    assert rows.asked == 1
