"""What the protocols ask: the policies that count are looked up; a decision is reused while its inputs are the same."""

from __future__ import annotations

import dataclasses
import gc
import json
import weakref
from typing import Any

import pytest

from proxy.auth import access as access_module
from proxy.auth.access import QUESTIONS_MAX, VALUES_MAX, Access, repository_named
from proxy.auth.policy.context import RequestInfo
from proxy.auth.policy.decision import settle
from proxy.model.errors import Code, Failure
from proxy.model.identity import AttachedPolicy, BoundPolicy, Caller, Principal, RegistryAccess, RepositoryAccess

HOME, OTHER, CLOSED = "111122223333", "444455556666", "999999999999"
REPOSITORY = f"arn:aws:ecr:eu-west-1:{HOME}:repository/team/app"
BOB_ARN = f"arn:aws:iam::{HOME}:user/bob"
FACTS = RequestInfo(1764028800.0, "192.0.2.7", True, "docker/27", "eu-west-1")


def statement(effect: str = "Allow", **more: Any) -> str:
    return json.dumps({"Version": "2012-10-17", "Statement": {"Effect": effect, "Action": "ecr:*"} | more})


def caller(*texts: str) -> Caller:
    policies = tuple(AttachedPolicy(text) for text in texts)
    return Caller(Principal("AIDABOB", HOME, BOB_ARN, "bob", policies=policies, tags=(("team", "blue"),)))


class Said:
    """Look-ups with what they answer and what they were asked."""

    def __init__(self) -> None:
        self.policy: str | None = None
        self.tags: tuple[tuple[str, str], ...] = ()
        self.registry: str | None = None
        self.asked: list[str] = []

    async def repository_access(self, account: str, repository: str) -> RepositoryAccess:
        self.asked.append(f"{account}/{repository}")
        policy = None if self.policy is None else BoundPolicy(self.policy, ((BOB_ARN, "AIDABOB"),))
        return RepositoryAccess(account, repository, True, policy, self.tags)

    async def registry_access(self, account: str) -> RegistryAccess:
        self.asked.append(account)
        policy = None if self.registry is None else BoundPolicy(self.registry, ((BOB_ARN, "AIDABOB"),))
        return RegistryAccess(account, account != CLOSED, policy)


@pytest.mark.parametrize(
    ("action", "resource", "asked"),
    [
        ("ecr:PutImage", REPOSITORY, [HOME, f"{HOME}/team/app"]),
        ("ecr:PutImage", f"arn:aws:ecr:eu-west-1:{OTHER}:repository/a", [OTHER, f"{OTHER}/a"]),
        ("ecr:DescribeRepositories", f"arn:aws:ecr:eu-west-1:{HOME}:repository/*", [HOME]),
        ("ecr:DescribeRegistry", "*", [HOME]),
        ("ecr:PutImage", f"arn:aws:ecr:eu-west-1:{CLOSED}:repository/a", [CLOSED]),
        ("ecr:GetAuthorizationToken", "*", []),
        ("iam:GetUser", BOB_ARN, []),
        ("sts:GetSessionToken", "*", []),
    ],
)
async def test_exactly_what_has_a_say_is_looked_up(action: str, resource: str, asked: list[str]) -> None:
    said = Said()
    await Access(said).decide(caller(), action, resource, FACTS)
    assert said.asked == asked


@pytest.mark.parametrize(
    ("resource", "name"),
    [
        (REPOSITORY, "team/app"),
        ("*", ""),
        ("arn:aws:ecr:eu:1:repository/*", ""),
        ("arn:aws:ecr:eu:1:repository/a?", ""),
        ("arn:aws:ecr:eu:1:registry/x", ""),
        ("arn:aws:iam::1:repository/x", ""),
        ("arn:aws:ecr:eu:1:repository/a:repository/b", "a:repository/b"),
    ],
)
def test_a_repository_is_named_by_its_own_arn_alone(resource: str, name: str) -> None:
    assert repository_named(resource) == name


async def test_a_refusal_is_raised_in_awss_words_and_an_allowance_is_silent() -> None:
    access = Access(Said())
    await access.require(caller(statement(Resource="*")), "ecr:PutImage", REPOSITORY, FACTS)
    with pytest.raises(Failure) as refused:
        await access.require(caller(), "ecr:PutImage", REPOSITORY, FACTS)
    assert refused.value.code is Code.ACCESS_DENIED
    assert refused.value.message == (
        f"User: {BOB_ARN} is not authorized to perform: ecr:PutImage on resource: {REPOSITORY} "
        "because no identity-based policy allows the ecr:PutImage action"
    )


