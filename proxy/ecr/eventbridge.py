"""The `events` API (JSON 1.1): rules and targets of the caller's account, by which registry events go out.

    X-Amz-Target: AWSEvents.<Operation>

`json_services` reads the call; this module calls the policy evaluator (`events:<Operation>` on the rule's ARN) and the
rows. PutTargets refuses forbidden targets. Only the default event bus exists. Source: botocore's `events` model;
Service Authorization Reference, "Amazon EventBridge".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from proxy.auth.access import Access
from proxy.auth.policy.context import RequestInfo
from proxy.awsmodel import models
from proxy.ecr.errors import unknown_operation
from proxy.jobs.event_delivery import check_target
from proxy.jobs.event_targets import EventTargets
from proxy.model.errors import Code, Failure
from proxy.model.identity import Caller

Keys = dict[str, Sequence[str]]

OPERATIONS = frozenset(
    {
        "DeleteRule",
        "DescribeRule",
        "DisableRule",
        "EnableRule",
        "ListRules",
        "ListTagsForResource",
        "ListTargetsByRule",
        "PutRule",
        "PutTargets",
        "RemoveTargets",
        "TagResource",
        "TestEventPattern",
        "UntagResource",
    }
)
models.service("events")  # read before the server forks, not in the first request of each worker
_WITHOUT_RESOURCE = frozenset({"ListRules", "TestEventPattern"})


class EventBridgeRows(Protocol):
    """The part of `metadata.contract.Metadata` that this module calls."""

    async def events(self, account: str, operation: str, parameters: Mapping[str, Any]) -> dict[str, Any]: ...


class EventBridge:
    """One worker's answers."""

    def __init__(self, rows: EventBridgeRows, access: Access, targets: EventTargets, *, region: str) -> None:
        self._rows = rows
        self._access = access
        self._targets = targets
        self._region = region

    async def answer(
        self, action: str, caller: Caller, parameters: Mapping[str, Any], info: RequestInfo
    ) -> tuple[Mapping[str, Any], str]:
        """As `json_services.JsonService` has it."""
        if action not in OPERATIONS:
            raise unknown_operation(action)
        resource, keys = self._resource(action, caller.account, parameters), _condition_keys(parameters)
        await self._access.require(caller, f"events:{action}", resource, info, keys)
        if action == "PutRule" and parameters.get("Tags"):
            await self._access.require(caller, "events:TagResource", resource, info, keys)
        bus = parameters.get("EventBusName") or "default"
        if bus not in ("default", f"arn:aws:events:{self._region}:{caller.account}:event-bus/default"):
            raise Failure(Code.RESOURCE_NOT_FOUND, f"Event bus {bus} does not exist.")
        for target in parameters.get("Targets", ()):
            try:
                check_target(self._targets, target, caller.account, self._region)
            except ValueError as error:
                raise Failure(Code.VALIDATION, f"Target {target['Id']}: Arn {target['Arn'][:256]} {error}.") from None
        return await self._rows.events(caller.account, action, parameters), resource

    def _resource(self, operation: str, account: str, parameters: Mapping[str, Any]) -> str:
        if operation in _WITHOUT_RESOURCE:
            return "*"
        given: str = parameters.get("ResourceARN") or ""
        if given:
            return given
        return f"arn:aws:events:{self._region}:{account}:rule/{parameters.get('Name') or parameters.get('Rule')}"


def _condition_keys(parameters: Mapping[str, Any]) -> Keys:
    """aws:RequestTag, aws:TagKeys and events:TargetArn of what the call brings; names in lower case."""
    tags = parameters.get("Tags") or ()
    keys: Keys = {f"aws:requesttag/{tag['Key'].lower()}": (tag["Value"],) for tag in tags}
    names = tuple(tag["Key"] for tag in tags) or tuple(parameters.get("TagKeys") or ())
    if names:
        keys["aws:tagkeys"] = names
    if parameters.get("Targets"):
        keys["events:targetarn"] = tuple(target["Arn"] for target in parameters["Targets"])
    return keys
