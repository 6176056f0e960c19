"""The stored blob: its formats, its keys, writing it, reading it.

An object is one or more AWS Encryption SDK messages (version 2, suite 0x0478, framed), so nobody is locked in; fixed
frames make ranges arithmetic. Where sealing is off it is the blob's own bytes (`plain`); `objects` chooses by the row,
`reader` and `slots` are what both kinds share. Data keys are wrapped by a key file (`localkeys` over `masterfile`) or
by AWS KMS (`kmskeys` over `kms`), chosen by what a row names (`keys`); what seals small values is agreed on by all
processes (`agreement`). Hashes and seals with `_speedups`. Knows stores and keys; must not know repositories, HTTP or
rows. May import `storage`, `auth` (for sealing small values), `observe`, `model`.
"""
