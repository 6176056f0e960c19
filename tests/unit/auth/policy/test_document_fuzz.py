"""Whatever text is handed in as a policy: it compiles or it is a PolicyError, at once, and what compiled decides.

Texts are well-formed ones spoiled at random (cut, a byte changed, a part replaced by another type, keys doubled), JSON
of no meaning, and hostile ones written by hand. Times are held against themselves at twice the size, never to a clock.
"""

from __future__ import annotations

import gc
import itertools
import json
import random
import time
from collections.abc import Callable
from typing import Any

import pytest

from proxy.auth.policy.decision import Question, decide
from proxy.auth.policy.documents import compile_document
from proxy.auth.policy.errors import PolicyError
from proxy.auth.policy.evaluation import PolicyKind
from proxy.auth.policy.validation import ecr_failure, iam_failure, validate
from proxy.model.identity import AttachedPolicy, RegistryAccess, RepositoryAccess
from support.policy_pairs import pairs
from support.policy_people import HOME, arn_of, bound, caller, context, document

SPOILED, NONSENSE = 6000, 2000
ODD: list[Any] = [
    *[None, True, False, 0, -1, 1.5, 1e308, 10**30, "", "*", "${", "${}", "${*", "${a, '", "$"],
    *["\ud800", "\x00", "é" * 9],
    *[[], [[]], {}, {"": ""}, [None], {"AWS": None}, {"AWS": {}}, [{}], "arn:", ":::::", "ecr:", ":", "ecr:PutImage:x"],
]
KEYS = ["Version", "Id", "Statement", "Sid", "Effect", "Action", "NotAction", "Resource", "NotResource", "Principal"]
KEYS += ["NotPrincipal", "Condition", "AWS", "StringEquals", "Null", "ForAnyValue:", "ForAllValues:Null", "", "effect"]
FLAT = f"arn:aws:ecr:us-east-1:{'1' * 12}:repository/"


def outcome(text: str) -> str:
    """`refused` or `compiled`, whatever it is; anything raised but a PolicyError fails the test. No kind of policy may
    be what does not compile."""
    faults = [fault_of(text, kind) for kind in PolicyKind]
    try:
        compile_document(text)
    except PolicyError as error:
        return "refused" if str(error) and None not in faults else "refused without a reason, or not for every kind"
    one = caller("deploy/ci", [AttachedPolicy(text)], AttachedPolicy(text), [AttachedPolicy(text)])
    resource, shared = arn_of("team/app"), bound(text)
    question = Question("ecr:PutImage", resource, context(one, resource, {"aws:TagKeys": ["a", "b"]}))
    repository = RepositoryAccess(one.account, "team/app", True, shared)
    decide(one, question, repository, RegistryAccess(one.account, True, shared))
    return "compiled"


def fault_of(text: str, kind: PolicyKind) -> str | None:
    """As both services would say it; None if it is a policy of that kind."""
    try:
        validate(text, kind, account=HOME)
    except PolicyError as error:
        return f"{ecr_failure(error, kind).message} {iam_failure(error).message}"
    return None


