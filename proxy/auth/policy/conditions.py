"""The Condition element: every operator, its negation, `IfExists`, `ForAnyValue` and `ForAllValues`, and `Null`.

All keys must match; one of a key's values must match, or none for a negated operator. An absent key makes a positive
operator false and a negated one true; with `IfExists` both are true, `ForAllValues` is true, `ForAnyValue` false. A
value is compared as the operator's type; one that cannot be parsed as that type matches nothing.

Source: IAM User Guide, "IAM JSON policy elements: Condition operators", "Multivalued context keys".
"""

from __future__ import annotations

import operator as compare
from collections.abc import Callable, Sequence
from enum import Enum
from typing import Any

from proxy.auth.policy import values
from proxy.auth.policy.context import Context
from proxy.auth.policy.errors import PolicyError
from proxy.auth.policy.variables import Template

Test = Callable[[str, Context], bool]
"""Whether one value of a request matches one value of the policy."""


class Quantifier(Enum):
    ONE = ""  # the plain operator, for keys of one value
    ANY = "ForAnyValue"
    ALL = "ForAllValues"


class Condition:
    """One operator on one key. `keys` are all condition keys that it reads, `name` is the key as it was spelled."""

    __slots__ = (
        "_if_exists",
        "_negated",
        "_null",
        "_quantifier",
        "_templates",
        "_tests",
        "_voidable",
        "key",
        "keys",
        "name",
        "operator",
        "values",
    )

    def __init__(self, operator: str, key: str, given: Sequence[str], *, variables: bool, allows: bool = False) -> None:
        """`given` are the policy's values; `allows`: its statement is an Allow. PolicyError for an unknown operator or
        an invalid value."""
        self.operator = operator
        self.name = key
        self.key = key.lower()
        self.values = tuple(given)
        self._quantifier, name, self._if_exists = _spelled(operator)
        family = _FAMILIES.get(name)
        if family is None or (self._if_exists and name == "null"):
            raise PolicyError(f"Invalid Condition type : {operator[:64]}")
        make, self._negated = family
        self._null = name == "null"
        self.keys = frozenset((self.key,))
        tests, templates = [], []
        for value in given:
            test, template = make(value, variables)
            if test is None:
                raise PolicyError(f"The value {value[:64]!r} is not what {operator} compares")
            tests.append(test)
            if template is not None and template.keys:
                templates.append(template)
                self.keys |= template.keys
        self._tests = tuple(tests)
        self._templates = tuple(templates)
        # A variable without a value equals nothing, so a negated operator must not allow by it.
        self._voidable = allows and self._negated and bool(templates)

    @property
    def names(self) -> tuple[str, ...]:
        """The condition keys that it reads, as spelled."""
        return (self.name, *(name for template in self._templates for name in template.names))

    def missing(self, context: Context) -> list[str]:
        """The variables in its values that have no value in this request."""
        return [name for template in self._templates for name in template.missing(context)]

    def holds(self, context: Context) -> bool:
        found = context.get(self.key)
        if self._null:
            absent = "false" if found else "true"
            return any(test(absent, context) for test in self._tests)
        quantifier = self._quantifier
        if not found or (quantifier is not Quantifier.ONE and not any(found)):
            if self._if_exists or quantifier is Quantifier.ALL:
                return True
            return self._negated and quantifier is Quantifier.ONE and not self._is_void(context)
        if self._is_void(context):
            return False
        if quantifier is Quantifier.ALL:
            return all(self._one(value, context) for value in found)
        if quantifier is Quantifier.ONE and self._negated:
            return all(self._one(value, context) for value in found)
        return any(self._one(value, context) for value in found)

    def _is_void(self, context: Context) -> bool:
        return self._voidable and bool(self.missing(context))

    def narrows(self, key: str) -> bool:
        """Whether it requires `key` to have one of its values."""
        return self.key == key and not self._negated and not self._null

    def _one(self, value: str, context: Context) -> bool:
        for test in self._tests:
            if test(value, context):
                return not self._negated
        return self._negated


