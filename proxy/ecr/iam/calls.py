"""One call of IAM: checks permission, then calls the metadata service. Called by `ecr.query`.

A call works on the caller's account: an ARN of another one finds nothing. The secret of a new access key is made and
sealed here; it is returned once, in this response.
"""

from __future__ import annotations

import base64
import secrets
from collections.abc import Mapping
from typing import Any, Protocol

from proxy.auth.access import Access
from proxy.auth.envelope import SmallSealer
from proxy.auth.policy.context import RequestInfo
from proxy.auth.secrets import seal_secret
from proxy.ecr.iam.actions import ACTIONS
from proxy.ecr.iam.required_permissions import required_permissions
from proxy.model.errors import Code, Failure
from proxy.model.identity import Caller, IamResource, PrincipalKind, SessionKind

_ID_ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"
_SECRET_BYTES = 30  # 40 characters of base64, as AWS's own


class Rows(Protocol):
    """The part of `metadata.contract.Metadata` that IAM needs."""

    async def iam(self, account: str, operation: str, parameters: Mapping[str, Any]) -> dict[str, Any]: ...

    async def iam_resource(self, account: str, kind: str, name: str) -> IamResource | None: ...

    async def create_access_key(
        self, account: str, user_name: str | None, access_key_id: str, sealed_secret: bytes
    ) -> dict[str, Any]: ...


class Iam:
    """One worker's IAM. `sealer` is for `auth.secrets.PURPOSE`."""

    def __init__(self, rows: Rows, access: Access, sealer: SmallSealer) -> None:
        self._rows = rows
        self._access = access
        self._sealer = sealer

    async def answer(
        self, action: str, caller: Caller, parameters: Mapping[str, Any], info: RequestInfo
    ) -> Mapping[str, Any]:
        """The output of `action`, whose `parameters` have been validated against the model.

        Failure: UnknownOperation if it is not served, AccessDenied, and failures of the metadata service."""
        described = ACTIONS.get(action)
        if described is None:
            raise Failure(
                Code.UNKNOWN_OPERATION, f"The action {action} is not served here.", hint="see proxy/ecr/iam/actions.py"
            )
        _refuse_session_tokens(caller, action)
        if described.own and "UserName" not in parameters and caller.principal.kind is not PrincipalKind.ROOT:
            parameters = {**parameters, "UserName": _own_name(caller)}
        for asked in await required_permissions(self._rows.iam_resource, caller.account, action, described, parameters):
            await self._access.require(caller, asked.action, asked.resource, info, asked.keys)
        if action == "CreateAccessKey":
            return await self._create_access_key(caller.account, parameters.get("UserName"))
        return await self._rows.iam(caller.account, action, parameters)

    async def _create_access_key(self, account: str, user_name: str | None) -> Mapping[str, Any]:
        access_key_id = "AKIA" + "".join(secrets.choice(_ID_ALPHABET) for _ in range(16))
        secret = base64.b64encode(secrets.token_bytes(_SECRET_BYTES)).decode("ascii")
        sealed = seal_secret(self._sealer, access_key_id, secret)
        made = await self._rows.create_access_key(account, user_name, access_key_id, sealed)
        return {"AccessKey": {**made["AccessKey"], "SecretAccessKey": secret}}


def _refuse_session_tokens(caller: Caller, action: str) -> None:
    """Credentials of GetSessionToken may not call IAM, unless they were given for a second factor."""
    session = caller.session
    if session is not None and session.kind is SessionKind.USER and not session.mfa:
        raise Failure(
            Code.ACCESS_DENIED,
            f"User: {caller.arn} is not authorized to perform: iam:{action} with credentials of GetSessionToken",
            hint="use the access key itself, or a role's session",
        )


def _own_name(caller: Caller) -> str:
    if caller.principal.kind is not PrincipalKind.USER:
        raise Failure(Code.VALIDATION_ERROR, "Must specify userName when calling with non-User credentials")
    return caller.principal.name
