"""Repositories' own KMS keys: resolves encryptionConfiguration to the ARN of a usable key, and refuses images of a
repository whose key is no longer usable. Called by `routes`.

ECR calls KMS with the permissions of the caller; this server uses its own (`blob.kms_keys`), after `key_rights` has
checked that the caller may name the key. Without a named key the server's own is used, as AWS's managed key `aws/ecr`
is an account's. KMS_DSSE is refused, as outside of AWS's GovCloud.
Source: ECR User Guide, "Encryption at rest"; API reference, "EncryptionConfiguration".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from proxy.awsmodel.validation import invalid, validate
from proxy.blob.keys import DataKeys
from proxy.ecr.key_rights import KeyRights, is_key_arn
from proxy.ecr.parameters import Ask
from proxy.metadata.contract import Metadata
from proxy.model.errors import Code, Failure
from proxy.model.names import repository_arn

_OF_TEMPLATES = frozenset({"CreateRepositoryCreationTemplate", "UpdateRepositoryCreationTemplate"})


async def call(keys: DataKeys, rights: KeyRights, metadata: Metadata, ask: Ask) -> Mapping[str, Any]:
    """`Metadata.call`, with the checks of KMS keys. AccessDenied, Kms.

    Images of a repository whose own key KMS refuses are neither taken nor given: their layers could not be read."""
    if ask.operation == "PutImage":
        await _require(keys, metadata, ask)
    found = await metadata.call(ask.account, ask.operation, await _with_its_key(keys, rights, ask))
    if ask.operation != "BatchGetImage" or not found["images"]:
        return found
    try:
        await _require(keys, metadata, ask)
    except Failure as failure:
        if failure.code is not Code.KMS:
            raise
        failed = [
            {"imageId": each["imageId"], "failureCode": "KmsError", "failureReason": failure.message}
            for each in found["images"]
        ]
        return {"images": [], "failures": [*found["failures"], *failed]}
    return found


async def _require(keys: DataKeys, metadata: Metadata, ask: Ask) -> None:
    name = ask.parameters["repositoryName"]
    own = (await metadata.repository_access(ask.account, name)).encryption
    await keys.require(own, repository_arn(ask.region, ask.account, name))


async def _with_its_key(keys: DataKeys, rights: KeyRights, ask: Ask) -> Mapping[str, Any]:
    """The call's parameters, with the KMS key of its encryptionConfiguration as it is stored.

    A template's key is named by its ARN, as ECR requires, and used only when a repository is created."""
    given = ask.parameters.get("encryptionConfiguration")
    of_template = ask.operation in _OF_TEMPLATES
    if given is None or not (of_template or ask.operation == "CreateRepository"):
        return ask.parameters
    validate(ask.operation, ask.parameters)
    if of_template and (arn := given.get("kmsKey")):
        if not is_key_arn(arn):
            raise invalid("encryptionConfiguration.kmsKey", "Member must be the ARN of a key")
        await rights.require(ask, arn, arn)
        return ask.parameters
    sealed_for = repository_arn(ask.region, ask.account, ask.parameters.get("repositoryName") or "*")
    try:
        settled = await _settled(keys, rights, ask, given, sealed_for)
    except Failure as failure:
        if not of_template or failure.code is not Code.KMS:
            raise
        if "absent" in failure.fields:
            raise invalid("encryptionConfiguration.encryptionType", failure.message) from failure
        raise Failure(Code.SERVER, failure.message, hint=failure.hint) from failure  # templates have no such error
    return {**ask.parameters, "encryptionConfiguration": settled}


async def _settled(
    keys: DataKeys, rights: KeyRights, ask: Ask, given: Mapping[str, Any], sealed_for: str
) -> dict[str, Any]:
    """AccessDenied, InvalidParameter, Kms."""
    kind, key = given["encryptionType"], given.get("kmsKey")
    if kind == "KMS_DSSE":
        raise invalid("encryptionConfiguration.encryptionType", "KMS_DSSE is not available in this region")
    if kind == "AES256":
        if key:
            raise invalid("encryptionConfiguration.kmsKey", "A key cannot be given with encryption type AES256")
        return {"encryptionType": kind}
    return {"encryptionType": kind, "kmsKey": await _arn(keys, rights, ask, key or "", sealed_for)}


async def _arn(keys: DataKeys, rights: KeyRights, ask: Ask, name: str, sealed_for: str) -> str:
    """The ARN of the key of that name, which the caller may use; empty for the server's own. AccessDenied, Kms.

    KMS has to resolve an id or an alias before its ARN can be checked; only permitted callers see its refusal.
    """
    if is_key_arn(name):
        await rights.require(ask, name, name)
    try:
        arn = await keys.arn_of(name, sealed_for)
    except Failure as failure:
        fields = failure.fields
        if failure.code is not Code.KMS or not ("absent" in fields or (name and "kmsError" in fields)):
            raise
        if "kmsError" in fields and not is_key_arn(name):
            await rights.require_unknown(ask, name)
        # The caller chose the key, or named one where none is allowed: not a fault of this server.
        raise Failure(Code.KMS, failure.message, hint=failure.hint, **fields, chosen=True) from failure
    if name and arn != name:
        await rights.require(ask, arn, name)
    return arn
