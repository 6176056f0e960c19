"""SimulatePrincipalPolicy, SimulateCustomPolicy and the operations for their context keys.

The evaluator decides (`auth.policy.simulate`) for a caller with the attached policies and those of the request. Context
keys of a caller and of the moment are filled in; those of a request are absent unless given. A repository's policy
counts only if it is given as ResourcePolicy. Paging bounds the work: a page decides only its own pairs of action and
resource, fewer if policies are long. Source: IAM API Reference, SimulatePrincipalPolicy, EvaluationResult.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from proxy.auth.policy.context import Context, RequestInfo, request_context, resource_account
from proxy.auth.policy.decision import Question
from proxy.auth.policy.documents import Document, compile_document, keys_named
from proxy.auth.policy.errors import PolicyError
from proxy.auth.policy.evaluation import PolicyKind
from proxy.auth.policy.simulate import ALLOWED, MatchedPolicy, SimulationResult, TextPosition, simulate
from proxy.metadata.db.transaction import Transaction
from proxy.metadata.operations.iam import paging
from proxy.metadata.operations.iam.names import Parameters
from proxy.metadata.operations.iam.policy_sources import find_source
from proxy.metadata.operations.iam.resources import source_row
from proxy.metadata.operations.identity import principal_of
from proxy.model.errors import Code, Failure
from proxy.model.identity import AttachedPolicy, BoundPolicy, Caller, Principal

_ACTION = re.compile(r"[A-Za-z0-9-]+:[A-Za-z0-9]+", re.ASCII)
_USER_ARN = re.compile(r"arn:aws:iam::([0-9]{12}):user/(?:[\x21-\x7e]*/)?([\w+=,.@-]+)", re.ASCII)
_OWNER = re.compile(r"(?:arn:aws:iam::)?([0-9]{12})(?::root)?", re.ASCII)

# Characters of documents that one page evaluates, each counted once per pair: a measure of the work, whether of many
# statements or of one with many resources or conditions. A page may be shorter than MaxItems.
_CHARACTERS = 1_100_000

# Context keys that are known of a simulated caller and moment; the request gives all others.
_FILLED = ("aws:currenttime", "aws:epochtime", "aws:principal", "aws:userid", "aws:username")


def get_context_keys_for_custom_policy(tx: Transaction, account: str, parameters: Parameters) -> dict[str, Any]:
    return _context_keys(_input_policies(parameters, "PolicyInputList"))


def get_context_keys_for_principal_policy(tx: Transaction, account: str, parameters: Parameters) -> dict[str, Any]:
    source = find_source(tx, account, parameters["PolicySourceArn"])
    return _context_keys([*source.policies, *_input_policies(parameters, "PolicyInputList")])


def simulate_custom_policy(tx: Transaction, account: str, parameters: Parameters) -> dict[str, Any]:
    """Evaluates only the documents of the request. Without a CallerArn the caller is the owner's account."""
    named = parameters.get("CallerArn")
    principal = None if named is None else _user(tx, account, named)
    return _simulated(tx, "", parameters, _input_policies(parameters, "PolicyInputList"), None, principal)


def simulate_principal_policy(tx: Transaction, account: str, parameters: Parameters) -> dict[str, Any]:
    """Evaluates the policies of a user, group or role without PolicyExclusionList, and the request's documents."""
    arn, named = parameters["PolicySourceArn"], parameters.get("CallerArn")
    source = find_source(tx, account, arn)
    excluded = parameters.get("PolicyExclusionList") or ()
    boundary = None if any(each.get("PolicyType") == "permission-boundary" for each in excluded) else source.boundary
    if named is None and "ResourcePolicy" in parameters and not _USER_ARN.fullmatch(arn):
        raise _invalid("CallerArn is required with ResourcePolicy where PolicySourceArn is not a user.")
    principal = source.principal if named is None else _user(tx, account, named)
    kept = [each for each in source.policies if not _is_excluded(each, excluded)]
    given = _input_policies(parameters, "PolicyInputList")
    return _simulated(tx, account, parameters, [*kept, *given], boundary, principal)


