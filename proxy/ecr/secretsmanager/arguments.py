"""Checks of Secrets Manager's inputs beyond the model's shapes, with Secrets Manager's texts. Called by `calls`."""

from __future__ import annotations

import re
from base64 import b64decode
from collections.abc import Mapping
from typing import Any

from proxy.auth.secrets import SecretValue
from proxy.model.errors import Code, Failure

HIDDEN = ("SecretString", "SecretBinary")
"""Members with a secret value, which must be sealed before they are passed on."""

_NAME = re.compile(r"[A-Za-z0-9/_+=.@!-]{1,512}", re.ASCII)
_OWN_KEY = re.compile(r"(arn:aws[a-z-]*:kms:[a-z0-9-]+:[0-9]{12}:)?alias/aws/secretsmanager", re.ASCII)
_UNSERVED = ("AddReplicaRegions", "Type", "RotationToken")
_DAYS = range(7, 31)


def check(action: str, parameters: Mapping[str, Any]) -> None:
    """InvalidParameter if the input is not valid."""
    for member in _UNSERVED:
        if parameters.get(member):
            raise refused(f"{member} is not supported by this registry.")
    key = parameters.get("KmsKeyId")
    if key and not _OWN_KEY.fullmatch(key):
        raise refused("Secrets are sealed under the keys of this registry: leave KmsKeyId out.")
    if action == "CreateSecret" and not _NAME.fullmatch(parameters["Name"]):
        raise refused(
            "Invalid name. Must be a valid name containing alphanumeric characters, or any of the following: -/_+=.@!"
        )
    if action == "DeleteSecret":
        _check_window(parameters)


def value_of(action: str, parameters: Mapping[str, Any]) -> SecretValue | None:
    """The given value; None if there is none, and none is needed. InvalidParameter."""
    text, binary = (parameters.get(member) for member in HIDDEN)
    if text is not None and binary is not None:
        raise refused("You can't specify both a binary secret value and a string secret value in the same secret.")
    if text is None and binary is None:
        if action == "PutSecretValue":
            raise refused("You must provide either SecretString or SecretBinary.")
        return None
    return SecretValue(text=text) if text is not None else SecretValue(binary=b64decode(binary or ""))


def refused(why: str) -> Failure:
    return Failure(Code.INVALID_PARAMETER, why)


def _check_window(parameters: Mapping[str, Any]) -> None:
    days = parameters.get("RecoveryWindowInDays")
    if days is not None and parameters.get("ForceDeleteWithoutRecovery"):
        raise refused("You can't use ForceDeleteWithoutRecovery in conjunction with RecoveryWindowInDays.")
    if days is not None and days not in _DAYS:
        raise refused("The RecoveryWindowInDays value must be between 7 and 30 days (inclusive).")
