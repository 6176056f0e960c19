"""Makes the `Caller` of a request's credentials; one object as long as nothing about the caller has changed.

Decisions are cached by the identity of the object (`auth.access`), so the same credentials must give the same `Caller`
while its principal is unchanged. Every protocol gets its callers here (signed requests, docker's password, links to
layers), so here credentials end with their principal, with their long-lived key (deleted, inactive, expired), and by a
revocation. The cache is bounded; the least recently used callers are evicted. Every call makes a look-up, which is
passed in, so a change takes effect with the next request.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from proxy.auth.revocation import is_revoked
from proxy.model.identity import AccessKey, AttachedPolicy, Caller, Principal, Session
from proxy.model.lru import Lru

CALLERS_MAX = 4096  # about 500 bytes each besides the principals, which the metadata cache has anyway


class CallerLookups(Protocol):
    """The part of `metadata.contract.Metadata` with principals and keys."""

    async def principal(self, principal_id: str) -> Principal | None: ...

    async def access_key(self, access_key_id: str) -> AccessKey | None: ...

    async def policy_documents(self, account: str, arns: Sequence[str]) -> Sequence[AttachedPolicy]: ...


class Callers:
    """One worker's callers, shared by all protocols."""

    def __init__(
        self, lookups: CallerLookups, clock: Callable[[], float] = time.time, *, keep: int = CALLERS_MAX
    ) -> None:
        """`clock` tells epoch seconds."""
        self._lookups = lookups
        self._clock = clock
        self._cache = Lru[_Name, _CachedCaller](keep)

    async def find(
        self,
        principal_id: str,
        account: str,
        *,
        session: Session | None = None,
        access_key_id: str = "",
        issued: float | None = None,
    ) -> Caller | None:
        """The caller for a principal's unique id, in that session, or with that long-lived key. `issued` is the time of
        issue of a docker password or link.

        None if the credentials do not count: the principal is deleted, disabled, or of another account, the key is not
        in force, or they are revoked. The look-ups' failures pass through."""
        expires = None
        if session is None and access_key_id:
            key = await self._lookups.access_key(access_key_id)
            if key is None or key.principal.principal_id != principal_id or self._is_over(key):
                return None
            principal: Principal | None = key.principal
            expires = key.expires
        else:
            principal = await self._lookups.principal(principal_id)
        if principal is None or principal.account != account or is_revoked(principal, session, issued):
            return None
        session_policies = await self._session_policies(account, session) if session is not None else None
        return self._cached(principal, session, session_policies, access_key_id, issued, expires)

    def of_key(self, key: AccessKey) -> Caller | None:
        """The caller with a long-lived key that was just looked up. None: the key has expired."""
        return (
            None
            if self._is_over(key)
            else self._cached(key.principal, None, None, key.access_key_id, None, key.expires)
        )

    def _is_over(self, key: AccessKey) -> bool:
        return key.expires is not None and self._clock() >= key.expires

    async def _session_policies(self, account: str, session: Session) -> tuple[AttachedPolicy, ...] | None:
        if not session.policy and not session.policy_arns:
            return None
        own = (AttachedPolicy(session.policy),) if session.policy else ()
        # A deleted session policy allows nothing, so it still narrows the session.
        found = await self._lookups.policy_documents(account, session.policy_arns) if session.policy_arns else ()
        return (*own, *found)

    def _cached(
        self,
        principal: Principal,
        session: Session | None,
        session_policies: tuple[AttachedPolicy, ...] | None,
        access_key_id: str,
        issued: float | None,
        expires: float | None,
    ) -> Caller:
        name = (access_key_id, principal.principal_id, session, issued)
        cached = self._cache.get(name)
        if cached is not None and cached.matches(principal, session_policies, expires):
            return cached.caller
        undated = None
        if issued is not None:
            undated = self._cached(principal, session, session_policies, access_key_id, None, expires)
        caller = Caller(principal, session, session_policies, access_key_id, issued, expires, undated)
        self._cache[name] = _CachedCaller(caller, principal)
        return caller


_Name = tuple[str, str, Session | None, float | None]


@dataclass(slots=True)
class _CachedCaller:
    """A caller and its last look-up's answer: while the same object is returned, nothing is compared."""

    caller: Caller
    seen: Principal

    def matches(
        self, principal: Principal, session_policies: tuple[AttachedPolicy, ...] | None, expires: float | None
    ) -> bool:
        if self.seen is not principal:
            if self.caller.principal != principal:
                return False
            self.seen = principal
        return self.caller.session_policies == session_policies and self.caller.key_expires == expires
