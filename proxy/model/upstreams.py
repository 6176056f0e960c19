"""Which registries ECR's pull-through cache knows by name, and which of them wants a login.

The kind of an upstream follows from its host: Terraform sends no `upstreamRegistry`. What is none of these must be in
the operator's list (`[pull_through] upstreams`). Source: ECR User Guide, "Creating a pull through cache rule".
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

DOCKER_HUB = "docker-hub"
ECR = "ecr"


@dataclass(frozen=True, slots=True)
class Kind:
    """`host`: a pattern of the whole upstreamRegistryUrl."""

    host: re.Pattern[str]
    needs_login: bool = False


def _kind(pattern: str, *, needs_login: bool = False) -> Kind:
    return Kind(re.compile(pattern, re.ASCII), needs_login)


KINDS: Mapping[str, Kind] = {
    ECR: _kind(r"[0-9]{12}\.dkr\.ecr(-fips)?\.[a-z0-9-]+\.amazonaws\.com(\.cn)?"),
    "ecr-public": _kind(r"public\.ecr\.aws"),
    "quay": _kind(r"quay\.io"),
    "k8s": _kind(r"registry\.k8s\.io"),
    DOCKER_HUB: _kind(r"registry-1\.docker\.io", needs_login=True),
    "github-container-registry": _kind(r"ghcr\.io", needs_login=True),
    "azure-container-registry": _kind(r"[a-z0-9][a-z0-9-]{0,62}\.azurecr\.(io|cn|us)", needs_login=True),
    "gitlab-container-registry": _kind(r"registry\.gitlab\.com", needs_login=True),
    "chainguard": _kind(r"cgr\.dev", needs_login=True),
}
"""By the model's names."""


def kind_of(url: str) -> str:
    """The kind of the upstream with this URL; empty for one that ECR does not know."""
    return next((name for name, kind in KINDS.items() if kind.host.fullmatch(url)), "")
