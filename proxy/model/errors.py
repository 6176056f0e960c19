"""Errors as values: one exception, a code, a sentence for people, and a hint for the operator.

A `Failure` is raised anywhere and rendered in one place per protocol (`oci/errors.py`, `ecr/errors.py`), which owns the
HTTP status and the wire form. Codes are the ECR API's own exception names where the model has one; the rest, below
under "ours", name what only a data plane knows. This module must not know HTTP.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import ClassVar


class Code(StrEnum):
    """Every way a request can fail. The first block is spelled as in botocore's `ecr` model."""

    ACCESS_DENIED = "AccessDeniedException"
    EMPTY_UPLOAD = "EmptyUploadException"
    EXCLUSION_ALREADY_EXISTS = "ExclusionAlreadyExistsException"
    EXCLUSION_NOT_FOUND = "ExclusionNotFoundException"
    IMAGE_ALREADY_EXISTS = "ImageAlreadyExistsException"
    IMAGE_DIGEST_DOES_NOT_MATCH = "ImageDigestDoesNotMatchException"
    IMAGE_NOT_FOUND = "ImageNotFoundException"
    IMAGE_STORAGE_CLASS_UPDATE_NOT_SUPPORTED = "ImageStorageClassUpdateNotSupportedException"
    IMAGE_TAG_ALREADY_EXISTS = "ImageTagAlreadyExistsException"
    INVALID_LAYER = "InvalidLayerException"  # the bytes do not hash to the digest that was named
    INVALID_LAYER_PART = "InvalidLayerPartException"  # out of order; fields["lastValidByteReceived"], -1 if none
    INVALID_PARAMETER = "InvalidParameterException"
    INVALID_TAG_PARAMETER = "InvalidTagParameterException"
    KMS = "KmsException"
    LAYER_ALREADY_EXISTS = "LayerAlreadyExistsException"
    LAYER_INACCESSIBLE = "LayerInaccessibleException"  # no image of the repository uses it
    LAYER_PART_TOO_SMALL = "LayerPartTooSmallException"
    LAYERS_NOT_FOUND = "LayersNotFoundException"  # a blob asked for, or needed by a manifest, is not in the repository
    LIFECYCLE_POLICY_NOT_FOUND = "LifecyclePolicyNotFoundException"
    LIFECYCLE_POLICY_PREVIEW_IN_PROGRESS = "LifecyclePolicyPreviewInProgressException"
    LIFECYCLE_POLICY_PREVIEW_NOT_FOUND = "LifecyclePolicyPreviewNotFoundException"
    LIMIT_EXCEEDED = "LimitExceededException"
    PULL_THROUGH_RULE_ALREADY_EXISTS = "PullThroughCacheRuleAlreadyExistsException"
    PULL_THROUGH_RULE_NOT_FOUND = "PullThroughCacheRuleNotFoundException"
    REGISTRY_POLICY_NOT_FOUND = "RegistryPolicyNotFoundException"
    REFERENCED_IMAGES_NOT_FOUND = "ReferencedImagesNotFoundException"
    REPOSITORY_ALREADY_EXISTS = "RepositoryAlreadyExistsException"
    REPOSITORY_NOT_EMPTY = "RepositoryNotEmptyException"
    REPOSITORY_NOT_FOUND = "RepositoryNotFoundException"
    REPOSITORY_POLICY_NOT_FOUND = "RepositoryPolicyNotFoundException"
    SECRET_NOT_FOUND = "SecretNotFoundException"  # noqa: S105  # a name
    SERVER = "ServerException"
    SIGNING_CONFIGURATION_NOT_FOUND = "SigningConfigurationNotFoundException"
    TEMPLATE_ALREADY_EXISTS = "TemplateAlreadyExistsException"
    TEMPLATE_NOT_FOUND = "TemplateNotFoundException"
    THROTTLING = "ThrottlingException"  # fields["seconds"] until it is worth while to ask again
    TOO_MANY_TAGS = "TooManyTagsException"
    UNABLE_TO_LIST_UPSTREAM_REFERRERS = "UnableToListUpstreamImageReferrersException"
    UNABLE_TO_GET_UPSTREAM_IMAGE = "UnableToGetUpstreamImageException"
    UNKNOWN_OPERATION = "UnknownOperationException"
    UNABLE_TO_ACCESS_SECRET = "UnableToAccessSecretException"  # noqa: S105  # a name
    UNABLE_TO_DECRYPT_SECRET = "UnableToDecryptSecretValueException"  # noqa: S105  # a name
    UNSUPPORTED_UPSTREAM_REGISTRY = "UnsupportedUpstreamRegistryException"
    UPLOAD_NOT_FOUND = "UploadNotFoundException"
    VALIDATION = "ValidationException"

    # of the `sts` and `iam` models
    DELETE_CONFLICT = "DeleteConflict"
    ENTITY_ALREADY_EXISTS = "EntityAlreadyExists"
    EXPIRED_IDENTITY = "ExpiredTokenException"  # of a web identity's token
    IDP_COMMUNICATION = "IDPCommunicationError"
    INVALID_IDENTITY_TOKEN = "InvalidIdentityToken"  # noqa: S105  # a name
    INVALID_INPUT = "InvalidInput"
    IAM_LIMIT_EXCEEDED = "LimitExceeded"
    MALFORMED_INPUT = "MalformedInput"
    MALFORMED_POLICY_DOCUMENT = "MalformedPolicyDocument"
    NO_SUCH_ENTITY = "NoSuchEntity"
    PACKED_POLICY_TOO_LARGE = "PackedPolicyTooLarge"
    UNMODIFIABLE_ENTITY = "UnmodifiableEntity"
    VALIDATION_ERROR = "ValidationError"

    # of the `events` and `secretsmanager` models
    INVALID_EVENT_PATTERN = "InvalidEventPatternException"
    INVALID_NEXT_TOKEN = "InvalidNextTokenException"  # noqa: S105  # a name
    INVALID_REQUEST = "InvalidRequestException"
    RESOURCE_EXISTS = "ResourceExistsException"
    RESOURCE_NOT_FOUND = "ResourceNotFoundException"

    # ours
    BLOB_CORRUPT = "BlobCorrupt"  # a frame did not authenticate, twice; the blob is quarantined
    DIGEST_INVALID = "DigestInvalid"  # not a digest, or an algorithm we do not compute
    ENCRYPTION_DIFFERS = "EncryptionDiffers"  # a data key under another key; fields["encryption"]: the repository's
    IMAGE_REFERENCED = "ImageReferencedByManifestList"  # an index still needs the manifest that was to be deleted
    LAYER_IN_USE = "LayerInUse"  # a manifest of the repository still needs the blob that was to be deleted
    MANIFEST_INVALID = "ManifestInvalid"
    MANIFEST_TOO_LARGE = "ManifestTooLarge"
    METADATA_UNAVAILABLE = "MetadataUnavailable"  # try again; the write did not happen, or its answer is unknown
    NAME_INVALID = "NameInvalid"
    OBJECT_TOO_LARGE = "ObjectTooLarge"  # more bytes than the store can hold in one object, as it is set up
    RANGE_NOT_SATISFIABLE = "RangeNotSatisfiable"  # fields["size"]
    SIZE_INVALID = "SizeInvalid"  # the body is shorter or longer than what was declared
    STORE_FULL = "StoreFull"
    STORE_UNAVAILABLE = "StoreUnavailable"
    TAG_INVALID = "TagInvalid"
    UNSUPPORTED = "Unsupported"
    UPSTREAM_ACCESS_DENIED = "UpstreamAccessDenied"  # these three spelled as the model's ImageFailureCode
    UPSTREAM_TOO_MANY_REQUESTS = "UpstreamTooManyRequests"  # fields["seconds"]
    UPSTREAM_UNAVAILABLE = "UpstreamUnavailable"  # fields["seconds"]
    UPLOAD_CONFLICT = "UploadConflict"  # this request no longer holds the session; fields["offset"] is the true end
    UPLOAD_IN_USE = "UploadInUse"  # another request holds it, for fields["seconds"] at most; fields["offset"] as above


