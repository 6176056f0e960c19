"""Assumes a role: for a caller that its trust policy allows, or with a token of an OpenID Connect issuer.

The order of checks reveals nothing of a role to a caller that may not assume it: the request's form; trust; the
session's duration and limits. A missing role is denied with the same text as one that may not be assumed.
Sources: STS API Reference, "AssumeRole", "AssumeRoleWithWebIdentity"; IAM User Guide, "Roles terms and concepts".
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from proxy import observe
from proxy.auth.policy.context import RequestInfo, request_context
from proxy.auth.policy.trust import decide_trust
from proxy.auth.revocation import issue_time
from proxy.auth.sessions import Sessions, TemporaryCredentials
from proxy.auth.web_identity import WebIdentity, admit, read_token, session_keys, trust_keys, verify_token
from proxy.awsmodel.validation import validate
from proxy.ecr.last_use import LastUses
from proxy.ecr.sts.issuers import Issuers
from proxy.ecr.sts.session_request import SessionRequest, read_session_request, refuse_mfa, role_seconds
from proxy.model.errors import Code, Failure
from proxy.model.identity import (
    AttachedPolicy,
    Caller,
    OidcProvider,
    PrincipalKind,
    Role,
    Session,
    SessionKind,
    Tags,
)

_ROLE_ARN = re.compile(r"arn:aws:iam::(\d{12}):role/(?:[\x21-\x7e]+/)?([\w+=,.@-]{1,64})", re.ASCII)
WEB_IDENTITY_DENIED = "Not authorized to perform sts:AssumeRoleWithWebIdentity"


class RoleLookups(Protocol):
    """The part of `metadata.contract.Metadata` that assuming a role needs."""

    async def role(self, account: str, name: str) -> Role | None: ...

    async def oidc_provider(self, account: str, url: str) -> OidcProvider | None: ...

    async def policy_documents(self, account: str, arns: Sequence[str]) -> Sequence[AttachedPolicy]: ...


class Assuming:
    """One worker's AssumeRole operations."""

    def __init__(self, lookups: RoleLookups, sessions: Sessions, issuers: Issuers, uses: LastUses) -> None:
        self._lookups = lookups
        self._sessions = sessions
        self._issuers = issuers
        self._uses = uses

    async def by_caller(self, caller: Caller, parameters: Mapping[str, Any], info: RequestInfo) -> Mapping[str, Any]:
        """AssumeRole."""
        arn, account, name = _role_arn(parameters)
        if caller.principal.kind is PrincipalKind.ROOT:
            raise Failure(Code.ACCESS_DENIED, "Roles may not be assumed by root accounts.")
        if parameters.get("ProvidedContexts"):
            raise Failure(Code.VALIDATION_ERROR, "ProvidedContexts are not supported: no context provider is trusted.")
        refuse_mfa(parameters)
        requested = read_session_request(parameters, caller.session)
        source = _source_identity(parameters, caller.session)
        keys = _keys(parameters, requested, source)
        if (external := parameters.get("ExternalId")) is not None:
            keys["sts:externalid"] = (external,)
        role = await self._trusting(
            caller, "", (account, name, arn), _actions("sts:AssumeRole", requested, source), keys, info
        )
        chained = caller.session is not None and caller.session.kind is SessionKind.ROLE
        return await self._issue(role, parameters, requested, source, info, chained=chained)

    async def by_web_identity(self, parameters: Mapping[str, Any], info: RequestInfo) -> Mapping[str, Any]:
        """AssumeRoleWithWebIdentity. The request is unsigned: only the token authenticates it."""
        arn, account, name = _role_arn(parameters)
        if parameters.get("ProviderId") is not None:
            raise Failure(
                Code.VALIDATION_ERROR, "ProviderId is for OAuth 2.0 access tokens, and ID Tokens alone are taken."
            )
        identity = await self._identity(account, parameters["WebIdentityToken"], info.now)
        _check_set_by_issuer(identity, parameters)
        requested = read_session_request(parameters, None, identity.tags, identity.transitive)
        source = identity.source_identity
        federated = identity.provider.arn
        keys = {**_keys(parameters, requested, source), **trust_keys(identity), "aws:federatedprovider": (federated,)}
        actions = _actions("sts:AssumeRoleWithWebIdentity", requested, source)
        role = await self._trusting(None, federated, (account, name, arn), actions, keys, info)
        answer = await self._issue(role, parameters, requested, source, info, claims=session_keys(identity))
        observe.note(principal=answer["AssumedRoleUser"]["Arn"])  # unsigned: log the new session as the principal
        return {
            **answer,
            "SubjectFromWebIdentityToken": identity.subject,
            "Provider": federated,
            "Audience": identity.audience,
        }

    async def _trusting(
        self,
        caller: Caller | None,
        federated: str,
        wanted: tuple[str, str, str],
        actions: Sequence[str],
        keys: Mapping[str, tuple[str, ...]],
        info: RequestInfo,
    ) -> Role:
        """The role, if its trust policy allows all `actions`; `wanted` is (account, name, ARN). AccessDenied."""
        account, name, arn = wanted
        role = await self._lookups.role(account, name)
        if role is None or role.principal.arn != arn:  # case and path count
            raise _denied(caller, actions[0], arn)
        for action in actions:
            context = request_context(caller, info, arn, role.principal.tags, keys)
            if not decide_trust(caller, federated, role, action, context).allowed:
                raise _denied(caller, action, arn)
        return role

    async def _identity(self, account: str, text: str, now: float) -> WebIdentity:
        token = read_token(text)
        secure, _, url = token.issuer.partition("https://")
        provider = await self._lookups.oidc_provider(account, url) if not secure and url else None
        if provider is None:
            raise Failure(
                Code.INVALID_IDENTITY_TOKEN,
                f"No OpenIDConnect provider found in your account for {token.issuer[:300]}",
            )
        verify_token(token, await self._issuers.keys(token))
        return admit(token, provider, now)

    async def _issue(
        self,
        role: Role,
        parameters: Mapping[str, Any],
        requested: SessionRequest,
        source: str,
        info: RequestInfo,
        *,
        chained: bool = False,
        claims: Tags = (),
    ) -> dict[str, Any]:
        seconds = role_seconds(parameters.get("DurationSeconds"), role.max_session_seconds, chained=chained)
        await self._check_policies(role.principal.account, requested.policy_arns)
        name = parameters["RoleSessionName"]
        session = Session(
            SessionKind.ROLE,
            name,
            issue_time(role.principal, info.now, name),
            int(info.now) + seconds,
            policy=requested.policy,
            policy_arns=requested.policy_arns,
            tags=requested.tags,
            transitive=requested.transitive,
            source_identity=source,
            chained=chained,
            claims=claims,
        )
        try:
            credentials = self._sessions.issue(role.principal, session)
        except ValueError:  # `read_session_request` has checked what the request itself adds
            raise Failure(
                Code.PACKED_POLICY_TOO_LARGE, "What the ID Token says of its subject is more than a session holds."
            ) from None
        self._uses.used(role.principal.principal_id, info.region)
        caller = Caller(role.principal, session)
        answer: dict[str, Any] = {
            "Credentials": wire_credentials(credentials),
            "AssumedRoleUser": {"AssumedRoleId": caller.user_id, "Arn": caller.arn},
        }
        if requested.packed is not None:
            answer["PackedPolicySize"] = requested.packed
        if source:
            answer["SourceIdentity"] = source
        return answer

    async def _check_policies(self, account: str, arns: Sequence[str]) -> None:
        if not arns:
            return
        found = {policy.arn for policy in await self._lookups.policy_documents(account, arns)}
        for arn in arns:
            if arn not in found:
                raise Failure(Code.VALIDATION_ERROR, f"The session policy {arn} does not exist in account {account}.")


