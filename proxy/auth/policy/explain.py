"""Explains a decision: which statement of which policy decided, and why each other one did not. For `admin.explain`.

The decision is made by the usual code with a `Trace`, which gets every statement.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from proxy.auth.policy.conditions import Condition
from proxy.auth.policy.context import Context
from proxy.auth.policy.decision import Decision, Question, decide
from proxy.auth.policy.documents import Statement
from proxy.auth.policy.evaluation import RESOURCE_KINDS, Element, LayerPolicy, Mismatch, PolicyKind, PolicyLayer, Trace
from proxy.auth.policy.principals import PrincipalMatch
from proxy.auth.policy.trust import decide_trust
from proxy.model.identity import Caller, RegistryAccess, RepositoryAccess, Role

_SHOWN = 4  # patterns of a long list that are shown


@dataclass(frozen=True, slots=True)
class Verdict:
    """One statement. `policy` is its policy's ARN or name, `holder` the ARN of the policy's user, role or group; both
    are empty for a resource's policy. `statement` counts from 1. `reason` tells why it did not match, or the limits of
    a match; it may be empty."""

    kind: PolicyKind
    policy: str
    holder: str
    statement: int
    sid: str
    effect: str
    matched: bool
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Explanation:
    """`deciding` is the statement that decided; None if none did, or if the caller is root."""

    decision: Decision
    verdicts: tuple[Verdict, ...]

    @property
    def deciding(self) -> Verdict | None:
        for verdict in self.verdicts:
            ours = (verdict.kind, verdict.policy, verdict.statement)
            if verdict.matched and ours == (self.decision.by, self.decision.policy, self.decision.statement):
                return verdict
        return None


def explain(
    caller: Caller, question: Question, repository: RepositoryAccess | None, registry: RegistryAccess | None
) -> Explanation:
    """`decision.decide`, statement by statement."""
    verdicts: list[Verdict] = []
    trace = _onlooker(verdicts, question, caller.arn)
    return Explanation(decide(caller, question, repository, registry, trace), tuple(verdicts))


def explain_trust(caller: Caller | None, federated: str, role: Role, action: str, context: Context) -> Explanation:
    """`trust.decide_trust`, statement by statement."""
    verdicts: list[Verdict] = []
    question = Question(action, role.principal.arn, context)
    trace = _onlooker(verdicts, question, federated if caller is None else caller.arn)
    return Explanation(decide_trust(caller, federated, role, action, context, trace), tuple(verdicts))


def _onlooker(verdicts: list[Verdict], question: Question, who: str) -> Trace:
    def look(layer: PolicyLayer, held: LayerPolicy, statement: Statement, found: PrincipalMatch | Mismatch) -> None:
        if isinstance(found, PrincipalMatch):
            matched, reason = True, _reach(layer, statement, found)
        else:
            matched, reason = False, _reason(layer, statement, found, question, who)
        verdicts.append(
            Verdict(
                layer.kind,
                held.arn or held.name,
                held.holder,
                statement.index,
                statement.sid,
                "Allow" if statement.allows else "Deny",
                matched,
                reason,
            )
        )

    return look


def _reach(layer: PolicyLayer, statement: Statement, meant: PrincipalMatch) -> str:
    if not statement.allows:
        return ""
    if not layer.grants:
        return "only identity-based policies can allow this action"
    if meant is PrincipalMatch.ACCOUNT:
        return "it names the account: a policy of the caller's own must allow as well"
    if meant is PrincipalMatch.ROLE:
        return "permissions boundary and session policies narrow what it grants"
    return ""


def _reason(layer: PolicyLayer, statement: Statement, mismatch: Mismatch, question: Question, who: str) -> str:
    if isinstance(mismatch, Condition):
        return _condition(mismatch, question.context)
    if mismatch is Element.ACTION:
        name = "NotAction" if statement.negated_actions else "Action"
        return _names(name, statement.actions.given, statement.negated_actions, question.action)
    if mismatch is Element.RESOURCE:
        if statement.resources is None:
            return "it has no Resource"
        name = "NotResource" if statement.negated_resources else "Resource"
        given = [template.text for template in statement.resources]
        lacking = sorted(key for template in statement.resources for key in template.missing(question.context))
        said = _names(name, given, statement.negated_resources, question.resource)
        return said + (f"; the request has no {', '.join(lacking)}" if lacking else "")
    if layer.kind not in RESOURCE_KINDS:
        return "it has a Principal, which policies of its kind have not"
    if statement.principals is None:
        return "it has no Principal"
    if statement.negated_principals:
        return f"its NotPrincipal leaves out {who}"
    return f"its Principal does not name {who}"


def _names(element: str, given: Sequence[str], negated: bool, asked: str) -> str:
    shown = ", ".join(given[:_SHOWN]) + (", …" if len(given) > _SHOWN else "")
    return f"its {element} names {shown}, {'and so' if negated else 'not'} {asked}"


def _condition(condition: Condition, context: Context) -> str:
    wanted = ", ".join(repr(value) for value in condition.values[:_SHOWN])
    if len(condition.values) > _SHOWN:
        wanted += ", …"
    found = context.get(condition.key)
    has = f"it is {', '.join(repr(value) for value in found)}" if found else "the request has no such key"
    lacking = sorted(condition.missing(context))
    there = f"; nor has it {', '.join(lacking)}" if lacking else ""
    return f"its condition {condition.operator} on {condition.name} asks for {wanted}; {has}{there}"
