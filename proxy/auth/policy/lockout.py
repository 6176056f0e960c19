"""Whether a new repository policy would keep its author from setting it again: ECR refuses that unless forced."""

from __future__ import annotations

from dataclasses import replace

from proxy.auth.policy.context import Context
from proxy.auth.policy.decision import Question, decide
from proxy.model.identity import BoundPolicy, Caller, RegistryAccess, RepositoryAccess, Tags

ACTION = "ecr:SetRepositoryPolicy"


def would_lock_out(
    caller: Caller,
    text: str,
    bindings: Tags,
    repository: RepositoryAccess,
    registry: RegistryAccess | None,
    resource: str,
    context: Context,
) -> bool:
    """Whether with `text` as the policy of `repository`, `resource` its ARN, a later SetRepositoryPolicy by `caller`
    would be denied. `bindings` are those that the policy is to be stored with; the caller's own is enough:
    `((caller.principal.arn, caller.principal.principal_id),)`."""
    proposed = replace(repository, policy=BoundPolicy(text, bindings))
    return not decide(caller, Question(ACTION, resource, context), proposed, registry).allowed
