"""Policies and requests drawn at random: few words in many mixtures, so that near-matches are as frequent as matches.

`pairs(seed, count)` draws the same ones again under the same seed. A world is a caller with its policies and a resource
with its own; several requests are drawn in each. The whole grammar occurs: both versions and none, lists and scalars,
NotAction, NotResource, NotPrincipal, every operator with its prefixes and suffix, variables with and without a default,
every form of a principal, bound ids that are stale or gone, boundaries, session policies, both scopes of a registry's.

Left out is what the IAM User Guide leaves open, so that two right evaluators cannot disagree:
- a Deny with a variable that has no value in a negated comparison or a NotResource, and any with one in a
  `ForAllValues` ("might cause the entire statement to be invalid": "Variables and tags");
- a set operator's absence on a key of several values, IfExists after ForAnyValue, a set operator before Null;
- NotPrincipal with Allow, and with a user or session but without what stands over it, an account or a role that is
  not gone ("might deny access to the account");
- everybody (`*`) allowed under a negated condition on aws:PrincipalArn.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
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
from support.policy_people import (
    AWAY,
    HOME,
    ISSUED_TEXT,
    NOW,
    NOW_TEXT,
    PEOPLE,
    REGION,
    UNIQUE_IDS,
    arn_of,
    bound,
    caller,
    context,
)

ACTIONS = ["ecr:PutImage", "ecr:BatchGetImage", "ecr:CreateRepository", "ecr:ReplicateImage", "ecr:SetRepositoryPolicy"]
WHOLE_REGISTRY = ["ecr:GetAuthorizationToken", "ecr:DescribeRegistry"]
ACTION_PATTERNS = [
    *["*", "ecr:*", "ecr:*", "ecr:*Image", "ecr:Batch*", "ecr:Put?mage", "ECR:putimage", "ecr:*e*y*", "ecr:??tImage"],
    *["ecr:PutImage", "ecr:BatchGetImage", "ecr:CreateRepository", "ecr:ReplicateImage", "ecr:GetAuthorizationToken"],
    *["s3:*", "ecr:Put", "ecr:PutImageTag*", "ecr:Describe*"],
]
REPOSITORIES = ["team/app", "team/api", "blue/app", "alice/app", "Team/app", "a*b", "axb"]
HERE = f"arn:aws:ecr:{REGION}"
RESOURCE_PATTERNS = [
    *["*", "*", "arn:aws:ecr:*", f"{HERE}:{HOME}:repository/*", f"{HERE}:*:repository/team/*", "arn:aws:ecr:*app"],
    *[f"{HERE}:{HOME}:repository/team/a?p", f"{HERE}:{AWAY}:repository/*", f"{HERE}:????22223333:*/ap?"],
    *[f"{HERE}:{HOME}:repository/{name}" for name in REPOSITORIES],
    *[f"{HERE}:{HOME}:repository/a${{*}}b", f"{HERE}:{HOME}:repository/a${{?}}b", "arn:aws:s3:::*"],
    f"{HERE}:${{aws:PrincipalAccount}}:repository/*",
    f"{HERE}:*:repository/${{aws:PrincipalTag/team, 'team'}}/*",
]
OPEN_PATTERNS = [  # their variable may have no value
    f"{HERE}:{HOME}:repository/${{aws:username}}/*",
    f"{HERE}:*:repository/${{AWS:principaltag/TEAM}}/app",
]

STRING_KEYS: dict[str, list[str]] = {
    "aws:PrincipalTag/team": ["blue", "red", "Blue", "bl*", "?lue", "${aws:RequestTag/team, 'blue'}"],
    "aws:username": ["alice", "bob", "Alice", "al*", "${aws:username, 'nobody'}"],
    "aws:userid": ["AIDAALICE", "AROADEPLOY:*", "AROADEPLOY:ci", "${aws:userid}"],
    "aws:PrincipalAccount": [HOME, AWAY, "1111*", "${aws:ResourceAccount, 'none'}"],
    "aws:PrincipalType": ["User", "AssumedRole", "user", "*"],
    "aws:ResourceTag/env": ["prod", "dev", "Prod", "p*", "${$}prod", "${aws:PrincipalTag/team, 'dev'}"],
    "ecr:ResourceTag/env": ["prod", "dev", "pro?"],
    "aws:RequestTag/team": ["blue", "red", "${aws:PrincipalTag/team, 'x'}", "${aws:PrincipalTag/team}"],
    "aws:UserAgent": ["docker/*", "docker/28.0", "star*${*}", "a${*}b", "star${?}"],
}
STRING_OPERATORS = [
    *["StringEquals", "StringNotEquals", "StringEqualsIgnoreCase", "StringNotEqualsIgnoreCase"],
    *["StringLike", "StringLike", "StringNotLike"],
]
ARN_KEYS: dict[str, list[str]] = {
    "aws:PrincipalArn": [
        *[f"arn:aws:iam::{HOME}:user/alice", f"arn:aws:iam::{HOME}:role/*", "arn:aws:iam::*:user/*", "arn:*:*:*:*:*"],
        *[f"arn:aws:iam::{HOME}:role/deploy", "arn:aws:iam::????22223333:user/al?ce", "arn:aws:sts::*:*"],
        "arn:aws:iam::*:user/${aws:username, 'nobody'}",
    ],
    "aws:SourceArn": [f"{HERE}:{HOME}:repository/*", "arn:aws:ecr:*:finance/*", f"{HERE}:{HOME}:repository/a:b"],
}
ARN_OPERATORS = ["ArnEquals", "ArnLike", "ArnNotEquals", "ArnNotLike"]
TAG_KEYS = ["team", "env", "cost", "Team"]
RANGES = [
    "203.0.113.0/24",
    "203.0.113.7",
    "203.0.113.8/31",
    "2001:db8::/32",
    "10.0.0.0/8",
    "2001:DB8:0:1::7",
    "0.0.0.0/0",
]
ADDRESSES = ["203.0.113.7", "203.0.113.9", "10.1.2.3", "2001:db8:0:1::7", "198.51.100.1"]
DATES = [
    *[NOW_TEXT, "2025-11-25", "2025-11", "2026", "2025-11-25T02:00:00+01:00", "2025-11-25T00:59:59.5Z", str(int(NOW))],
    *[ISSUED_TEXT, "2025-11-25T00:30Z"],
]
NUMBERS: list[Any] = ["10", 10, "10.0", "9.5", 11, "-1", "1e1"]
COMPARISONS = ["Equals", "NotEquals", "LessThan", "LessThanEquals", "GreaterThan", "GreaterThanEquals"]


@dataclass(frozen=True, slots=True)
class Pair:
    caller: Caller
    question: Question
    repository: RepositoryAccess | None
    registry: RegistryAccess | None


def pairs(seed: str, count: int) -> Iterator[Pair]:
    draw = random.Random(seed)
    asked = 0
    while asked < count:
        world = draw_world(draw)
        for _ in range(min(8, count - asked)):
            asked += 1
            yield draw_request(draw, *world)


def draw_world(draw: random.Random) -> tuple[Caller, str, BoundPolicy | None, BoundPolicy | None, PolicyScope]:
    who = draw.choice(list(PEOPLE))
    principal, session = PEOPLE[who]
    is_root = principal.kind is PrincipalKind.ROOT
    in_role = session is not None and session.kind is SessionKind.ROLE
    identity = [] if is_root else [attached(draw, "identity", number) for number in range(draw.randrange(4))]
    boundary = None if is_root or draw.random() < 0.6 else attached(draw, "boundary", 0)
    narrowed = None
    if in_role and draw.random() < 0.5:
        narrowed = [attached(draw, "session", number) for number in range(draw.randrange(1, 3))]
    account = draw.choice([HOME, HOME, AWAY])
    repository = shared(draw, False) if draw.random() < 0.7 else None
    registry = shared(draw, True) if draw.random() < 0.5 else None
    scope = draw.choice([PolicyScope.V1, PolicyScope.V2, PolicyScope.V2])
    return caller(who, identity, boundary, narrowed), account, repository, registry, scope


def draw_request(
    draw: random.Random,
    one: Caller,
    account: str,
    repository_policy: BoundPolicy | None,
    registry_policy: BoundPolicy | None,
    scope: PolicyScope,
) -> Pair:
    if draw.random() < 0.12:
        action, resource, repository = draw.choice(WHOLE_REGISTRY), "*", None
        account = one.account
    else:
        name = draw.choice(REPOSITORIES)
        action, resource = draw.choice(ACTIONS), arn_of(name, account)
        exists = draw.random() < 0.9
        repository = RepositoryAccess(account, name, exists, repository_policy if exists else None)
    keys = context(one, resource, drawn_keys(draw))
    open_account = account == one.account or draw.random() < 0.95
    registry = RegistryAccess(account, open_account, registry_policy if open_account else None, scope)
    if draw.random() < 0.05:
        action = action.upper()
    return Pair(one, Question(action, resource, keys), repository if open_account else None, registry)


def drawn_keys(draw: random.Random) -> dict[str, str | list[str] | None]:
    found: dict[str, str | list[str] | None] = {
        "aws:ResourceTag/env": draw.choice(["prod", "dev", "$prod", None]),
        "aws:RequestTag/team": draw.choice(["blue", "red", None]),
        "aws:TagKeys": draw.choice([None, ["team"], ["team", "env"], ["Team", "cost"], draw.sample(TAG_KEYS, 3)]),
        "aws:SourceIp": draw.choice([*ADDRESSES, None]),
        "aws:SecureTransport": draw.choice(["true", "false"]),
        "aws:SourceArn": draw.choice([None, arn_of("a:b"), f"{HERE}:{AWAY}:store/abc:{HOME}:finance/document"]),
        "aws:UserAgent": draw.choice(["docker/28.0", "star*", "starry", "a*b", "axb"]),
        "test:size": draw.choice([None, "10", "9.5", "11", "-1"]),
    }
    return found | {"ecr:ResourceTag/env": found["aws:ResourceTag/env"]}


def attached(draw: random.Random, kind: str, number: int) -> AttachedPolicy:
    text = document(draw, [statement(draw, True) for _ in range(draw.randrange(1, 4))])
    arn = draw.choice(["", f"arn:aws:iam::{HOME}:policy/{kind}-{number}"])
    return AttachedPolicy(text, f"{kind}-{number}", arn)


def shared(draw: random.Random, with_resource: bool) -> BoundPolicy:
    """A repository's policy, or a registry's. Now and then a unique id is of somebody who had that name before."""
    statements = []
    for _ in range(draw.randrange(1, 4)):
        one = statement(draw, with_resource)
        allow = one["Effect"] == "Allow"
        if not allow and draw.random() < 0.3:
            one["NotPrincipal"] = not_principal(draw)
        else:
            one["Principal"] = principals(draw)
            if allow and "*" in str(one["Principal"]):
                one["Condition"] = plainly_narrowed(one["Condition"])
        statements.append(one)
    ids = {arn: draw.choices([unique, unique + "OLD", ""], [0.88, 0.07, 0.05])[0] for arn, unique in UNIQUE_IDS.items()}
    if ":assumed-role/" in str([one.get("NotPrincipal") for one in statements]):
        ids |= {arn: UNIQUE_IDS[arn] for arn in UNIQUE_IDS if ":role/" in arn}
    return bound(document(draw, statements), ids)


def plainly_narrowed(block: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {
        operator: keys
        for operator, keys in block.items()
        if not ("Not" in operator and any(key.lower() == "aws:principalarn" for key in keys))
    }


def document(draw: random.Random, statements: list[dict[str, Any]]) -> str:
    whole: dict[str, Any] = {}
    version = draw.choice(["2012-10-17", "2012-10-17", "2012-10-17", "2008-10-17", None])
    if version is not None:
        whole["Version"] = version
    whole["Statement"] = statements[0] if len(statements) == 1 and draw.random() < 0.5 else statements
    for one in statements:
        if not one["Condition"] and draw.random() < 0.9:
            del one["Condition"]
    return json.dumps(whole, indent=draw.choice([None, None, 2]))


def statement(draw: random.Random, with_resource: bool) -> dict[str, Any]:
    effect = draw.choices(["Allow", "Deny"], [0.75, 0.25])[0]
    one: dict[str, Any] = {"Effect": effect}
    if draw.random() < 0.3:
        one["Sid"] = draw.choice(["First", "Second"])
    one[draw.choices(["Action", "NotAction"], [0.85, 0.15])[0]] = some(draw, ACTION_PATTERNS)
    if with_resource and draw.random() < 0.85:
        one["Resource"] = some(draw, RESOURCE_PATTERNS + OPEN_PATTERNS)
    elif with_resource:
        one["NotResource"] = some(draw, RESOURCE_PATTERNS + (OPEN_PATTERNS if effect == "Allow" else []))
    one["Condition"] = {}
    for _ in range(draw.choices([0, 1, 2, 3], [0.35, 0.4, 0.2, 0.05])[0]):
        operator, key, wanted = condition(draw, effect)
        one["Condition"].setdefault(operator, {})[key] = wanted
    return one


def some(draw: random.Random, words: Sequence[Any]) -> Any:
    """One as it is, or a list of one to three."""
    if draw.random() < 0.5:
        return draw.choice(words)
    return [draw.choice(words) for _ in range(draw.randrange(1, 4))]


def condition(draw: random.Random, effect: str) -> tuple[str, str, Any]:
    drawn: Any = draw.choice([string, string, string, tag_keys, arn, address, boolean, null, date, number])
    operator, key, wanted = drawn(draw, effect) if drawn is string else drawn(draw)
    if operator != "Null" and not operator.startswith("ForAny") and draw.random() < 0.2:
        operator += "IfExists"
    return operator, draw.choice([key, key, key.upper(), key.lower()]), wanted


def string(draw: random.Random, effect: str) -> tuple[str, str, Any]:
    key = draw.choice(list(STRING_KEYS))
    operator = draw.choice(STRING_OPERATORS)
    words = STRING_KEYS[key]
    if "Not" in operator and effect == "Deny":
        words = [word for word in words if word != "${aws:PrincipalTag/team}"]
    return operator, key, some(draw, words)


def tag_keys(draw: random.Random) -> tuple[str, str, Any]:
    operator = draw.choice(STRING_OPERATORS)
    prefix = draw.choice(["ForAllValues:", "ForAnyValue:"])
    return prefix + operator, "aws:TagKeys", some(draw, [*TAG_KEYS, "te*", "${aws:PrincipalTag/team, 'env'}"])


def arn(draw: random.Random) -> tuple[str, str, Any]:
    key = draw.choice(list(ARN_KEYS))
    return draw.choice(ARN_OPERATORS), key, some(draw, ARN_KEYS[key])


def address(draw: random.Random) -> tuple[str, str, Any]:
    return draw.choice(["IpAddress", "IpAddress", "NotIpAddress"]), "aws:SourceIp", some(draw, RANGES)


def boolean(draw: random.Random) -> tuple[str, str, Any]:
    key = draw.choice(["aws:SecureTransport", "aws:MultiFactorAuthPresent", "aws:PrincipalIsAWSService"])
    return "Bool", key, some(draw, ["true", "false", True, False])


def null(draw: random.Random) -> tuple[str, str, Any]:
    key = draw.choice(["aws:TokenIssueTime", "aws:RequestTag/team", "aws:TagKeys", "aws:username"])
    return "Null", key, draw.choice(["true", "false", True, ["false"]])


def date(draw: random.Random) -> tuple[str, str, Any]:
    key = draw.choice(["aws:CurrentTime", "aws:TokenIssueTime", "aws:EpochTime"])
    return "Date" + draw.choice(COMPARISONS), key, some(draw, DATES)


def number(draw: random.Random) -> tuple[str, str, Any]:
    return "Numeric" + draw.choice(COMPARISONS), "test:size", some(draw, NUMBERS)


def principals(draw: random.Random) -> Any:
    if draw.random() < 0.25:
        return draw.choice(["*", {"AWS": "*"}, {"AWS": ["*"]}])
    found: dict[str, Any] = {"AWS": some(draw, PRINCIPALS)}
    if draw.random() < 0.15:
        found["Service"] = "ecr.amazonaws.com"
    if draw.random() < 0.05:
        return {"Service": ["ecr.amazonaws.com"]}
    return found


def not_principal(draw: random.Random) -> Any:
    """Each with all that stands over it, as the page on NotPrincipal tells its readers to write it."""
    chains = [
        chain
        for principal, session in PEOPLE.values()
        for chain in [[principal.arn, draw.choice([principal.account, f"arn:aws:iam::{principal.account}:root"])]]
        if session is None
    ]
    chains += [
        [
            f"arn:aws:sts::{HOME}:assumed-role/deploy/ci",
            f"arn:aws:iam::{HOME}:role/deploy",
            f"arn:aws:iam::{HOME}:root",
        ],
        [f"arn:aws:sts::{AWAY}:assumed-role/audit/probe", f"arn:aws:iam::{AWAY}:role/audit", AWAY],
    ]
    return {"AWS": [entry for _ in range(draw.randrange(1, 4)) for entry in draw.choice(chains)]}


PRINCIPALS = [
    *[HOME, AWAY, f"arn:aws:iam::{HOME}:root", f"arn:aws:iam::{AWAY}:root"],
    *UNIQUE_IDS,
    *[f"arn:aws:iam::{HOME}:user/alice", f"arn:aws:iam::{HOME}:role/deploy", f"arn:aws:iam::{AWAY}:user/carol"],
    *[f"arn:aws:sts::{HOME}:assumed-role/deploy/{name}" for name in ("ci", "night", "other")],
    f"arn:aws:sts::{AWAY}:assumed-role/audit/probe",
]
