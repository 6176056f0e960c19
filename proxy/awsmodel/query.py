"""The query protocol of `sts` and `iam`: a form in, XML out, or JSON for who wants that; led by the service's model.

    Action=CreateRole&Version=2010-05-08&RoleName=ci&Tags.member.1.Key=team&Tags.member.1.Value=a
    <CreateRoleResponse xmlns="…"><CreateRoleResult><Role>…</Role></CreateRoleResult><ResponseMetadata>…
    {"CreateRoleResponse":{"CreateRoleResult":{"Role":{…}},"ResponseMetadata":{…}}}

Bounds: 1000 fields, and list indices that follow each other from 1, so that a form cannot ask for more than it
brings. Source: the `query` protocol as botocore's `serialize.QuerySerializer` and `parsers.QueryParser` have it.
"""

from __future__ import annotations

import datetime
import json
import re
from base64 import b64encode
from collections.abc import Iterator, Mapping
from html import escape
from typing import Any
from urllib.parse import parse_qsl

from proxy.awsmodel import models
from proxy.model.errors import Code, Failure

_FIELDS = 1000
_INDEX = re.compile(r"[1-9][0-9]{0,3}", re.ASCII)
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")  # XML 1.0, 2.2


def read_form(body: bytes) -> dict[str, str]:
    """The form's fields. Failure(MalformedInput) for what is no form, has too many fields, or one twice."""
    try:
        given = body.decode("ascii")
        pairs = parse_qsl(given, keep_blank_values=True, strict_parsing=True, errors="strict", max_num_fields=_FIELDS)
    except ValueError:
        raise Failure(Code.MALFORMED_INPUT, "The request body is not a form.") from None
    form = dict(pairs)
    if len(form) != len(pairs):
        raise Failure(Code.MALFORMED_INPUT, "The form has a field twice.")
    return form


def read_action(service: str, form: Mapping[str, str]) -> str:
    """The action a form asks for: one of the model's. Failure(UnknownOperation), which is InvalidAction here."""
    action, version = form.get("Action", ""), form.get("Version", models.VERSIONS[service])
    if version != models.VERSIONS[service] or action not in models.operations(service):
        raise Failure(
            Code.UNKNOWN_OPERATION, f"Could not find operation {_shown(action)} for version {_shown(version)}."
        )
    return action


def read_parameters(service: str, action: str, form: Mapping[str, str]) -> dict[str, Any]:
    """The input of `action`, of the model's types, not yet validated. Failure(ValidationError) for what has not its
    form; fields that the model does not know are passed over, as AWS does."""
    shape = models.service(service)["operations"][action].get("input", {}).get("shape")
    tree: dict[str, Any] = {}
    for name, value in form.items():
        at = tree
        *above, last = name.split(".")
        for part in above:
            below = at.setdefault(part, {})
            if not isinstance(below, dict):
                raise _malformed(name)
            at = below
        if last in at:
            raise _malformed(name)
        at[last] = value
    found: dict[str, Any] = _read(service, shape, tree, "") if shape is not None else {}
    return found


def render(service: str, action: str, result: Mapping[str, Any], request_id: str) -> str:
    """The XML answer; members that the model does not have are a mistake of ours (KeyError)."""
    description = models.service(service)
    output = description["operations"][action].get("output")
    inner = ""
    if output is not None:
        wrapper = output.get("resultWrapper", f"{action}Result")
        inner = f"<{wrapper}>{_structure(service, output['shape'], result)}</{wrapper}>"
    return (
        f'<{action}Response xmlns="{namespace(service)}">{inner}'
        f"<ResponseMetadata><RequestId>{escape(request_id)}</RequestId></ResponseMetadata></{action}Response>"
    )


def render_json(service: str, action: str, result: Mapping[str, Any], request_id: str) -> str:
    """The same as JSON, times in epoch seconds: how AWS answers who accepts `application/json`, as the verifiers of
    pre-signed identities do (aws-iam-authenticator among them)."""
    output = models.service(service)["operations"][action].get("output")
    inner: dict[str, Any] = {}
    if output is not None:
        inner[output.get("resultWrapper", f"{action}Result")] = _plain(service, output["shape"], result)
    inner["ResponseMetadata"] = {"RequestId": request_id}
    return json.dumps({f"{action}Response": inner}, separators=(",", ":"))


def namespace(service: str) -> str:
    """The namespace of every answer of `sts` or `iam`, errors too."""
    found: str = models.service(service)["metadata"]["xmlNamespace"]
    return found


def text(value: str) -> str:
    """As XML: what XML 1.0 has no form for at all becomes a question mark."""
    # A bare carriage return would be read as a line feed.
    return escape(_NOT_XML.sub("?", value)).replace("\r", "&#13;")


