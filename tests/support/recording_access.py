"""An evaluator that writes down what it is asked, and denies what a test wants denied."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from proxy.auth.access import Access
from proxy.auth.policy.context import RequestInfo
from proxy.auth.policy.decision import Decision
from proxy.model.identity import Caller, RegistryAccess, RepositoryAccess


class RecordingAccess(Access):
    """`denied` are actions, or (action, resource) pairs; everything else is allowed. `asked` is in order."""

    def __init__(self) -> None:
        super().__init__(_Nothing())
        self.denied: set[str | tuple[str, str]] = set()
        self.asked: list[tuple[str, str]] = []
        self.keys: list[Mapping[str, Sequence[str]]] = []
        self.info: list[RequestInfo] = []

    async def decide(
        self,
        caller: Caller,
        action: str,
        resource: str,
        info: RequestInfo,
        extra: Mapping[str, Sequence[str]] | None = None,
        *,
        below: bool = False,
    ) -> Decision:
        self.asked.append((action, resource))
        self.keys.append(extra or {})
        self.info.append(info)
        if action in self.denied or (action, resource) in self.denied:
            return Decision(False, f"denied: {action} on {resource}")
        return Decision(True)


class _Nothing:
    """No row is looked at."""

    async def repository_access(self, account: str, repository: str) -> RepositoryAccess:
        raise AssertionError(repository)

    async def registry_access(self, account: str) -> RegistryAccess:
        raise AssertionError(account)
