"""The access decision that every protocol calls before an operation: may this caller do this now?

Looks up the policies that apply (the repository's with its tags, the registry's) and calls `auth.policy`. The look-ups
are passed in and always current, so a change takes effect with the next request.

A decision is cached with all its inputs: caller, action, resource, the look-ups' answers, and the value of each
condition key that a document reads, aws:TokenIssueTime too. It is reused only while all of them are the same.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Protocol
from weakref import WeakKeyDictionary

from proxy.auth.policy.context import (
    TOKEN_ISSUE_TIME,
    Context,
    RequestInfo,
    any_depends_on_clock,
    info_behind,
    request_context,
    resource_account,
)
from proxy.auth.policy.decision import IDENTITY_ALONE, Decision, Question, is_own, resource_layers, settle
from proxy.auth.policy.evaluation import PolicyLayer, caller_layers, keys_read
from proxy.model.errors import Code, Failure
from proxy.model.identity import Caller, RegistryAccess, RepositoryAccess

# Of one caller: how many actions on resources, and of each how many sets of values; past it, all are dropped.
QUESTIONS_MAX = 512
VALUES_MAX = 16
# Decisions of all callers together, as sessions cost nothing to make; at some 1.5 KiB each, 100 MiB a worker.
DECISIONS_MAX = 65_536


class PolicyLookups(Protocol):
    """The part of `metadata.contract.Metadata` with policies."""

    async def repository_access(self, account: str, repository: str) -> RepositoryAccess: ...

    async def registry_access(self, account: str) -> RegistryAccess: ...


class Access:
    """One worker's decisions and their cache."""

    def __init__(self, lookups: PolicyLookups) -> None:
        self._lookups = lookups
        self._callers: WeakKeyDictionary[Caller, _CallerQuestions] = WeakKeyDictionary()
        self._decided = 0  # decisions since the cache was last emptied; at least as many as it has

    async def decide(
        self,
        caller: Caller,
        action: str,
        resource: str,
        info: RequestInfo,
        extra: Context | None = None,
        *,
        below: bool = False,
    ) -> Decision:
        """Whether `caller` may do `action` on `resource`: a full ARN, or `*` if the action has no resource type; with
        `below` on all resources that match the star at its end (`decision.Question`).

        `extra` are condition keys of this request alone (aws:RequestTag/…, aws:TagKeys, ecr:AccountSetting), in lower
        case. MetadataUnavailable when the policies cannot be looked up.
        """
        undated = caller.undated or caller
        questions_of_caller = self._callers.get(undated)
        if questions_of_caller is None:
            questions_of_caller = self._callers[undated] = _CallerQuestions(undated)
        question = questions_of_caller.questions.get((action, resource, below)) or questions_of_caller.ask(
            caller, action, resource, below
        )
        registry: RegistryAccess | None = None
        repository: RepositoryAccess | None = None
        if question.account:
            registry = await self._lookups.registry_access(question.account)
            if question.repository and registry.exists:
                repository = await self._lookups.repository_access(question.account, question.repository)
        if not question.has_same_lookups(repository, registry):
            question.begin(repository, registry)
        values = question.values(caller, info, extra)
        decision = question.decisions.get(values)
        if decision is None:
            decision = question.settle(caller, info, extra)
            question.keep(values, decision)
            self._decided += 1
            if self._decided > DECISIONS_MAX:
                self._callers.clear()
                self._decided = 0
        return decision

    def depends_on_clock(self, caller: Caller, action: str, resource: str) -> bool:
        """Whether a decision just made depends on the clock. True also for one that is not in the cache."""
        questions_of_caller = self._callers.get(caller.undated or caller)
        question = (
            questions_of_caller.questions.get((action, resource, False)) if questions_of_caller is not None else None
        )
        return question is None or question.depends_on_clock

    async def require(
        self,
        caller: Caller,
        action: str,
        resource: str,
        info: RequestInfo,
        extra: Context | None = None,
        *,
        below: bool = False,
    ) -> None:
        """Failure AccessDenied with AWS's text, unless `decide` allows it."""
        decision = await self.decide(caller, action, resource, info, extra, below=below)
        if not decision.allowed:
            raise Failure(Code.ACCESS_DENIED, decision.message)


