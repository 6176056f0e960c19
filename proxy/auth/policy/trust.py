"""The decision about assuming a role: sts:AssumeRole, AssumeRoleWithWebIdentity, TagSession, SetSourceIdentity.

The role's trust policy must allow it. In one account that is enough if it names the caller's user, role or session; if
it names only the account, and across accounts, the caller's own policies must allow it too. A user's permissions
boundary must allow it even if the user is named, unlike with other resources' policies.

Source: IAM User Guide, "Policies and permissions for roles", "Update a role trust policy"; AWS Security Blog, "How to
use trust policies with IAM roles".
"""

from __future__ import annotations

from proxy.auth.policy.context import Context
from proxy.auth.policy.decision import Decision, Question, allowed, both_sides, denied, refused
from proxy.auth.policy.evaluation import PolicyKind, Request, Trace, caller_layers, evaluate, resource_layer
from proxy.model.identity import Caller, PrincipalKind, Role

ROOT_MAY_NOT = "Roles may not be assumed by root accounts."


def decide_trust(
    caller: Caller | None, federated: str, role: Role, action: str, context: Context, trace: Trace | None = None
) -> Decision:
    """Whether `caller`, or a web identity of the provider whose ARN `federated` is (then `caller` is None), may do
    `action` with `role`."""
    question = Question(action, role.principal.arn, context)
    request = Request(caller, action.lower(), role.principal.arn, context, federated)
    trust = resource_layer(PolicyKind.TRUST, role.trust)
    if caller is None:
        evaluation = evaluate(request, (trust,), trace)
        if evaluation.denied is not None or evaluation.resource is None:
            return Decision(
                False, f"Not authorized to perform {action}", evaluation.denied is not None, PolicyKind.TRUST
            )
        return allowed(evaluation.resource)
    if caller.principal.kind is PrincipalKind.ROOT:
        return Decision(False, ROOT_MAY_NOT, by=PolicyKind.TRUST)
    evaluation = evaluate(request, (*caller_layers(caller), trust), trace)
    if evaluation.denied is not None:
        return denied(caller.arn, question, evaluation.denied)
    if evaluation.resource is None:
        return refused(caller.arn, question, PolicyKind.TRUST)
    if caller.account != role.principal.account or not evaluation.grants_role:
        return both_sides(caller, question, evaluation, PolicyKind.TRUST)
    if evaluation.grants_directly and caller.principal.kind is PrincipalKind.ROLE:
        return allowed(evaluation.resource)
    narrowing = evaluation.narrowing()
    return allowed(evaluation.resource) if narrowing is None else refused(caller.arn, question, narrowing)
