"""Parses and compiles a policy's text, once: its statements, and the condition keys that they read.

It accepts the whole grammar for any kind of policy; `validation` has each kind's rules. A document that is in use is
compiled once; of unused ones the latest are cached, up to `KEPT_CHARACTERS` of text. A text has at most 128 KiB, as in
IAM's model.

Source: IAM User Guide, "Grammar of the IAM JSON policy language".
"""

from __future__ import annotations

import json
import re
import threading
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn
from weakref import WeakValueDictionary

from proxy.auth.policy.conditions import Condition
from proxy.auth.policy.context import Context
from proxy.auth.policy.errors import PolicyError
from proxy.auth.policy.matching import Matcher, Wildcard, glob
from proxy.auth.policy.overlap import covers, overlaps
from proxy.auth.policy.principals import Principals, compile_principals
from proxy.auth.policy.variables import Template

TEXT_MAX = 131_072
VERSIONS = ("2012-10-17", "2008-10-17")
_WITH_VARIABLES = "2012-10-17"
# Of texts whose documents are not in use. Compiled, a hostile text takes 130 bytes a character.
KEPT_CHARACTERS = 512 * 1024

_DOCUMENT = frozenset(("Version", "Id", "Statement"))
_STATEMENT = frozenset(
    "Sid Effect Principal NotPrincipal Action NotAction Resource NotResource Condition".split()  # noqa: SIM905
)
_NO_VENDOR = "Actions/Conditions must be prefaced by a vendor, e.g., iam, sdb, ec2, etc."
_ACTION = re.compile(r"([A-Za-z0-9-]+):([A-Za-z0-9*?]+)")


class Actions:
    """An Action or NotAction element; case is ignored."""

    __slots__ = ("_exact", "_patterns", "_prefixes", "given")

    def __init__(self, given: Sequence[str]) -> None:
        self.given = tuple(given)
        patterns = [action.lower() for action in given]
        self._exact = frozenset(patterns)
        # Nearly every pattern is `ecr:Get*`: one call for all of these.
        self._prefixes = tuple(pattern[:-1] for pattern in patterns if pattern.endswith("*"))
        others = [pattern for pattern in patterns if _is_wild(pattern.removesuffix("*"))]
        self._patterns: tuple[Matcher, ...] = tuple(glob(pattern) for pattern in others)

    def name(self, action: str) -> bool:
        """`action` in lower case."""
        if action in self._exact or action.startswith(self._prefixes):
            return True
        for matches in self._patterns:  # noqa: SIM110  # a generator costs more than what it runs here
            if matches(action):
                return True
        return False