def repository_named(resource: str) -> str:
    """The name in a repository's ARN; empty for any other resource, and for a pattern."""
    head, _, name = resource.partition(":repository/")
    return name if head.startswith("arn:aws:ecr:") and "*" not in name and "?" not in name else ""


class _CallerQuestions:
    """The cached questions of one caller. It must not reference the caller, or that would never be freed."""

    __slots__ = ("_layers", "questions")

    def __init__(self, caller: Caller) -> None:
        self._layers = caller_layers(caller)
        self.questions: dict[tuple[str, str, bool], _CachedQuestion] = {}

    def ask(self, caller: Caller, action: str, resource: str, below: bool) -> _CachedQuestion:
        """Add a new question."""
        if len(self.questions) >= QUESTIONS_MAX:
            self.questions.clear()
        found = self.questions[action, resource, below] = _CachedQuestion(caller, self._layers, action, resource, below)
        return found


class _CachedQuestion:
    """One question: the policies to look up, and cached decisions by the values of the condition keys that they read.

    Keys of caller and resource are the same for one question; the request's facts and extra keys vary.
    """

    __slots__ = (
        "_action", "_below", "_callers", "_info", "_keys", "_layers", "_reads_issue_time", "_registry", "_repository",
        "_resource",
        "account", "decisions", "depends_on_clock", "repository",
    )  # fmt: skip

    def __init__(
        self, caller: Caller, layers: tuple[PolicyLayer, ...], action: str, resource: str, below: bool
    ) -> None:
        """`account` is empty if no registry's or repository's policy applies, `repository` if no repository is
        named."""
        self._action = action
        self._resource = resource
        self._below = below
        self._callers = layers
        has_a_say = action.startswith("ecr:") and action.lower() not in IDENTITY_ALONE
        self.account = resource_account(resource, caller) if has_a_say else ""
        self.repository = repository_named(resource)
        self.begin(None, None)

    def begin(self, repository: RepositoryAccess | None, registry: RegistryAccess | None) -> None:
        """Drop the decisions: the look-ups' answers have changed."""
        self._repository = repository
        self._registry = registry
        self._layers = (*self._callers, *resource_layers(self._action, repository, registry))
        self._keys = tuple(sorted(keys_read(self._layers)))
        self._info = info_behind(self._keys)
        self._reads_issue_time = TOKEN_ISSUE_TIME in self._keys
        self.depends_on_clock = any_depends_on_clock(self._keys)
        self.decisions: dict[Hashable, Decision] = {}

    def has_same_lookups(self, repository: RepositoryAccess | None, registry: RegistryAccess | None) -> bool:
        # A cached look-up returns the same object; whole texts are compared only if it does not.
        if self._repository is repository and self._registry is registry:
            return True
        return self._repository == repository and self._registry == registry

    def values(self, caller: Caller, info: RequestInfo, extra: Context | None) -> Hashable:
        """The values that a document reads and that may differ between two requests with this question."""
        told = self._info(info)
        if self._reads_issue_time:  # by which alone passwords of one caller differ (`Caller.undated`)
            told = (told, caller.token_issued)
        if not extra or not self._keys:
            return told
        return (told, *[tuple(extra.get(key, ())) for key in self._keys])

    def settle(self, caller: Caller, info: RequestInfo, extra: Context | None) -> Decision:
        """Make the decision."""
        tags = self._repository.tags if self._repository is not None else ()
        context = request_context(caller, info, self._resource, tags, extra)
        question = Question(self._action, self._resource, context, self._below)
        return settle(caller, question, self._layers, is_own(caller, self._resource, self._registry))

    def keep(self, values: Hashable, decision: Decision) -> None:
        if len(self.decisions) >= VALUES_MAX:
            self.decisions.clear()
        self.decisions[values] = decision
