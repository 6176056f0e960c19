"""The public AWS Encryption SDK with a raw AES key, as anybody would use it to read or write our format."""

from __future__ import annotations

import base64
from typing import Any

import aws_encryption_sdk
from aws_encryption_sdk import CommitmentPolicy
from aws_encryption_sdk.identifiers import Algorithm, EncryptionKeyType, WrappingAlgorithm
from aws_encryption_sdk.internal.crypto.wrapping_keys import WrappingKey
from aws_encryption_sdk.key_providers.kms import KMSMasterKey, KMSMasterKeyConfig
from aws_encryption_sdk.key_providers.raw import RawMasterKey

_CLIENT = aws_encryption_sdk.EncryptionSDKClient(commitment_policy=CommitmentPolicy.REQUIRE_ENCRYPT_REQUIRE_DECRYPT)


def raw_master_key(exported: dict[str, str]) -> RawMasterKey:
    """One entry of `wharfage key export` as the SDK's raw master key."""
    return RawMasterKey(
        provider_id=exported["namespace"],
        key_id=exported["name"],
        wrapping_key=WrappingKey(
            wrapping_algorithm=WrappingAlgorithm.AES_256_GCM_IV12_TAG16_NO_PADDING,
            wrapping_key=base64.b64decode(exported["key_base64"]),
            wrapping_key_type=EncryptionKeyType.SYMMETRIC,
        ),
    )


def sdk_decrypt(stored: bytes, exported: dict[str, str]) -> tuple[bytes, dict[str, str]]:
    """The first message's plaintext, and its encryption context."""
    plain, header = _CLIENT.decrypt(source=stored, key_provider=raw_master_key(exported))
    return bytes(plain), dict(header.encryption_context)


def sdk_encrypt(
    plain: bytes,
    exported: dict[str, str],
    context: dict[str, str],
    frame_length: int,
    algorithm: Algorithm = Algorithm.AES_256_GCM_HKDF_SHA512_COMMIT_KEY,
) -> bytes:
    """One message with that suite; any suite but the committing ones needs the SDK's older policy."""
    client = _CLIENT
    if not algorithm.is_committing():
        client = aws_encryption_sdk.EncryptionSDKClient(commitment_policy=CommitmentPolicy.FORBID_ENCRYPT_ALLOW_DECRYPT)
    sealed, _ = client.encrypt(
        source=plain,
        key_provider=raw_master_key(exported),
        encryption_context=context,
        frame_length=frame_length,
        algorithm=algorithm,
    )
    return bytes(sealed)


def sdk_decrypt_by_kms(stored: bytes, client: Any, arn: str) -> tuple[bytes, dict[str, str]]:
    """The first message's plaintext, and its encryption context, by the SDK's KMS master key over boto3's client."""
    keys = KMSMasterKey(config=KMSMasterKeyConfig(key_id=arn, client=client))
    plain, header = _CLIENT.decrypt(source=stored, key_provider=keys)
    return bytes(plain), dict(header.encryption_context)
