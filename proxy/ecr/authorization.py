"""GetAuthorizationToken: the password for `docker login`, and where to use it.

    {"authorizationData": [{"authorizationToken": base64("AWS:" + password), "expiresAt": epoch seconds,
                            "proxyEndpoint": "https://host"}]}

proxyEndpoint is an address that the caller can reach: the registry's name under `[registry] suffix`, with the port of
the request; without a suffix the configured address, else that of the request (its Host header is signed), which is the
default account's registry. There is one element for each of the deprecated `registryIds`. All have the same password:
it is valid for the region, not for one registry.
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
    """The addresses of registries. `url` is this server's configured address; empty: that of the request."""

    hosts: Hosts
    url: str = ""

    def of(self, account: str, request: web.Request) -> str:
        """A registry's address. InvalidParameter if it has none."""
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
        """This server's address: the configured one, else that of the request."""
        return self.url or f"{request.scheme}://{request.host}"

    def of_links(self, account: str, request: web.Request) -> str:
        """The base of links to a registry's layers: any account has one."""
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
        # Without `registryIds` it is the caller's own. If that has no address, the one that has is used.
        return (ask.caller.account if hosts.suffix else hosts.account,)
    if not isinstance(given, list) or not 1 <= len(given) <= REGISTRY_IDS_MAX:
        raise invalid("registryIds", f"Member must be a list of 1 to {REGISTRY_IDS_MAX} registry ids")
    return [check_registry(each, "registryIds") for each in given]