def _read(service: str, name: str, tree: Any, path: str) -> Any:
    shape = models.shape(service, name)
    kind = shape["type"]
    if kind == "structure":
        _need(tree, dict, path)
        return {
            member: _read(service, of["shape"], tree[wire], f"{path}.{member}" if path else member)
            for member, of in shape["members"].items()
            if (wire := of.get("locationName", member)) in tree
        }
    if kind == "list":
        if tree == "":
            return []  # how an empty list is spelled
        _need(tree, dict, path)
        items = tree if shape.get("flattened") else tree.get(shape["member"].get("locationName", "member"), {})
        _need(items, dict, path)
        if not all(_INDEX.fullmatch(each) for each in items):
            raise _malformed(path)
        ordered = sorted(items, key=int)
        return [_read(service, shape["member"]["shape"], items[each], f"{path}.{each}.member") for each in ordered]
    if kind == "map":
        return _read_map(service, shape, tree, path)
    _need(tree, str, path)
    return _scalar(kind, tree, path)


def _read_map(service: str, shape: models.Shape, tree: Any, path: str) -> dict[str, Any]:
    """`Map.entry.1.key` and `Map.entry.1.value`."""
    _need(tree, dict, path)
    entries = tree.get("entry", {})
    _need(entries, dict, path)
    if not all(_INDEX.fullmatch(each) for each in entries):
        raise _malformed(path)
    found: dict[str, Any] = {}
    for entry in entries.values():
        if not isinstance(entry, dict) or entry.keys() != {"key", "value"}:
            raise _malformed(path)
        key = _read(service, shape["key"]["shape"], entry["key"], f"{path}.key")
        found[key] = _read(service, shape["value"]["shape"], entry["value"], f"{path}.{key}")
    return found


def _scalar(kind: str, value: str, path: str) -> Any:
    if kind == "boolean":
        if value.lower() not in ("true", "false"):
            raise _malformed(path)
        return value.lower() == "true"
    if kind in ("integer", "long"):
        if not re.fullmatch(r"[+-]?[0-9]{1,18}", value, re.ASCII):
            raise _malformed(path)
        return int(value)
    return value


def _need(tree: Any, kind: type, path: str) -> None:
    if not isinstance(tree, kind):
        raise _malformed(path)


def _malformed(path: str) -> Failure:
    return Failure(Code.MALFORMED_INPUT, f"The field {_shown(path)} has not the form that its type wants.")


def _members(service: str, name: str, value: Mapping[str, Any]) -> Iterator[tuple[str, str, Any]]:
    """Of a structure: each member's shape, its name on the wire, its value."""
    members = models.shape(service, name)["members"]
    unknown = value.keys() - members.keys()
    if unknown:
        raise KeyError(f"{name} of {service} has no member {', '.join(sorted(unknown))}")
    for member, of in members.items():
        if value.get(member) is not None:
            yield of["shape"], of.get("locationName", member), value[member]


def _plain(service: str, name: str, value: Any) -> Any:
    """What JSON says of a value."""
    shape = models.shape(service, name)
    kind = shape["type"]
    if kind == "structure":
        return {wire: _plain(service, of, each) for of, wire, each in _members(service, name, value)}
    if kind == "list":
        return [_plain(service, shape["member"]["shape"], each) for each in value]
    if kind == "map":
        return {key: _plain(service, shape["value"]["shape"], each) for key, each in value.items()}
    return b64encode(value).decode() if kind == "blob" else value


def _structure(service: str, name: str, value: Mapping[str, Any]) -> str:
    return "".join(_element(service, of, tag, each) for of, tag, each in _members(service, name, value))


def _element(service: str, name: str, tag: str, value: Any) -> str:
    shape = models.shape(service, name)
    kind = shape["type"]
    if kind == "structure":
        inner = _structure(service, name, value)
    elif kind == "list":
        item = shape["member"].get("locationName", "member")
        inner = "".join(_element(service, shape["member"]["shape"], item, each) for each in value)
    elif kind == "map":
        entries = (
            f"<entry>{_element(service, shape['key']['shape'], 'key', key)}"
            f"{_element(service, shape['value']['shape'], 'value', item)}</entry>"
            for key, item in value.items()
        )
        inner = "".join(entries)
    elif kind == "boolean":
        inner = "true" if value else "false"
    elif kind == "timestamp":
        moment = datetime.datetime.fromtimestamp(int(value), datetime.UTC)
        inner = moment.strftime("%Y-%m-%dT%H:%M:%SZ")
    elif kind == "blob":
        inner = b64encode(value).decode()
    else:
        inner = text(str(value))
    return f"<{tag}>{inner}</{tag}>"


def _shown(name: str) -> str:
    """Only what may stand in XML and is short is said back."""
    return name if re.fullmatch(r"[A-Za-z0-9._-]{1,64}", name, re.ASCII) else "(not a name)"
