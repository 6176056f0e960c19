"""GetAuthorizationToken: the password for `docker login`, and where to use it.

    {"authorizationData": [{"authorizationToken": base64("AWS:" + password), "expiresAt": epoch seconds,
                            "proxyEndpoint": "https://host"}]}

proxyEndpoint is an address that the caller can really reach: the configured one, else the one it has just used (its
Host header is signed). One element for each of the deprecated `registryIds`.
"""

from __future__ import annotations

import base64
from typing import Any

from proxy.auth.tokens import Tokens
from proxy.ecr.parameters import Ask, check_registry, invalid

REGISTRY_IDS_MAX = 10


def authorization_data(ask: Ask, tokens: Tokens, endpoint: str, now: float) -> dict[str, Any]:
    """InvalidParameter for `registryIds` that are not a list of 1 to 10, or name another account."""
    registry_ids = ask.parameters.get("registryIds")
    if registry_ids is None:
        registry_ids = [ask.account]
    if not isinstance(registry_ids, list) or not 1 <= len(registry_ids) <= REGISTRY_IDS_MAX:
        raise invalid("registryIds", f"Member must be a list of 1 to {REGISTRY_IDS_MAX} registry ids")
    for registry_id in registry_ids:
        check_registry(registry_id, ask.account, "registryIds")
    password, expires = tokens.issue(ask.principal, ask.principal.account, ask.region, now)
    data = {
        "authorizationToken": base64.b64encode(f"AWS:{password}".encode()).decode(),
        "expiresAt": expires,
        "proxyEndpoint": endpoint,
    }
    return {"authorizationData": [data for _ in registry_ids]}
