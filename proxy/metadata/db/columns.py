"""What all tables share: their collection, names of constraints, and types that both databases spell alike."""

from __future__ import annotations

from sqlalchemy import BigInteger, Integer, MetaData, String

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

RowId = BigInteger().with_variant(Integer(), "sqlite")  # SQLite's rowid is only ever called INTEGER


def name(length: int) -> String:
    """Text compared byte by byte everywhere: lists are in the order the OCI spec asks for, on any database's locale."""
    return String(length).with_variant(String(length, collation="C"), "postgresql")
