"""How many of what an account may have, and how long documents may be: IAM's own figures.

The names are those that GetAccountSummary and LimitExceeded use. Lengths of policies are counted without white space.
Source: IAM User Guide, "IAM and AWS STS quotas" (the default, or the maximum where AWS gives more for the asking and
nothing here is the worse for it).
"""

from __future__ import annotations

from proxy.model.errors import Code, Failure

USERS = ("UsersPerAccount", 5000)
GROUPS = ("GroupsPerAccount", 300)
ROLES = ("RolesPerAccount", 1000)
GROUPS_PER_USER = ("GroupsPerUser", 10)
ACCESS_KEYS_PER_USER = ("AccessKeysPerUser", 2)
TRUST_POLICY_SIZE = ("ACLSizePerRole", 2048)
TAGS_PER_USER = ("TagsPerUser", 50)
TAGS_PER_ROLE = ("TagsPerRole", 50)
POLICIES = ("PoliciesPerAccount", 1500)
MANAGED_POLICY_SIZE = ("PolicySize", 6144)
TAGS_PER_POLICY = ("TagsPerPolicy", 50)
ATTACHED_PER_USER = ("PoliciesPerUser", 10)
ATTACHED_PER_GROUP = ("PoliciesPerGroup", 10)
ATTACHED_PER_ROLE = ("PoliciesPerRole", 10)
PROVIDERS = ("OpenIdConnectProvidersPerAccount", 100)
CLIENT_IDS = ("ClientIdsPerOpenIdConnectProvider", 100)
TAGS_PER_PROVIDER = ("TagsPerOpenIdConnectProvider", 50)

Quota = tuple[str, int]


def check(quota: Quota, wanted: int) -> None:
    """Failure(LimitExceeded) unless `wanted` of it are within the quota."""
    name, most = quota
    if wanted > most:
        raise Failure(Code.IAM_LIMIT_EXCEEDED, f"Cannot exceed quota for {name}: {most}")


def size(document: str) -> int:
    """Characters of a policy as quotas count them: white space is free."""
    return len("".join(document.split()))
