"""Where sealed bytes lie. One contract (`base`), one suite every store must pass (`tests/contract/test_stores.py`).

A store knows keys, offsets and bytes; it never knows digests, repositories, plaintext or keys to open anything. Object
keys are random and chosen by us. `filesystem` keeps objects in files, whose layout `tree` owns. May import `model` and
`observe`.
"""
