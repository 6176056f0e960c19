"""Frozen facts that travel between rooms and, as JSON, between the proxy and the metadata service.

Sizes and offsets are bytes; "plain" counts what clients see, "stored" what the object store holds. Times are epoch
seconds. Encoding to JSON lives with the only two files that need it (`metadata.client.client`
and `metadata.service.service`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum


@dataclass(frozen=True, slots=True)
class EncryptedDataKey:
    """One blob's data key as an AWS Encryption SDK EDK: provider id, provider information, ciphertext."""

    provider_id: str
    provider_info: bytes
    ciphertext: bytes


NO_DATA_KEY = EncryptedDataKey("", b"", b"")
"""What stands in the row of an object that is not sealed."""


class Sealing(StrEnum):
    """How an object's bytes lie in the store, recorded with each: the setting is about new ones only."""

    AES_GCM = "aes-gcm"  # as messages, `blob/format.py`
    NONE = "none"  # as they are, `blob/plain.py`


FRAME_HASH = 32
"""Bytes of a frame's BLAKE3 hash, kept beside an object that is not sealed."""

FRAME_PAGE = 1024
"""Frames whose hashes one row holds (32 KiB), one call carries, and a reader has at hand."""


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """A key that a registry's small values are sealed under: what all processes must agree on.

    `check_value` tells two keys of one name apart and reveals neither. `wrapped` is the key itself when KMS keeps it
    (bound to `sealed_for`), None when it lies in the key files. One record at most is `active`: that key seals.
    """

    name: str
    namespace: str
    check_value: bytes
    wrapped: EncryptedDataKey | None
    sealed_for: str
    active: bool


@dataclass(frozen=True, slots=True)
class Segment:
    """What one append made of an object: where its plaintext begins and ends, where its bytes lie; of a sealed one,
    the message's whole header."""

    plain_offset: int
    plain_length: int
    stored_offset: int
    stored_length: int
    header: bytes


@dataclass(frozen=True, slots=True)
class SealedObject:
    """An object in the store and all that is needed to open it, but for the unwrapped key, or for its frames' hashes.

    `segments` is the first page (at most 64) of the segment table; `segment_count` says how many there are.
    `sealed_for` is the ARN of the repository that first sealed it: the encryption context's `aws:ecr:arn`.
    `encryption` is the ARN of the KMS key of all repositories that hold it, empty where they have none of their own.
    """

    object_key: str
    data_key: EncryptedDataKey
    sealed_for: str
    frame_length: int
    plain_size: int
    stored_size: int
    segment_count: int
    segments: tuple[Segment, ...]
    sealing: Sealing = Sealing.AES_GCM
    encryption: str = ""
    archived: bool = False  # it lies in the place of `[archive]`


@dataclass(frozen=True, slots=True)
class Blob:
    """A committed layer or config, seen through one repository."""

    digest: str
    size: int
    sealed: SealedObject


class CreateOnPush(StrEnum):
    """Whether a push makes its repository where that is not there."""

    NO = "no"
    BY_TEMPLATE = "by-template"  # only as a creation template of the account says
    YES = "yes"  # so too; in an account that has no templates at all, as by CreateRepository
    REPLICA = "replica"  # what arrives by replication: by a template for it, else as by CreateRepository


def create_on_push(*, allowed: bool, by_default: bool, replica: bool = False) -> CreateOnPush:
    """`allowed`: the sender may create repositories; `by_default`: the registry makes them without templates too."""
    if not allowed:
        return CreateOnPush.NO
    if replica:
        return CreateOnPush.REPLICA
    return CreateOnPush.YES if by_default else CreateOnPush.BY_TEMPLATE


class Mounted(StrEnum):
    """What became of a mount. False where the blob has to be uploaded."""

    NO = ""
    LINKED = "linked"
    CREATED = "created"  # linked into a repository that was made for it


@dataclass(frozen=True, slots=True)
class LayerParts:
    """Of a session that comes in parts through the API: `size` bytes a part is what clients are told to send.

    `count` parts have come, of which `small` were too small to have another after them; the last one begins at byte
    `last_at`, and `state_before` is the session's hash state of before it."""

    size: int
    count: int
    small: int
    last_at: int
    state_before: bytes


@dataclass(frozen=True, slots=True)
class Upload:
    """An upload session. `sealed.plain_size` is the true offset: what a next chunk must start at.

    `hash_state` is what `_speedups` exported, sealed (it holds up to 127 bytes of plaintext). `fence` names the append
    that holds the session, 0 when nobody does. `committed` is the digest once the closing PUT has succeeded. `parts` is
    None for a session that docker began. `created_repository` is said by the call that began it alone,
    `bytes_left` by the one that leased it: what the quotas leave, None where there are none. `has_row` False: nothing
    has come yet, and no row knows it.
    """

    upload_id: str
    account: str
    repository: str
    algorithm: str
    sealed: SealedObject
    hash_state: bytes
    fence: int
    committed: str | None = None
    parts: LayerParts | None = None
    created_repository: bool = False
    bytes_left: int | None = None
    has_row: bool = True


@dataclass(frozen=True, slots=True)
class NewUpload:
    """An upload session that gets its row while or after its first append is written: one process alone knows its
    object's key until then. `began_at`: when the append began, by that process's clock."""

    upload_id: str
    account: str
    repository: str
    algorithm: str
    object_key: str
    data_key: EncryptedDataKey
    sealed_for: str
    frame_length: int
    sealing: Sealing
    encryption: str
    opened_by: str
    began_at: float


