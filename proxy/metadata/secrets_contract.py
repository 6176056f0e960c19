"""The part of `contract.Metadata` that is about pull-through cache rules and secrets.

Secret values are sealed by callers (`auth.secrets`): the metadata service cannot read them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from proxy.model.pull_through import PullThroughRule
from proxy.model.secrets import SecretHead, SecretVersion


class SecretPort(Protocol):
    """Rules and secrets."""

    async def pull_through_rules(self, account: str) -> Sequence[PullThroughRule]:
        """All rules of the account's registry, by prefix; `model.pull_through.choose` finds a repository's."""

    async def secret(self, account: str, secret_id: str) -> SecretHead | None:
        """By ARN, ARN without its suffix, or name. None: there is none, or it was deleted for good."""

    async def secret_version(self, account: str, arn: str) -> SecretVersion | None:
        """The current version. None where there is none, or the secret is deleted."""

    async def find_secret_version(self, account: str, arn: str, version_id: str, stage: str) -> SecretVersion | None:
        """A version by its id, its label, or both; by neither: the current one. Updates LastAccessedDate. None as
        above."""

    async def read_secrets(self, account: str, action: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """Run an operation of botocore's `secretsmanager` model that reads, and gives no value. `SecretId` is an ARN.

        ResourceNotFound, InvalidRequest, InvalidParameter, InvalidNextToken."""

    async def write_secrets(
        self, account: str, action: str, parameters: Mapping[str, Any], *, sealed: bytes = b""
    ) -> dict[str, Any]:
        """The same for one that writes. `parameters` are the model's without the value, which is in `sealed` (empty:
        none was given), bound to ARN and `ClientRequestToken`; `SecretId` is an ARN; CreateSecret has `ARN` as well.

        ResourceExists also if a version with this token exists; LimitExceeded."""

    async def sealed_versions(self, *, after: Sequence[str], limit: int) -> Sequence[SecretVersion]:
        """Versions of all secrets of all accounts by ARN and id, in order, beyond `after` (ARN, id)."""

    async def replace_sealed_version(self, arn: str, version_id: str, old: bytes, new: bytes) -> bool:
        """False when it was no longer `old`."""

    async def remove_secrets(self, *, limit: int) -> int:
        """Remove secrets whose time to be restored is over; returns how many."""
