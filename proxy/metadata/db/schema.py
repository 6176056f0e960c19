"""The tables of the metadata service, in SQLAlchemy Core.

Sized for 100,000 repositories and 10 million images: integer row ids inside, names and digests only where a look-up
begins, and an index for each order of a list, so that no query reads rows that it does not return. Manifest bytes are
in a table of their own, which lists never read. Counters (`links`, `uses`, `images`, `tags`, and an account's
`repositories`) change in the transaction that changes what they count; by them the sweep finds its work with an index,
and quotas cost no query. Everything is portable to PostgreSQL. A change of a table needs a migration; a test compares
the two.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    String,
    Table,
    Text,
    UniqueConstraint,
    literal_column,
)

from proxy.metadata.db import (
    event_tables as event_tables,
)  # part of `metadata`, for copies and comparisons of all tables
from proxy.metadata.db import job_tables as job_tables
from proxy.metadata.db import replication_tables as replication_tables
from proxy.metadata.db.columns import RowId
from proxy.metadata.db.columns import metadata as metadata
from proxy.metadata.db.columns import name as _name

HEAD = "0030"
"""The newest migration. A database at this version needs no Alembic at start."""

repositories = Table(
    "repositories",
    metadata,
    Column("repository_id", RowId, primary_key=True),
    Column("account", _name(12), nullable=False),
    Column("name", _name(256), nullable=False),
    Column("created_at", Float, nullable=False),
    Column("tag_mutability", String(32), nullable=False),
    Column("mutability_exclusions", Text),  # JSON, as given to CreateRepository
    Column("scan_on_push", Boolean, nullable=False),
    Column("encryption_type", String(16), nullable=False),
    Column("kms_key", Text),
    Column("policy", Text),  # verbatim
    Column("policy_principals", Text),  # JSON, as `model.identity.BoundPolicy.principals`
    Column("lifecycle_policy", Text),  # verbatim
    Column("images", Integer, nullable=False, server_default="0"),
    Column("bytes", BigInteger, nullable=False, server_default="0"),  # `operations.usage` says of what
    Column("manifest_bytes", BigInteger, nullable=False, server_default="0"),
    Column("encryption", Text, nullable=False, server_default=""),  # KMS key of its data keys; empty: the server's own
    Column("lifecycle_evaluated_at", Float, nullable=False, server_default="0"),  # 0: not since the policy was put
    UniqueConstraint("account", "name"),
)
Index(
    "ix_repositories_lifecycle",
    repositories.c.lifecycle_evaluated_at,
    repositories.c.repository_id,
    sqlite_where=repositories.c.lifecycle_policy.is_not(None),
    postgresql_where=repositories.c.lifecycle_policy.is_not(None),
)

repository_tags = Table(
    "repository_tags",
    metadata,
    Column("repository_id", RowId, ForeignKey("repositories.repository_id"), primary_key=True),
    Column("key", _name(128), primary_key=True),
    Column("value", Text, nullable=False),
)

blobs = Table(
    "blobs",
    metadata,
    Column("blob_id", RowId, primary_key=True),
    Column("account", _name(12), nullable=False),
    Column("digest", _name(140), nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("object_key", _name(32), nullable=False, index=True),  # accounts may share an object
    Column("stored_size", BigInteger, nullable=False),
    Column("segment_count", Integer, nullable=False),
    Column("sealed_for", Text, nullable=False),
    Column("frame_length", Integer, nullable=False),
    Column("sealing", String(16), nullable=False, server_default="aes-gcm"),
    Column("provider_id", String(256), nullable=False),
    Column("provider_info", LargeBinary, nullable=False),
    Column("data_key", LargeBinary, nullable=False),
    Column("quarantined_for", Text),  # the reason; set means hidden
    Column("links", Integer, nullable=False),  # repositories that hold it
    Column("touched_at", Float, nullable=False),  # its grace begins here
    Column("created_at", Float, nullable=False),
    Column("encryption", Text, nullable=False, server_default=""),  # the KMS key of all repositories that hold it
    Column("archived", Integer, nullable=False, server_default="0"),  # 1: its object is in the place of `[archive]`
    UniqueConstraint("account", "digest", "encryption"),
    Index("ix_blobs_unlinked", "links", "touched_at"),
)
IN_ARCHIVE = blobs.c.archived == literal_column("1")  # a literal: only by that is the index found
Index("ix_blobs_archived", blobs.c.object_key, sqlite_where=IN_ARCHIVE, postgresql_where=IN_ARCHIVE)

segments = Table(
    "segments",
    metadata,
    Column("object_key", _name(32), primary_key=True),
    Column("plain_offset", BigInteger, primary_key=True, autoincrement=False),
    Column(
        "stored_offset", BigInteger, primary_key=True, autoincrement=False
    ),  # an empty append shares its plain offset
    Column("plain_length", BigInteger, nullable=False),
    Column("stored_length", BigInteger, nullable=False),
    Column("header", LargeBinary, nullable=False),
)
"""Segments of blobs and of open uploads: an upload's commit moves no row."""

