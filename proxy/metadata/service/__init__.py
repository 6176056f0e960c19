"""The metadata service as a process: `service` answers operations over HTTP, `unix` the same on a unix socket.

`idempotency` runs a write once per request id, `clock` follows the database's time, `status` answers `/readyz` and
`/metrics`. Called by `app.metadata`.
"""
