"""Where sealed bytes lie. One contract (`base`), one suite that every store must pass (`tests/contract/test_stores.py`).

A store knows keys, offsets and bytes; it never knows digests, repositories, plaintext or keys to open anything. Keys are
random and chosen by us. May import `model` and `observe`.
"""
