"""The sealed blob: its format, its keys, writing it, reading it.

An object is one or more AWS Encryption SDK messages (version 2, suite 0x0478, framed), so nobody is locked in; fixed
frames make ranges arithmetic. The only room that imports `_speedups`. Knows stores and keys; must not know
repositories, HTTP or rows. May import `storage`, `auth` (for sealing small values), `observe`, `model`.
"""
