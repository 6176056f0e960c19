"""The stored blob: its formats, its keys, writing it, reading it.

An object is one or more AWS Encryption SDK messages (version 2, suite 0x0478, framed), so other tools can decrypt it;
fixed frames make ranges arithmetic. If sealing is off it is the blob's own bytes (`plain`); `objects` chooses by the
row, and both kinds share `reader` and `double_buffer`. Data keys are wrapped by a key file (`local_keys` over
`master_file`) or by AWS KMS (`kms_keys` over `kms`), as the row names it (`keys`); all processes agree on the key that
seals small values (`key_consensus`). `small_objects` caches small sealed objects. Hashes and seals with `_speedups`.
Called by `registry`, `jobs`, `ecr` and `app`. Must not know repositories, HTTP or rows. May import `storage`, `auth`
(for sealing small values), `observe`, `model`.
"""
