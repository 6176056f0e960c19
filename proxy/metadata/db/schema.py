"""The tables of the metadata service, in SQLAlchemy Core.

Meant for 100,000 repositories and 10 million images: integer row ids inside, names and digests only where a look-up
begins, and an index for each way a list is read, so that no query walks rows it does not return. Manifest bytes have a
table of their own, which lists never touch. Counters (`links`, `uses`, `images`, `tags`, and `repositories` of an
account) are kept in the transaction that changes what they count; they are what lets the sweep find its work by an
index, and quotas cost nothing. Portable to PostgreSQL: nothing here is SQLite's alone. Changing a table here means a
new migration; a test compares the two.
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
)

from proxy.metadata.db import (
    event_tables as event_tables,
)  # part of `metadata`, for copies and comparisons of all tables
from proxy.metadata.db import job_tables as job_tables
from proxy.metadata.db import replication_tables as replication_tables
from proxy.metadata.db.columns import RowId
from proxy.metadata.db.columns import metadata as metadata
from proxy.metadata.db.columns import name as _name

HEAD = "0028"
"""The newest migration. A database that says so needs no Alembic at start."""

repositories = Table(
    "repositories",
    metadata,
    Column("repository_id", RowId, primary_key=True),
    Column("account", _name(12), nullable=False),
    Column("name", _name(256), nullable=False),
    Column("created_at", Float, nullable=False),
    Column("tag_mutability", String(32), nullable=False),
    Column("mutability_exclusions", Text),  # JSON, as CreateRepository was given it
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
    Column("touched_at", Float, nullable=False),  # its grace counts from here
    Column("created_at", Float, nullable=False),
    Column("encryption", Text, nullable=False, server_default=""),  # of all repositories that hold it
    UniqueConstraint("account", "digest", "encryption"),
    Index("ix_blobs_unlinked", "links", "touched_at"),
)

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
"""Of blobs and of open uploads alike: an upload's commit moves none of them."""

frame_hashes = Table(
    "frame_hashes",
    metadata,
    Column("object_key", _name(32), primary_key=True),
    Column("plain_offset", BigInteger, primary_key=True, autoincrement=False),  # of the page's first frame
    Column("hashes", LargeBinary, nullable=False),
)
"""Of objects that are not sealed, `FRAME_PAGE` frames a row, counted anew in each segment. Read one by one, by key."""

blob_links = Table(
    "blob_links",
    metadata,
    Column("repository_id", RowId, ForeignKey("repositories.repository_id"), primary_key=True),
    Column("blob_id", RowId, ForeignKey("blobs.blob_id"), primary_key=True),
    Column("uses", Integer, nullable=False),  # images of this repository that need it
    Column("media_type", String(256)),  # as the last of them describes it
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
    Column("fence", Integer, nullable=False),  # of the append that holds it, 0: none
    Column("last_fence", Integer, nullable=False),
    Column("lease_until", Float, nullable=False),
    Column("holder", String(32)),  # who took the lease, so that a repeated request gets the lost answer
    Column("touched_at", Float, nullable=False),
    Column("committed", _name(140)),  # the digest; while it is open, of what `finish_upload` left
    Column("discard", _name(32)),  # the object that its commit made useless
    Column("encryption", Text, nullable=False, server_default=""),  # as of blobs
    Column("parts", Integer),  # that UploadLayerPart brought; NULL of a session that docker began
    Column("small_parts", Integer, nullable=False, server_default="0"),  # too small to have another after them
    Column("last_part_at", BigInteger, nullable=False, server_default="0"),
    Column("state_before", LargeBinary),  # the hash state before the last part
    Column("settled_fence", Integer, nullable=False, server_default="0"),  # newest whose holder left nothing in flight
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
    Column("annotations", Text),  # JSON; kept of referrers only, whose list shows them
    Column("manifest_size", Integer, nullable=False),
    Column("image_size", BigInteger, nullable=False),
    Column("pushed_at", Float, nullable=False),
    Column("tagged", Integer, nullable=False),  # 0 or 1: some tag points here
    Column("tags", Integer, nullable=False, server_default="0"),
    Column("last_pulled_at", Float),
    Column("status", String(16), nullable=False, server_default="ACTIVE"),  # `model.lifecycle.evaluation.ImageStatus`
    Column("archived_at", Float),  # the last time, also of one that was restored since
    Column("activated_at", Float),  # restored the last time
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

image_blobs = Table(
    "image_blobs",
    metadata,
    Column("image_id", RowId, ForeignKey("images.image_id"), primary_key=True),
    Column("blob_id", RowId, ForeignKey("blobs.blob_id"), primary_key=True),
    Column("repository_id", RowId, nullable=False, server_default="0"),  # the image's, which never changes
    Index("ix_image_blobs_blob_id_repository_id", "blob_id", "repository_id"),
)
"""The repository's id is here so that whether any image of a repository needs a blob costs one probe of an index, in
how many other repositories the blob may be used."""

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
    Column("version", Float),  # when it was pushed at its origin; NULL where that is here
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
    Column("custom_role_id", _name(128)),  # whom that ARN stood for as it was saved; empty for no role
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
"""Token buckets, as they stood at a moment."""

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
    Column("provider_id", String(256)),  # of the wrapped key, where KMS keeps it; never a key in the clear
    Column("provider_info", LargeBinary),
    Column("data_key", LargeBinary),
    Column("active", Integer, unique=True),  # 1 or nothing: one row is in force at most
    Column("created_at", Float, nullable=False, index=True),
)
"""The keys that small values are sealed under, by name: what every process must have, checked at its start."""

reserved_objects = Table(
    "reserved_objects",
    metadata,
    Column("object_key", _name(32), primary_key=True),
    Column("until", Float, nullable=False, index=True),
)
"""Keys of objects that are being written and have no other row yet, as those of a reseal: the sweep takes no object
that is named here. A row that names such an object is written only while its reservation is here, and in its place."""

open_objects = Table(
    "open_objects",
    metadata,
    Column("object_key", _name(32), primary_key=True),
    Column("part_size", BigInteger, nullable=False),
    Column("upload_id", Text, nullable=False),  # of the store's multipart upload; empty while there is none
    Column("touched_at", Float, nullable=False),
    Column("session_id", _name(36), nullable=False, server_default=""),  # the upload session that wrote the row last,
    Column("fence", Integer, nullable=False, server_default="0"),  # under this lease of it
    Column("next_number", Integer, nullable=False, server_default="1"),  # of a part: free, with all that follow
    Column("final_size", BigInteger),  # set once the multipart upload's completion may have been sent
)
"""Unfinished objects of a store that cannot append (S3), with their parts and tails: what
`model.open_objects.OpenObjects` keeps."""

open_parts = Table(
    "open_parts",
    metadata,
    Column("object_key", _name(32), primary_key=True),
    Column("position", Integer, primary_key=True, autoincrement=False),  # in the object, from 1
    Column("number", Integer, nullable=False, server_default="0"),  # by which the store knows the part
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
"""Bytes past the last part that the store has, in pieces: sealed, but for objects that are not."""

answers = Table(
    "answers",
    metadata,
    Column("request_id", _name(32), primary_key=True),
    Column("made_at", Float, nullable=False, index=True),
    Column("answer", LargeBinary, nullable=False),
)
"""Answers to writes, so that a repeated request gets the lost answer: `service.idempotency` has the form."""
