"""What a registry does, whichever protocol asks: upload a blob, read a blob, push and resolve images.

`oci` and `ecr` call it: they translate their protocol into these calls. May import `blob`, `storage`, `auth`,
`observe`, `model` and `metadata.contract`; must not know HTTP.

Each journey is a class over the contracts of metadata, store and keys, so that a test can pass a failing one. The life
of one append (lease, seal or hash, record, undo) is in `append`. Turned down: copying a finished upload to a key of its
own (commit is a row), and keeping sessions in a worker's memory.
"""