NEW_ALGORITHM = "sha256"
"""Of sessions that begin without a row: any other has to be remembered."""

FIRST_FENCE = 1
"""Of the first lease that a session ever gave: only then may an object be put whole before the session is closed."""


def upload_without_row(account: str, repository: str, upload_id: str) -> Upload:
    """What is known of a session before its first append."""
    nothing = SealedObject("", NO_DATA_KEY, "", 0, 0, 0, 0, ())
    return Upload(upload_id, account, repository, NEW_ALGORITHM, nothing, b"", 0, has_row=False)


def first_append_of(new: NewUpload) -> Upload:
    """The session as it is while its first append is written."""
    nothing = SealedObject(
        object_key=new.object_key,
        data_key=new.data_key,
        sealed_for=new.sealed_for,
        frame_length=new.frame_length,
        plain_size=0,
        stored_size=0,
        segment_count=0,
        segments=(),
        sealing=new.sealing,
        encryption=new.encryption,
    )
    begun = upload_without_row(new.account, new.repository, new.upload_id)
    return replace(begun, sealed=nothing, fence=FIRST_FENCE)


@dataclass(frozen=True, slots=True)
class Fence:
    """The right to write to an upload session's object: the session, and the number that its lease was granted
    under."""

    upload_id: str
    number: int


class ImageKind(StrEnum):
    IMAGE = "image"
    INDEX = "index"
    ARTIFACT = "artifact"
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class StoredManifest:
    """A manifest byte for byte as it was pushed."""

    digest: str
    media_type: str
    content: bytes

    def with_content(self, content: bytes) -> StoredManifest:
        """The same with these bytes."""
        return StoredManifest(self.digest, self.media_type, content)


@dataclass(frozen=True, slots=True)
class PushedManifest:
    digest: str
    subject: str | None
    tags: tuple[str, ...]
    created_repository: bool = False


@dataclass(frozen=True, slots=True)
class SweepBatch:
    """What one batch of the sweep removed: how many rows, by kind, and the keys of objects that no row names any more,
    to delete. `corrected` rows had a wrong counter by which something would have been removed, and are right now."""

    rows: Mapping[str, int]
    object_keys: tuple[str, ...] = ()
    corrected: int = 0

    @property
    def done(self) -> bool:
        """Whether nothing was due. A batch without keys may have removed rows all the same."""
        return not any(self.rows.values()) and not self.corrected


@dataclass(frozen=True, slots=True)
class Miscount:
    """A counter that differs from the count of its rows. `noun` is its table, `key` its row."""

    noun: str
    key: str
    display_name: str
    recorded: int
    counted: int


@dataclass(frozen=True, slots=True)
class Referrer:
    """A descriptor of the referrers list (OCI Distribution 1.1.1 "Listing Referrers")."""

    digest: str
    media_type: str
    size: int
    artifact_type: str | None
    annotations: dict[str, str] | None
    status: str = "ACTIVE"  # `lifecycle.evaluation.ImageStatus`


PULL_EVERY_SECONDS = 20 * 3600.0
"""How often at most an image's time of pull is written down: once a day, also of who pulls a little earlier each day.
ECR promises it at least once in 24 hours."""


@dataclass(frozen=True, slots=True)
class Pull:
    """A manifest that somebody got; `principal` is the ARN of the user, or of the role whose session it was."""

    account: str
    repository: str
    digest: str
    principal: str
    at: float


@dataclass(frozen=True, slots=True)
class Page:
    """A page of names in lexical order; `more` says whether another follows the last one."""

    names: tuple[str, ...]
    more: bool


@dataclass(frozen=True, slots=True)
class ManifestFacts:
    """What `model/manifests.read_manifest` found in a manifest's bytes: all that rows and lists need of it.

    `blobs` are (digest, size) of config and layers that must be in the repository, `blob_types` their media types by
    digest; `foreign` layers (those with `urls`, or of a non-distributable type) are not among them. `children` are an
    index's manifests. `image_size` is what DescribeImages calls imageSizeInBytes for a single image: its layers'
    compressed bytes.
    """

    kind: ImageKind
    media_type: str
    artifact_type: str | None
    config_media_type: str | None
    blobs: tuple[tuple[str, int], ...]
    children: tuple[str, ...]
    subject: str | None
    annotations: dict[str, str] | None
    image_size: int
    blob_types: Mapping[str, str] = field(default_factory=dict)


TAIL_PIECE = 2**20
"""Bytes at most in one piece of an unfinished object's tail: what one call carries and one row holds."""


@dataclass(frozen=True, slots=True)
class SentPart:
    """A part that the store of an unfinished object has taken: what completing the object must name."""

    position: int  # in the object, from 1
    number: int  # by which the store knows it: grows with the position, never used twice in one multipart upload
    etag: str
    checksum: str  # as the store verified it; "" for a kind that completing does not name


@dataclass(frozen=True, slots=True)
class OpenObject:
    """An unfinished object of a store that cannot append (S3): `part_count` equal parts, then a tail in rows.

    With `final_size` its completion was requested: the multipart upload takes no more parts, and completing it again
    from the recorded parts makes the same object of that size."""

    object_key: str
    part_size: int
    upload_id: str  # of the store's multipart upload; "" while there is none
    part_count: int
    stored_size: int  # parts and tail
    touched_at: float  # epoch seconds
    next_number: int = 1  # of a part: no writer has used it, nor a higher one
    final_size: int | None = None