async def test_a_changed_policy_or_tag_counts_from_the_next_request_on() -> None:
    said = Said()
    access = Access(said)
    one = caller(
        statement(Resource="*", Condition={"StringEquals": {"ecr:ResourceTag/team": "${aws:PrincipalTag/team}"}})
    )

    async def may() -> bool:
        return (await access.decide(one, "ecr:PutImage", REPOSITORY, FACTS)).allowed

    assert not await may()
    said.tags = (("team", "blue"),)
    assert await may()
    said.policy = statement("Deny", Principal="*")
    assert not await may()
    said.policy = None
    assert await may()
    said.registry = statement("Deny", Principal="*", Resource="*")
    assert not await may()


@pytest.mark.parametrize(
    ("condition", "allowed", "refused"),
    [
        ({"IpAddress": {"aws:SourceIp": "192.0.2.0/24"}}, {}, {"source_ip": "198.51.100.1"}),
        ({"Bool": {"aws:SecureTransport": "true"}}, {}, {"secure": False}),
        ({"StringLike": {"aws:UserAgent": "docker/*"}}, {}, {"user_agent": "curl"}),
        ({"StringEquals": {"aws:RequestedRegion": "eu-west-1"}}, {}, {"region": "us-east-1"}),
        ({"DateLessThan": {"aws:CurrentTime": "2025-11-25T00:00:01Z"}}, {}, {"now": 1764028801.0}),
        ({"NumericLessThan": {"aws:EpochTime": 1764028801}}, {}, {"now": 1764028801.0}),
    ],
)
async def test_a_kept_decision_is_not_used_for_a_request_that_differs_in_what_a_policy_reads(
    condition: Any, allowed: dict[str, Any], refused: dict[str, Any]
) -> None:
    access, one = Access(Said()), caller(statement(Resource="*", Condition=condition))
    for _ in range(3):
        for change, expected in ((allowed, True), (refused, False)):
            info = FACTS._replace(**change)
            assert (await access.decide(one, "ecr:PutImage", REPOSITORY, info)).allowed is expected


@pytest.mark.parametrize("whose", ["caller", "repository", "registry"])
async def test_a_decision_for_one_password_is_not_used_for_another_where_a_policy_reads_when_it_was_made(
    whose: str,
) -> None:
    """Deny by aws:TokenIssueTime is how AWS revokes sessions; passwords of one caller share all other decisions."""
    late = {"DateLessThan": {"aws:TokenIssueTime": "2025-11-25T00:00:00Z"}}
    deny = statement("Deny", Resource="*", Condition=late)
    bound = statement("Deny", Principal="*", Condition=late)
    undated = caller(statement(Resource="*"), *([deny] if whose == "caller" else []))
    made_early, made_late = (
        dataclasses.replace(undated, password_issued=issued, undated=undated) for issued in (1764028799.0, 1764028800.0)
    )
    said = Said()
    said.policy = bound if whose == "repository" else None
    said.registry = statement("Deny", Principal="*", Resource="*", Condition=late) if whose == "registry" else None
    access = Access(said)
    for _ in range(3):
        for one, allowed in ((made_early, False), (made_late, True), (undated, True)):
            assert (await access.decide(one, "ecr:PutImage", REPOSITORY, FACTS)).allowed is allowed


async def test_passwords_of_one_caller_share_a_decision(monkeypatch: pytest.MonkeyPatch) -> None:
    decided = 0

    def counting(*given: Any) -> Any:
        nonlocal decided
        decided += 1
        return settle(*given)

    monkeypatch.setattr("proxy.auth.access.settle", counting)
    access, undated = Access(Said()), caller(statement(Resource="*"))
    for issued in range(50):
        one = dataclasses.replace(undated, password_issued=float(issued), undated=undated)
        assert (await access.decide(one, "ecr:PutImage", REPOSITORY, FACTS)).allowed
    assert decided == 1


async def test_a_kept_decision_is_not_used_for_a_request_that_fills_in_another_resource() -> None:
    access, one = Access(Said()), caller(statement(Resource="arn:aws:ecr:${aws:RequestedRegion}:*"))
    for region in ("eu-west-1", "us-east-1", "eu-west-1"):
        decision = await access.decide(one, "ecr:PutImage", REPOSITORY, FACTS._replace(region=region))
        assert decision.allowed is (region == "eu-west-1")


