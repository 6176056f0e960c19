"""The decision about one action on one resource.

1. An explicit deny in any policy denies.
2. An account's root may do everything in its own account.
3. In one account, an allow by the identity's or the resource's policies is enough. A resource's policy that names the
   user or the session itself, or everyone narrowed by aws:PrincipalArn, also overrides boundary and session policies;
   one that names the role, or everyone, does not; one that names the account grants nothing by itself.
4. Across accounts both sides must allow, the identity's within its boundary and session policies.
5. What no policy allows is denied.

Source: IAM User Guide, "Policy evaluation logic", "Cross-account policy evaluation logic".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from proxy.auth.policy.context import Context, resource_account
from proxy.auth.policy.evaluation import (
    MatchedStatement,
    PolicyEvaluation,
    PolicyKind,
    PolicyLayer,
    Request,
    Trace,
    caller_layers,
    evaluate,
    resource_layer,
)
from proxy.model.identity import Caller, PolicyScope, PrincipalKind, RegistryAccess, RepositoryAccess

V1_ACTIONS = frozenset(("ecr:replicateimage", "ecr:batchimportupstreamimage", "ecr:createrepository"))
"""The actions of a registry policy in scope V1, in lower case."""

ROOT = "root"

# Actions that only identity policies can allow; and actions that no resource's policy can deny either.
_IDENTITY_GRANTS = frozenset(("ecr:createpullthroughcacherule",))
IDENTITY_ALONE = frozenset(("ecr:getauthorizationtoken",))

# How refusals speak of where a policy stands: the one that denies, and the one that would have to allow.
_DENYING = {
    PolicyKind.IDENTITY: "an identity-based policy",
    PolicyKind.BOUNDARY: "a permissions boundary",
    PolicyKind.SESSION: "a session policy",
    PolicyKind.REPOSITORY: "a resource-based policy",
    PolicyKind.REGISTRY: "a resource-based policy",
    PolicyKind.TRUST: "the role trust policy",
}
_ALLOWING = {
    PolicyKind.IDENTITY: "identity-based policy",
    PolicyKind.BOUNDARY: "permissions boundary",
    PolicyKind.SESSION: "session policy",
    PolicyKind.REPOSITORY: "resource-based policy",
    PolicyKind.REGISTRY: "resource-based policy",
    PolicyKind.TRUST: "role trust policy",
}


@dataclass(frozen=True, slots=True)
class Question:
    """`action` as `ecr:PutImage`, `resource` a full ARN or `*` for actions without a resource type.

    `below`: the ARN ends in a star, and the question is about all matching resources at once. An Allow counts if its
    statement covers all of them, a Deny if it covers any."""

    action: str
    resource: str
    context: Context
    below: bool = False


@dataclass(frozen=True, slots=True)
class Decision:
    """`message` is AWS's text for a refused caller; empty when allowed.

    `explicit`: a Deny statement decided. `by` is the `evaluation.PolicyKind` that decided, or `root`; if a statement
    did, `policy` is its policy's ARN or name and `statement` its number, from 1 on."""

    allowed: bool
    message: str = ""
    explicit: bool = False
    by: str = ""
    policy: str = ""
    statement: int = 0


def decide(
    caller: Caller,
    question: Question,
    repository: RepositoryAccess | None,
    registry: RegistryAccess | None,
    trace: Trace | None = None,
) -> Decision:
    """Whether `caller` may do what `question` asks.

    `repository` is the one that the resource names, `registry` that of the resource's account; None: no such policy.
    `question.context` has every condition key of the request.
    """
    layers = (*caller_layers(caller), *resource_layers(question.action, repository, registry))
    return settle(caller, question, layers, is_own(caller, question.resource, registry), trace)


def settle(
    caller: Caller, question: Question, layers: Sequence[PolicyLayer], own: bool, trace: Trace | None = None
) -> Decision:
    """The decision over `layers`, the caller's and the resource's; `own`: both are of one account."""
    request = Request(caller, question.action.lower(), question.resource, question.context, below=question.below)
    evaluation = evaluate(request, layers, trace)
    if evaluation.denied is not None:
        return denied(caller.arn, question, evaluation.denied)
    if own:
        return _within_account(caller, question, evaluation)
    return both_sides(caller, question, evaluation, PolicyKind.REPOSITORY)


def resource_layers(
    action: str, repository: RepositoryAccess | None, registry: RegistryAccess | None
) -> tuple[PolicyLayer, ...]:
    """The policies of repository and registry that apply to `action`."""
    action = action.lower()
    if action in IDENTITY_ALONE or (registry is not None and not registry.exists):
        return ()
    grants = action not in _IDENTITY_GRANTS
    layers = []
    if repository is not None and repository.policy is not None:
        layers.append(resource_layer(PolicyKind.REPOSITORY, repository.policy, grants))
    if (
        registry is not None
        and registry.policy is not None
        and (registry.policy_scope is PolicyScope.V2 or action in V1_ACTIONS)
    ):
        layers.append(resource_layer(PolicyKind.REGISTRY, registry.policy, grants))
    return tuple(layers)


def is_own(caller: Caller, resource: str, registry: RegistryAccess | None) -> bool:
    """Whether `resource` is of the caller's own account; a closed or unknown account's resource is not."""
    return (registry is None or registry.exists) and resource_account(resource, caller) == caller.account


def both_sides(caller: Caller, question: Question, evaluation: PolicyEvaluation, resource: PolicyKind) -> Decision:
    """The decision across accounts: the caller's must allow, and the `resource`'s."""
    if evaluation.identity is None and caller.principal.kind is not PrincipalKind.ROOT:
        return refused(caller.arn, question, PolicyKind.IDENTITY)
    narrowing = evaluation.narrowing()
    if narrowing is not None:
        return refused(caller.arn, question, narrowing)
    if evaluation.resource is None:
        return refused(caller.arn, question, resource)
    return allowed(evaluation.resource)


def allowed(applied: MatchedStatement) -> Decision:
    return Decision(True, by=applied.kind, policy=_named(applied), statement=applied.statement.index)


def denied(who: str, question: Question, applied: MatchedStatement) -> Decision:
    """Refused by a Deny; the message names a managed policy."""
    where = _DENYING[applied.kind] + (f": {applied.held.arn}" if applied.held.arn else "")
    message = f"{_sentence(who, question)} with an explicit deny in {where}"
    return Decision(False, message, True, applied.kind, _named(applied), applied.statement.index)


def refused(who: str, question: Question, lacking: PolicyKind) -> Decision:
    """Refused because no policy of the kind `lacking` allows it."""
    message = f"{_sentence(who, question)} because no {_ALLOWING[lacking]} allows the {question.action} action"
    return Decision(False, message, by=lacking)


def _within_account(caller: Caller, question: Question, evaluation: PolicyEvaluation) -> Decision:
    narrowing = evaluation.narrowing()
    if evaluation.resource is not None and evaluation.grants_directly:
        return allowed(evaluation.resource)
    if caller.principal.kind is PrincipalKind.ROOT:
        return Decision(True, by=ROOT) if narrowing is None else refused(caller.arn, question, narrowing)
    granted = evaluation.identity or (evaluation.resource if evaluation.grants_role else None)
    if granted is None:
        return refused(caller.arn, question, PolicyKind.IDENTITY)
    return allowed(granted) if narrowing is None else refused(caller.arn, question, narrowing)


def _named(applied: MatchedStatement) -> str:
    return applied.held.arn or applied.held.name


def _sentence(who: str, question: Question) -> str:
    return f"User: {who} is not authorized to perform: {question.action} on resource: {question.resource}"