frame_hashes = Table(
    "frame_hashes",
    metadata,
    Column("object_key", _name(32), primary_key=True),
    Column("plain_offset", BigInteger, primary_key=True, autoincrement=False),  # of the page's first frame
    Column("hashes", LargeBinary, nullable=False),
)
"""Frame hashes of plain objects, `FRAME_PAGE` frames a row, counted from each segment's start. Read one row at a
time."""

blob_links = Table(
    "blob_links",
    metadata,
    Column("repository_id", RowId, ForeignKey("repositories.repository_id"), primary_key=True),
    Column("blob_id", RowId, ForeignKey("blobs.blob_id"), primary_key=True),
    Column("uses", Integer, nullable=False),  # images of this repository that need it
    Column("media_type", String(256)),  # by the last image that describes it
    Column("touched_at", Float, nullable=False),
    Index("ix_blob_links_blob_id", "blob_id"),
    Index("ix_blob_links_unused", "uses", "touched_at"),
)

uploads = Table(
    "uploads",
    metadata,
    Column("upload_id", _name(36), primary_key=True),
    Column("account", _name(12), nullable=False),
    Column("repository", _name(256), nullable=False),
    Column("state", Integer, nullable=False),  # one of UPLOAD_*
    Column("algorithm", String(16), nullable=False),
    Column("object_key", _name(32), nullable=False, unique=True),
    Column("sealed_for", Text, nullable=False),
    Column("frame_length", Integer, nullable=False),
    Column("sealing", String(16), nullable=False, server_default="aes-gcm"),
    Column("provider_id", String(256), nullable=False),
    Column("provider_info", LargeBinary, nullable=False),
    Column("data_key", LargeBinary, nullable=False),
    Column("plain_size", BigInteger, nullable=False),
    Column("stored_size", BigInteger, nullable=False),
    Column("segment_count", Integer, nullable=False),
    Column("hash_state", LargeBinary, nullable=False),
    Column("fence", Integer, nullable=False),  # of the current lease, 0: none
    Column("last_fence", Integer, nullable=False),
    Column("lease_until", Float, nullable=False),
    Column("holder", String(32)),  # of the lease, so that a repeated request gets the lost answer
    Column("touched_at", Float, nullable=False),
    Column("committed", _name(140)),  # the digest; of an open session, that of `finish_upload`
    Column("discard", _name(32)),  # the object that its commit made useless
    Column("encryption", Text, nullable=False, server_default=""),  # as of blobs
    Column("parts", Integer),  # how many UploadLayerPart brought; NULL for a session that docker began
    Column("small_parts", Integer, nullable=False, server_default="0"),  # parts too small to be followed by another
    Column("last_part_at", BigInteger, nullable=False, server_default="0"),
    Column("state_before", LargeBinary),  # the hash state before the last part
    Column(
        "settled_fence", Integer, nullable=False, server_default="0"
    ),  # the newest fence whose requests to the store were all answered
    Column("opened_by", _name(128), nullable=False, server_default=""),  # the unique id of a principal
    Column("created_at", Float, nullable=False, server_default="0"),
    Index("ix_uploads_opened_by_state", "opened_by", "state"),
    Index("ix_uploads_state_touched_at", "state", "touched_at"),
    Index("ix_uploads_account_repository_state", "account", "repository", "state"),
)