async def test_keys_of_one_request_count_in_that_request_alone() -> None:
    condition = {"ForAnyValue:StringEquals": {"aws:TagKeys": "team"}}
    access, one = Access(Said()), caller(statement(Resource="*", Condition=condition))
    for _ in range(2):
        for extra, expected in (
            (None, False),
            ({"aws:tagkeys": ["team"]}, True),
            ({"aws:tagkeys": ("other",)}, False),
            ({}, False),
            ({"aws:requesttag/x": ("y",)}, False),
        ):
            assert (await access.decide(one, "ecr:TagResource", REPOSITORY, FACTS, extra)).allowed is expected


async def test_nothing_is_kept_of_a_caller_that_is_gone() -> None:
    access = Access(Said())
    one = caller(statement(Resource="*"))
    await access.decide(one, "ecr:PutImage", REPOSITORY, FACTS)
    gone = weakref.ref(one)
    del one
    gc.collect()
    assert gone() is None


async def test_what_is_kept_of_one_caller_is_bounded() -> None:
    access, one = Access(Said()), caller(statement(Resource=REPOSITORY))
    for at in range(QUESTIONS_MAX + 10):
        decision = await access.decide(one, "ecr:PutImage", f"{REPOSITORY}{at}", FACTS)
        assert not decision.allowed
        assert len(access._callers[one].questions) <= QUESTIONS_MAX
    assert (await access.decide(one, "ecr:PutImage", REPOSITORY, FACTS)).allowed


async def test_what_is_kept_of_one_question_is_bounded() -> None:
    condition = {"StringLike": {"aws:UserAgent": "*"}}
    access, one = Access(Said()), caller(statement(Resource="*", Condition=condition))
    for at in range(VALUES_MAX + 10):
        await access.decide(one, "ecr:PutImage", REPOSITORY, FACTS._replace(user_agent=f"agent {at}"))
        assert len(access._callers[one].questions["ecr:PutImage", REPOSITORY, False].decisions) <= VALUES_MAX


async def test_a_decision_is_made_once_while_all_that_it_hung_on_is_equal() -> None:
    said = Said()
    said.policy = said.registry = statement("Deny", Principal="*", Resource=REPOSITORY, Action="ecr:GetImage")
    condition = {"StringLike": {"aws:UserAgent": "*"}}
    access, one = Access(said), caller(statement(Resource="*", Action="*", Condition=condition))
    questions = [("ecr:PutImage", REPOSITORY), ("ecr:PutImage", f"{REPOSITORY}2"), ("iam:GetUser", BOB_ARN)]
    asked = [(*question, FACTS._replace(user_agent=agent)) for question in questions for agent in ("docker", "curl")]
    first = [await access.decide(one, *each) for each in asked]
    again = [await access.decide(one, *each) for each in asked]
    assert all(each is earlier for each, earlier in zip(again, first, strict=True))


async def test_a_key_of_one_request_that_no_document_reads_makes_no_other_decision() -> None:
    access, one = Access(Said()), caller(statement(Resource="*"))
    first = await access.decide(one, "ecr:TagResource", REPOSITORY, FACTS)
    assert await access.decide(one, "ecr:TagResource", REPOSITORY, FACTS, {"aws:tagkeys": ("team",)}) is first


async def test_what_is_kept_of_all_callers_together_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access_module, "DECISIONS_MAX", 20)
    access = Access(Said())
    condition = {"StringLike": {"aws:UserAgent": "*"}}
    callers = [caller(statement(Resource="*", Condition=condition)) for _ in range(50)]
    for at, one in enumerate(callers):
        info = FACTS._replace(user_agent=f"agent {at}")
        assert (await access.decide(one, "ecr:PutImage", REPOSITORY, info)).allowed
        kept = sum(len(each.decisions) for seen in access._callers.values() for each in seen.questions.values())
        assert kept == (at + 1) % 21  # all are dropped with the first too many, and none sooner


async def test_all_names_below_a_prefix_are_another_question_than_the_one_that_is_spelled_so() -> None:
    access, everything = Access(Said()), f"{REPOSITORY}/*"
    one = caller(statement(Resource="*"), statement("Deny", Resource=f"{REPOSITORY}/secret"))
    assert (await access.decide(one, "ecr:PutImage", everything, FACTS)).allowed
    decision = await access.decide(one, "ecr:PutImage", everything, FACTS, below=True)
    assert (decision.allowed, decision.explicit) == (False, True)
    assert (await access.decide(one, "ecr:PutImage", everything, FACTS)).allowed
    with pytest.raises(Failure, match="explicit deny"):
        await access.require(one, "ecr:PutImage", everything, FACTS, below=True)