def _simulated(
    tx: Transaction,
    home: str,
    parameters: Parameters,
    policies: Sequence[AttachedPolicy],
    boundary: AttachedPolicy | None,
    principal: Principal | None,
) -> dict[str, Any]:
    bounds = _input_policies(parameters, "PermissionsBoundaryPolicyInputList")
    if len(bounds) > 1:
        raise _invalid("A simulation has one permissions boundary.")
    if parameters.get("ResourcePolicy") is not None:
        _readable(AttachedPolicy(parameters["ResourcePolicy"], "ResourcePolicy"))
    supposed = _Simulation(
        tx.now,
        home,
        principal,
        tuple(policies),
        bounds[0] if bounds else boundary,
        parameters.get("ResourcePolicy"),
        _owner(parameters.get("ResourceOwner")),
        _given(parameters),
    )
    actions, resources = parameters["ActionNames"], parameters.get("ResourceArns") or ("*",)
    for action in actions:
        if not _ACTION.fullmatch(action):
            raise _invalid(f"Invalid Action Name: {action}")
    pairs = [(action, resource) for action in actions for resource in resources]
    asked = paging.read_paging(parameters, "Simulate", home, _fingerprint(parameters))
    asked = replace(asked, items=min(asked.items, max(1, _CHARACTERS // supposed.characters)))
    numbered = [(f"{place:06}", pair) for place, pair in enumerate(pairs, 1)]
    page, more = asked.page_of_all(numbered, lambda each: each[0])
    return {"EvaluationResults": [_result(supposed, action, resource) for _, (action, resource) in page], **more}


@dataclass(frozen=True, slots=True)
class _Simulation:
    """The inputs of one simulation. `principal` None: an unnamed caller of the account `home`, or if empty of the
    resource's account. `owner` is the account of resources whose ARN has none; empty: the caller's."""

    now: float
    home: str
    principal: Principal | None
    policies: tuple[AttachedPolicy, ...]
    boundary: AttachedPolicy | None
    resource_policy: str | None
    owner: str
    given: Context

    @property
    def characters(self) -> int:
        """The characters of all documents that each pair of action and resource is evaluated against; at least 1."""
        held = [each.text for each in (*self.policies, self.boundary) if each is not None]
        return 1 + sum(map(len, held)) + len(self.resource_policy or "")


def _result(supposed: _Simulation, action: str, resource: str) -> dict[str, Any]:
    named = resource_account(resource, None)
    principal = supposed.principal or _anonymous_caller(supposed.home or named or supposed.owner)
    caller = Caller(replace(principal, policies=supposed.policies, boundary=supposed.boundary))
    owner = named or supposed.owner or caller.account
    of_resource = None
    if supposed.resource_policy is not None:
        # The simulated caller's ARN in the resource's policy means the simulated caller.
        of_resource = BoundPolicy(supposed.resource_policy, ((principal.arn, principal.principal_id),))
    found = simulate(caller, Question(action, resource, _context(supposed, caller, resource)), of_resource, owner)
    statements = [_statement(each) for each in found.matched if not (found.decision.allowed and _bounds(each))]
    result: dict[str, Any] = {"MatchedStatements": statements, "MissingContextValues": list(found.missing)}
    if supposed.boundary is not None:
        allowed = found.outcomes[PolicyKind.BOUNDARY] == ALLOWED
        result["PermissionsBoundaryDecisionDetail"] = {"AllowedByPermissionsBoundary": allowed}
    whole = {"EvalActionName": action, "EvalResourceName": resource, "EvalDecision": found.outcome, **result}
    if resource != "*":
        details = _details(found) if owner != caller.account else {}
        specific = {"EvalResourceName": resource, "EvalResourceDecision": found.outcome, **result}
        whole.update(
            EvalDecisionDetails=details, ResourceSpecificResults=[{**specific, "EvalDecisionDetails": details}]
        )
    return whole


def _details(found: SimulationResult) -> dict[str, str]:
    """The decision of each account, for a request across accounts."""
    sides = {"IAM Policy": PolicyKind.IDENTITY, "Resource Policy": PolicyKind.REPOSITORY}
    return {name: found.outcomes[kind] for name, kind in sides.items() if kind in found.outcomes}


def _context(supposed: _Simulation, caller: Caller, resource: str) -> Context:
    if supposed.principal is None:
        return supposed.given
    facts = RequestInfo(supposed.now, "", secure=False, user_agent="", region="")
    whole = request_context(caller, facts, resource)
    return {**{key: whole[key] for key in whole if key.startswith(_FILLED)}, **supposed.given}


def _bounds(matched: MatchedPolicy) -> bool:
    return matched.kind is PolicyKind.BOUNDARY


def _statement(matched: MatchedPolicy) -> dict[str, Any]:
    policy_id, policy_type = _policy_id_and_type(matched)
    return {
        "SourcePolicyId": policy_id,
        "SourcePolicyType": policy_type,
        "StartPosition": _position(matched.start),
        "EndPosition": _position(matched.end),
    }


def _policy_id_and_type(matched: MatchedPolicy) -> tuple[str, str]:
    """A result's SourcePolicyId and SourcePolicyType; `none` for a document of the request."""
    if matched.kind is PolicyKind.REPOSITORY:
        return "ResourcePolicy", "resource"
    if matched.arn:
        return matched.name, _managed_type(matched.arn)
    if not matched.holder:
        return matched.name, "none"
    kind, name = _holder(matched.holder)
    return f"{kind}_{name}_{matched.name}", kind


def _position(position: TextPosition) -> dict[str, int]:
    return {"Line": position.line, "Column": position.column}


def _context_keys(policies: Iterable[AttachedPolicy]) -> dict[str, Any]:
    return {"ContextKeyNames": keys_named([_readable(each) for each in policies])}


def _input_policies(parameters: Parameters, member: str) -> list[AttachedPolicy]:
    found = [AttachedPolicy(text, f"{member}.{place}") for place, text in enumerate(parameters.get(member) or (), 1)]
    for each in found:
        _readable(each)
    return found


def _readable(policy: AttachedPolicy) -> Document:
    try:
        return compile_document(policy.text)
    except PolicyError as error:
        raise _invalid(f"{policy.name}: {error}") from error


def _managed_type(arn: str) -> str:
    return "aws-managed" if arn.startswith("arn:aws:iam::aws:") else "user-managed"


def _holder(arn: str) -> tuple[str, str]:
    """Kind and name of an inline policy's holder."""
    kind, _, rest = arn.split(":", 5)[5].partition("/")
    return kind, rest.rpartition("/")[2]


def _is_excluded(policy: AttachedPolicy, excluded: Sequence[Mapping[str, Any]]) -> bool:
    kind = _managed_type(policy.arn) if policy.arn else "inline"
    return any(each.get("PolicyType") in (None, kind) and _excludes(policy, each) for each in excluded)


def _excludes(policy: AttachedPolicy, exclusion: Mapping[str, Any]) -> bool:
    """An exclusion with only a type excludes all of that type; an empty one excludes nothing."""
    inline = exclusion.get("InlinePolicyIdentifier")
    if inline is None:
        return bool(exclusion) and exclusion.get("PolicyArn") in (None, policy.arn)
    holder = (inline["AttachmentType"], inline["AttachmentName"])
    return not policy.arn and inline["PolicyName"] == policy.name and holder == _holder(policy.holder)


def _user(tx: Transaction, account: str, arn: str) -> Principal:
    """The user of a CallerArn; an unknown one, or one of another account, as its ARN describes it."""
    parts = _USER_ARN.fullmatch(arn)
    if parts is None:
        raise _invalid(f"Invalid Entity Arn: {arn} does not clearly define entity type and name.")
    row = source_row(tx, account, arn)
    if row is not None:
        return principal_of(tx, row)
    return Principal(f"AIDA{hashlib.sha256(arn.encode()).hexdigest()[:17].upper()}", parts[1], arn, parts[2])


def _anonymous_caller(account: str) -> Principal:
    return Principal("", account, f"arn:aws:iam::{account}:user/", "")


def _owner(given: str | None) -> str:
    """The account of a ResourceOwner, which is its root's ARN or its number."""
    if given is None:
        return ""
    owner = _OWNER.fullmatch(given)
    if owner is None:
        raise _invalid("ResourceOwner must be the ARN of an account.")
    return owner[1]


def _given(parameters: Parameters) -> Context:
    """ContextEntries, by key in lower case."""
    entries: Sequence[Mapping[str, Any]] = parameters.get("ContextEntries") or ()
    if not all({"ContextKeyName", "ContextKeyValues", "ContextKeyType"} <= entry.keys() for entry in entries):
        raise _invalid("A context entry has ContextKeyName, ContextKeyValues and ContextKeyType.")
    return {entry["ContextKeyName"].lower(): tuple(entry["ContextKeyValues"]) for entry in entries}


def _fingerprint(parameters: Parameters) -> str:
    """Binds a Marker to its simulation."""
    whole = {name: value for name, value in parameters.items() if name not in ("Marker", "MaxItems")}
    return hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()


def _invalid(why: str) -> Failure:
    return Failure(Code.INVALID_INPUT, why)
