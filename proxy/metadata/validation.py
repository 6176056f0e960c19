"""Input against botocore's `ecr` model: the same shapes the clients were made from.

Loads only that one service description, once, at the first call. Refuses what the model does not name, what it requires
and is missing, wrong types, lengths, values, patterns and enumerations, each with AWS's own sentence as
InvalidParameterException; an operation the model does not have is UnknownOperationException.
"""

from __future__ import annotations

import re
from base64 import b64decode
from collections.abc import Mapping
from functools import cache
from typing import Any

from proxy.model.errors import Code, Failure

API_VERSION = "2015-09-21"


def validate(operation: str, parameters: Any) -> None:
    """Failure(InvalidParameterException) naming the first member that breaks the model."""
    described = _model()["operations"].get(operation)
    if described is None:
        raise unknown_operation(operation)
    shape = described.get("input", {}).get("shape")
    if shape is not None:
        _check(shape, parameters, "")


def operations() -> frozenset[str]:
    """Every operation the installed model has."""
    return frozenset(_model()["operations"])


def invalid(member: str, why: str) -> Failure:
    return Failure(
        Code.INVALID_PARAMETER,
        f"Invalid parameter at '{member}' failed to satisfy constraint: '{why}'",
        parameter=member,
    )


def unknown_operation(operation: str) -> Failure:
    return Failure(Code.UNKNOWN_OPERATION, f"Operation {operation[:128]} is not supported by this registry")


@cache
def _model() -> Mapping[str, Any]:
    from botocore.loaders import Loader

    model: Mapping[str, Any] = Loader().load_service_model("ecr", "service-2", API_VERSION)
    return model


@cache
def _pattern(text: str) -> re.Pattern[str]:
    return re.compile(text, re.ASCII)


def _check(name: str, value: Any, path: str) -> None:
    shape = _model()["shapes"][name]
    kind = shape["type"]
    here = path or name
    if kind == "structure":
        _structure(shape, value, path, here)
    elif kind == "list":
        if not isinstance(value, list):
            raise invalid(here, "Member must be a list")
        _bounds(shape, len(value), here, "length")
        for index, item in enumerate(value, 1):
            _check(shape["member"]["shape"], item, f"{here}.{index}.member")
    elif kind == "map":
        if not isinstance(value, dict):
            raise invalid(here, "Member must be a map")
        for key, item in value.items():
            _check(shape["key"]["shape"], key, here)
            _check(shape["value"]["shape"], item, f"{here}.{key}")
    elif kind == "string":
        _string(shape, value, here)
    elif kind == "boolean":
        if not isinstance(value, bool):
            raise invalid(here, "Member must be a boolean")
    elif kind == "blob":
        _blob(shape, value, here)
    else:
        _number(shape, kind, value, here)


def _structure(shape: Mapping[str, Any], value: Any, path: str, here: str) -> None:
    if not isinstance(value, dict):
        raise invalid(here, "Member must be a structure")
    members = shape["members"]
    prefix = f"{path}." if path else ""
    for required in shape.get("required", ()):
        if value.get(required) is None:
            raise invalid(prefix + required, "Member must not be null")
    for member, item in value.items():
        if member not in members:
            raise invalid(f"{prefix}{member}"[:128], "Member is not known")
        if item is not None:  # null is how some clients spell absent
            _check(members[member]["shape"], item, prefix + member)


def _string(shape: Mapping[str, Any], value: Any, here: str) -> None:
    if not isinstance(value, str):
        raise invalid(here, "Member must be a string")
    _bounds(shape, len(value), here, "length")
    values = shape.get("enum")
    if values is not None and value not in values:
        raise invalid(here, f"Member must satisfy enum value set: [{', '.join(values)}]")
    pattern = shape.get("pattern")
    if pattern is not None and not _pattern(pattern).fullmatch(value):
        raise invalid(here, f"must satisfy regular expression '{pattern}'")


def _blob(shape: Mapping[str, Any], value: Any, here: str) -> None:
    if not isinstance(value, str):
        raise invalid(here, "Member must be base64 text")
    try:
        length = len(b64decode(value, validate=True))
    except ValueError as error:
        raise invalid(here, "Member must be base64 text") from error
    _bounds(shape, length, here, "length")


def _number(shape: Mapping[str, Any], kind: str, value: Any, here: str) -> None:
    whole = kind in ("integer", "long")
    if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)):
        raise invalid(here, f"Member must be {'an integer' if whole else 'a number'}")
    _bounds(shape, value, here, "value")


def _bounds(shape: Mapping[str, Any], measure: float, here: str, what: str) -> None:
    if "min" in shape and measure < shape["min"]:
        raise invalid(here, f"Member must have {what} greater than or equal to {shape['min']}")
    if "max" in shape and measure > shape["max"]:
        raise invalid(here, f"Member must have {what} less than or equal to {shape['max']}")
