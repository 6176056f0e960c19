"""The stored blob: its formats, its keys, writing it, reading it.

An object is one or more AWS Encryption SDK messages (version 2, suite 0x0478, framed), so nobody is locked in; fixed
frames make ranges arithmetic. Where sealing is off it is the blob's own bytes (`plain`); `objects` chooses by the row,
`reader` and `double_buffer` are what both kinds share. Data keys are wrapped by a key file (`local_keys` over
`master_file`) or by AWS KMS (`kms_keys` over `kms`), chosen by what a row names (`keys`); all processes agree on the
key that seals small values (`key_consensus`). Hashes and seals with `_speedups`. Knows stores and keys; must not know
repositories, HTTP or rows. May import `storage`, `auth` (for sealing small values), `observe`, `model`.
"""