class Statement:
    """One statement. `principals` and `resources` are None where the element is absent; `negated_…`: it is Not…"""

    __slots__ = (
        "actions",
        "allows",
        "conditions",
        "index",
        "keys",
        "narrowed_by_principal_arn",
        "negated_actions",
        "negated_principals",
        "negated_resources",
        "principals",
        "resources",
        "sid",
    )

    def __init__(self, element: dict[str, Any], index: int, *, variables: bool) -> None:
        self.index = index
        self.sid: str = element.get("Sid", "")
        self.allows = element["Effect"] == "Allow"
        self.negated_actions, given = _one_of(element, "Action", "NotAction")
        self.actions = Actions(_actions(given))
        self.negated_resources, given = _one_of(element, "Resource", "NotResource")
        self.resources: tuple[Template, ...] | None = None
        if given is not None:
            texts = _texts(given, "Policy statement must contain resources.")
            self.resources = tuple(Template(text, variables=variables, wild=True) for text in texts)
        self.negated_principals, given = _one_of(element, "Principal", "NotPrincipal")
        self.principals: Principals | None = None if given is None else compile_principals(given)
        self.conditions = tuple(_conditions(element.get("Condition", {}), variables, self.allows))
        self.narrowed_by_principal_arn = any(each.narrows("aws:principalarn") for each in self.conditions)
        self.keys = frozenset[str]().union(
            *(condition.keys for condition in self.conditions), *(template.keys for template in self.resources or ())
        )

    def names_action(self, action: str) -> bool:
        """`action` in lower case."""
        return self.actions.name(action) != self.negated_actions

    def names_below(self, prefix: str, context: Context) -> bool:
        """Whether it applies to resources whose ARN begins with `prefix`: an Allow must cover all of them with one
        Resource, a Deny any of them."""
        if self.resources is None:
            return False
        filled = [each.tokens(context) for each in self.resources]
        if None in filled and self.negated_resources and self.allows:
            return False
        patterns = [each for each in filled if each is not None]
        if self.allows != self.negated_resources:
            found = any(covers(each, prefix) for each in patterns)
        else:
            found = any(overlaps(each, (prefix, Wildcard.STAR)) for each in patterns)
        return found != self.negated_resources

    def names_resource(self, resource: str, context: Context) -> bool:
        """False if the statement has neither Resource nor NotResource."""
        if self.resources is None:
            return False
        for each in self.resources:
            if each.matches(resource, context):
                return not self.negated_resources
        if self.negated_resources and self.allows:  # an unresolved variable must not allow by NotResource
            return not any(each.missing(context) for each in self.resources)
        return self.negated_resources


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class Document:
    """`keys`: the condition keys, in lower case, that the statements read."""

    text: str
    version: str
    statements: tuple[Statement, ...]
    keys: frozenset[str]


def keys_named(documents: Iterable[Document]) -> list[str]:
    """The condition keys that policies read, with those of variables, as spelled there; each once."""
    names: dict[str, str] = {}
    for statement in (each for document in documents for each in document.statements):
        elements: tuple[Template | Condition, ...] = (*(statement.resources or ()), *statement.conditions)
        for name in (name for element in elements for name in element.names):
            names.setdefault(name.lower(), name)
    return list(names.values())


class _DocumentCache:
    """Documents by text. Thread-safe: the metadata service's threads use it too."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._alive: WeakValueDictionary[str, Document] = WeakValueDictionary()
        self._latest: OrderedDict[str, Document] = OrderedDict()
        self._characters = 0

    def get(self, text: str) -> Document | None:
        with self._lock:
            if text in self._latest:
                self._latest.move_to_end(text)
            return self._alive.get(text)

    def put(self, document: Document) -> Document:
        """Add the document; returns it, or an equal one that another thread has added meanwhile."""
        with self._lock:
            found = self._alive.setdefault(document.text, document)
            if found.text not in self._latest:
                self._latest[found.text] = found
                self._characters += len(found.text)
                while self._characters > KEPT_CHARACTERS:
                    self._characters -= len(self._latest.popitem(last=False)[0])
            return found


_kept = _DocumentCache()


def compile_document(text: str) -> Document:
    """The compiled document of a text. PolicyError for a text outside IAM's grammar."""
    return _kept.get(text) or _kept.put(_compile(text))


def _compile(text: str) -> Document:
    element = parse(text)
    version = element.get("Version", VERSIONS[-1])
    if type(version) is not str or version not in VERSIONS:
        raise PolicyError("The policy must contain a valid version string: 2012-10-17 or 2008-10-17")
    if type(element.get("Id", "")) is not str:
        raise PolicyError("Id must be a text")
    given = element.get("Statement")
    if given is None:
        raise PolicyError("The policy has no Statement")
    statements = []
    for index, each in enumerate(_as_list(given), 1):
        sid = each.get("Sid", "") if isinstance(each, dict) else ""
        try:
            _check_elements(each)
            statements.append(Statement(each, index, variables=version == _WITH_VARIABLES))
        except PolicyError as error:
            raise PolicyError(error.reason, index, sid if type(sid) is str else "") from None
    return Document(
        text, version, tuple(statements), frozenset[str]().union(*(statement.keys for statement in statements))
    )


