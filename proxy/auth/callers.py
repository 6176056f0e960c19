"""Whoever asks, as one object that stays the same for as long as nothing about them changed.

Decisions are kept by a caller's identity (`auth.policy`), so the same credentials must give the same `Caller` while
what their account says of them is the same. Every door gets its callers here: signed requests and docker's password.
Kept are a bounded number, the least recently seen go first. Look-ups are passed in; nothing is answered without one, so
that a change counts from the next request on.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from proxy.model.identity import AttachedPolicy, Caller, Principal, Session

CALLERS_KEPT = 4096  # some 500 bytes each beyond the principals, which the metadata cache holds anyway


class Lookups(Protocol):
    """The part of `metadata.contract.Metadata` that knows who somebody is."""

    async def principal(self, principal_id: str) -> Principal | None: ...

    async def policy_documents(self, account: str, arns: Sequence[str]) -> Sequence[AttachedPolicy]: ...


class Callers:
    """One worker's callers. To be shared by all its doors."""

    def __init__(self, lookups: Lookups, keep: int = CALLERS_KEPT) -> None:
        self._lookups = lookups
        self._keep = keep
        self._kept: OrderedDict[tuple[str, str, Session | None], _Kept] = OrderedDict()

    async def find(
        self, principal_id: str, account: str, *, session: Session | None = None, access_key_id: str = ""
    ) -> Caller | None:
        """The caller behind a principal's unique id, in that session. None: it is deleted, disabled, or of another
        account than the credentials say, which do not count then. The look-ups' failures pass through."""
        principal = await self._lookups.principal(principal_id)
        if principal is None or principal.account != account:
            return None
        narrowed = await self._narrowed(account, session) if session is not None else None
        return self._one(principal, session, narrowed, access_key_id)

    def of_key(self, principal: Principal, access_key_id: str) -> Caller:
        """The caller with a long-lived key, whose principal has just been looked up with it."""
        return self._one(principal, None, None, access_key_id)

    async def _narrowed(self, account: str, session: Session) -> tuple[AttachedPolicy, ...] | None:
        if not session.policy and not session.policy_arns:
            return None
        own = (AttachedPolicy(session.policy),) if session.policy else ()
        # A policy that is gone is left out and allows nothing; what was to narrow the session still does.
        found = await self._lookups.policy_documents(account, session.policy_arns) if session.policy_arns else ()
        return (*own, *found)

    def _one(
        self,
        principal: Principal,
        session: Session | None,
        narrowed: tuple[AttachedPolicy, ...] | None,
        access_key_id: str,
    ) -> Caller:
        name = (access_key_id, principal.principal_id, session)
        kept = self._kept.get(name)
        if kept is not None and kept.is_still(principal, narrowed):
            self._kept.move_to_end(name)
            return kept.caller
        caller = Caller(principal, session, narrowed, access_key_id)
        self._kept[name] = _Kept(caller, principal)
        self._kept.move_to_end(name)
        if len(self._kept) > self._keep:
            self._kept.popitem(last=False)
        return caller


@dataclass(slots=True)
class _Kept:
    """A caller, and the look-up's object that last said the same of it: nothing is compared while that one comes."""

    caller: Caller
    seen: Principal

    def is_still(self, principal: Principal, narrowed: tuple[AttachedPolicy, ...] | None) -> bool:
        if self.seen is not principal:
            if self.caller.principal != principal:
                return False
            self.seen = principal
        return self.caller.session_policies == narrowed
