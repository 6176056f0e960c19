"""One line of the case table: documents, who asks what, and what AWS's documentation says comes of it.

`source` names the page of the IAM User Guide (or another guide, if it says so) and its section. `outcome` is ALLOWED,
or the reason that the refusal must give; `managed` is the ARN that the refusal must name with it. The tables are held
against the evaluator and against its naive twin alike, so that neither is the other's only witness.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from proxy.auth.policy.decision import Question
from proxy.model.identity import AttachedPolicy, Caller, PolicyScope, RegistryAccess, RepositoryAccess
from support.policy_people import UNIQUE_IDS, arn_of, bound, caller, context, document

Statements = Sequence[dict[str, Any]]

ALLOWED = "allowed"
DENIED_BY_IDENTITY = "with an explicit deny in an identity-based policy"
DENIED_BY_RESOURCE = "with an explicit deny in a resource-based policy"
DENIED_BY_BOUNDARY = "with an explicit deny in a permissions boundary"
DENIED_BY_SESSION = "with an explicit deny in a session policy"
NO_IDENTITY = "because no identity-based policy allows the {action} action"
NO_RESOURCE = "because no resource-based policy allows the {action} action"
NO_BOUNDARY = "because no permissions boundary allows the {action} action"
NO_SESSION = "because no session policy allows the {action} action"


@dataclass(frozen=True, slots=True)
class Case:
    """`identity`, `boundary` and `session` hold statements; None is no such policy at all, `()` one that says nothing
    about this request. `registry_exists` False: an account that is not here, or closed."""

    fact: str
    source: str
    outcome: str
    who: str = "alice"
    action: str = "ecr:PutImage"
    resource: str = arn_of("team/app")
    identity: Statements | None = None
    boundary: Statements | None = None
    session: Statements | None = None
    repository: Statements | None = None
    registry: Statements | None = None
    scope: PolicyScope = PolicyScope.V2
    registry_exists: bool = True
    keys: Mapping[str, str | list[str] | None] = field(default_factory=dict)
    ids: Mapping[str, str] = field(default_factory=lambda: UNIQUE_IDS)
    version: str | None = "2012-10-17"
    managed: str = ""


NOTHING: Statements = ({"Effect": "Allow", "Action": "s3:GetObject", "Resource": "*"},)
Asked = tuple[Caller, Question, RepositoryAccess | None, RegistryAccess | None]


def asked(case: Case) -> Asked:
    def attached(statements: Statements | None) -> AttachedPolicy | None:
        if statements is None:
            return None
        return AttachedPolicy(document(*(statements or NOTHING), version=case.version), "policy", case.managed)

    identity, narrowed = attached(case.identity), attached(case.session)
    one = caller(
        case.who,
        [] if identity is None else [identity],
        attached(case.boundary),
        None if narrowed is None else [narrowed],
    )
    question = Question(case.action, case.resource, context(one, case.resource, case.keys))
    account, name = one.account, ""
    if case.resource.startswith("arn:"):
        account, name = case.resource.split(":")[4], case.resource.partition(":repository/")[2]
    policy, whole = (
        None if statements is None else bound(document(*statements, version=case.version), case.ids)
        for statements in (case.repository, case.registry)
    )
    repository = RepositoryAccess(account, name, True, policy) if name else None
    return one, question, repository, RegistryAccess(account, case.registry_exists, whole, case.scope)


def message(case: Case) -> str:
    """The sentence that a refusal must be; empty where the case is allowed."""
    if case.outcome == ALLOWED:
        return ""
    one, question, *_ = asked(case)
    reason = case.outcome.format(action=question.action) + (f": {case.managed}" if case.managed else "")
    return f"User: {one.arn} is not authorized to perform: {question.action} on resource: {question.resource} {reason}"


# Statements, short.


def allow(action: Any = "ecr:*", resource: Any = "*", **more: Any) -> dict[str, Any]:
    return {"Effect": "Allow", "Action": action, "Resource": resource} | more


def deny(action: Any = "ecr:*", resource: Any = "*", **more: Any) -> dict[str, Any]:
    return {"Effect": "Deny", "Action": action, "Resource": resource} | more


def grant(principal: Any, action: Any = "ecr:*", **more: Any) -> dict[str, Any]:
    """In a repository's policy; `principal` is an element, or one ARN or account."""
    return {"Effect": "Allow", "Principal": as_element(principal), "Action": action} | more


def refuse(principal: Any, action: Any = "ecr:*", **more: Any) -> dict[str, Any]:
    return {"Effect": "Deny", "Principal": as_element(principal), "Action": action} | more


def as_element(principal: Any) -> Any:
    return principal if principal == "*" or isinstance(principal, dict) else {"AWS": principal}
