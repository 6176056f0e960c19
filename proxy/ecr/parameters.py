"""A JSON 1.1 body as parameters, and the resources that a policy is asked about.

Reads only what the door itself must know before it forwards: that the body is one JSON object of sound text, that
`registryId` is ours, which repositories are named. All the rest is validated against the API model where rows are.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from proxy.ecr.errors import not_readable
from proxy.model.errors import Code, Failure
from proxy.model.identity import Principal
from proxy.model.names import repository_arn

DEPTH_MAX = 64  # the deepest input of the API model has 7 levels; whoever encodes it again must not run out of stack


@dataclass(frozen=True, slots=True)
class Ask:
    """One call of an operation: who asks what of which registry."""

    principal: Principal
    operation: str
    parameters: Mapping[str, Any]
    account: str
    region: str


def read_parameters(body: bytes) -> dict[str, Any]:
    """One JSON object (an empty body is an empty one); Unreadable otherwise."""
    if not body:
        return {}
    try:
        parameters = json.loads(body.decode("utf-8"), parse_constant=_no_constant)
        if b"\\u" in body:
            _check_text(parameters)
        deep = body.count(b"{") + body.count(b"[") > DEPTH_MAX and _is_deeper(parameters, DEPTH_MAX)
    except RecursionError:
        raise not_readable("The request body is nested too deeply.") from None
    except ValueError:  # also UnicodeError, and numbers of thousands of digits
        raise not_readable("The request body is not valid JSON.") from None
    if deep:
        raise not_readable("The request body is nested too deeply.")
    if not isinstance(parameters, dict):
        raise not_readable("The request body is not a JSON object.")
    return parameters


def check_registry(registry_id: object, account: str, name: str = "registryId") -> None:
    """InvalidParameter unless it is absent or the account of this registry."""
    if registry_id is None or registry_id == account:
        return
    if not isinstance(registry_id, str):
        raise invalid(name, "Member must be a string")
    raise invalid(name, f"This server holds the registry with id {account} only")


def named_repository(ask: Ask) -> Sequence[str]:
    """The ARN of `repositoryName`."""
    return (_arn(ask, ask.parameters.get("repositoryName"), "repositoryName"),)


def listed_repositories(ask: Ask) -> Sequence[str]:
    """The ARNs of `repositoryNames`; of all repositories when none is named."""
    names = ask.parameters.get("repositoryNames")
    if names is None:
        return (repository_arn(ask.region, ask.account, "*"),)
    if not isinstance(names, list) or not 1 <= len(names) <= 100:
        raise invalid("repositoryNames", "Member must be a list of 1 to 100 names")
    return tuple(_arn(ask, name, "repositoryNames") for name in names)


def whole_registry(ask: Ask) -> Sequence[str]:
    """For actions that have no resource type."""
    return ("*",)


def invalid(name: str, why: str) -> Failure:
    """ECR's sentence for a parameter that will not do."""
    return Failure(Code.INVALID_PARAMETER, f"Invalid parameter at '{name}' failed to satisfy constraint: '{why}'")


def _arn(ask: Ask, name: object, parameter: str) -> str:
    if name is None:
        raise invalid(parameter, "Member must not be null")
    if not isinstance(name, str):
        raise invalid(parameter, "Member must be a string")
    # A name with wildcards would ask the policy about other repositories than it reads.
    if "*" in name or "?" in name or len(name) > 256:
        raise invalid(parameter, "Member must be a repository name")
    return repository_arn(ask.region, ask.account, name)


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _is_deeper(value: object, levels: int) -> bool:
    """Level by level, without recursion."""
    level = [value]
    for _ in range(levels):
        level = [
            inner
            for each in level
            if isinstance(each, (dict, list))
            for inner in (each.values() if isinstance(each, dict) else each)
        ]
    return any(isinstance(each, (dict, list)) for each in level)


def _check_text(value: object) -> None:
    """Lone surrogates are no text: they could be neither stored nor sent on."""
    json.dumps(value, ensure_ascii=False).encode("utf-8")
