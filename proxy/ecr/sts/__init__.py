"""STS: the caller's identity, and temporary credentials. Called by `ecr.query`.

    session_request    the session that a request describes, checked against STS's limits
    assume             assuming a role, by a caller or with a web identity
    issuers            the keys of OpenID Connect issuers

`auth.sessions` defines a session and seals its token. The operations of `SERVED` are served; every other one of the
model is an InvalidAction: SAML and AWS's own web identities are not supported, federated users could do nothing that a
role's session cannot, and denials are not encoded. May import `auth`, `awsmodel` and, of `ecr`, `last_use`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from proxy.auth.access import Access
from proxy.auth.policy.context import RequestInfo
from proxy.auth.revocation import issue_time
from proxy.auth.sessions import Sessions, reaches
from proxy.awsmodel.validation import invalid_value
from proxy.ecr.last_use import LastUses
from proxy.ecr.sts import assume
from proxy.ecr.sts.issuers import Issuers
from proxy.ecr.sts.session_request import refuse_mfa
from proxy.model.errors import Code, Failure
from proxy.model.identity import AccessKey, Caller, PrincipalKind, Session, SessionKind

SERVED = frozenset(
    {"AssumeRole", "AssumeRoleWithWebIdentity", "GetAccessKeyInfo", "GetCallerIdentity", "GetSessionToken"}
)
"""All actions that `Sts.answer` has an answer for. GetCallerIdentity and GetSessionToken need no permission."""

USER_SECONDS = 43_200
ROOT_SECONDS = 3600


class StsLookups(assume.RoleLookups, Protocol):
    """The part of `metadata.contract.Metadata` that STS needs."""

    async def access_key(self, access_key_id: str) -> AccessKey | None: ...

    async def note_role_use(self, principal_id: str, at: float, region: str) -> None: ...


class Sts:
    """One worker's STS."""

    def __init__(
        self, lookups: StsLookups, sessions: Sessions, access: Access, issuers: Issuers, clock: Callable[[], float]
    ) -> None:
        """`clock` returns epoch seconds."""
        self._lookups = lookups
        self._sessions = sessions
        self._access = access
        self._uses = LastUses(lookups.note_role_use, clock)
        self._assuming = assume.Assuming(lookups, sessions, issuers, self._uses)

    async def answer(
        self, action: str, caller: Caller | None, parameters: Mapping[str, Any], info: RequestInfo
    ) -> Mapping[str, Any]:
        """The model's output for an input that was validated against the model; Failure otherwise.

        `caller` is None for an unsigned request.
        """
        if action == "AssumeRoleWithWebIdentity":
            return await self._assuming.by_web_identity(parameters, info)
        if caller is None:
            raise Failure(Code.ACCESS_DENIED, f"The request for {action} must be signed.")
        if action == "GetCallerIdentity":
            return {"UserId": caller.user_id, "Account": caller.account, "Arn": caller.arn}
        if not reaches(caller.session, "sts", action):
            raise Failure(Code.ACCESS_DENIED, f"Cannot call {action} with session credentials")
        if action == "GetSessionToken":
            return self._session_token(caller, parameters, info)
        if action == "AssumeRole":
            return await self._assuming.by_caller(caller, parameters, info)
        if action == "GetAccessKeyInfo":
            return await self._access_key_info(caller, parameters["AccessKeyId"], info)
        raise Failure(Code.UNKNOWN_OPERATION, f"The operation {action} is not supported by this registry.")

    async def idle(self) -> None:
        """Wait until all last uses of roles have been written, or could not be."""
        await self._uses.idle()

    def _session_token(self, caller: Caller, parameters: Mapping[str, Any], info: RequestInfo) -> Mapping[str, Any]:
        """No permission is needed. The session has all rights of its user; a root's ends within an hour."""
        refuse_mfa(parameters)
        seconds: int = parameters.get("DurationSeconds") or USER_SECONDS
        if caller.principal.kind is PrincipalKind.ROOT:
            seconds = min(seconds, ROOT_SECONDS)
        session = Session(SessionKind.USER, "", issue_time(caller.principal, info.now), int(info.now) + seconds)
        return {"Credentials": assume.wire_credentials(self._sessions.issue(caller.principal, session))}

    async def _access_key_info(self, caller: Caller, access_key_id: str, info: RequestInfo) -> Mapping[str, Any]:
        """For long-lived keys only: a temporary key's account is only in its token."""
        await self._access.require(caller, "sts:GetAccessKeyInfo", "*", info)
        found = await self._lookups.access_key(access_key_id)
        if found is None:
            raise invalid_value("accessKeyId", access_key_id, "Member must be a long-lived access key that is active")
        return {"Account": found.principal.account}
