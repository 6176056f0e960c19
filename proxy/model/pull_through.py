"""A pull-through cache rule: which names it stands for, and what each is called upstream.

    prefix "docker-hub", upstream prefix ROOT   docker-hub/library/alpine -> library/alpine
    prefix "my-app", upstream prefix "team-a"   my-app/web                -> team-a/web
    prefix ROOT (then the upstream's is too)    a/b                       -> a/b

A `/` is assumed at the end of a prefix: `my-app` stands for `my-app/web`, not for `my-app` nor `my-apps/web`, and
`my-app/` is the same prefix. The longest prefix counts; ROOT stands for what no other rule does. Pure; used by the
rows, which find the rule, and by the importer, which asks the upstream. Source: ECR User Guide, "Customizing repository
prefixes for ECR to ECR pull through cache".
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

ROOT = "ROOT"


@dataclass(frozen=True, slots=True)
class PullThroughRule:
    """`upstream_registry` is one of the API's kinds, or empty for an upstream of the operator's list.

    `upstream_url` is as the rule was given it: a host, HOST:PORT, or with a scheme. `credential_arn` names a secret of
    the account, `custom_role_arn` a role; either may be empty. Times are epoch seconds."""

    account: str
    prefix: str
    upstream_registry: str
    upstream_url: str
    upstream_prefix: str
    credential_arn: str
    custom_role_arn: str
    created_at: float
    updated_at: float


@dataclass(frozen=True, slots=True)
class UpstreamCredential:
    """What a rule logs in with: the two members of its secret. `version` is another once the secret has changed."""

    username: str
    access_token: str
    version: str = ""

    def __repr__(self) -> str:  # a log line or a failed assertion must not show the token
        return f"UpstreamCredential(username={self.username!r}, access_token=...)"


def covers(prefix: str, repository: str) -> bool:
    """Whether a rule of that prefix stands for the repository, where no longer one does."""
    return prefix == ROOT or (repository.startswith(_bare(prefix) + "/") and len(repository) > len(_bare(prefix)) + 1)


def candidates(repository: str) -> list[str]:
    """Prefixes that would cover the repository, longest first, each without a `/` at its end; ROOT comes last."""
    parts = repository.split("/")
    return ["/".join(parts[:count]) for count in range(len(parts) - 1, 0, -1)] + [ROOT]


def choose(rules: Iterable[PullThroughRule], repository: str) -> PullThroughRule | None:
    """The rule that counts for the repository: the longest prefix, then ROOT."""
    found = {_bare(rule.prefix): rule for rule in rules}
    if not found:  # as in most registries, at each pull
        return None
    return next((found[prefix] for prefix in candidates(repository) if prefix in found), None)


def upstream_repository(rule: PullThroughRule, repository: str) -> str:
    """What the repository is called upstream. ValueError where the rule does not cover it.

    Docker Hub's `library/` is not added here: the importer does that."""
    if not covers(rule.prefix, repository):
        raise ValueError(f"{repository!r} is not under the prefix {rule.prefix!r}")
    rest = repository if rule.prefix == ROOT else repository[len(_bare(rule.prefix)) + 1 :]
    return rest if rule.upstream_prefix == ROOT else f"{_bare(rule.upstream_prefix)}/{rest}"


def local_repository(rule: PullThroughRule, upstream: str) -> str | None:
    """What an upstream's repository is called under the rule: `upstream_repository` the other way. None for one that
    is not below the rule's upstream prefix."""
    if rule.upstream_prefix != ROOT:
        below = _bare(rule.upstream_prefix) + "/"
        if not upstream.startswith(below):
            return None
        upstream = upstream.removeprefix(below)
    return upstream if rule.prefix == ROOT else f"{_bare(rule.prefix)}/{upstream}"


def _bare(prefix: str) -> str:
    return prefix.rstrip("/")
