"""Rows: tables, transactions and the two databases.

`schema` and `identity_tables` define the tables over `columns`, `migrations` brings a database to the newest schema.
`store` runs `transaction`s in threads and groups their commits; `sqlite` and `postgresql` (with `pg_sessions` and
`pg_connection`) are the databases. `snapshot` copies all rows to a file, `move` to another database, `paging` makes
page tokens. Called by `metadata.operations` and `metadata.service`.
"""
