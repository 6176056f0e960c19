"""IAM's quotas: how many entities an account may have, and how long documents may be.

The names are those of GetAccountSummary and LimitExceeded. Lengths of policies are counted without white space. Source:
IAM User Guide, "IAM and AWS STS quotas" (the default, or the maximum that AWS grants on request where it costs nothing
here).
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

WITH_SPACE = 4
"""A document with its white space may have so many times its quota. IAM's only such bound is the model's 131,072
characters; here a principal with a hundred policies puts them, as they are, into each worker's memory."""

Quota = tuple[str, int]


def check(quota: Quota, wanted: int) -> None:
    """Failure(LimitExceeded) if `wanted` exceeds the quota."""
    name, most = quota
    if wanted > most:
        raise Failure(Code.IAM_LIMIT_EXCEEDED, f"Cannot exceed quota for {name}: {most}")


def check_document(quota: Quota, document: str) -> None:
    """Failure(LimitExceeded) for a document that is too long, without white space (as IAM counts) or with it."""
    check(quota, size(document))
    check_length(quota, len(document))


def check_length(quota: Quota, characters: int) -> None:
    """Failure(LimitExceeded) if documents under `quota` have too many `characters`, white space included."""
    name, most = quota
    if characters > WITH_SPACE * most:
        raise Failure(
            Code.IAM_LIMIT_EXCEEDED, f"Cannot exceed quota for {name}: {most}, and {WITH_SPACE * most} with white space"
        )


def size(document: str) -> int:
    """A policy's characters as quotas count them: without white space."""
    return len("".join(document.split()))
