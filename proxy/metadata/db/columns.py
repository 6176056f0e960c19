"""Shared by all tables: the MetaData with its names of constraints, and portable column types."""

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

RowId = BigInteger().with_variant(Integer(), "sqlite")  # only an INTEGER is SQLite's rowid


def name(length: int) -> String:
    """Text that is compared byte by byte in any database's locale: the OCI spec asks for this order of lists."""
    return String(length).with_variant(String(length, collation="C"), "postgresql")
