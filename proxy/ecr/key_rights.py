"""Which KMS keys a caller may name for repositories: those that the operator allows, and those of its own account.

The server calls KMS with its own credentials (`blob.kms_keys`). Without this check, any caller that may create a
repository could use every key that the server may use, another tenant's too, and find out which keys exist. Any caller
may name a key that `[keys] allowed` lists. Any other key requires that the caller's own policies allow ACTIONS on the
key's ARN, as ECR requires it. Policies of one account never grant a key of another account, whose number is part of the
key's ARN. An explicit deny wins over both.

`repository_keys` calls it for CreateRepository and creation templates, only where a key is named: the server's own key
requires no permission. Source: ECR User Guide, "Encryption at rest", "Required IAM permissions".
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from proxy.auth.access import Access
from proxy.ecr.parameters import Ask
from proxy.model.errors import Code, Failure

ACTIONS = ("kms:CreateGrant", "kms:RetireGrant", "kms:DescribeKey")

_KEY_ARN = re.compile(r"arn:aws[a-z0-9-]*:kms:[a-z0-9-]+:[0-9]{12}:key/[A-Za-z0-9-]{1,256}", re.ASCII)


def is_key_arn(name: str) -> bool:
    """Whether it names one key, of one account, by nothing but its ARN: an id or an alias does not."""
    return _KEY_ARN.fullmatch(name) is not None


class KeyRights:
    """One worker's. `allowed` as in `[keys] allowed`: ARNs, `alias/NAME`; `*` is any letters but a colon."""

    def __init__(self, access: Access, allowed: Sequence[str] = ()) -> None:
        self._access = access
        self._allowed = [re.compile(re.escape(each).replace(r"\*", "[^:]*")) for each in allowed]

    async def require(self, ask: Ask, arn: str, name: str) -> None:
        """AccessDenied unless the caller may use the key of that ARN, which it named as `name`."""
        is_allowed = any(each.fullmatch(arn) or each.fullmatch(name) for each in self._allowed)
        keys = {"kms:viaservice": (f"ecr.{ask.region}.amazonaws.com",), "kms:calleraccount": (ask.caller.account,)}
        for action in ACTIONS:
            decision = await self._access.decide(ask.caller, action, arn, ask.info, keys)
            if decision.explicit or not (is_allowed or decision.allowed):
                raise Failure(Code.ACCESS_DENIED, decision.message if name == arn else _refusal(ask, name))

    async def require_unknown(self, ask: Ask, name: str) -> None:
        """AccessDenied unless the caller's policies would allow a key of that id or alias. Call it before reporting
        that KMS refused the name, so that a caller without permissions does not learn which keys exist."""
        kind = "" if name.startswith("alias/") else "key/"
        await self.require(ask, f"arn:aws:kms:{ask.region}:{ask.caller.account}:{kind}{name}", name)


def _refusal(ask: Ask, name: str) -> str:
    """The same sentence for every reason, so that it reveals neither the key's ARN nor whether the name is a key's."""
    return f"User: {ask.caller.arn} is not authorized to perform: {ACTIONS[0]} on resource: {name}"
