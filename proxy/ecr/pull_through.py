"""Saves and validates pull-through cache rules: checks upstream, secret and role first. Called by `routes`.

An upstream is one that ECR knows by its host, or one of the operator's list. ECR's upstreams that need a login require
a secret, unless the operator listed them. A secret must be readable and have the right form. Rows are in
`metadata.operations.pull_through`; `UpstreamProbe` calls the upstream. Texts are ECR's, or the API model's if none was
observed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from proxy.auth.pull_through import UpstreamCredentials
from proxy.awsmodel.validation import invalid, validate
from proxy.config.pull_through_settings import UpstreamSetting, listed
from proxy.ecr.parameters import Ask
from proxy.metadata.contract import Metadata
from proxy.model.errors import Code, Failure
from proxy.model.pull_through import PullThroughRule
from proxy.model.upstreams import ECR, KINDS, kind_of

CREATE, UPDATE, VALIDATE = (f"{verb}PullThroughCacheRule" for verb in ("Create", "Update", "Validate"))
OPERATIONS = frozenset({CREATE, UPDATE, VALIDATE})
"""Operations that need more than the rows."""

_ROLE = re.compile(r"arn:aws:iam::([0-9]{12}):role/[\w+=,.@/-]+", re.ASCII)


class UpstreamProbe(Protocol):
    async def probe(self, rule: PullThroughRule) -> str:
        """Check that the rule's upstream is a registry and accepts the rule's credential. Empty if so; else the reason,
        without a secret. Failure if the secret cannot be read."""


class PullThrough:
    """One worker's operations on rules. `upstreams` are those of `[pull_through]`."""

    def __init__(
        self,
        rows: Metadata,
        credentials: UpstreamCredentials,
        upstreams: Sequence[UpstreamSetting],
        probe: UpstreamProbe,
    ) -> None:
        self._rows = rows
        self._credentials = credentials
        self._upstreams = upstreams
        self._probe = probe

    async def call(self, ask: Ask) -> Mapping[str, Any]:
        """The output of one of `OPERATIONS`, which the caller is allowed."""
        validate(ask.operation, ask.parameters)
        if ask.operation == VALIDATE:
            return await self._validate(ask)
        parameters = dict(ask.parameters)
        if ask.operation == CREATE:
            kind = self._kind(parameters)
            parameters["upstreamRegistry"] = kind or None
        else:
            rule = await self._rule(ask)
            kind = rule.upstream_registry
        role, credential = parameters.get("customRoleArn"), parameters.get("credentialArn")
        if role:
            self._check_role(ask.account, role, kind)
        if credential:
            await self._credentials.open(ask.account, credential)
        return await self._rows.call(ask.account, ask.operation, parameters)

    def _kind(self, parameters: Mapping[str, Any]) -> str:
        """The kind of the named upstream; empty for one of the operator's list. UnsupportedUpstreamRegistry."""
        url, given = parameters["upstreamRegistryUrl"], parameters.get("upstreamRegistry")
        kind, entry = kind_of(url), listed(self._upstreams, url)
        if (not kind and entry is None) or (given and given != kind):
            raise Failure(
                Code.UNSUPPORTED_UPSTREAM_REGISTRY,
                "The specified upstream registry isn't supported.",
                hint="registries beyond ECR's own list are listed in [pull_through] upstreams",
            )
        if kind and entry is None and KINDS[kind].needs_login and not parameters.get("credentialArn"):
            raise Failure(Code.UNSUPPORTED_UPSTREAM_REGISTRY, "The specified upstream registry requires authentication")
        return kind

    def _check_role(self, account: str, arn: str, kind: str) -> None:
        if kind not in ("", ECR):
            raise invalid("customRoleArn", "A role logs in at another ECR only")
        found = _ROLE.fullmatch(arn)
        if found is None or found[1] != account:
            raise invalid("customRoleArn", "Member must be the ARN of a role of the registry's account")

    async def _validate(self, ask: Ask) -> Mapping[str, Any]:
        rule = await self._rule(ask)
        found = {
            "ecrRepositoryPrefix": rule.prefix,
            "registryId": ask.account,
            "upstreamRegistryUrl": rule.upstream_url,
            "credentialArn": rule.credential_arn,
            "customRoleArn": rule.custom_role_arn,
            "upstreamRepositoryPrefix": rule.upstream_prefix,
        }
        failure = await self._failure(rule)
        answer = {member: value for member, value in found.items() if value} | {"isValid": not failure}
        return answer | ({"failure": failure} if failure else {})

    async def _failure(self, rule: PullThroughRule) -> str:
        if not rule.upstream_registry and listed(self._upstreams, rule.upstream_url) is None:
            return "The upstream registry is no longer one of those that this registry's operator lists."
        try:
            return await self._probe.probe(rule)
        except Failure as failure:
            return failure.message

    async def _rule(self, ask: Ask) -> PullThroughRule:
        """The rule that the call names. PullThroughCacheRuleNotFound."""
        wanted = str(ask.parameters["ecrRepositoryPrefix"]).rstrip("/")
        for rule in await self._rows.pull_through_rules(ask.account):
            if rule.prefix.rstrip("/") == wanted:
                return rule
        raise Failure(
            Code.PULL_THROUGH_RULE_NOT_FOUND,
            "The pull through cache rule was not found. Specify a valid pull through cache rule and try again.",
        )
