"""The tables of images that come from an upstream (`registry.mirror`): what is not here, and when was asked for it.

A manifest is stored before what it names. `image_blobs` and `image_children` say what an image holds of what is here;
`absent_content` says the rest, row for row, and turns into those as it comes (`operations.absent`). So whatever reads
the other tables (sweep, check, backup) reads nothing that is not there.
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
    Column("size", BigInteger, nullable=False),  # of a blob, as its descriptor says; of a manifest 0
    Column("media_type", String(256)),
    Index("ix_absent_content_repository_id_digest", "repository_id", "digest"),
)

ABSENT_BLOB, ABSENT_MANIFEST = "blob", "manifest"

mirrored_tags = Table(
    "mirrored_tags",
    metadata,
    Column("repository_id", RowId, ForeignKey("repositories.repository_id"), primary_key=True),
    Column("name", _name(128), primary_key=True),
    Column("digest", _name(140), nullable=False),  # where the upstream had it; the tag's row says where it points
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
"""Leases of blobs that are being fetched. One that nobody ended is taken over, or removed, once its time is over and
nobody is expected to go on with its upload session."""
