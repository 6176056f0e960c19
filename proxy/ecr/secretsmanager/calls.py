"""One call of Secrets Manager: finds the secret, checks permission, then calls the metadata service.

A call works on the caller's account: a secret of another one is checked under its ARN, which no policy here allows, and
not looked up. A missing one is checked under its name, so that only callers that could see it learn that it is missing.
"""

from __future__ import annotations

import secrets
import string
import uuid
from base64 import b64encode
from collections.abc import Callable, Mapping
from typing import Any

from proxy.auth.access import Access
from proxy.auth.envelope import SmallSealer
from proxy.auth.policy.context import RequestInfo
from proxy.auth.secrets import SecretValue, open_value, seal_value
from proxy.awsmodel import models
from proxy.ecr.secretsmanager.arguments import HIDDEN, check, value_of
from proxy.metadata.contract import SecretPort
from proxy.model.errors import Code, Failure
from proxy.model.identity import Caller
from proxy.model.secrets import CURRENT, SecretHead, SecretVersion, parse_secret_arn, secret_arn

SERVICE = "secretsmanager"
_READS = frozenset({"DescribeSecret", "GetResourcePolicy", "ListSecretVersionIds", "ListSecrets"})
ACTIONS = _READS | {
    "CreateSecret",
    "DeleteSecret",
    "GetSecretValue",
    "PutSecretValue",
    "RestoreSecret",
    "TagResource",
    "UntagResource",
    "UpdateSecret",
    "UpdateSecretVersionStage",
}
"""All operations of the model that are served."""

_SUFFIX_LETTERS = string.ascii_letters + string.digits

models.service(SERVICE)  # read before the server forks, not in the first request of each worker


