"""STS, as far as a registry needs it: `aws sts get-caller-identity`, which tools call before anything else.

GetCallerIdentity needs no permission, a good signature is enough. Every other action answers InvalidAction.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from proxy.auth.policy.context import RequestFacts
from proxy.model.errors import Code, Failure
from proxy.model.identity import Caller


class Sts:
    async def answer(
        self, action: str, caller: Caller | None, parameters: Mapping[str, Any], facts: RequestFacts
    ) -> Mapping[str, Any]:
        if action != "GetCallerIdentity" or caller is None:
            raise not_served(action)
        return {"Arn": caller.arn, "UserId": caller.user_id, "Account": caller.account}


class NoIam:
    """Until there is one."""

    async def answer(
        self, action: str, caller: Caller, parameters: Mapping[str, Any], facts: RequestFacts
    ) -> Mapping[str, Any]:
        raise not_served(action)


def not_served(action: str) -> Failure:
    return Failure(Code.UNKNOWN_OPERATION, f"The action {action} is not supported by this server.")
