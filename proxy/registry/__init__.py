"""What a registry does, for every protocol: upload a blob, read a blob, push and resolve images.

`oci` and `ecr` call it: they translate their protocol into these calls. May import `blob`, `storage`, `auth`,
`observe`, `model` and `metadata.contract`; must not know HTTP.

Each class works over the contracts of metadata, store and keys, so that a test can pass a failing one. `uploads` has
the upload sessions, and `append` one append to a session (lease, seal or hash, record, undo). Turned down: copying a
finished upload to a key of its own (commit is a row), and keeping sessions in a worker's memory.
"""
