"""Answers of the three APIs against botocore's output shapes, stricter than any client.

Clients drop what they do not know and forgive what is missing: here every element is a member of its shape, every value
of its type, and what AWS always sends (`required_members`) is there. `read` takes an answer off the wire as its service
writes it; `check` is for the answer itself, which rows and doors hand on as mappings; `declared` are the errors that an
operation's model names.
"""

from __future__ import annotations

import datetime
import json
import re
from base64 import b64decode
from collections.abc import Mapping
from functools import cache
from typing import Any
from xml.etree import ElementTree

from proxy.awsmodel import models
from support.required_members import ALWAYS, BESIDES

_TYPES: Mapping[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "long": (int,),
    "boolean": (bool,),
    "timestamp": (int, float),
    "list": (list, tuple),
    "map": (dict,),
    "structure": (dict,),
    "blob": (bytes,),
}

_SENT_OTHERWISE: Mapping[str, tuple[str, ...]] = {"PermissionsBoundaryAttachmentType": ("Policy",)}
"""Where AWS's documents and answers have another word than the model."""

_MOMENT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", re.ASCII)


def read(service: str, operation: str, body: bytes) -> Mapping[str, Any]:
    """What the body of a successful answer says, checked. AssertionError where a client could be misled."""
    said: Mapping[str, Any]
    if service == "ecr":
        said = json.loads(body)
        assert isinstance(said, dict), f"{operation} answers an object"
    else:
        said = _read_xml(service, operation, body)
    check(service, operation, said)
    return said


def check(service: str, operation: str, answer: Mapping[str, Any]) -> None:
    """AssertionError where `answer` is not what a client of `operation` may rely on."""
    output = models.service(service)["operations"][operation].get("output")
    if output is None:
        assert answer == {}, f"{operation} has no output"
        return
    if "IsTruncated" in models.shape(service, output["shape"])["members"]:
        assert "IsTruncated" in answer, f"{operation} says whether there is more"
        assert ("Marker" in answer) == answer["IsTruncated"], f"{operation} has a Marker where there is more"
    _check(service, output["shape"], answer, operation)
    for path in BESIDES[service].get(operation, ()):
        value: Any = answer
        for part in path.split("."):
            assert part in value, f"{operation} sends {path}"
            value = value[part]


@cache
def declared(service: str, operation: str) -> frozenset[str]:
    """The codes of the errors that the model names for an operation."""
    shapes = [each["shape"] for each in models.service(service)["operations"][operation].get("errors", ())]
    return frozenset(str(models.shape(service, name).get("error", {}).get("code", name)) for name in shapes)


def _check(service: str, name: str, value: Any, path: str) -> None:
    shape = models.shape(service, name)
    kind = shape["type"]
    fits = isinstance(value, _TYPES[kind]) and (kind == "boolean" or not isinstance(value, bool))
    assert fits, f"{path} is a {kind}"
    if kind == "structure":
        unknown = value.keys() - shape["members"].keys()
        assert not unknown, f"{path} has no {unknown}"
        missing = {*shape.get("required", ()), *ALWAYS[service].get(name, ())} - value.keys()
        assert not missing, f"{path} has {missing}"
        for member, inner in value.items():
            _check(service, shape["members"][member]["shape"], inner, f"{path}.{member}")
    elif kind == "list":
        for inner in value:
            _check(service, shape["member"]["shape"], inner, f"{path}[]")
    elif kind == "map":
        for key, inner in value.items():
            _check(service, shape["key"]["shape"], key, f"{path} key")
            _check(service, shape["value"]["shape"], inner, f"{path}.{key}")
    elif kind == "string":
        assert shape.get("min", 0) <= len(value) <= shape.get("max", len(value)), f"{path} {value!r} fits its bounds"
        allowed = _SENT_OTHERWISE.get(name, shape.get("enum", (value,)))
        assert value in allowed, f"{path} {value!r} is of {shape.get('enum')}"


# ---- off the wire -------------------------------------------------------------------------------------------------


def _read_xml(service: str, operation: str, body: bytes) -> Mapping[str, Any]:
    description = models.service(service)
    space = f"{{{description['metadata']['xmlNamespace']}}}"
    root = ElementTree.fromstring(body)  # noqa: S314  # our own answer
    assert root.tag == f"{space}{operation}Response", root.tag
    output = description["operations"][operation].get("output")
    wanted = [*([f"{space}{output.get('resultWrapper')}"] if output else []), f"{space}ResponseMetadata"]
    assert [child.tag for child in root] == wanted, f"{operation} has {[child.tag for child in root]}"
    assert root[-1][0].tag == f"{space}RequestId", "the answer has a request id"
    assert root[-1][0].text, "the request id is not empty"
    found: Mapping[str, Any] = _read(service, output["shape"], root[0], space) if output else {}
    return found


def _read(service: str, name: str, element: ElementTree.Element, space: str) -> Any:
    shape = models.shape(service, name)
    kind, text = shape["type"], element.text or ""
    if kind == "structure":
        members = {of.get("locationName", member): (member, of["shape"]) for member, of in shape["members"].items()}
        found: dict[str, Any] = {}
        for child in element:
            tag = child.tag.removeprefix(space)
            assert tag in members, f"{name} has no member {tag}"
            member, of = members[tag]
            assert member not in found, f"{name} has {member} once"
            found[member] = _read(service, of, child, space)
        return found
    if kind == "list":
        item = space + shape["member"].get("locationName", "member")
        assert all(child.tag == item for child in element), f"{name} holds {item}"
        return [_read(service, shape["member"]["shape"], child, space) for child in element]
    if kind == "map":
        return {
            _read(service, shape["key"]["shape"], key, space): _read(service, shape["value"]["shape"], value, space)
            for key, value in element
        }
    assert not len(element), f"{name} is a {kind}"
    if kind == "boolean":
        return {"true": True, "false": False}[text]
    if kind in ("integer", "long"):
        return int(text)
    if kind == "timestamp":
        assert _MOMENT.fullmatch(text), f"{text} is a moment as AWS writes it"
        return datetime.datetime.fromisoformat(text).timestamp()
    return b64decode(text, validate=True) if kind == "blob" else text
