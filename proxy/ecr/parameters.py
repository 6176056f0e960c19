"""Reads a JSON 1.1 body's parameters, and the resources and condition keys that policies decide about.

Checks only what is needed before a call is forwarded: that the body is one JSON object of valid text, its registry, and
the repositories and tags that it names. The metadata service validates the rest against the API model. Used by
`routes`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from proxy.auth.policy.context import RequestInfo
from proxy.awsmodel.validation import invalid
from proxy.ecr.errors import not_readable
from proxy.model.errors import Code, Failure
from proxy.model.identity import Caller
from proxy.model.names import repository_arn

DEPTH_MAX = 64  # the API model's deepest input has 7 levels; encoding must not overflow the stack

Keys = Mapping[str, Sequence[str]]
"""Condition keys of this request alone, in lower case."""

# Source: ECR User Guide, "IAM permissions for creating repository creation templates".
_BY_TEMPLATE = {
    "": "ecr:CreateRepository",
    "repositoryPolicy": "ecr:SetRepositoryPolicy",
    "lifecyclePolicy": "ecr:PutLifecyclePolicy",
    "resourceTags": "ecr:TagResource",
}
_ACCOUNT = re.compile(r"[0-9]{12}", re.ASCII)
_REPOSITORY_ARN = re.compile(r"arn:aws:ecr:([a-z0-9-]+):([0-9]{12}):repository/([^*?\s]{1,256})", re.ASCII)


@dataclass(frozen=True, slots=True)
class Ask:
    """One call: caller, operation, parameters, and the `account` of its registry, perhaps not the caller's."""

    caller: Caller
    operation: str
    parameters: Mapping[str, Any]
    account: str
    region: str
    info: RequestInfo


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


# ---- whose registry -----------------------------------------------------------------------------------------------


def own_registry(parameters: Mapping[str, Any], caller: Caller) -> str:
    """For operations that know no `registryId`."""
    return caller.account


def given_registry(parameters: Mapping[str, Any], caller: Caller) -> str:
    """`registryId`, by default the caller's own."""
    registry_id = parameters.get("registryId")
    return caller.account if registry_id is None else check_registry(registry_id, "registryId")


def none_but_own(parameters: Mapping[str, Any], caller: Caller) -> str:
    """`registryId`, if given, must be the caller's own: no resource policy could allow another."""
    account = given_registry(parameters, caller)
    if account != caller.account:
        raise Failure(
            Code.ACCESS_DENIED,
            f"User: {caller.arn} is not authorized to perform this operation on the registry with id '{account}'",
        )
    return account


def registry_of_arn(parameters: Mapping[str, Any], caller: Caller) -> str:
    """The account in `resourceArn`."""
    return _parse_arn(parameters)[2]


def check_registry(registry_id: object, name: str) -> str:
    """InvalidParameter unless it has the form of an account id. It does not reveal whether the account exists."""
    if not isinstance(registry_id, str):
        raise invalid(name, "Member must be a string")
    if not _ACCOUNT.fullmatch(registry_id):
        raise invalid(name, "must satisfy regular expression '[0-9]{12}'")
    return registry_id


# ---- on what ------------------------------------------------------------------------------------------------------


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


def tagged_repository(ask: Ask) -> Sequence[str]:
    """`resourceArn` itself. One of another region is refused."""
    arn, region, _ = _parse_arn(ask.parameters)
    if region != ask.region:
        raise invalid("resourceArn", "Invalid ARN")
    return (arn,)


# ---- with which condition keys ------------------------------------------------------------------------------------


def no_keys(ask: Ask) -> Keys:
    return {}


def given_tags(ask: Ask) -> Keys:
    """aws:RequestTag/… and aws:TagKeys of well-formed tags; the operation refuses others."""
    tags = [
        (tag["Key"], tag["Value"])
        for member in ("tags", "resourceTags")
        for tag in _list(ask.parameters.get(member))
        if isinstance(tag, dict) and isinstance(tag.get("Key"), str) and isinstance(tag.get("Value"), str)
    ]
    if not tags:
        return {}
    keys: dict[str, Sequence[str]] = {f"aws:requesttag/{key.lower()}": (value,) for key, value in tags}
    return keys | {"aws:tagkeys": tuple(key for key, _ in tags)}


def given_tag_keys(ask: Ask) -> Keys:
    keys = tuple(key for key in _list(ask.parameters.get("tagKeys")) if isinstance(key, str))
    return {"aws:tagkeys": keys} if keys else {}


def given_setting(ask: Ask) -> Keys:
    name = ask.parameters.get("name")
    return {"ecr:accountsetting": (name,)} if isinstance(name, str) else {}


# ---- and what else ------------------------------------------------------------------------------------------------


def no_permissions(ask: Ask) -> Sequence[tuple[str, str]]:
    return ()


def tagging(ask: Ask) -> Sequence[tuple[str, str]]:
    """Creating a repository with tags also requires permission to tag it."""
    return [("ecr:TagResource", arn) for arn in named_repository(ask)] if ask.parameters.get("tags") else ()


def making_by_template(ask: Ask) -> Sequence[tuple[str, str]]:
    """A template requires permission to create such repositories under its whole prefix."""
    prefix = ask.parameters.get("prefix")
    if not isinstance(prefix, str) or "*" in prefix or "?" in prefix:
        raise invalid("prefix", "Member must be a prefix of repository names")
    below = "*" if prefix == "ROOT" else prefix.rstrip("/") + "/*"
    actions = [action for member, action in _BY_TEMPLATE.items() if not member or ask.parameters.get(member)]
    return [(action, repository_arn(ask.region, ask.account, below)) for action in actions]


# ---- what the answer says again -----------------------------------------------------------------------------------


def no_echo(ask: Ask, found: Mapping[str, Any]) -> Mapping[str, Any]:
    return found


def given_manifest(ask: Ask, found: Mapping[str, Any]) -> Mapping[str, Any]:
    """PutImage's manifest, which the rows' answer omits."""
    return {"image": {**found["image"], "imageManifest": ask.parameters["imageManifest"]}}


def _list(value: object) -> Sequence[Any]:
    return value if isinstance(value, list) else ()


def _parse_arn(parameters: Mapping[str, Any]) -> tuple[str, str, str]:
    """`resourceArn`, with its region and account."""
    arn = parameters.get("resourceArn")
    if arn is None:
        raise invalid("resourceArn", "Member must not be null")
    found = _REPOSITORY_ARN.fullmatch(arn) if isinstance(arn, str) else None
    if found is None:
        raise invalid("resourceArn", "Invalid ARN")
    return found[0], found[1], found[2]


def _arn(ask: Ask, name: object, parameter: str) -> str:
    if name is None:
        raise invalid(parameter, "Member must not be null")
    if not isinstance(name, str):
        raise invalid(parameter, "Member must be a string")
    # A name with wildcards would make the policy decide about other repositories than the one that is read.
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
    """Refuses lone surrogates, which could be neither stored nor forwarded."""
    json.dumps(value, ensure_ascii=False).encode("utf-8")
