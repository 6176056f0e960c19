"""Where objects lie. One contract (`base`), one suite every store must pass (`tests/contract/test_stores.py`).

A store knows keys, offsets and bytes; it never knows digests, repositories, plaintext or keys to open anything. Object
keys are random and chosen by us. `filesystem` keeps objects in files, whose layout `tree` owns. `s3` keeps them in a
bucket: `bucket` asks it (with `patience`, behind a `breaker`), `s3append` over `s3parts` (with `s3tools`), `s3early`,
`s3whole` and `s3read` are an object's life, `partbuffers` is the memory of it all, and `nodebudget` shares that among
the processes of a node; `s3links` lets clients fetch from it. Bodies go over lines of our own: `s3session` gives them
to `s3line`, and `s3direct` what `s3sign` has signed. What is unfinished there is known to rows, through the port
`base.OpenObjects`.
`cache` is a store in front of another: `cachedir` bounds what lies on the disk, `cachefile` is one object there,
`cachefill` fetches it once for all, and `writesbehind` writes it, with `_speedups`. May import `model`, `observe` and
`_speedups`.
"""
