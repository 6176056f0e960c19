"""Evaluates policies against one request, statement by statement: the only place where statements are matched.

Used by `decision`, `trust`, `simulate` and `explain`; a `Trace` gets every statement with the reason why it did not
apply. A stored document that cannot be compiled any more denies everything, because what it denied is unknown.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from enum import Enum, StrEnum, auto
from weakref import WeakKeyDictionary

from proxy.auth.policy.conditions import Condition
from proxy.auth.policy.context import Context
from proxy.auth.policy.documents import Document, Statement, compile_document
from proxy.auth.policy.errors import PolicyError
from proxy.auth.policy.principals import PrincipalMatch
from proxy.model.identity import AttachedPolicy, BoundPolicy, Caller, Tags


class PolicyKind(StrEnum):
    """The kind of a policy."""

    IDENTITY = "identity"
    BOUNDARY = "boundary"
    SESSION = "session"
    REPOSITORY = "repository"
    REGISTRY = "registry"
    TRUST = "trust"


RESOURCE_KINDS = frozenset((PolicyKind.REPOSITORY, PolicyKind.REGISTRY, PolicyKind.TRUST))
# Policies of one resource, whose statements need no Resource.
_OF_ONE_RESOURCE = frozenset((PolicyKind.REPOSITORY, PolicyKind.TRUST))


class Element(Enum):
    """The element of a statement that did not match, other than a condition."""

    ACTION = auto()
    RESOURCE = auto()
    PRINCIPAL = auto()


Mismatch = Element | Condition


@dataclass(frozen=True, slots=True, eq=False)
class LayerPolicy:
    """One policy in its layer. `arn` names a managed policy."""

    document: Document
    arn: str = ""
    name: str = ""
    holder: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class PolicyLayer:
    """The policies of one kind, evaluated together. `bound` are the unique ids of the ARNs in it; without `grants` its
    Allow statements do not count."""

    kind: PolicyKind
    policies: tuple[LayerPolicy, ...]
    bound: Tags = ()
    grants: bool = True


@dataclass(frozen=True, slots=True, eq=False)
class MatchedStatement:
    """A statement that matched the request, and how its Principal matched the caller."""

    kind: PolicyKind
    held: LayerPolicy
    statement: Statement
    meant: PrincipalMatch


Trace = Callable[[PolicyLayer, LayerPolicy, Statement, PrincipalMatch | Mismatch], None]


class PolicyEvaluation:
    """The result. `denied` is the first Deny; the others are the first, or strongest, Allow of their kind."""

    __slots__ = ("boundary", "denied", "identity", "layers", "resource", "session")

    def __init__(self, layers: Collection[PolicyKind]) -> None:
        self.layers = layers
        self.denied: MatchedStatement | None = None
        self.identity: MatchedStatement | None = None
        self.boundary: MatchedStatement | None = None
        self.session: MatchedStatement | None = None
        self.resource: MatchedStatement | None = None

    @property
    def grants_directly(self) -> bool:
        return self.resource is not None and self.resource.meant is PrincipalMatch.DIRECTLY

    @property
    def grants_role(self) -> bool:
        return self.resource is not None and self.resource.meant >= PrincipalMatch.ROLE

    def narrowing(self) -> PolicyKind | None:
        """The boundary or session policy that exists and does not allow."""
        if self.boundary is None and PolicyKind.BOUNDARY in self.layers:
            return PolicyKind.BOUNDARY
        if self.session is None and PolicyKind.SESSION in self.layers:
            return PolicyKind.SESSION
        return None

    def take(self, applied: MatchedStatement) -> None:
        """An Allow that matched."""
        kind = applied.kind
        if kind in RESOURCE_KINDS:
            if self.resource is None or applied.meant > self.resource.meant:
                self.resource = applied
        elif kind is PolicyKind.IDENTITY:
            self.identity = self.identity or applied
        elif kind is PolicyKind.BOUNDARY:
            self.boundary = self.boundary or applied
        else:
            self.session = self.session or applied


@dataclass(frozen=True, slots=True)
class Request:
    """Caller, action and resource. `caller` is None for a web identity, whose provider is `federated`. `below`: the
    request is for all resources that match the star at the end of `resource`."""

    caller: Caller | None
    action: str  # in lower case
    resource: str
    context: Context
    federated: str = ""
    below: bool = False


def evaluate(request: Request, layers: Sequence[PolicyLayer], trace: Trace | None = None) -> PolicyEvaluation:
    """Evaluate `layers` for `request`. Ends at the first Deny, unless `trace` needs every statement."""
    evaluation = PolicyEvaluation(tuple([layer.kind for layer in layers]))
    for layer in layers:
        mine = _bound_to(request.caller, layer.bound)
        for held in layer.policies:
            for statement in held.document.statements:
                found = _match(statement, layer.kind, request, mine)
                if trace is not None:
                    trace(layer, held, statement, found)
                if not isinstance(found, PrincipalMatch):
                    continue
                applied = MatchedStatement(layer.kind, held, statement, found)
                if statement.allows:
                    if layer.grants:
                        evaluation.take(applied)
                elif evaluation.denied is None:
                    evaluation.denied = applied
                    if trace is None:
                        return evaluation
    return evaluation


def caller_layers(caller: Caller) -> tuple[PolicyLayer, ...]:
    """The caller's own policies, cached for as long as the caller object lives."""
    kept = _LAYERS.get(caller)
    if kept is None:
        kept = _LAYERS[caller] = _caller_layers(caller)
    return kept


