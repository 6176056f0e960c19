"""What each policy says: which statements count, and what the trace is told of every other."""

from __future__ import annotations

import json
from typing import Any

import pytest

from proxy.auth.policy.evaluation import (
    Element,
    PolicyEvaluation,
    PolicyKind,
    PolicyLayer,
    Request,
    caller_layers,
    evaluate,
    keys_read,
    resource_layer,
)
from proxy.auth.policy.principals import PrincipalMatch
from proxy.model.identity import AttachedPolicy, BoundPolicy, Caller, Principal

HOME = "111122223333"
REPOSITORY = f"arn:aws:ecr:eu-west-1:{HOME}:repository/team/app"
BOB_ARN = f"arn:aws:iam::{HOME}:user/bob"
PROVIDER = f"arn:aws:iam::{HOME}:oidc-provider/ci.example"


def policy(**more: Any) -> str:
    return json.dumps({"Version": "2012-10-17", "Statement": {"Effect": "Allow", "Action": "ecr:GetImage"} | more})


def bob(text: str) -> Caller:
    return Caller(Principal("AIDABOB", HOME, BOB_ARN, "bob", policies=(AttachedPolicy(text),)))


BOB = bob(policy(Resource="*"))


def traced(layer: PolicyLayer, caller: Caller | None = BOB) -> Any:
    """What the trace is told of the layer's one statement."""
    told: list[Any] = []
    evaluate(Request(caller, "ecr:getimage", REPOSITORY, {}, PROVIDER), [layer], lambda *seen: told.append(seen[-1]))
    return told.pop()


def of(kind: PolicyKind, **more: Any) -> PolicyLayer:
    return resource_layer(kind, BoundPolicy(policy(**more), ((BOB_ARN, "AIDABOB"),)))


def test_nothing_that_was_said_grants_nothing() -> None:
    evaluation = PolicyEvaluation(())
    assert evaluation.grants_directly is False
    assert evaluation.grants_role is False
    assert evaluation.narrowing() is None


def test_the_kinds_go_by_these_words() -> None:
    """`Decision.by` tells people and logs of them."""
    assert [*PolicyKind] == ["identity", "boundary", "session", "repository", "registry", "trust"]


@pytest.mark.parametrize(
    ("layer", "told"),
    [
        (of(PolicyKind.REPOSITORY, Principal="*", Action="ecr:PutImage"), Element.ACTION),
        (of(PolicyKind.REPOSITORY, Principal="*", Resource="arn:aws:s3:::a"), Element.RESOURCE),
        (of(PolicyKind.REPOSITORY, Principal="*"), PrincipalMatch.ROLE),
        (of(PolicyKind.REGISTRY, Principal="*"), Element.RESOURCE),
        (of(PolicyKind.REGISTRY, Principal="*", Resource="*"), PrincipalMatch.ROLE),
        (of(PolicyKind.REPOSITORY, Principal={"AWS": f"arn:aws:iam::{HOME}:user/eve"}), Element.PRINCIPAL),
        (of(PolicyKind.REPOSITORY, Principal={"AWS": BOB_ARN}), PrincipalMatch.DIRECTLY),
        (of(PolicyKind.REPOSITORY, NotPrincipal={"AWS": BOB_ARN}), Element.PRINCIPAL),
        (of(PolicyKind.REPOSITORY, NotPrincipal={"AWS": [BOB_ARN, HOME]}, Effect="Deny"), Element.PRINCIPAL),
        (
            of(PolicyKind.REPOSITORY, NotPrincipal={"AWS": f"arn:aws:iam::{HOME}:user/eve"}, Effect="Deny"),
            PrincipalMatch.DIRECTLY,
        ),
        # Documents that are of another kind than where they stand.
        (of(PolicyKind.REPOSITORY, Resource="*"), Element.PRINCIPAL),
        (caller_layers(bob(policy(Resource="*", Principal="*")))[0], Element.PRINCIPAL),
        (caller_layers(bob(policy()))[0], Element.RESOURCE),
        (caller_layers(BOB)[0], PrincipalMatch.DIRECTLY),
    ],
)
def test_the_trace_is_told_how_a_statement_means_the_caller_or_what_did_not_match(
    layer: PolicyLayer, told: Any
) -> None:
    assert traced(layer) is told


