"""The tables of images from an upstream (`registry.mirror`): absent content, checks of tags, leases of fetches.

A manifest is stored before its content. `image_blobs` and `image_children` list the content that is stored;
`absent_content` lists the rest, and its rows turn into those as it is fetched (`operations.absent`). So the readers of
the other tables (sweep, check, backup) never meet missing content.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Float, ForeignKey, Index, String, Table, Text

from proxy.metadata.db.columns import RowId, metadata
from proxy.metadata.db.columns import name as _name

absent_content = Table(
    "absent_content",
    metadata,
    Column("image_id", RowId, ForeignKey("images.image_id"), primary_key=True),
    Column("digest", _name(140), primary_key=True),
    Column("repository_id", RowId, nullable=False),  # the image's, which never changes
    Column("kind", String(8), nullable=False),  # one of ABSENT_*
    Column("size", BigInteger, nullable=False),  # a blob's, by its descriptor; 0 for a manifest
    Column("media_type", String(256)),
    Index("ix_absent_content_repository_id_digest", "repository_id", "digest"),
)

ABSENT_BLOB, ABSENT_MANIFEST = "blob", "manifest"

mirrored_tags = Table(
    "mirrored_tags",
    metadata,
    Column("repository_id", RowId, ForeignKey("repositories.repository_id"), primary_key=True),
    Column("name", _name(128), primary_key=True),
    Column("digest", _name(140), nullable=False),  # the upstream's; the tag's own row has the current one
    Column("checked_at", Float, nullable=False),
)

blob_fetches = Table(
    "blob_fetches",
    metadata,
    Column("account", _name(12), primary_key=True),
    Column("repository", _name(256), primary_key=True),
    Column("digest", _name(140), primary_key=True),
    Column("holder", String(32), nullable=False),
    Column("address", Text, nullable=False),
    Column("until", Float, nullable=False, index=True),
    Column("node", Text, nullable=False, server_default=""),  # where other nodes reach the holder's, if they can
    Column("upload_id", String(36), nullable=False, server_default=""),  # the session that it fills, once it has kept
)
"""Leases of blobs that are being fetched. An expired one is taken over; it is removed once its upload session is not
continued any more."""
