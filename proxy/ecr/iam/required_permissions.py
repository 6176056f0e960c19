"""The permissions that an IAM call requires: ARNs, and condition keys of entity and request. Called by `calls`.

An existing entity is checked under its own ARN with its path, in whatever case the request has it; a missing one under
the ARN without a path, so that only callers that could see it learn that it is missing. An OIDC provider's ARN has its
URL without the scheme.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from proxy.ecr.iam.actions import EntityKind, IamAction
from proxy.model.identity import IamResource

FindResource = Callable[[str, str, str], Awaitable[IamResource | None]]
"""By account, kind, and name or ARN: `metadata.contract.Metadata.iam_resource`."""

ConditionKeys = Mapping[str, Sequence[str]]

_BY_ARN = frozenset({EntityKind.POLICY, EntityKind.PROVIDER, EntityKind.SOURCE})
_TAGGED_TWICE = frozenset({EntityKind.USER, EntityKind.ROLE})  # that have iam:ResourceTag/… besides aws:ResourceTag/…


@dataclass(frozen=True, slots=True)
class RequiredPermission:
    """An action that must be allowed on a resource. `keys` are in lower case."""

    action: str
    resource: str
    keys: ConditionKeys


async def required_permissions(
    find: FindResource, account: str, name: str, action: IamAction, parameters: Mapping[str, Any]
) -> list[RequiredPermission]:
    """The permissions for the call `name` on entities of `account`."""
    keys = _request_keys(action, parameters)
    if action.kind is EntityKind.NONE:
        return [RequiredPermission(f"iam:{name}", "*", keys)]
    if not action.parameter:
        return [RequiredPermission(f"iam:{name}", _arn(account, action.kind, parameters.get("PathPrefix", "/")), keys)]
    if action.own and action.parameter not in parameters:
        return [RequiredPermission(f"iam:{name}", f"arn:aws:iam::{account}:root", keys)]
    given = str(parameters[action.parameter])
    if action.makes:
        resource = _made(account, action.kind, given, parameters)
        asked = [RequiredPermission(f"iam:{name}", resource, keys)]
        if action.tagging and parameters.get("Tags"):
            asked.append(RequiredPermission(f"iam:{action.tagging}", resource, keys))
        return asked
    found = await find(account, action.kind.value, given)
    resource = _named(account, action.kind, given) if found is None else found.arn
    if found is not None:
        keys = {**_resource_keys(action, found), **keys}
    asked = [RequiredPermission(f"iam:{name}", resource, keys)]
    if action.renames:
        renamed = _renamed(resource, action, parameters)
        if renamed != resource:
            asked.append(RequiredPermission(f"iam:{name}", renamed, keys))
    return asked


def _request_keys(action: IamAction, parameters: Mapping[str, Any]) -> dict[str, Sequence[str]]:
    """The condition keys from the call's own parameters."""
    keys: dict[str, Sequence[str]] = {}
    tags = parameters.get("Tags")
    if tags:
        keys.update({f"aws:requesttag/{tag['Key'].lower()}": (tag["Value"],) for tag in tags})
        keys["aws:tagkeys"] = tuple(tag["Key"] for tag in tags)
    elif parameters.get("TagKeys"):
        keys["aws:tagkeys"] = tuple(parameters["TagKeys"])
    if action.kind in (EntityKind.USER, EntityKind.GROUP, EntityKind.ROLE) and "PolicyArn" in parameters:
        keys["iam:policyarn"] = (parameters["PolicyArn"],)
    if "AWSServiceName" in parameters:
        keys["iam:awsservicename"] = (parameters["AWSServiceName"],)
    if action.bounded and "PermissionsBoundary" in parameters:
        keys["iam:permissionsboundary"] = (parameters["PermissionsBoundary"],)
    return keys


def _resource_keys(action: IamAction, found: IamResource) -> dict[str, Sequence[str]]:
    prefixes = ("aws", "iam") if action.kind in _TAGGED_TWICE else ("aws",)
    keys: dict[str, Sequence[str]] = {
        f"{prefix}:resourcetag/{key.lower()}": (value,) for prefix in prefixes for key, value in found.tags
    }
    if action.bounded and found.boundary_arn:
        keys["iam:permissionsboundary"] = (found.boundary_arn,)
    return keys


def _made(account: str, kind: EntityKind, given: str, parameters: Mapping[str, Any]) -> str:
    if kind is EntityKind.PROVIDER:
        return _arn(account, kind, "/") + (given.partition("://")[2] or given)
    if "AWSServiceName" in parameters:
        return _arn(account, kind, f"/aws-service-role/{given}/AWSServiceRoleFor")
    return _arn(account, kind, parameters.get("Path", "/")) + given


def _named(account: str, kind: EntityKind, given: str) -> str:
    """The ARN of a missing entity."""
    if kind in _BY_ARN:
        return given
    if kind is EntityKind.ACCESS_KEY:
        return _arn(account, EntityKind.USER, "/") + "*"
    return _arn(account, kind, "/") + given


def _renamed(resource: str, action: IamAction, parameters: Mapping[str, Any]) -> str:
    head, _, rest = resource.partition("/")
    path, _, name = rest.rpartition("/")
    new_path = parameters.get("NewPath", f"/{path}/" if path else "/")
    return f"{head}{new_path}{parameters.get(f'New{action.parameter}', name)}"


def _arn(account: str, kind: EntityKind, path: str) -> str:
    return f"arn:aws:iam::{account}:{kind}{path}"