def wire_credentials(credentials: TemporaryCredentials) -> dict[str, Any]:
    """The form of the model's `Credentials`."""
    return {
        "AccessKeyId": credentials.access_key_id,
        "SecretAccessKey": credentials.secret,
        "SessionToken": credentials.token,
        "Expiration": credentials.expires,
    }


def _denied(caller: Caller | None, action: str, arn: str) -> Failure:
    """The same for a missing role: a caller that may not assume it learns nothing of it."""
    if caller is None:
        return Failure(Code.ACCESS_DENIED, WEB_IDENTITY_DENIED)
    return Failure(Code.ACCESS_DENIED, f"User: {caller.arn} is not authorized to perform: {action} on resource: {arn}")


def _role_arn(parameters: Mapping[str, Any]) -> tuple[str, str, str]:
    """(ARN, account, name)."""
    arn: str = parameters["RoleArn"]
    found = _ROLE_ARN.fullmatch(arn)
    if found is None:
        raise Failure(Code.VALIDATION_ERROR, "Request ARN is invalid")
    return arn, found[1], found[2]


def _source_identity(parameters: Mapping[str, Any], session: Session | None) -> str:
    """The session's source identity: once set, it is inherited by all further sessions and cannot change."""
    requested: str = parameters.get("SourceIdentity") or ""
    if requested.lower().startswith("aws:"):
        raise Failure(Code.VALIDATION_ERROR, "A source identity that begins with aws: is reserved for system use.")
    inherited = session.source_identity if session is not None else ""
    if requested and inherited and requested != inherited:
        raise Failure(Code.ACCESS_DENIED, "The source identity of the calling session cannot be changed.")
    return requested or inherited


def _actions(first: str, requested: SessionRequest, source: str) -> list[str]:
    """The actions that the trust policy must allow. Inherited tags and source identity count as passed too."""
    return [first, *(["sts:TagSession"] if requested.tags else []), *(["sts:SetSourceIdentity"] if source else [])]


def _keys(parameters: Mapping[str, Any], requested: SessionRequest, source: str) -> dict[str, tuple[str, ...]]:
    """The condition keys of the request, in lower case."""
    keys: dict[str, tuple[str, ...]] = {"sts:rolesessionname": (parameters["RoleSessionName"],)}
    if source:
        keys["sts:sourceidentity"] = (source,)
    if requested.given:
        keys["aws:tagkeys"] = requested.given
        values = dict(requested.tags)
        keys.update({f"aws:requesttag/{key.lower()}": (values[key],) for key in requested.given})
    if wanted := tuple(key for key in requested.transitive if key in requested.given):
        keys["sts:transitivetagkeys"] = wanted
    return keys


def _check_set_by_issuer(identity: WebIdentity, parameters: Mapping[str, Any]) -> None:
    """Tags and source identity of a token must have the shapes of AssumeRole's. ValidationError."""
    same: dict[str, Any] = {name: parameters[name] for name in ("RoleArn", "RoleSessionName")}
    if identity.tags:
        same["Tags"] = [{"Key": key, "Value": value} for key, value in identity.tags]
    if identity.transitive:
        same["TransitiveTagKeys"] = list(identity.transitive)
    if identity.source_identity:
        same["SourceIdentity"] = identity.source_identity
    validate("AssumeRole", same, "sts")
    _source_identity(same, None)
