"""What every door calls before anything is done: may this caller do this, here, now?

Looks up what has a say (the repository's policy and tags, the registry's policy) and lets `auth.policy` decide. The
look-ups are passed in; their answers are of this moment, so that a change counts from the next request on.

A decision is kept with all that it hung on: caller, action, resource, what the look-ups answered, and the value of each
condition key that any of the documents reads. It is used again only while every one of these is the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol
from weakref import WeakKeyDictionary

from proxy.auth.policy.context import Context, RequestFacts, facts_behind, request_context, resource_account
from proxy.auth.policy.decision import IDENTITY_ALONE, Decision, Question, is_own, resource_layers, settle
from proxy.auth.policy.weighing import Layer, caller_layers, keys_read
from proxy.model.errors import Code, Failure
from proxy.model.identity import Caller, RegistryAccess, RepositoryAccess

# Of one caller: how many actions on resources, and of each how many sets of values; past it, all are dropped.
QUESTIONS_KEPT = 512
VALUES_KEPT = 16
# Decisions of all callers together, as sessions cost nothing to make; at some 1.5 KiB each, 100 MiB a worker.
DECISIONS_KEPT = 65_536


class Lookups(Protocol):
    """The part of `metadata.contract.Metadata` that has a say."""

    async def repository_access(self, account: str, repository: str) -> RepositoryAccess: ...

    async def registry_access(self, account: str) -> RegistryAccess: ...


class Access:
    """One worker's answers."""

    def __init__(self, lookups: Lookups) -> None:
        self._lookups = lookups
        self._seen: WeakKeyDictionary[Caller, _Seen] = WeakKeyDictionary()
        self._decided = 0  # since all were dropped; never fewer than are kept

    async def decide(
        self,
        caller: Caller,
        action: str,
        resource: str,
        facts: RequestFacts,
        extra: Context | None = None,
    ) -> Decision:
        """Whether `caller` may do `action` on `resource`: a whole ARN, or `*` where the action has no resource type.

        `extra` are condition keys of this request alone (aws:RequestTag/…, aws:TagKeys, ecr:AccountSetting), in lower
        case. MetadataUnavailable when what has a say cannot be looked up.
        """
        repository: RepositoryAccess | None = None
        registry: RegistryAccess | None = None
        if action.startswith("ecr:") and action.lower() not in IDENTITY_ALONE:
            account = resource_account(resource, caller)
            registry = await self._lookups.registry_access(account)
            name = repository_named(resource)
            if name and registry.exists:
                repository = await self._lookups.repository_access(account, name)
        seen = self._seen.get(caller)
        if seen is None:
            seen = self._seen[caller] = _Seen(caller)
        decision, is_new = seen.decide(caller, action, resource, facts, extra, repository, registry)
        self._decided += is_new
        if self._decided > DECISIONS_KEPT:
            self._seen.clear()
            self._decided = 0
        return decision

    async def require(
        self,
        caller: Caller,
        action: str,
        resource: str,
        facts: RequestFacts,
        extra: Context | None = None,
    ) -> None:
        """Failure AccessDenied, in AWS's words, unless `decide` allows it."""
        decision = await self.decide(caller, action, resource, facts, extra)
        if not decision.allowed:
            raise Failure(Code.ACCESS_DENIED, decision.message)


def repository_named(resource: str) -> str:
    """The name in a repository's ARN; empty for every other resource, and for a pattern of several."""
    head, found, name = resource.partition(":repository/")
    return name if found and head.startswith("arn:aws:ecr:") and "*" not in name and "?" not in name else ""


class _Seen:
    """What has been decided for one caller. It must not hold the caller, which would then never go."""

    __slots__ = ("_layers", "_questions")

    def __init__(self, caller: Caller) -> None:
        self._layers = caller_layers(caller)
        self._questions: dict[tuple[str, str], _Answered] = {}

    def decide(
        self,
        caller: Caller,
        action: str,
        resource: str,
        facts: RequestFacts,
        extra: Context | None,
        repository: RepositoryAccess | None,
        registry: RegistryAccess | None,
    ) -> tuple[Decision, bool]:
        """The decision, and whether it is kept since now only."""
        answered = self._questions.get((action, resource))
        if answered is None or not answered.hangs_on(repository, registry):
            if len(self._questions) >= QUESTIONS_KEPT:
                self._questions.clear()
            layers = (*self._layers, *resource_layers(action, repository, registry))
            answered = self._questions[action, resource] = _Answered(repository, registry, layers)
        values = answered.values(facts, extra)
        decision = answered.decisions.get(values)
        is_new = decision is None
        if decision is None:
            tags = repository.tags if repository is not None else ()
            question = Question(action, resource, request_context(caller, facts, resource, tags, extra))
            decision = settle(caller, question, answered.layers, is_own(caller, resource, registry))
            if len(answered.decisions) >= VALUES_KEPT:
                answered.decisions.clear()
            answered.decisions[values] = decision
        return decision, is_new


Values = tuple[object, ...]


class _Answered:
    """The decisions about one question, by the values of the condition keys that its documents read.

    What caller and resource say is the same as long as they are; what is left are the request's facts and extra keys.
    """

    __slots__ = ("_facts", "_keys", "decisions", "layers", "registry", "repository")

    def __init__(
        self, repository: RepositoryAccess | None, registry: RegistryAccess | None, layers: Sequence[Layer]
    ) -> None:
        self.repository = repository
        self.registry = registry
        self.layers = layers
        self._keys = tuple(sorted(keys_read(layers)))
        self._facts = facts_behind(self._keys)
        self.decisions: dict[Values, Decision] = {}

    def hangs_on(self, repository: RepositoryAccess | None, registry: RegistryAccess | None) -> bool:
        # Look-ups that are kept answer with the same object; comparing whole texts is for those that are not.
        same_repository = self.repository is repository or self.repository == repository
        return same_repository and (self.registry is registry or self.registry == registry)

    def values(self, facts: RequestFacts, extra: Context | None) -> Values:
        """All that can differ between two requests with this question, so far as a document reads it."""
        if not self._keys:
            return ()
        told = tuple([read(facts) for read in self._facts])
        if not extra:
            return told
        return (told, *[tuple(extra.get(key, ())) for key in self._keys])