class OperatorError(Exception):
    """What an operator did wrong or can mend; the text says what and how. Raised by commands and at start-up.

    `cli.options.checked` prints the text and exits with `exit_status`.
    """

    exit_status: ClassVar[int | None] = None  # None: the command's own for a failure, mostly 1


class Failure(Exception):
    """A request that cannot be done.

    `message` is for whoever sent it; `hint` says what to do next and goes to the log and, where the protocol has room,
    to the sender; `fields` are facts that a protocol needs for its wire form (named beside their code above).
    """

    def __init__(self, code: Code, message: str, *, hint: str = "", **fields: object) -> None:
        super().__init__(code, message)
        self.code = code
        self.message = message
        self.hint = hint
        self.fields: Mapping[str, object] = fields

    def __str__(self) -> str:
        return f"{self.code}: {self.message}" + (f" ({self.hint})" if self.hint else "")


def upload_not_found(upload_id: str, repository: str, account: str) -> Failure:
    """ECR's own text for an upload session that is not there."""
    return Failure(
        Code.UPLOAD_NOT_FOUND,
        f"Upload with id '{upload_id}' could not be found for the repository with name '{repository}'"
        f" in the registry with id '{account}'",
        uploadId=upload_id,
        repositoryName=repository,
    )


def repository_not_found(name: str, account: str) -> Failure:
    """ECR's own text for a repository that is not there."""
    return Failure(
        Code.REPOSITORY_NOT_FOUND,
        f"The repository with name '{name}' does not exist in the registry with id '{account}'",
        repositoryName=name,
    )