# ---- families: a policy's value, and whether variables count, to its test and the template that the test fills in ----

Made = tuple[Test | None, Template | None]
Compared = Callable[[Any, Any], Any]


def _string(value: str, variables: bool) -> Made:
    template = Template(value, variables=variables, wild=False)
    return template.matches, template


def _like(value: str, variables: bool) -> Made:
    template = Template(value, variables=variables, wild=True)
    return template.matches, template


def _ignoring_case(value: str, variables: bool) -> Made:
    template = Template(value, variables=variables, wild=False)

    def test(found: str, context: Context) -> bool:
        tokens = template.tokens(context)
        return tokens is not None and found.casefold() == "".join(map(str, tokens)).casefold()

    return test, template


def _arn(value: str, variables: bool) -> Made:
    template = Template(value, variables=variables, wild=True)
    static = None if template.keys else values.arn_matcher(template.tokens({}) or ())

    def test(found: str, context: Context) -> bool:
        if static is not None:
            return static(found)
        tokens = template.tokens(context)
        return tokens is not None and values.arn_matcher(tokens)(found)

    return test, template


def _numeric(compared: Compared) -> Callable[[str, bool], Made]:
    return lambda value, _: _read(value, values.number, compared)


def _date(compared: Compared) -> Callable[[str, bool], Made]:
    return lambda value, _: _read(value, values.instant, compared)


def _bool(value: str, _: bool) -> Made:
    return _read(value, values.boolean, compare.eq)


def _binary(value: str, _: bool) -> Made:
    return _read(value, values.octets, compare.eq)


def _address(value: str, _: bool) -> Made:
    network = values.network(value)
    if network is None:
        return None, None

    def test(found: str, context: Context) -> bool:
        address = values.address(found)
        return address is not None and address.version == network.version and address in network

    return test, None


def _read(value: str, read: Callable[[str], object | None], compared: Compared) -> Made:
    wanted = read(value)
    if wanted is None:
        return None, None

    def test(found: str, context: Context) -> bool:
        seen = read(found)
        return seen is not None and bool(compared(seen, wanted))

    return test, None


_FAMILIES: dict[str, tuple[Callable[[str, bool], Made], bool]] = {
    "stringequals": (_string, False),
    "stringnotequals": (_string, True),
    "stringequalsignorecase": (_ignoring_case, False),
    "stringnotequalsignorecase": (_ignoring_case, True),
    "stringlike": (_like, False),
    "stringnotlike": (_like, True),
    "arnequals": (_arn, False),
    "arnlike": (_arn, False),
    "arnnotequals": (_arn, True),
    "arnnotlike": (_arn, True),
    "numericequals": (_numeric(compare.eq), False),
    "numericnotequals": (_numeric(compare.eq), True),
    "numericlessthan": (_numeric(compare.lt), False),
    "numericlessthanequals": (_numeric(compare.le), False),
    "numericgreaterthan": (_numeric(compare.gt), False),
    "numericgreaterthanequals": (_numeric(compare.ge), False),
    "dateequals": (_date(compare.eq), False),
    "datenotequals": (_date(compare.eq), True),
    "datelessthan": (_date(compare.lt), False),
    "datelessthanequals": (_date(compare.le), False),
    "dategreaterthan": (_date(compare.gt), False),
    "dategreaterthanequals": (_date(compare.ge), False),
    "bool": (_bool, False),
    "binaryequals": (_binary, False),
    "ipaddress": (_address, False),
    "notipaddress": (_address, True),
    "null": (_bool, False),
}


def _spelled(operator: str) -> tuple[Quantifier, str, bool]:
    """The parts of `ForAnyValue:StringLikeIfExists`, in any case."""
    name, quantifier = operator.lower(), Quantifier.ONE
    for each in (Quantifier.ANY, Quantifier.ALL):
        prefix = each.value.lower() + ":"
        if name.startswith(prefix):
            name, quantifier = name.removeprefix(prefix), each
    base = name.removesuffix("ifexists")
    return quantifier, base, base != name
