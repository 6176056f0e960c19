"""Input against botocore's models: the same shapes the clients were made from.

Refuses what the model does not name, what it requires and is missing, wrong types, lengths, values, patterns and
enumerations, each with AWS's own sentence: InvalidParameterException for `ecr`, ValidationError for `sts` and `iam`. An
operation the model does not have is the service's unknown one.
"""

from __future__ import annotations

import re
from base64 import b64decode
from collections.abc import Mapping
from functools import cache
from typing import Any

from proxy.awsmodel import models
from proxy.model.errors import Code, Failure

_SHOWN_MAX = 128  # of a value that is said back
_HIDDEN = "HIDDEN"

# IAM says of its names and paths what they may be, instead of the model's pattern.
_IAM_SENTENCES = {
    r"[\w+=,.@-]+": "contain only alphanumeric characters and/or the following: +=,.@_-",
    r"(\u002F)|(\u002F[\u0021-\u007E]+\u002F)": (
        "begin and end with / and contain only alphanumeric characters and/or / characters."
    ),
}


def validate(operation: str, parameters: Any, service: str = "ecr") -> None:
    """Failure naming the first member that breaks the model."""
    described = models.service(service)["operations"].get(operation)
    if described is None:
        raise unknown_operation(operation)
    shape = described.get("input", {}).get("shape")
    if shape is not None:
        _Check(service).member(shape, parameters, "")


def invalid(member: str, why: str) -> Failure:
    """As `ecr` says it."""
    return Failure(
        Code.INVALID_PARAMETER,
        f"Invalid parameter at '{member}' failed to satisfy constraint: '{why}'",
        parameter=member,
    )


def invalid_value(member: str, value: Any, why: str) -> Failure:
    """As `sts` and `iam` say it; `member` begins with a lower-case letter there."""
    shown = "null" if value is None else str(value)[:_SHOWN_MAX]
    return Failure(
        Code.VALIDATION_ERROR,
        f"1 validation error detected: Value '{shown}' at '{member[:1].lower()}{member[1:]}' failed to satisfy "
        f"constraint: {why}",
        parameter=member,
    )


def unknown_operation(operation: str) -> Failure:
    return Failure(Code.UNKNOWN_OPERATION, f"Operation {operation[:128]} is not supported by this registry")


class _Check:
    """One service's way of looking and of complaining."""

    def __init__(self, service: str) -> None:
        self._service = service
        self._is_ecr = service == "ecr"

    def member(self, name: str, value: Any, path: str) -> None:
        shape = models.shape(self._service, name)
        kind = shape["type"]
        here = path or name
        if kind == "structure":
            self._structure(shape, value, path, here)
        elif kind == "list":
            if not isinstance(value, list):
                raise self._invalid(here, value, "Member must be a list")
            self._bounds(shape, len(value), here, value, "length")
            for index, item in enumerate(value, 1):
                self.member(shape["member"]["shape"], item, f"{here}.{index}.member")
        elif kind == "map":
            if not isinstance(value, dict):
                raise self._invalid(here, value, "Member must be a map")
            for key, item in value.items():
                self.member(shape["key"]["shape"], key, here)
                self.member(shape["value"]["shape"], item, f"{here}.{key}")
        elif kind == "string":
            self._string(shape, value, here)
        elif kind == "boolean":
            if not isinstance(value, bool):
                raise self._invalid(here, value, "Member must be a boolean")
        elif kind == "blob":
            self._blob(shape, value, here)
        else:
            self._number(shape, kind, value, here)

    def _invalid(self, here: str, value: Any, why: str) -> Failure:
        if self._service == "secretsmanager":  # a secret may stand in the wrong member
            value = _HIDDEN
        return invalid(here, why) if self._is_ecr else invalid_value(here, value, why)

    def _structure(self, shape: Mapping[str, Any], value: Any, path: str, here: str) -> None:
        if not isinstance(value, dict):
            raise self._invalid(here, value, "Member must be a structure")
        members = shape["members"]
        prefix = f"{path}." if path else ""
        for required in shape.get("required", ()):
            if value.get(required) is None:
                raise self._invalid(prefix + required, None, "Member must not be null")
        for member, item in value.items():
            if member not in members:
                raise self._invalid(f"{prefix}{member}"[:128], item, "Member is not known")
            if item is not None:  # null is how some clients spell absent
                self.member(members[member]["shape"], item, prefix + member)

    def _string(self, shape: Mapping[str, Any], value: Any, here: str) -> None:
        if not isinstance(value, str):
            raise self._invalid(here, value, "Member must be a string")
        told = _HIDDEN if shape.get("sensitive") else value  # a web identity's token is in nobody's log
        self._bounds(shape, len(value), here, told, "length")
        values = shape.get("enum")
        if values is not None and value not in values:
            raise self._invalid(here, told, f"Member must satisfy enum value set: [{', '.join(values)}]")
        pattern = shape.get("pattern")
        if pattern is not None and not _pattern(pattern).fullmatch(value):
            if self._service == "iam" and (must := _IAM_SENTENCES.get(pattern)):
                said = f"The specified value for {here[:1].lower()}{here[1:]} is invalid. It must {must}"
                raise Failure(Code.VALIDATION_ERROR, said, parameter=here)
            ecr, others = f"must satisfy regular expression '{pattern}'", f"regular expression pattern: {pattern}"
            raise self._invalid(here, told, ecr if self._is_ecr else f"Member must satisfy {others}")

    def _blob(self, shape: Mapping[str, Any], value: Any, here: str) -> None:
        if not isinstance(value, str):
            raise self._invalid(here, value, "Member must be base64 text")
        try:
            length = len(b64decode(value, validate=True))
        except ValueError as error:
            raise self._invalid(here, value, "Member must be base64 text") from error
        self._bounds(shape, length, here, value, "length")

    def _number(self, shape: Mapping[str, Any], kind: str, value: Any, here: str) -> None:
        whole = kind in ("integer", "long")
        if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)):
            raise self._invalid(here, value, f"Member must be {'an integer' if whole else 'a number'}")
        self._bounds(shape, value, here, value, "value")

    def _bounds(self, shape: Mapping[str, Any], measure: float, here: str, value: Any, what: str) -> None:
        if "min" in shape and measure < shape["min"]:
            raise self._invalid(here, value, f"Member must have {what} greater than or equal to {shape['min']}")
        if "max" in shape and measure > shape["max"]:
            raise self._invalid(here, value, f"Member must have {what} less than or equal to {shape['max']}")


# Java's classes of letters, spaces and digits, which Python's `re` lacks: `\\w`, `\\s` and `\\d` of all of Unicode.
_CLASSES = {r"\p{L}": r"\w", r"\p{Z}": r"\s", r"\p{N}": r"\d"}

# Expressions that try everything on what nearly matches, and the same in one way only.
_LINEAR = {r"^[a-z0-9*](?:[._\-/a-z0-9*]?[a-z0-9*]+)*$": r"^[a-z0-9*](?:[._\-/]?[a-z0-9*])*$"}


@cache
def _pattern(text: str) -> re.Pattern[str]:
    text = _LINEAR.get(text, text)
    if r"\p{" not in text:
        return re.compile(text, re.ASCII)
    for java, ours in _CLASSES.items():
        text = text.replace(java, ours)
    return re.compile(text)
