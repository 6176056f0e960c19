"""STS over rows in dicts: accounts' users, roles and providers, and a clock that stands still.

`call` goes the way of a form: held against the model, answered, and rendered, so that an answer that the model has no
member for fails here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from proxy.auth.access import Access
from proxy.auth.envelope import SmallSealer
from proxy.auth.policy.context import RequestInfo
from proxy.auth.sessions import PURPOSE, SessionCredentials, Sessions
from proxy.awsmodel import models
from proxy.awsmodel.query import render
from proxy.awsmodel.validation import validate
from proxy.ecr.sts import Sts
from proxy.ecr.sts.issuers import Issuers
from proxy.model.errors import Failure
from proxy.model.identity import (
    AccessKey,
    AttachedPolicy,
    BoundPolicy,
    Caller,
    OidcProvider,
    Principal,
    PrincipalKind,
    RegistryAccess,
    RepositoryAccess,
    Role,
    Tags,
)

models.service("sts")  # read before a loop runs that must not wait

ACCOUNT = "123456789012"
OTHER = "210987654321"
NOW = 1_800_000_000.5
ROOT = Principal(ACCOUNT, ACCOUNT, f"arn:aws:iam::{ACCOUNT}:root", "root", PrincipalKind.ROOT)


def user(name: str, *statements: Mapping[str, Any], account: str = ACCOUNT, tags: Tags = ()) -> Principal:
    """A user whose own policy has these statements."""
    policies = (AttachedPolicy(policy(*statements)),) if statements else ()
    arn = f"arn:aws:iam::{account}:user/{name}"
    return Principal(f"AIDA{name.upper()}", account, arn, name, tags=tags, policies=policies)


def policy(*statements: Mapping[str, Any]) -> str:
    return json.dumps({"Version": "2012-10-17", "Statement": list(statements)})


def allow(action: str | list[str], resource: str = "*", **more: Any) -> dict[str, Any]:
    return {"Effect": "Allow", "Action": action, "Resource": resource, **more}


def trust(
    principal: Any, action: str | list[str] = "sts:AssumeRole", condition: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    statement: dict[str, Any] = {"Effect": "Allow", "Principal": principal, "Action": action}
    return statement if condition is None else {**statement, "Condition": condition}


class StsWorld:
    """`uses` are the roles' last uses as they were noted; `fail_with` makes notes fail."""

    def __init__(self, issuers: Issuers | None = None) -> None:
        self.roles: dict[tuple[str, str], Role] = {}
        self.providers: dict[tuple[str, str], OidcProvider] = {}
        self.documents: dict[str, AttachedPolicy] = {}
        self.access_keys: dict[str, AccessKey] = {}
        self.uses: list[tuple[str, float, str]] = []
        self.fail_with: Failure | None = None
        self.now = NOW
        self.sessions = Sessions(SmallSealer([("key-1", bytes(range(32)))], PURPOSE))
        self.sts = Sts(
            self, self.sessions, Access(self), issuers or Issuers([], tls=None, clock=self.clock), self.clock
        )

    def new_role(
        self,
        name: str,
        *statements: Mapping[str, Any],
        account: str = ACCOUNT,
        path: str = "/",
        tags: Tags = (),
        seconds: int = 3600,
        bound: Tags = (),
    ) -> Role:
        """Make the role with this trust policy; `bound` are the unique ids of those whom it names."""
        arn = f"arn:aws:iam::{account}:role{path}{name}"
        principal = Principal(f"AROA{name.upper()}", account, arn, name, PrincipalKind.ROLE, tags)
        made = Role(principal, BoundPolicy(policy(*statements), bound), seconds)
        self.roles[account, name.lower()] = made
        return made

    def new_provider(self, url: str, *client_ids: str, account: str = ACCOUNT) -> OidcProvider:
        made = OidcProvider(f"arn:aws:iam::{account}:oidc-provider/{url}", account, url, client_ids, ())
        self.providers[account, url] = made
        return made

    async def call(self, action: str, caller: Caller | Principal | None, **parameters: Any) -> Mapping[str, Any]:
        validate(action, parameters, "sts")
        asking = Caller(caller) if isinstance(caller, Principal) else caller
        answer = await self.sts.answer(action, asking, parameters, self.info())
        render("sts", action, answer, "request-1")
        return answer

    async def assume(self, caller: Caller | Principal, role: Role, **parameters: Any) -> Mapping[str, Any]:
        given = {"RoleArn": role.principal.arn, "RoleSessionName": "build", **parameters}
        return await self.call("AssumeRole", caller, **given)

    def opened(self, answer: Mapping[str, Any]) -> SessionCredentials:
        """What the token of an answer says."""
        return self.sessions.open(answer["Credentials"]["SessionToken"], self.now)

    def caller(self, answer: Mapping[str, Any], principal: Principal) -> Caller:
        """Who asks with the credentials of an answer."""
        found = self.opened(answer)
        assert found.principal_id == principal.principal_id
        return Caller(principal, found.session, access_key_id=found.access_key_id)

    def clock(self) -> float:
        return self.now

    def info(self) -> RequestInfo:
        return RequestInfo(self.now, "192.0.2.7", True, "test", "us-east-1")

    # ---- what STS looks up ----------------------------------------------------------------------------------------
    async def role(self, account: str, name: str) -> Role | None:
        return self.roles.get((account, name.lower()))

    async def oidc_provider(self, account: str, url: str) -> OidcProvider | None:
        return self.providers.get((account, url))

    async def policy_documents(self, account: str, arns: Sequence[str]) -> Sequence[AttachedPolicy]:
        return [self.documents[arn] for arn in arns if arn in self.documents]

    async def access_key(self, access_key_id: str) -> AccessKey | None:
        return self.access_keys.get(access_key_id)

    async def note_role_use(self, principal_id: str, at: float, region: str) -> None:
        if self.fail_with is not None:
            raise self.fail_with
        self.uses.append((principal_id, at, region))

    async def repository_access(self, account: str, repository: str) -> RepositoryAccess:
        return RepositoryAccess(account, repository, exists=False)

    async def registry_access(self, account: str) -> RegistryAccess:
        return RegistryAccess(account, exists=True)