UPLOAD_OPEN, UPLOAD_COMMITTED, UPLOAD_CLOSED = 0, 1, 2

manifest_bytes = Table(
    "manifest_bytes",
    metadata,
    Column("digest", _name(140), primary_key=True),
    Column("content", LargeBinary, nullable=False),
    Column("images", Integer, nullable=False),  # rows of `images` with this digest
)

images = Table(
    "images",
    metadata,
    Column("image_id", RowId, primary_key=True),
    Column("repository_id", RowId, ForeignKey("repositories.repository_id"), nullable=False),
    Column("digest", _name(140), nullable=False),
    Column("media_type", String(256), nullable=False),
    Column("kind", String(16), nullable=False),
    Column("artifact_type", _name(256)),  # declared, else the config's media type
    Column("subject", _name(140)),
    Column("annotations", Text),  # JSON; only of referrers, whose list shows them
    Column("manifest_size", Integer, nullable=False),
    Column("image_size", BigInteger, nullable=False),
    Column("pushed_at", Float, nullable=False),
    Column("tagged", Integer, nullable=False),  # 0 or 1: some tag points here
    Column("tags", Integer, nullable=False, server_default="0"),
    Column("last_pulled_at", Float),
    Column("status", String(16), nullable=False, server_default="ACTIVE"),  # `model.lifecycle.evaluation.ImageStatus`
    Column("archived_at", Float),  # the last time, also if restored since
    Column("activated_at", Float),  # when it was last restored
    Column("origin", _name(38)),  # REGION/ACCOUNT it was replicated from, or PULL_THROUGH; NULL: pushed here
    Column("referrers_checked_at", Float),  # when an upstream was asked what refers to it
    UniqueConstraint("repository_id", "digest"),
    Index("ix_images_by_status", "repository_id", "status", "tagged", "digest"),
)
Index(
    "ix_images_referrers",
    images.c.repository_id,
    images.c.subject,
    images.c.digest,
    sqlite_where=images.c.subject.is_not(None),
    postgresql_where=images.c.subject.is_not(None),
)
Index(
    "ix_images_referrers_of_type",
    images.c.repository_id,
    images.c.subject,
    images.c.artifact_type,
    images.c.digest,
    sqlite_where=images.c.subject.is_not(None),
    postgresql_where=images.c.subject.is_not(None),
)

NOT_ACTIVE = images.c.status != literal_column("'ACTIVE'")  # as `IN_ARCHIVE`
Index("ix_images_not_active", images.c.image_id, sqlite_where=NOT_ACTIVE, postgresql_where=NOT_ACTIVE)

image_blobs = Table(
    "image_blobs",
    metadata,
    Column("image_id", RowId, ForeignKey("images.image_id"), primary_key=True),
    Column("blob_id", RowId, ForeignKey("blobs.blob_id"), primary_key=True),
    Column("repository_id", RowId, nullable=False, server_default="0"),  # the image's, which never changes
    Index("ix_image_blobs_blob_id_repository_id", "blob_id", "repository_id"),
)
"""With the repository's id, one index probe finds whether an image of a repository needs a blob, however many other
repositories use it."""

image_children = Table(
    "image_children",
    metadata,
    Column("image_id", RowId, ForeignKey("images.image_id"), primary_key=True),
    Column("child_id", RowId, ForeignKey("images.image_id"), primary_key=True),
    Index("ix_image_children_child_id", "child_id"),
)

tags = Table(
    "tags",
    metadata,
    Column("repository_id", RowId, ForeignKey("repositories.repository_id"), primary_key=True),
    Column("name", _name(128), primary_key=True),
    Column("image_id", RowId, ForeignKey("images.image_id"), nullable=False),
    Column("pushed_at", Float, nullable=False),
    Column("origin", _name(38)),  # as of images
    Column("version", Float),  # when it was pushed at its origin; NULL: it was pushed here
    Index("ix_tags_image_id_name", "image_id", "name"),
)

