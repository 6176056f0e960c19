"""A second evaluator of policies, short and slow: each rule as the IAM User Guide words it, nothing compiled or kept.

It is what the real one is held against, so it shares nothing with it but the records of `model.identity` and the
question. `judge` says whether a request is allowed; if not, whether a Deny said so, and every sentence that AWS might
then send: where several types of policy refuse, the guide promises only that one of them is named ("Troubleshoot access
denied error messages"). Documents are taken to be well-formed; what the guide leaves open is the generator's to avoid
(`support.policy_pairs`).

Sources: IAM User Guide, "Policy evaluation logic" with its pages on one account and on several, "IAM JSON policy
elements reference" (each function names its page), "Permissions boundaries", "Session policies"; ECR User Guide,
"Private registry permissions".
"""

from __future__ import annotations

import base64
import ipaddress
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from proxy.auth.policy.decision import Question
from proxy.model.identity import (
    AttachedPolicy,
    BoundPolicy,
    Caller,
    PolicyScope,
    PrincipalKind,
    RegistryAccess,
    RepositoryAccess,
    SessionKind,
)

Context = Mapping[str, Sequence[str]]
V1_ACTIONS = {"ecr:replicateimage", "ecr:batchimportupstreamimage", "ecr:createrepository"}
IDENTITY, RESOURCE = "identity-based policy", "resource-based policy"
BOUNDARY, SESSION = "permissions boundary", "session policy"


@dataclass(frozen=True, slots=True)
class Verdict:
    """`messages`: each would be a right answer; empty when allowed."""

    allowed: bool
    explicit: bool = False
    messages: frozenset[str] = frozenset()


def judge(
    caller: Caller, question: Question, repository: RepositoryAccess | None, registry: RegistryAccess | None
) -> Verdict:
    """Policy evaluation logic: a Deny anywhere, then root, then one account or both."""
    principal = caller.principal
    own = list(principal.policies)
    boundary = [] if principal.boundary is None else [principal.boundary]
    session = list(caller.session_policies or ())
    shared = resource_policies(question, repository, registry)

    denials = [
        f"with an explicit deny in {article} {kind}" + (f": {policy.arn}" if policy.arn else "")
        for article, kind, policies in [("an", IDENTITY, own), ("a", BOUNDARY, boundary), ("a", SESSION, session)]
        for policy in policies
        if statements(policy.text, "Deny", question)
    ]
    if any(concerns(caller, one, policy) for policy in shared for one in statements(policy.text, "Deny", question)):
        denials.append(f"with an explicit deny in a {RESOURCE}")
    if denials:
        return Verdict(False, True, sentences(caller, question, denials))

    root = principal.kind is PrincipalKind.ROOT
    identity_allows = root or allows(own, question)
    boundary_allows = principal.boundary is None or allows(boundary, question)
    session_allows = caller.session_policies is None or allows(session, question)
    grants = [
        (one, policy)
        for policy in shared
        for one in statements(policy.text, "Allow", question)
        if concerns(caller, one, policy)
    ]
    missing = [] if identity_allows else [IDENTITY]
    missing += [] if boundary_allows else [BOUNDARY]
    missing += [] if session_allows else [SESSION]

    if owner(question, registry, caller) != caller.account:
        missing += [] if grants else [RESOURCE]
    elif root or any(direct(caller, one, policy) for one, policy in grants):
        missing = []
    elif any(not only_delegates(caller, one, policy) for one, policy in grants):
        missing = [kind for kind in missing if kind != IDENTITY]
    if not missing:
        return Verdict(True)
    reasons = [f"because no {kind} allows the {question.action} action" for kind in missing]
    return Verdict(False, False, sentences(caller, question, reasons))


def sentences(caller: Caller, question: Question, reasons: Iterable[str]) -> frozenset[str]:
    head = f"User: {caller.arn} is not authorized to perform: {question.action} on resource: {question.resource}"
    return frozenset(f"{head} {reason}" for reason in reasons)


