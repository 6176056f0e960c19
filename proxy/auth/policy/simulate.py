"""Decisions with hypothetical policies, by the real evaluator: for SimulatePrincipalPolicy and SimulateCustomPolicy.

Source: IAM API Reference, "SimulatePrincipalPolicy", "EvaluationResult".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from proxy.auth.policy.decision import Decision, Question, settle
from proxy.auth.policy.documents import Statement, keys_named
from proxy.auth.policy.evaluation import LayerPolicy, Mismatch, PolicyKind, PolicyLayer, caller_layers, resource_layer
from proxy.auth.policy.principals import PrincipalMatch
from proxy.auth.policy.spans import statement_spans
from proxy.model.identity import BoundPolicy, Caller

_TEXTS = 64  # policies with cached positions of statements: those of one simulation, and of its next page

ALLOWED, EXPLICIT_DENY, IMPLICIT_DENY = "allowed", "explicitDeny", "implicitDeny"


@dataclass(frozen=True, slots=True)
class TextPosition:
    """Line and column in a text, both from 1 on."""

    line: int
    column: int


@dataclass(frozen=True, slots=True)
class MatchedPolicy:
    """A statement that counted. `arn`, `name` and `holder` are its policy's, as `model.identity.AttachedPolicy` has
    them; `end` is just past its closing brace."""

    kind: PolicyKind
    arn: str
    name: str
    holder: str
    start: TextPosition
    end: TextPosition


@dataclass(frozen=True, slots=True)
class SimulationResult:
    """`outcome` is a PolicyEvaluationDecisionType, `outcomes` that of each kind of policy by itself. `matched` are the
    Deny statements of a refusal, or all Allow statements behind an allowance. `missing` are condition keys that the
    policies read and the context lacks, as the policies spell them."""

    decision: Decision
    outcome: str
    outcomes: Mapping[PolicyKind, str]
    matched: tuple[MatchedPolicy, ...]
    missing: tuple[str, ...]


def simulate(caller: Caller, question: Question, resource_policy: BoundPolicy | None, owner: str) -> SimulationResult:
    """The decision for `caller` if the resource, of the account `owner`, had `resource_policy`.

    Hypothetical policies are part of the caller's principal. `question.context` has only the given keys.
    """
    layers = list(caller_layers(caller))
    if resource_policy is not None:
        layers.append(resource_layer(PolicyKind.REPOSITORY, resource_policy))
    seen: list[tuple[PolicyLayer, LayerPolicy, Statement]] = []

    def look(layer: PolicyLayer, held: LayerPolicy, statement: Statement, found: PrincipalMatch | Mismatch) -> None:
        if isinstance(found, PrincipalMatch):
            seen.append((layer, held, statement))

    decision = settle(caller, question, layers, owner == caller.account, look)
    outcomes = {layer.kind: _outcome([each[2] for each in seen if each[0] is layer]) for layer in layers}
    counted = seen if decision.allowed or decision.explicit else []
    documents = [held.document for layer in layers for held in layer.policies]
    return SimulationResult(
        decision,
        ALLOWED if decision.allowed else EXPLICIT_DENY if decision.explicit else IMPLICIT_DENY,
        outcomes,
        tuple(_matched(*each) for each in counted if each[2].allows == decision.allowed),
        tuple(name for name in keys_named(documents) if not question.context.get(name.lower())),
    )


def _outcome(matched: Sequence[Statement]) -> str:
    if any(not statement.allows for statement in matched):
        return EXPLICIT_DENY
    return ALLOWED if matched else IMPLICIT_DENY


def _matched(layer: PolicyLayer, held: LayerPolicy, statement: Statement) -> MatchedPolicy:
    start, end = _places(held.document.text)[statement.index - 1]
    return MatchedPolicy(layer.kind, held.arn, held.name, held.holder, start, end)


@lru_cache(_TEXTS)
def _places(text: str) -> tuple[tuple[TextPosition, TextPosition], ...]:
    """The position of each statement; computed once a text."""
    found, line, begin, at = [], 1, 0, 0
    for span in statement_spans(text):
        both = []
        for place in span:
            line += text.count("\n", at, place)
            begin = max(begin, text.rfind("\n", at, place) + 1)
            at = place
            both.append(TextPosition(line, place - begin + 1))
        found.append((both[0], both[1]))
    return tuple(found)