creation_templates = Table(
    "creation_templates",
    metadata,
    Column("account", _name(12), primary_key=True),
    Column("prefix", _name(256), primary_key=True),  # or ROOT
    Column("description", Text),
    Column("applied_for", Text, nullable=False),  # JSON list
    Column("tag_mutability", String(32), nullable=False),
    Column("mutability_exclusions", Text),  # JSON, as it was given
    Column("encryption_type", String(16), nullable=False),
    Column("kms_key", Text),
    Column("repository_policy", Text),  # this and the next: verbatim
    Column("lifecycle_policy", Text),
    Column("resource_tags", Text),  # JSON, as it was given
    Column("custom_role_arn", _name(2048)),
    Column("repository_policy_principals", Text),  # JSON, as `model.identity.BoundPolicy.principals`
    Column("custom_role_id", _name(128)),  # the role's unique id when it was saved; empty for no role
    Column("created_at", Float, nullable=False),
    Column("updated_at", Float, nullable=False),
)

pull_time_exclusions = Table(
    "pull_time_exclusions",
    metadata,
    Column("account", _name(12), primary_key=True),
    Column("principal_arn", _name(2048), primary_key=True),
    Column("created_at", Float, nullable=False),
)

rates = Table(
    "rates",
    metadata,
    Column("account", _name(12), primary_key=True),
    Column("operation", _name(64), primary_key=True),
    Column("tokens", Float, nullable=False),
    Column("counted_at", Float, nullable=False),
)
"""Token buckets, each at a moment."""

turns = Table(
    "turns",
    metadata,
    Column("task", _name(64), primary_key=True),
    Column("until", Float, nullable=False),
)

master_keys = Table(
    "master_keys",
    metadata,
    Column("name", _name(128), primary_key=True),
    Column("namespace", _name(128), nullable=False),
    Column("check_value", LargeBinary, nullable=False),
    Column("sealed_for", Text, nullable=False),
    Column("provider_id", String(256)),  # of the wrapped key, if it is KMS's; never a plaintext key
    Column("provider_info", LargeBinary),
    Column("data_key", LargeBinary),
    Column("active", Integer, unique=True),  # 1 or NULL: at most one row is active
    Column("created_at", Float, nullable=False, index=True),
)
"""The keys that seal small values, by name: every process must have them, which its start checks."""

reserved_objects = Table(
    "reserved_objects",
    metadata,
    Column("object_key", _name(32), primary_key=True),
    Column("until", Float, nullable=False, index=True),
)
"""Keys of objects that are being written and have no other row yet, as in a reseal: the sweep keeps them. A row that
names such an object replaces its reservation, in one transaction."""

open_objects = Table(
    "open_objects",
    metadata,
    Column("object_key", _name(32), primary_key=True),
    Column("part_size", BigInteger, nullable=False),
    Column("upload_id", Text, nullable=False),  # the store's multipart upload; empty: none
    Column("touched_at", Float, nullable=False),
    Column("session_id", _name(36), nullable=False, server_default=""),  # the upload session that wrote the row last,
    Column("fence", Integer, nullable=False, server_default="0"),  # under this lease of it
    Column("next_number", Integer, nullable=False, server_default="1"),  # the first free part number
    Column("final_size", BigInteger),  # set once the multipart upload's completion may have been sent
)
"""Unfinished objects of a store that cannot append (S3), with their parts and tails, for
`model.open_objects.OpenObjects`."""

open_parts = Table(
    "open_parts",
    metadata,
    Column("object_key", _name(32), primary_key=True),
    Column("position", Integer, primary_key=True, autoincrement=False),  # in the object, from 1
    Column("number", Integer, nullable=False, server_default="0"),  # the store's part number
    Column("etag", Text, nullable=False),
    Column("checksum", String(64), nullable=False),
)

open_tails = Table(
    "open_tails",
    metadata,
    Column("object_key", _name(32), primary_key=True),
    Column("stored_offset", BigInteger, primary_key=True, autoincrement=False),
    Column("length", Integer, nullable=False),
    Column("content", LargeBinary, nullable=False),
)
"""Bytes past the last part in the store, in pieces; sealed, except those of plain objects."""

answers = Table(
    "answers",
    metadata,
    Column("request_id", _name(32), primary_key=True),
    Column("made_at", Float, nullable=False, index=True),
    Column("answer", LargeBinary, nullable=False),
)
"""Answers to writes, so that a repeated request gets the lost answer (`service.idempotency`)."""