def owner(question: Question, registry: RegistryAccess | None, caller: Caller) -> str:
    if question.resource.startswith("arn:"):
        return question.resource.split(":")[4]
    return caller.account if registry is None else registry.account


def resource_policies(
    question: Question, repository: RepositoryAccess | None, registry: RegistryAccess | None
) -> list[BoundPolicy]:
    """Those with a say. ECR User Guide, "Private registry permissions": V1 is enforced for three actions only."""
    if question.action.lower() == "ecr:getauthorizationtoken":
        return []
    found = [] if repository is None or repository.policy is None else [repository.policy]
    if registry is None or registry.policy is None:
        return found
    enforced = registry.policy_scope is PolicyScope.V2 or question.action.lower() in V1_ACTIONS
    return [*found, registry.policy] if enforced else found


def allows(policies: Iterable[AttachedPolicy], question: Question) -> bool:
    return any(statements(policy.text, "Allow", question) for policy in policies)


def statements(text: str, effect: str, question: Question) -> list[dict[str, Any]]:
    """The statements of a document with that effect whose action, resource and conditions fit."""
    document = json.loads(text)
    variables = document.get("Version", "2008-10-17") == "2012-10-17"
    return [
        one
        for one in as_list(document["Statement"])
        if one["Effect"] == effect
        and fits_action(one, question.action)
        and fits_resource(one, question, variables)
        and fits_condition(one, question.context, variables)
    ]


def as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def fits_action(one: dict[str, Any], action: str) -> bool:
    """Elements: Action, NotAction. Names are not case-sensitive; variables are not for here."""
    named = "Action" in one
    patterns = as_list(one["Action" if named else "NotAction"])
    return named == any(like(list_of(each.lower()), action.lower()) for each in patterns)


def fits_resource(one: dict[str, Any], question: Question, variables: bool) -> bool:
    """Elements: Resource, NotResource. A repository's policy has neither: it is about that repository."""
    if "Resource" not in one and "NotResource" not in one:
        return True
    named = "Resource" in one
    patterns = as_list(one["Resource" if named else "NotResource"])
    expanded = [expand(each, question.context, variables) for each in patterns]
    if not named and one["Effect"] == "Allow" and None in expanded:
        return False
    if question.below:
        needs_all = named == (one["Effect"] == "Allow")
        asked = list_of(question.resource)
        fit = holds_all if needs_all else meets
        return named == any(each is not None and fit(each, asked) for each in expanded)
    return named == any(each is not None and like(each, question.resource) for each in expanded)


# Principals: elements "Principal" and "NotPrincipal".


def concerns(caller: Caller, one: dict[str, Any], policy: BoundPolicy) -> bool:
    if "Principal" in one:
        return any(names(caller, each, policy) for each in aws_principals(one["Principal"]))
    if caller.principal.boundary is not None and one["Effect"] == "Deny":
        return True  # NotPrincipal: "will always deny any IAM principal that has a permissions boundary policy"
    exceptions = aws_principals(one["NotPrincipal"])
    if in_role(caller):  # "all principals except the assumed-role user": its role and account stand beside it only
        return not (caller.arn in exceptions and is_bound(caller, caller.arn, policy))
    return not any(names_itself(caller, each, policy) for each in exceptions)


def aws_principals(element: Any) -> list[str]:
    return ["*"] if element == "*" else as_list(element.get("AWS", []))


def in_role(caller: Caller) -> bool:
    return caller.session is not None and caller.session.kind is SessionKind.ROLE


def names(caller: Caller, entry: str, policy: BoundPolicy) -> bool:
    return entry == "*" or names_account(caller, entry) or names_itself(caller, entry, policy)


def names_account(caller: Caller, entry: str) -> bool:
    return entry in (caller.account, f"arn:aws:iam::{caller.account}:root")


def names_itself(caller: Caller, entry: str, policy: BoundPolicy) -> bool:
    """A user, a role for all its sessions, one session, or an account for its root user."""
    if caller.principal.kind is PrincipalKind.ROOT:
        return names_account(caller, entry)
    return (":assumed-role/" not in entry or entry == caller.arn) and is_bound(caller, entry, policy)


