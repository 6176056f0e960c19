"""Credentials of a pull-through cache rule: its secret, opened in the worker that sends requests to the upstream.

    {"username": "...", "accessToken": "..."}      the value of a secret whose name begins with ecr-pullthroughcache/

Called by `app.mirror`, and by `ecr` when a rule is saved or validated. No error has any part of a value. Must not know
where rows are stored.
"""

from __future__ import annotations

import json
from typing import Protocol

from proxy.auth.envelope import SmallSealer
from proxy.auth.secrets import open_value
from proxy.model.errors import Code, Failure
from proxy.model.pull_through import PullThroughRule, UpstreamCredential
from proxy.model.secrets import PULL_THROUGH_PREFIX, SecretHead, SecretVersion, parse_secret_arn


class Lookups(Protocol):
    """The part of `metadata.contract.Metadata` with secrets."""

    async def secret(self, account: str, secret_id: str) -> SecretHead | None: ...

    async def secret_version(self, account: str, arn: str) -> SecretVersion | None: ...


class UpstreamCredentials:
    """One worker's credentials. `sealer` is one for `auth.secrets.VALUE_PURPOSE`, `region` this registry's."""

    def __init__(self, lookups: Lookups, sealer: SmallSealer, *, region: str) -> None:
        self._lookups = lookups
        self._sealer = sealer
        self._region = region

    async def of(self, rule: PullThroughRule) -> UpstreamCredential | None:
        """None for a rule without a secret. Its look-up is cached until the account's rules or secrets change.

        SecretNotFound, UnableToAccessSecret, UnableToDecryptSecretValue, with ECR's texts."""
        return await self.open(rule.account, rule.credential_arn) if rule.credential_arn else None

    async def open(self, account: str, arn: str) -> UpstreamCredential:
        """The current value of a secret of that account, in this region; raises as `of`."""
        found = await self._lookups.secret_version(account, arn) if self._may_be(account, arn) else None
        if found is None:
            raise await self._why_not(account, arn)
        try:
            value = json.loads(open_value(self._sealer, found.arn, found.version_id, found.sealed).text or "")
            username, token = value["username"], value["accessToken"]
        except (ValueError, TypeError, KeyError, RecursionError):
            raise _undecipherable() from None
        if not (isinstance(username, str) and isinstance(token, str) and username and token):
            raise _undecipherable()
        return UpstreamCredential(username, token, f"{found.arn} {found.version_id}")

    def _may_be(self, account: str, arn: str) -> bool:
        parts = parse_secret_arn(arn)
        return parts is not None and parts[:2] == (self._region, account) and parts[2].startswith(PULL_THROUGH_PREFIX)

    async def _why_not(self, account: str, arn: str) -> Failure:
        if self._may_be(account, arn) and await self._lookups.secret(account, arn) is not None:
            return Failure(
                Code.UNABLE_TO_ACCESS_SECRET,
                "The secret is unable to be accessed. Verify the resource permissions for the secret and try again.",
                hint="it is scheduled for deletion, or has no value",
            )
        return Failure(
            Code.SECRET_NOT_FOUND,
            "The ARN of the secret specified in the pull through cache rule was not found. Update the pull through "
            "cache rule with a valid secret ARN and try again.",
        )


def _undecipherable() -> Failure:
    return Failure(
        Code.UNABLE_TO_DECRYPT_SECRET,
        "The secret is accessible but is unable to be decrypted. Verify the resource permissions and try again.",
        hint='its value must be JSON: {"username": "...", "accessToken": "..."}',
    )
