"""Keys of repositories' own: encryptionConfiguration as it is asked for and as it is kept, with the KMS key's ARN,
which was found to be usable; and what is answered once it is not any more.

ECR asks KMS with the rights of who creates a repository; here KMS is asked with the server's own (`blob.kmskeys`).
Where no key is named it is the server's own, as AWS's managed key `aws/ecr` is an account's. KMS_DSSE is refused, as
outside of AWS's GovCloud. Source: ECR User Guide, "Encryption at rest"; API reference, "EncryptionConfiguration".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from proxy.blob.keys import DataKeys
from proxy.ecr.parameters import Ask
from proxy.metadata.contract import Metadata
from proxy.model.errors import Code, Failure
from proxy.model.names import repository_arn
from proxy.shapes.validation import invalid, validate

_OF_TEMPLATES = frozenset({"CreateRepositoryCreationTemplate", "UpdateRepositoryCreationTemplate"})


async def call(keys: DataKeys, metadata: Metadata, ask: Ask) -> Mapping[str, Any]:
    """`Metadata.call`, with what KMS keys have a say in. Kms.

    Images of a repository whose own key KMS refuses are neither taken nor given: their layers could not be read."""
    if ask.operation == "PutImage":
        await _require(keys, metadata, ask)
    found = await metadata.call(ask.account, ask.operation, await _with_its_key(keys, ask))
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


async def _with_its_key(keys: DataKeys, ask: Ask) -> Mapping[str, Any]:
    """The call's parameters, with the KMS key of its encryptionConfiguration as it is kept.

    A template's key is named by its ARN, as ECR wants it, and used only when a repository is made."""
    given = ask.parameters.get("encryptionConfiguration")
    of_template = ask.operation in _OF_TEMPLATES
    if given is None or not (of_template or ask.operation == "CreateRepository"):
        return ask.parameters
    validate(ask.operation, ask.parameters)
    if of_template and given.get("kmsKey"):
        return ask.parameters
    sealed_for = repository_arn(ask.region, ask.account, ask.parameters.get("repositoryName") or "*")
    try:
        settled = await _settled(keys, given, sealed_for)
    except Failure as failure:
        if not of_template or failure.code is not Code.KMS:
            raise
        if "absent" in failure.fields:
            raise invalid("encryptionConfiguration.encryptionType", failure.message) from failure
        raise Failure(Code.SERVER, failure.message, hint=failure.hint) from failure  # templates' own has no word for it
    return {**ask.parameters, "encryptionConfiguration": settled}


async def _settled(keys: DataKeys, given: Mapping[str, Any], sealed_for: str) -> dict[str, Any]:
    """InvalidParameter, Kms."""
    kind, key = given["encryptionType"], given.get("kmsKey")
    if kind == "KMS_DSSE":
        raise invalid("encryptionConfiguration.encryptionType", "KMS_DSSE is not available in this region")
    if kind == "AES256":
        if key:
            raise invalid("encryptionConfiguration.kmsKey", "A key cannot be given with encryption type AES256")
        return {"encryptionType": kind}
    try:
        return {"encryptionType": kind, "kmsKey": await keys.arn_of(key or "", sealed_for)}
    except Failure as failure:
        told = failure.fields
        if failure.code is not Code.KMS or not ("absent" in told or (key and "kmsError" in told)):
            raise
        # A key of the sender's choice, or one where there can be none: no fault of this server's.
        raise Failure(Code.KMS, failure.message, hint=failure.hint, **told, chosen=True) from failure