@pytest.mark.parametrize(
    ("statement", "told"),
    [
        ({"Principal": {"Federated": PROVIDER}}, PrincipalMatch.DIRECTLY),
        ({"Principal": {"Federated": f"{PROVIDER}2"}}, Element.PRINCIPAL),
        ({"Principal": "*"}, Element.PRINCIPAL),
        ({"NotPrincipal": {"Federated": f"{PROVIDER}2"}}, Element.PRINCIPAL),
        ({"NotPrincipal": {"Federated": PROVIDER}}, Element.PRINCIPAL),
        ({"Principal": "*", "Effect": "Deny"}, PrincipalMatch.DIRECTLY),
        ({"Principal": {"Federated": f"{PROVIDER}2"}, "Effect": "Deny"}, Element.PRINCIPAL),
        ({"NotPrincipal": {"Federated": PROVIDER}, "Effect": "Deny"}, Element.PRINCIPAL),
        ({"NotPrincipal": {"Federated": f"{PROVIDER}2"}, "Effect": "Deny"}, PrincipalMatch.DIRECTLY),
    ],
)
def test_a_web_identity_is_meant_by_its_provider_alone(statement: dict[str, Any], told: Any) -> None:
    assert traced(of(PolicyKind.TRUST, **statement), None) is told


def test_a_condition_that_does_not_hold_is_what_the_trace_is_told() -> None:
    layer = of(PolicyKind.REPOSITORY, Principal="*", Condition={"StringEquals": {"aws:UserAgent": "x"}})
    assert traced(layer) is layer.policies[0].document.statements[0].conditions[0]


def test_a_resources_policy_that_grants_nothing_still_denies() -> None:
    for effect, denied in (("Allow", False), ("Deny", True)):
        layer = resource_layer(
            PolicyKind.REPOSITORY, BoundPolicy(policy(Principal="*", Effect=effect), ()), grants=False
        )
        evaluation = evaluate(Request(BOB, "ecr:getimage", REPOSITORY, {}), [layer])
        assert evaluation.resource is None
        assert (evaluation.denied is not None) is denied


def test_the_keys_of_all_layers_are_read() -> None:
    layers = [of(PolicyKind.REPOSITORY, Principal="*", Condition={"Bool": {key: "true"}}) for key in ("x:A", "x:B")]
    assert keys_read(layers) == {"x:a", "x:b"}


def test_the_layers_of_a_caller_are_made_once() -> None:
    assert caller_layers(BOB) is caller_layers(BOB)


def test_a_document_that_cannot_be_read_denies_everything_wherever_it_stands() -> None:
    for layer in (*caller_layers(bob("{")), resource_layer(PolicyKind.REPOSITORY, BoundPolicy("{", ()))):
        evaluation = evaluate(Request(BOB, "s3:anything", "arn:aws:s3:::a", {}), [layer])
        assert evaluation.denied is not None
        assert evaluation.denied.statement.sid == "unreadable"


@pytest.mark.parametrize("kind", [PolicyKind.IDENTITY, PolicyKind.BOUNDARY, PolicyKind.SESSION, PolicyKind.REPOSITORY])
def test_of_two_that_allow_alike_the_first_is_remembered(kind: PolicyKind) -> None:
    """It is the one that a decision names."""
    principal = {"Principal": "*"} if kind is PolicyKind.REPOSITORY else {}
    first, second = (of(kind, Resource="*", **principal) for _ in range(2))
    evaluation = evaluate(Request(BOB, "ecr:getimage", REPOSITORY, {}), [first, second])
    found = getattr(evaluation, "resource" if kind is PolicyKind.REPOSITORY else kind)
    assert found.held is first.policies[0]


def test_a_deny_ends_the_weighing_unless_everything_is_to_be_traced() -> None:
    layers = [of(PolicyKind.IDENTITY, Resource="*", Effect=effect) for effect in ("Deny", "Allow", "Deny")]
    request = Request(BOB, "ecr:getimage", REPOSITORY, {})
    seen: list[PolicyLayer] = []
    in_short, in_full = evaluate(request, layers), evaluate(request, layers, lambda layer, *_: seen.append(layer))
    assert in_short.denied is not None
    assert in_short.identity is None
    assert seen == layers
    assert in_full.denied is not None
    assert in_full.denied.held is layers[0].policies[0]
    assert in_full.identity is not None


def test_a_condition_on_the_principals_arn_means_nobody_whom_the_principal_does_not() -> None:
    """Everyone, narrowed to an ARN, means its bearer as if by name; a principal that is somebody else stays so."""
    condition = {"ArnEquals": {"aws:PrincipalArn": BOB_ARN}}
    request = Request(BOB, "ecr:getimage", REPOSITORY, {"aws:principalarn": (BOB_ARN,)})
    for principal, meant in (("*", PrincipalMatch.DIRECTLY), ({"AWS": f"arn:aws:iam::{HOME}:user/eve"}, None)):
        layer = of(PolicyKind.REPOSITORY, Principal=principal, Condition=condition)
        applied = evaluate(request, [layer]).resource
        assert (applied.meant if applied is not None else None) is meant