def is_bound(caller: Caller, entry: str, policy: BoundPolicy) -> bool:
    """A user's or role's ARN "transforms to the unique principal ID when you save the policy"; a session's stands for
    its role's."""
    return dict(policy.principals).get(entry) == caller.principal.principal_id


def direct(caller: Caller, one: dict[str, Any], policy: BoundPolicy) -> bool:
    """Whether a grant holds against the implicit deny of boundary and session policy: it names the user or the session,
    or everybody narrowed by aws:PrincipalArn ("IAM role principals")."""
    entries = aws_principals(one["Principal"])
    narrowed = any(
        key.lower() == "aws:principalarn" and "Not" not in operator and operator != "Null"
        for operator, keys in one.get("Condition", {}).items()
        for key in keys
    )
    return (narrowed and "*" in entries) or any(
        (entry == caller.arn or not in_role(caller)) and is_bound(caller, entry, policy) for entry in entries
    )


def only_delegates(caller: Caller, one: dict[str, Any], policy: BoundPolicy) -> bool:
    """An account as principal "delegates authority to the account": the caller's own policies must allow, too."""
    entries = aws_principals(one["Principal"])
    return not any(entry == "*" or names_itself(caller, entry, policy) for entry in entries)


# Patterns: a list of characters, in which ANY and ONE are the wildcards.

ANY, ONE = object(), object()
Pattern = list[object]


def list_of(text: str) -> Pattern:
    return [ANY if char == "*" else ONE if char == "?" else char for char in text]


def expand(text: str, context: Context, variables: bool) -> Pattern | None:
    """Elements: Variables and tags. None if a variable has no value: then nothing matches."""
    if not variables:
        return list_of(text)
    found: Pattern = []
    for literal, inside in re.findall(r"([^$]+|\$(?!\{))|\$\{([^}]*)\}", text):
        if literal:
            found += list_of(literal)
        elif inside in ("*", "?", "$"):
            found.append(inside)
        else:
            key, _, default = inside.partition(", ")
            values = context.get(key.lower(), [default.strip("'")] if default else [])
            if not values:
                return None
            found += list(values[0])  # a value's own * is a character
    return found


def like(pattern: Pattern, value: str) -> bool:
    if all(isinstance(each, str) for each in pattern):
        return "".join(map(str, pattern)) == value
    parts = [".*" if each is ANY else "." if each is ONE else re.escape(str(each)) for each in pattern]
    return re.fullmatch("".join(parts), value, re.DOTALL) is not None


def meets(one: Pattern, other: Pattern) -> bool:
    """Whether some text is what both say, by trying what each star may take, cell by cell."""
    row = [True]
    for cell in other:
        row.append(row[-1] and cell is ANY)
    for mine in one:
        last, row = row, [row[0] and mine is ANY]
        for place, cell in enumerate(other):
            alone = (mine is ANY and last[place + 1]) or (cell is ANY and row[place])
            through = last[place] and (mine in (ANY, ONE) or cell in (ANY, ONE) or mine == cell)
            both = (mine is ANY and row[place]) or (cell is ANY and last[place + 1])
            row.append(alone or through or both)
    return row[-1]


def holds_all(pattern: Pattern, asked: Pattern) -> bool:
    """Whether it matches whatever begins as `asked`, which ends in a star: the hardest is a character it does not name,
    any number of times."""
    prefix = "".join(map(str, asked[:-1]))
    return all(like(pattern, prefix + chr(0xFFFF) * more) for more in range(len(pattern) + 2))


def arn_like(pattern: Pattern, value: str) -> bool:
    """Condition operators, ARN: "each of the six colon-delimited components of the ARN is checked separately"."""
    segments: list[Pattern] = [[]]
    for each in pattern:
        if each == ":" and len(segments) < 6:
            segments.append([])
        else:
            segments[-1].append(each)
    parts = value.split(":", 5)
    return len(segments) == len(parts) == 6 and all(map(like, segments, parts))


