"""Object stores. One contract (`base`), one test suite that every store passes (`tests/contract/test_stores.py`).

A store knows keys, offsets and bytes; it never knows digests, repositories, plaintext or data keys. Object keys are
random and chosen by the caller. `filesystem/` keeps objects in files, `s3/` in a bucket, `cache/` on a local disk in
front of another store. `marker` binds a store to one installation, `threads` and `off_loop` run blocking work,
`wait_for` bounds a wait, `null_open_objects` is for stores that need no rows. Called by `blob`, `registry`, `jobs` and
`app`. May import `observe`, `config` and `model`.
"""
