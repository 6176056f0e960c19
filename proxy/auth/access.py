"""What every door calls before anything is done: may this caller do this, here, now?

Looks up what has a say (the repository's policy and tags, the registry's policy) and lets `auth.policy` decide. The
look-ups are passed in; their answers are of this moment, so that a change counts from the next request on.

A decision is kept with all that it hung on: caller, action, resource, what the look-ups answered, and the value of each
condition key that any of the documents reads, aws:TokenIssueTime too. It is used again only while every one of these is
the same.
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
    """The part of `metadata.contract.Metadata` that has a say."""

    async def repository_access(self, account: str, repository: str) -> RepositoryAccess: ...

    async def registry_access(self, account: str) -> RegistryAccess: ...


class Access:
    """One worker's answers."""

    def __init__(self, lookups: PolicyLookups) -> None:
        self._lookups = lookups
        self._callers: WeakKeyDictionary[Caller, _CallerQuestions] = WeakKeyDictionary()
        self._decided = 0  # since all were dropped; never fewer than are kept

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
        """Whether `caller` may do `action` on `resource`: a whole ARN, or `*` where the action has no resource type;
        with `below` on everything that the star at its end stands for (`decision.Question`).

        `extra` are condition keys of this request alone (aws:RequestTag/…, aws:TagKeys, ecr:AccountSetting), in lower
        case. MetadataUnavailable when what has a say cannot be looked up.
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
        """Whether what was just decided may be otherwise later, though nothing it hung on has changed. True as well of
        what was not decided lately."""
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
        """Failure AccessDenied, in AWS's words, unless `decide` allows it."""
        decision = await self.decide(caller, action, resource, info, extra, below=below)
        if not decision.allowed:
            raise Failure(Code.ACCESS_DENIED, decision.message)


def repository_named(resource: str) -> str:
    """The name in a repository's ARN; empty for every other resource, and for a pattern of several."""
    head, _, name = resource.partition(":repository/")
    return name if head.startswith("arn:aws:ecr:") and "*" not in name and "?" not in name else ""


class _CallerQuestions:
    """What has been asked for one caller. It must not hold the caller, which would then never go."""

    __slots__ = ("_layers", "questions")

    def __init__(self, caller: Caller) -> None:
        self._layers = caller_layers(caller)
        self.questions: dict[tuple[str, str, bool], _CachedQuestion] = {}

    def ask(self, caller: Caller, action: str, resource: str, below: bool) -> _CachedQuestion:
        """What has not been asked yet."""
        if len(self.questions) >= QUESTIONS_MAX:
            self.questions.clear()
        found = self.questions[action, resource, below] = _CachedQuestion(caller, self._layers, action, resource, below)
        return found


class _CachedQuestion:
    """One question: whose say is to be looked up, and its decisions by the values of the keys that the documents read.

    What caller and resource say is the same as long as they are; what is left are the request's facts and extra keys.
    """

    __slots__ = (
        "_action", "_below", "_callers", "_info", "_keys", "_layers", "_reads_issue_time", "_registry", "_repository",
        "_resource",
        "account", "decisions", "depends_on_clock", "repository",
    )  # fmt: skip

    def __init__(
        self, caller: Caller, layers: tuple[PolicyLayer, ...], action: str, resource: str, below: bool
    ) -> None:
        """`account` is empty where neither registry nor repository has a say, `repository` where it names none."""
        self._action = action
        self._resource = resource
        self._below = below
        self._callers = layers
        has_a_say = action.startswith("ecr:") and action.lower() not in IDENTITY_ALONE
        self.account = resource_account(resource, caller) if has_a_say else ""
        self.repository = repository_named(resource)
        self.begin(None, None)

    def begin(self, repository: RepositoryAccess | None, registry: RegistryAccess | None) -> None:
        """Of what has been decided, nothing counts any more: the look-ups have begun to answer this."""
        self._repository = repository
        self._registry = registry
        self._layers = (*self._callers, *resource_layers(self._action, repository, registry))
        self._keys = tuple(sorted(keys_read(self._layers)))
        self._info = info_behind(self._keys)
        self._reads_issue_time = TOKEN_ISSUE_TIME in self._keys
        self.depends_on_clock = any_depends_on_clock(self._keys)
        self.decisions: dict[Hashable, Decision] = {}

    def has_same_lookups(self, repository: RepositoryAccess | None, registry: RegistryAccess | None) -> bool:
        # Look-ups that are kept answer with the same object; comparing whole texts is for those that are not.
        if self._repository is repository and self._registry is registry:
            return True
        return self._repository == repository and self._registry == registry

    def values(self, caller: Caller, info: RequestInfo, extra: Context | None) -> Hashable:
        """All that can differ between two requests with this question, so far as a document reads it."""
        told = self._info(info)
        if self._reads_issue_time:  # by which alone passwords of one caller differ (`Caller.undated`)
            told = (told, caller.token_issued)
        if not extra or not self._keys:
            return told
        return (told, *[tuple(extra.get(key, ())) for key in self._keys])

    def settle(self, caller: Caller, info: RequestInfo, extra: Context | None) -> Decision:
        """The decision, made anew."""
        tags = self._repository.tags if self._repository is not None else ()
        context = request_context(caller, info, self._resource, tags, extra)
        question = Question(self._action, self._resource, context, self._below)
        return settle(caller, question, self._layers, is_own(caller, self._resource, self._registry))

    def keep(self, values: Hashable, decision: Decision) -> None:
        if len(self.decisions) >= VALUES_MAX:
            self.decisions.clear()
        self.decisions[values] = decision