def test_a_spoiled_document_is_refused_or_means_something() -> None:
    draw = random.Random("spoiled")
    texts = [text for pair in pairs("spoiled", SPOILED // 4) for text in texts_of(pair)]
    found = {outcome(spoil(draw, draw.choice(texts))) for _ in range(SPOILED)}
    assert found == {"refused", "compiled"}


def test_json_without_meaning_is_refused() -> None:
    draw = random.Random("nonsense")
    for _ in range(NONSENSE):
        assert outcome(json.dumps(nonsense(draw, 0))) in ("refused", "compiled")


def texts_of(pair: Any) -> list[str]:
    found = [policy.text for policy in pair.caller.principal.policies]
    return found + [each.policy.text for each in (pair.repository, pair.registry) if each is not None and each.policy]


def spoil(draw: random.Random, text: str) -> str:
    place = draw.randrange(len(text))
    way = draw.randrange(6)
    if way == 0:
        return text[:place]
    if way == 1:
        return text[:place] + draw.choice('"{}[]:,\\*?$\x00\ud800é ') + text[place + 1 :]
    if way == 2:
        return text[:place] + text[place + draw.randrange(1, 20) :]
    if way == 3:
        return text.replace('"Effect"', '"Effect": "Allow", "Effect"', 1)
    tree = json.loads(text)
    holder, key = draw.choice(list(places(tree)))
    if way == 4:
        holder[key] = draw.choice(ODD)
    elif isinstance(holder, dict):
        holder[draw.choice(KEYS)] = holder.pop(key)
    return json.dumps(tree)


def places(tree: Any) -> list[tuple[Any, Any]]:
    """Every (holder, key or index) in a parsed document."""
    within = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    found = []
    for key, value in list(within):
        found.append((tree, key))
        found += places(value)
    return found


def nonsense(draw: random.Random, depth: int) -> Any:
    kind = draw.randrange(3 if depth < 4 else 1)
    if kind == 0:
        return draw.choice(ODD)
    if kind == 1:
        return [nonsense(draw, depth + 1) for _ in range(draw.randrange(4))]
    return {draw.choice(KEYS): nonsense(draw, depth + 1) for _ in range(draw.randrange(6))}


ALL = {"Effect": "Allow", "Action": "*", "Resource": "*"}
HOSTILE = {
    "nothing": "",
    "a lone surrogate": '"\\ud800"',
    "not JSON": "{",
    "more behind it": document() + "x",
    "not a number of JSON's": '{"Version": NaN, "Statement": []}',
    "not a number, in a condition": document(ALL | {"Condition": {"NumericEquals": {"a:b": float("nan")}}}),
    "an endless number": '{"Version": "2012-10-17", "Statement": ' + "9" * 5000 + "}",
    "a list a hundred thousand deep": "[" * 100_000 + "]" * 100_000,
    "an object a hundred thousand deep": '{"Statement":' * 100_000 + "1" + "}" * 100_000,
    "a statement ten thousand deep": '{"Statement": ' + "[" * 10_000 + "]" * 10_000 + "}",
    "a condition ten thousand deep": document(ALL).replace(
        '"Resource"', '"Condition": ' + '{"a":' * 10_000 + "1" + "}" * 10_000 + ', "Resource"'
    ),
    "a key said twice": '{"Statement": [{"Effect": "Deny", "Effect": "Allow", "Action": "*", "Resource": "*"}]}',
    "an operator nobody knows": document(ALL | {"Condition": {"Eval": {"aws:userid": "b"}}}),
    "a version nobody knows": document(ALL, version="2030-01-01"),
    "both Action and NotAction": document(ALL | {"NotAction": "*"}),
    "neither Action nor NotAction": document({"Effect": "Allow", "Resource": "*"}),
    "an effect nobody knows": document(ALL | {"Effect": "allow"}),
    "an element nobody knows": document(ALL).replace('"Version"', '"Versions": "x", "Version"'),
    "an element of a statement nobody knows": document(ALL | {"Actions": "*"}),
    "no statement": '{"Version": "2012-10-17"}',
    "a list of documents": "[]",
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_text_is_refused(name: str) -> None:
    assert outcome(HOSTILE[name]) == "refused"


@pytest.mark.parametrize(("length", "said"), [(131_072, "compiled"), (131_073, "refused")])
def test_a_text_has_a_bound(length: int, said: str) -> None:
    """Ours: far above what AWS takes of any kind, and small enough to be read at once."""
    assert outcome(document(ALL).ljust(length)) == said


@pytest.mark.parametrize("action", ["PutImage", ":PutImage", "ecr", "ecr PutImage"])
def test_an_action_without_a_vendor_is_refused_as_iam_does(action: str) -> None:
    with pytest.raises(PolicyError) as refusal:
        compile_document(document(ALL | {"Action": action}))
    assert refusal.value.reason.startswith("Actions/Conditions must be prefaced by a vendor, e.g., iam, sdb, ec2, etc.")


def resource_pattern(size: int) -> Callable[[], object]:
    """Many stars that all but match, against a long name: a backtracking matcher would not end."""
    return deciding({"Resource": FLAT + "*a" * 12 + "b"}, FLAT + "a" * size)


def condition_pattern(size: int) -> Callable[[], object]:
    wanted = {"StringLike": {"aws:UserAgent": "*a?" * 12 + "b"}}
    return deciding({"Resource": "*", "Condition": wanted}, arn_of("x"), {"aws:UserAgent": "a" * size})


def arn_pattern(size: int) -> Callable[[], object]:
    wanted = {"ArnLike": {"aws:SourceArn": FLAT + "*a*a*a*a*a*a*a*a*b"}}
    return deciding({"Resource": "*", "Condition": wanted}, arn_of("x"), {"aws:SourceArn": FLAT + "a" * size})


def many_stars(size: int) -> Callable[[], object]:
    return deciding({"Resource": FLAT + "*" * size + "b"}, FLAT + "a" * 200)


def many_variables(size: int) -> Callable[[], object]:
    return deciding({"Resource": FLAT + "${aws:username}" * size}, FLAT + "alice" * (size - 1) + "alicf")


def long_value(size: int) -> Callable[[], object]:
    wanted = {"StringEqualsIgnoreCase": {"aws:UserAgent": "A" * size}}
    return deciding({"Resource": "*", "Condition": wanted}, arn_of("x"), {"aws:UserAgent": "a" * size})


def unclosed_variables(size: int) -> Callable[[], object]:
    return lambda: outcome(document({"Effect": "Allow", "Action": "*", "Resource": "arn:" + "${" * size}))


def many_statements(size: int) -> Callable[[], object]:
    statement = {"Effect": "Allow", "Action": "ecr:*x", "Resource": "*"}
    fresh = itertools.count()  # a text that nobody has compiled yet
    return lambda: outcome(document(statement | {"Sid": f"n{next(fresh)}"}, *[statement] * size))


def deciding(
    more: dict[str, Any], resource: str, keys: dict[str, str | list[str] | None] | None = None
) -> Callable[[], object]:
    """A decision anew each time: another caller, so that nothing kept answers."""
    text = document({"Effect": "Allow", "Action": "ecr:*"} | more)

    def run() -> object:
        one = caller("alice", [AttachedPolicy(text)])
        return decide(one, Question("ecr:PutImage", resource, context(one, resource, keys or {})), None, None)

    return run


@pytest.mark.parametrize(
    ("build", "size"),
    [
        (resource_pattern, 20_000),
        (condition_pattern, 20_000),
        (arn_pattern, 20_000),
        (many_stars, 4_000),
        (many_variables, 1_000),
        (long_value, 200_000),
        (unclosed_variables, 4_000),
        (many_statements, 800),
    ],
)
def test_time_grows_no_faster_than_the_text(build: Callable[[int], Callable[[], object]], size: int) -> None:
    """Twice the text in twice the time, with room for a loaded machine: one star backtracking would take four times."""
    for _ in range(3):
        small, large = fastest(build(size)), fastest(build(2 * size))
        if large < 3.5 * small:
            return
    pytest.fail(f"{build.__name__}: {small * 1e3:.2f} ms for {size}, {large * 1e3:.2f} ms for twice that")


def fastest(run: Callable[[], object]) -> float:
    """CPU-seconds of this process, the garbage of everything else in it left for later."""
    took = []
    gc.disable()
    try:
        for _ in range(5):
            began = time.process_time()
            run()
            took.append(time.process_time() - began)
    finally:
        gc.enable()
    return min(took)
