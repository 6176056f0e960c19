"""What every door calls before anything is done: may this caller do this, here, now?

Looks up what has a say (the repository's policy and tags, the registry's policy) and lets `auth.policy` decide. The
look-ups are passed in; their answers are of this moment, so that a change counts from the next request on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from proxy.auth.policy.context import RequestFacts
from proxy.auth.policy.decision import Decision
from proxy.model.errors import Code, Failure
from proxy.model.identity import Caller, RegistryAccess, RepositoryAccess


class Lookups(Protocol):
    """The part of `metadata.contract.Metadata` that has a say."""

    async def repository_access(self, account: str, repository: str) -> RepositoryAccess: ...

    async def registry_access(self, account: str) -> RegistryAccess: ...


class Access:
    """One worker's answers."""

    def __init__(self, lookups: Lookups) -> None:
        self._lookups = lookups

    async def decide(
        self,
        caller: Caller,
        action: str,
        resource: str,
        facts: RequestFacts,
        extra: Mapping[str, Sequence[str]] | None = None,
    ) -> Decision:
        """Whether `caller` may do `action` on `resource`: a whole ARN, or `*` where the action has no resource type.

        `extra` are condition keys of this request alone (aws:RequestTag/…, aws:TagKeys, ecr:AccountSetting), in lower
        case. MetadataUnavailable when what has a say cannot be looked up.
        """
        raise Failure(Code.SERVER, "not yet")

    async def require(
        self,
        caller: Caller,
        action: str,
        resource: str,
        facts: RequestFacts,
        extra: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        """Failure AccessDenied, in AWS's words, unless `decide` allows it."""
        decision = await self.decide(caller, action, resource, facts, extra)
        if not decision.allowed:
            raise Failure(Code.ACCESS_DENIED, decision.message)