def parse(text: str) -> dict[str, Any]:
    """The JSON of a policy: an object without duplicate keys. PolicyError."""
    if len(text) > TEXT_MAX:
        raise PolicyError(f"The policy is longer than {TEXT_MAX} characters")
    try:
        element = json.loads(
            text, object_pairs_hook=_object, parse_int=_Number, parse_float=_Number, parse_constant=_no_constant
        )
        # A lone surrogate can be neither stored nor returned.
        json.dumps(element, ensure_ascii=False).encode()
    except UnicodeError:
        raise PolicyError("The policy holds characters that are none") from None
    except (ValueError, RecursionError):
        raise PolicyError("Syntax errors in policy.") from None
    if not isinstance(element, dict):
        raise PolicyError("Syntax errors in policy.")
    unknown = [key for key in element if key not in _DOCUMENT]
    if unknown:
        raise PolicyError(f"Syntax errors in policy. {unknown[0][:64]!r} is no element of a policy")
    return element


class _Number(str):
    """A JSON number as it was spelled: allowed among a condition's values, and nowhere else."""

    __slots__ = ()


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise PolicyError("Syntax errors in policy. An element appears twice")
    return found


def _no_constant(text: str) -> NoReturn:
    raise ValueError(text)


def _check_elements(element: Any) -> None:
    if not isinstance(element, dict):
        raise PolicyError("Syntax errors in policy. A statement is an object")
    unknown = [key for key in element if key not in _STATEMENT]
    if unknown:
        raise PolicyError(f"Syntax errors in policy. {unknown[0][:64]!r} is no element of a statement")
    if element.get("Effect") not in ("Allow", "Deny"):
        raise PolicyError("Effect must be Allow or Deny")
    if type(element.get("Sid", "")) is not str:
        raise PolicyError("Sid must be a text")


def _one_of(element: dict[str, Any], name: str, negated: str) -> tuple[bool, Any]:
    """Whether the negated element is present, and the value; None if neither is."""
    if name in element and negated in element:
        raise PolicyError(f"A statement has {name} or {negated}, not both")
    is_negated = negated in element
    present = negated if is_negated else name
    given = element.get(present)
    if given is None and present in element:
        raise PolicyError(f"{present} holds nothing")
    return is_negated, given


def _is_wild(text: str) -> bool:
    return "*" in text or "?" in text


def _as_list(given: Any) -> list[Any]:
    return given if isinstance(given, list) else [given]


def _texts(given: Any, missing: str) -> list[str]:
    found = _as_list(given)
    if not found or not all(type(each) is str and each for each in found):
        raise PolicyError(missing)
    return found


def _actions(given: Any) -> list[str]:
    found = _texts(given, "Policy statement must contain actions.")
    for action in found:
        if action != "*" and _ACTION.fullmatch(action) is None:
            if action.count(":") > 1:
                raise PolicyError(f"Actions/Condition can contain only one colon. {action[:64]!r}")
            raise PolicyError(f"{_NO_VENDOR} {action[:64]!r}")
    return found


def _conditions(given: Any, variables: bool, allows: bool) -> list[Condition]:
    if not isinstance(given, dict):
        raise PolicyError("Syntax errors in policy. Condition is an object")
    found = []
    for operator, keys in given.items():
        if not isinstance(keys, dict) or not keys:
            raise PolicyError(f"Syntax errors in policy. {operator[:64]!r} has no keys")
        for key, values in keys.items():
            if ":" not in key:
                raise PolicyError(f"{_NO_VENDOR} {key[:64]!r}")
            found.append(Condition(operator, key, _condition_values(key, values), variables=variables, allows=allows))
    return found


def _condition_values(key: str, given: Any) -> list[str]:
    texts = []
    for value in _as_list(given):
        if isinstance(value, bool):
            texts.append("true" if value else "false")
        elif isinstance(value, str):
            texts.append(str(value))
        else:
            raise PolicyError(f"Syntax errors in policy. The values of {key[:64]!r} must be texts, numbers or booleans")
    if not texts:
        raise PolicyError(f"Syntax errors in policy. {key[:64]!r} has no values")
    return texts