class SecretsManager:
    """One worker's Secrets Manager. `sealer` is for `auth.secrets.VALUE_PURPOSE`; `choice` draws an ARN's suffix."""

    def __init__(
        self,
        rows: SecretPort,
        access: Access,
        sealer: SmallSealer,
        *,
        region: str,
        choice: Callable[[str], str] = secrets.choice,
    ) -> None:
        self._rows = rows
        self._access = access
        self._sealer = sealer
        self._region = region
        self._choice = choice

    async def answer(
        self, action: str, caller: Caller, parameters: Mapping[str, Any], info: RequestInfo
    ) -> tuple[Mapping[str, Any], str]:
        """The output of `action`, whose `parameters` have been validated against the model, and the ARN it was about
        (`*`: none). Failure: UnknownOperation, AccessDenied, and failures of the metadata service."""
        if action not in ACTIONS:
            raise Failure(Code.UNKNOWN_OPERATION, f"The operation {action} is not supported by this registry.")
        if action == "CreateSecret":
            head = SecretHead(self._new_arn(caller.account, parameters["Name"]), parameters["Name"])
        elif action == "ListSecrets":
            await self._access.require(caller, "secretsmanager:ListSecrets", "*", info)
            return await self._rows.read_secrets(caller.account, action, parameters), "*"
        else:
            head = await self._meant(caller.account, parameters["SecretId"])
        await self._require(action, caller, head, parameters, info)
        check(action, parameters)
        asked = {member: value for member, value in parameters.items() if member not in HIDDEN and value is not None}
        if action == "CreateSecret":
            asked["ARN"] = head.arn
        else:
            asked["SecretId"] = head.arn
        if action == "GetSecretValue":
            return await self._value(caller.account, head.arn, parameters), head.arn
        if action in _READS:
            return await self._rows.read_secrets(caller.account, action, asked), head.arn
        return await self._write(action, caller.account, head.arn, asked, value_of(action, parameters)), head.arn

    async def _meant(self, account: str, secret_id: str) -> SecretHead:
        found = await self._rows.secret(account, secret_id)
        if found is not None:
            return found
        is_arn = parse_secret_arn(secret_id) is not None
        return SecretHead(secret_id if is_arn else secret_arn(self._region, account, secret_id), secret_id)

    async def _require(
        self, action: str, caller: Caller, head: SecretHead, parameters: Mapping[str, Any], info: RequestInfo
    ) -> None:
        keys: dict[str, tuple[str, ...]] = {f"{SERVICE}:name": (head.name,), f"{SERVICE}:secretid": (head.arn,)}
        for key, value in head.tags:
            keys[f"aws:resourcetag/{key.lower()}"] = keys[f"{SERVICE}:resourcetag/{key.lower()}"] = (value,)
        tags = {tag["Key"]: tag.get("Value", "") for tag in parameters.get("Tags") or () if "Key" in tag}
        keys |= {f"aws:requesttag/{key.lower()}": (value,) for key, value in tags.items()}
        if named := (*tags, *(parameters.get("TagKeys") or ())):
            keys["aws:tagkeys"] = named
        also = ("TagResource",) if action == "CreateSecret" and tags else ()
        for each in (action, *also):
            await self._access.require(caller, f"{SERVICE}:{each}", head.arn, info, keys)

    async def _write(
        self, action: str, account: str, arn: str, asked: dict[str, Any], value: SecretValue | None
    ) -> Mapping[str, Any]:
        if value is None:
            return await self._rows.write_secrets(account, action, asked)
        version_id = asked.setdefault("ClientRequestToken", str(uuid.uuid4()))
        sealed = seal_value(self._sealer, arn, version_id, value)
        try:
            return await self._rows.write_secrets(account, action, asked, sealed=sealed)
        except Failure as failure:
            if failure.code is not Code.RESOURCE_EXISTS:
                raise
            # The token is used: it is a retry of the same request if the value is the same.
            head = await self._meant(account, asked["Name"] if action == "CreateSecret" else arn)
            found = await self._rows.find_secret_version(account, head.arn, version_id, "")
            if found is None or self._opened(found) != value:
                raise
            answer = {"ARN": head.arn, "Name": head.name, "VersionId": version_id}
            return answer | ({"VersionStages": list(found.stages)} if action == "PutSecretValue" else {})

    async def _value(self, account: str, arn: str, parameters: Mapping[str, Any]) -> Mapping[str, Any]:
        version_id, stage = parameters.get("VersionId") or "", parameters.get("VersionStage") or ""
        found = await self._rows.find_secret_version(account, arn, version_id, stage)
        if found is None:
            raise await self._no_value(account, arn, version_id, stage)
        value = self._opened(found)
        held = (
            {"SecretString": value.text}
            if value.text is not None
            else {"SecretBinary": b64encode(value.binary or b"").decode()}
        )
        return {
            "ARN": arn,
            "Name": (await self._meant(account, arn)).name,
            "VersionId": version_id or found.version_id,
            **held,
            "VersionStages": list(found.stages),
            "CreatedDate": found.created_at,
        }

    async def _no_value(self, account: str, arn: str, version_id: str, stage: str) -> Failure:
        await self._rows.read_secrets(account, "GetResourcePolicy", {"SecretId": arn})  # none, or one that is deleted
        which = f"VersionId: {version_id}" if version_id else f"staging label: {stage or CURRENT}"
        return Failure(Code.RESOURCE_NOT_FOUND, f"Secrets Manager can't find the specified secret value for {which}")

    def _opened(self, found: SecretVersion) -> SecretValue:
        try:
            return open_value(self._sealer, found.arn, found.version_id, found.sealed)
        except ValueError as error:
            raise Failure(
                Code.SERVER,
                "The secret's value cannot be opened.",
                hint=f"{found.arn} version {found.version_id}: {error}; was its master key lost?",
            ) from None

    def _new_arn(self, account: str, name: str) -> str:
        suffix = "".join(self._choice(_SUFFIX_LETTERS) for _ in range(6))
        return secret_arn(self._region, account, name, suffix)