# Conditions: elements "Condition", "Condition operators", "Conditions with multiple context keys or values".


def fits_condition(one: dict[str, Any], context: Context, variables: bool) -> bool:
    comparisons = [
        (operator, as_list(wanted), context.get(key.lower()))
        for operator, keys in one.get("Condition", {}).items()
        for key, wanted in keys.items()
    ]
    if one["Effect"] == "Allow" and any(is_void(*each, context, variables) for each in comparisons):
        return False
    return all(holds(*each, context, variables) for each in comparisons)


def is_void(operator: str, wanted: list[Any], values: Sequence[str] | None, context: Context, variables: bool) -> bool:
    """Whether it wants a key to differ from a variable that has no value: "any attempt to match it fails and causes the
    statement to be invalid". IfExists and ForAllValues on a missing key do not come to an attempt."""
    attempted = values is not None or not ("IfExists" in operator or operator.startswith("ForAllValues:"))
    textual = operator.rpartition(":")[2].startswith(("String", "Arn")) and "Not" in operator
    return attempted and textual and any(expand(str(each), context, variables) is None for each in wanted)


def holds(operator: str, wanted: list[Any], values: Sequence[str] | None, context: Context, variables: bool) -> bool:
    quantifier, _, name = operator.rpartition(":")
    texts = [str(each).lower() if isinstance(each, bool) else str(each) for each in wanted]
    if name == "Null":
        return any((values is None) == (text == "true") for text in texts)
    if_exists, name = name.endswith("IfExists"), name.removesuffix("IfExists")
    negated, positive = ("Not" in name), name.replace("Not", "")
    if quantifier and not any(values or ()):  # "an empty data set (for example, an empty string)"
        return quantifier != "ForAnyValue" or if_exists
    if values is None:
        return if_exists or negated

    def one_holds(value: str) -> bool:
        return negated != any(compares(positive, text, value, context, variables) for text in texts)

    if quantifier == "ForAllValues":
        return all(one_holds(value) for value in values)
    if quantifier == "ForAnyValue":
        return any(one_holds(value) for value in values)
    return (all if negated else any)(one_holds(value) for value in values)


def compares(operator: str, text: str, value: str, context: Context, variables: bool) -> bool:
    if operator.startswith(("String", "Arn")):
        pattern = expand(text, context, variables)
        if pattern is None:
            return False
        if operator.startswith("Arn"):
            return arn_like(pattern, value)
        if operator == "StringLike":
            return like(pattern, value)
        # without wildcards: what the pattern reads as text
        plain = "".join("*" if each is ANY else "?" if each is ONE else str(each) for each in pattern)
        return plain.lower() == value.lower() if operator == "StringEqualsIgnoreCase" else plain == value
    try:
        return compares_typed(operator, text, value)
    except ValueError:
        return False  # the request's value is none of that type: it does not match


def compares_typed(operator: str, text: str, value: str) -> bool:
    if operator == "Bool":
        return text.lower() == value.lower()
    if operator == "BinaryEquals":
        return base64.b64decode(text) == base64.b64decode(value)
    if operator == "IpAddress":
        return ipaddress.ip_address(value) in ipaddress.ip_network(text, strict=False)
    read: Callable[[str], float] = float if operator.startswith("Numeric") else moment
    left, right = read(value), read(text)
    return {
        "Equals": left == right,
        "LessThan": left < right,
        "LessThanEquals": left <= right,
        "GreaterThan": left > right,
        "GreaterThanEquals": left >= right,
    }[operator.removeprefix("Numeric").removeprefix("Date")]


def moment(text: str) -> float:
    """Epoch seconds of a W3C date, or of epoch seconds. UTC where a date says nothing else."""
    if re.fullmatch(r"\d{5,}(\.\d+)?", text):
        return float(text)
    if "T" not in text:
        text += "-01" * (2 - text.count("-"))
    read = datetime.fromisoformat(text)
    return (read if read.tzinfo else read.replace(tzinfo=UTC)).timestamp()