def _caller_layers(caller: Caller) -> tuple[PolicyLayer, ...]:
    principal = caller.principal
    layers = [PolicyLayer(PolicyKind.IDENTITY, _held(principal.policies))]
    if principal.boundary is not None:
        layers.append(PolicyLayer(PolicyKind.BOUNDARY, _held((principal.boundary,))))
    if caller.session_policies is not None:
        layers.append(PolicyLayer(PolicyKind.SESSION, _held(caller.session_policies)))
    return tuple(layers)


def resource_layer(kind: PolicyKind, policy: BoundPolicy, grants: bool = True) -> PolicyLayer:
    """The policy of a repository, a registry or a role; without `grants` only its Deny statements count."""
    return PolicyLayer(kind, (LayerPolicy(_compiled(policy.text, _UNREADABLE_OF_RESOURCE)),), policy.principals, grants)


def keys_read(layers: Sequence[PolicyLayer]) -> frozenset[str]:
    """The condition keys that a decision over `layers` may depend on."""
    return frozenset[str]().union(*(held.document.keys for layer in layers for held in layer.policies))


def _held(policies: Sequence[AttachedPolicy]) -> tuple[LayerPolicy, ...]:
    return tuple(LayerPolicy(_compiled(each.text, _UNREADABLE), each.arn, each.name, each.holder) for each in policies)


def _compiled(text: str, unreadable: str) -> Document:
    try:
        return compile_document(text)
    except PolicyError:
        return compile_document(unreadable)


_LAYERS: WeakKeyDictionary[Caller, tuple[PolicyLayer, ...]] = WeakKeyDictionary()

_UNREADABLE = '{"Statement":{"Sid":"unreadable","Effect":"Deny","Action":"*","Resource":"*"}}'
_UNREADABLE_OF_RESOURCE = _UNREADABLE.replace('"Action"', '"Principal":"*","Action"')


def _bound_to(caller: Caller | None, bound: Tags) -> Collection[str]:
    """The ARNs that are bound to the caller's user or role."""
    if caller is None or not bound:
        return ()
    return [arn for arn, principal_id in bound if principal_id == caller.principal.principal_id]


def _match(
    statement: Statement, kind: PolicyKind, request: Request, mine: Collection[str]
) -> PrincipalMatch | Mismatch:
    """How the statement matches the caller, or the first element that does not match."""
    if not statement.names_action(request.action):
        return Element.ACTION
    if statement.resources is None:
        if kind not in _OF_ONE_RESOURCE:
            return Element.RESOURCE
    elif request.below:
        if not statement.names_below(request.resource.removesuffix("*"), request.context):
            return Element.RESOURCE
    elif not statement.names_resource(request.resource, request.context):
        return Element.RESOURCE
    meant = _meant(statement, kind, request, mine)
    if meant is PrincipalMatch.NOT:
        return Element.PRINCIPAL
    for condition in statement.conditions:
        if not condition.holds(request.context):
            return condition
    return meant


def _meant(statement: Statement, kind: PolicyKind, request: Request, mine: Collection[str]) -> PrincipalMatch:
    principals = statement.principals
    if kind not in RESOURCE_KINDS:
        return PrincipalMatch.DIRECTLY if principals is None else PrincipalMatch.NOT
    if principals is None:
        return PrincipalMatch.NOT
    caller = request.caller
    if caller is None:
        named = request.federated in principals.federated
        if statement.allows:
            return PrincipalMatch.DIRECTLY if named and not statement.negated_principals else PrincipalMatch.NOT
        # A statement about everyone else applies to a web identity too.
        return (
            PrincipalMatch.DIRECTLY
            if (named or principals.everyone) != statement.negated_principals
            else PrincipalMatch.NOT
        )
    if not statement.negated_principals:
        if principals.everyone and statement.narrowed_by_principal_arn:
            return PrincipalMatch.DIRECTLY
        return principals.match(caller, mine)
    if statement.allows:
        return PrincipalMatch.NOT if principals.match(caller, mine) is not PrincipalMatch.NOT else PrincipalMatch.ROLE
    bounded = caller.principal.boundary is not None
    return PrincipalMatch.NOT if principals.exempts(caller, mine) and not bounded else PrincipalMatch.DIRECTLY
