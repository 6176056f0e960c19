"""May they, while only administrators may: gives way to `auth.access` as soon as the doors ask that."""

from __future__ import annotations

from dataclasses import dataclass

from proxy.model.errors import Code, Failure
from proxy.model.identity import Principal

ANY = "*"
_ADMINISTRATOR_ACCESS = "arn:aws:iam::aws:policy/AdministratorAccess"


@dataclass(frozen=True, slots=True)
class Decision:
    """`message` is for whoever was refused; empty when allowed."""

    allowed: bool
    message: str = ""


def decide(principal: Principal, action: str, resource: str) -> Decision:
    """Whether `principal` may do `action` (`ecr:PutImage`) on `resource`, a whole ARN.

    `*` stands for actions that have no resource type: they concern the principal's own account.
    """
    own = resource == ANY or _account(resource) == principal.account
    if own and any(each.arn == _ADMINISTRATOR_ACCESS for each in principal.policies):
        return Decision(True)
    kind = "identity-based" if own else "resource-based"
    return Decision(
        False,
        f"User: {principal.arn} is not authorized to perform: {action} on resource: {resource} "
        f"because no {kind} policy allows the {action} action",
    )


def require(principal: Principal, action: str, resource: str) -> None:
    """Failure AccessDenied, in ECR's words, unless `decide` allows it."""
    decision = decide(principal, action, resource)
    if not decision.allowed:
        raise Failure(Code.ACCESS_DENIED, decision.message)


def _account(arn: str) -> str | None:
    parts = arn.split(":", 5)
    return parts[4] if len(parts) == 6 and parts[0] == "arn" and parts[4] else None
