"""Mirror hosts: hosts that serve an upstream's images under its own names, as `registry-mirrors` of docker needs.

    GET mirror.example /v2/library/alpine/manifests/3?ns=docker.io    of docker-hub/library/alpine, as the rule maps it

The entry that lists the request's `ns` serves it; without `ns`, the host's first entry does. An unknown `ns` gets 404,
so that a client never receives another upstream's image under the name that it requested. Requests from the entry's
networks are made as the entry's role; their Authorization is not read, because docker sends its credentials for Docker
Hub. From other networks, or without a role, credentials are needed as at any other host.
The role's policies decide, as for any caller; its session name is `SESSION`. Called by `routes`, which refuses all but
pulls there. Knows nothing of imports.
Sources: containerd docs/hosts.md; OCI Distribution main, "Registry Proxying".
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from proxy import observe
from proxy.auth.callers import Callers
from proxy.auth.revocation import issue_time
from proxy.config.mirror_settings import MirrorEntry
from proxy.http.forwarded import Network, is_in, networks
from proxy.model.errors import Code, Failure, repository_not_found
from proxy.model.hosts import port_of
from proxy.model.identity import Caller, Role, Session, SessionKind
from proxy.model.names import check_repository
from proxy.model.pull_through import PullThroughRule, local_repository

SESSION = "anonymous"
SESSION_SECONDS = 3600  # a new session each hour bounds how long anything is cached for a caller


class MirrorLookups(Protocol):
    """The part of `metadata.contract.Metadata` that mirror hosts need."""

    async def role(self, account: str, name: str) -> Role | None: ...

    async def pull_through_rules(self, account: str) -> Sequence[PullThroughRule]: ...


@dataclass(frozen=True, slots=True)
class MirrorRequest:
    """The entry that serves a request at a mirror host. `namespace` is the request's `ns`, empty if it had none."""

    entry: MirrorEntry
    namespace: str
    trusted: Sequence[Network]


class MirrorHosts:
    """The mirror hosts of the configuration; one instance a worker. `now` returns epoch seconds."""

    def __init__(
        self, entries: Iterable[MirrorEntry], callers: Callers, lookups: MirrorLookups, now: Callable[[], float]
    ) -> None:
        self._hosts: dict[str, list[tuple[MirrorEntry, list[Network]]]] = {}
        for entry in entries:
            self._hosts.setdefault(entry.host, []).append((entry, networks(entry.networks)))
        self._callers = callers
        self._lookups = lookups
        self._now = now

    def find(self, host: str, namespace: str | None) -> MirrorRequest | None:
        """None if `host` (a Host header) is no mirror. RepositoryNotFound for a namespace that it has no entry for."""
        host = host.lower()
        entries = self._hosts.get(host) or self._hosts.get(host.removesuffix(port_of(host)).removesuffix("."))
        if entries is None:
            return None
        if not namespace:
            return MirrorRequest(entries[0][0], "", entries[0][1])
        wanted = namespace.lower()
        for entry, trusted in entries:
            if wanted in entry.ns:
                return MirrorRequest(entry, wanted, trusted)
        raise Failure(Code.REPOSITORY_NOT_FOUND, f"This mirror has nothing of {namespace[:255]!r}")

    async def anonymous(self, mirror: MirrorRequest, remote: str | None) -> Caller | None:
        """The caller of a request from that address without credentials; None if credentials are needed."""
        entry = mirror.entry
        if not entry.principal or not is_in(remote, mirror.trusted):
            return None
        role = await self._lookups.role(entry.account, entry.principal.rpartition("/")[2])
        if role is None or role.principal.arn != entry.principal:
            observe.log.warning("a mirror's principal is not there", host=entry.host, principal=entry.principal)
            return None
        begun = int(self._now()) // SESSION_SECONDS * SESSION_SECONDS
        issued = issue_time(role.principal, begun, SESSION)
        session = Session(SessionKind.ROLE, SESSION, issued, max(issued, begun) + SESSION_SECONDS)
        return await self._callers.find(role.principal.principal_id, entry.account, session=session)

    async def repository(self, mirror: MirrorRequest, account: str, name: str) -> str:
        """The local repository for the upstream's `name`. RepositoryNotFound if no rule maps the name."""
        rules = await self._lookups.pull_through_rules(account)
        rule = next((each for each in rules if each.prefix.rstrip("/") == mirror.entry.rule), None)
        found = local_repository(rule, check_repository(name)) if rule is not None else None
        if found is None:
            raise repository_not_found(name, account)
        return check_repository(found)
