"""The metadata service as a process: `service` starts and ends it, `connection` reads and writes frames, `dispatch`
runs the operation that a frame asks for.

`idempotency` runs a write once per request id, `clock` follows the database's time, `status` answers `/readyz` and
`/metrics`. Called by `app.metadata`.
"""
