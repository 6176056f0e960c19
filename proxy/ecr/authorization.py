"""GetAuthorizationToken: the password for `docker login`, and where to use it.

    {"authorizationData": [{"authorizationToken": base64("AWS:" + password), "expiresAt": epoch seconds,
                            "proxyEndpoint": "https://host"}]}

proxyEndpoint is an address that the caller can really reach: a registry's own name under `[registry] suffix`, with the
port that was used, as all registries of a server share it; without a suffix the configured address, else the one that
the request itself used (its Host header is signed), which is the default account's registry. One element for each of
the deprecated `registryIds`. The password is the same in all of them: it is good for the region, not for one registry.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from proxy.auth.tokens import Tokens
from proxy.awsmodel.validation import invalid
from proxy.ecr.parameters import Ask, check_registry
from proxy.model.errors import Code, Failure
from proxy.model.hosts import Hosts, port_of

REGISTRY_IDS_MAX = 10


@dataclass(frozen=True, slots=True)
class Endpoints:
    """Where registries are reached. `url` is the configured address of this server; empty: the one that was used."""

    hosts: Hosts
    url: str = ""

    def of(self, account: str, request: web.Request) -> str:
        """InvalidParameter for a registry that has no address here."""
        if self.hosts.suffix:
            used = self.url.partition("://")[2] or request.host
            return f"https://{self.hosts.registry(account, port_of(used))}"
        if account != self.hosts.account:
            raise Failure(
                Code.INVALID_PARAMETER,
                f"Invalid parameter at 'registryIds' failed to satisfy constraint: 'This server has an address for the "
                f"registry with id {self.hosts.account} only; for others its operator sets [registry] suffix'",
            )
        return self.used(request)

    def used(self, request: web.Request) -> str:
        """The address of this server: the configured one, else the one that was used."""
        return self.url or f"{request.scheme}://{request.host}"

    def of_links(self, account: str, request: web.Request) -> str:
        """Where links to layers of a registry lead: any account has one."""
        return self.of(account, request) if self.hosts.suffix else self.used(request)


def authorization_data(ask: Ask, tokens: Tokens, endpoints: Endpoints, request: web.Request) -> dict[str, Any]:
    """InvalidParameter for `registryIds` that are not a list of 1 to 10, or that have no address here."""
    try:
        password, expires = tokens.issue(
            ask.caller.principal,
            ask.caller.account,
            ask.region,
            ask.info.now,
            ask.caller.session,
            ask.caller.access_key_id,
        )
    except ValueError as error:
        raise Failure(
            Code.LIMIT_EXCEEDED,
            "The session's policy and tags are too large for an authorization token.",
            hint=str(error),
        ) from None
    token = base64.b64encode(f"AWS:{password}".encode()).decode()
    return {
        "authorizationData": [
            {"authorizationToken": token, "expiresAt": expires, "proxyEndpoint": endpoints.of(account, request)}
            for account in _registries(ask, endpoints.hosts)
        ]
    }


def _registries(ask: Ask, hosts: Hosts) -> Sequence[str]:
    given = ask.parameters.get("registryIds")
    if given is None:
        # Who names none means its own. Where that has no address, it can still log in to the one that has.
        return (ask.caller.account if hosts.suffix else hosts.account,)
    if not isinstance(given, list) or not 1 <= len(given) <= REGISTRY_IDS_MAX:
        raise invalid("registryIds", f"Member must be a list of 1 to {REGISTRY_IDS_MAX} registry ids")
    return [check_registry(each, "registryIds") for each in given]
