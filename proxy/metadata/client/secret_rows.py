"""Pull-through cache rules and secrets, as a proxy asks the metadata service for them: `secrets_contract.Secrets`.

A part of `client.MetadataClient`, which asks for the rest.
"""
# mypy: disable-error-code="no-any-return"
# What an answer is decoded as is what it is (`endpoints.Services.ask`).

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from proxy.model.pull_through import PullThroughRule
from proxy.model.secrets import SecretHead, SecretVersion


class SecretRows:
    _ask: Callable[..., Awaitable[Any]]

    async def pull_through_rules(self, account: str) -> Sequence[PullThroughRule]:
        return await self._ask("pull_through_rules", Sequence[PullThroughRule], account=account)

    async def secret(self, account: str, secret_id: str) -> SecretHead | None:
        return await self._ask("secret", SecretHead | None, account=account, secret_id=secret_id)

    async def secret_version(self, account: str, arn: str) -> SecretVersion | None:
        return await self._ask("secret_version", SecretVersion | None, account=account, arn=arn)

    async def find_secret_version(self, account: str, arn: str, version_id: str, stage: str) -> SecretVersion | None:
        asked = {"account": account, "arn": arn, "version_id": version_id, "stage": stage}
        return await self._ask("find_secret_version", SecretVersion | None, **asked)

    async def read_secrets(self, account: str, action: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
        asked = {"account": account, "action": action, "parameters": parameters}
        return await self._ask("read_secrets", dict[str, Any], **asked)

    async def write_secrets(
        self, account: str, action: str, parameters: Mapping[str, Any], *, sealed: bytes = b""
    ) -> dict[str, Any]:
        asked = {"account": account, "action": action, "parameters": parameters, "sealed": sealed}
        return await self._ask("write_secrets", dict[str, Any], **asked)

    async def sealed_versions(self, *, after: Sequence[str], limit: int) -> Sequence[SecretVersion]:
        return await self._ask("sealed_versions", Sequence[SecretVersion], after=after, limit=limit)

    async def replace_sealed_version(self, arn: str, version_id: str, old: bytes, new: bytes) -> bool:
        asked = {"arn": arn, "version_id": version_id, "old": old, "new": new}
        return await self._ask("replace_sealed_version", bool, **asked)

    async def remove_secrets(self, *, limit: int) -> int:
        return await self._ask("remove_secrets", int, limit=limit)
