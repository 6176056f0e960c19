"""What a registry does, whoever asks: upload a blob, read a blob, push and resolve images.

Doors (`oci`, `ecr`) translate a protocol into these journeys and back. May import `blob`, `storage`, `auth`, `observe`,
`model` and `metadata.contract`; must not know HTTP.

Each journey is a class over the contracts of metadata, store and keys, so that a test can put a failing one in their
place. The life of one append (lease, seal or hash, record, undo) is in `append`. Turned
down: copying a finished upload to a place of its own (commit is a row), and keeping sessions in a worker's memory.
"""
