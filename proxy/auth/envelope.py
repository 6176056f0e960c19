"""Seals small values: secrets, tokens, hash states - anything that fits in memory and must not be read or altered.

    0        1          2            2+n      18+n     30+n                        −16
    +--------+----------+------------+--------+--------+---------------------------+--------+
    | version| n        | key id     | salt   | nonce  | AES-256-GCM ciphertext    | tag    |
    | 1      | 1 byte   | n bytes    | 16     | 12     |                           | 16     |
    +--------+----------+------------+--------+--------+---------------------------+--------+
    cipher key = HMAC-SHA256(key, "wharfage small value 1" ‖ salt)
    AAD        = version ‖ each of purpose, key id, bound_to with its length before it (4 bytes, big-endian)

The first key seals, any key opens, so a rotated master key keeps what it sealed. Each value has its own random subkey
*and* its own random nonce, 224 random bits together: after 2^80 values under one key a pair repeats with a chance
below 2^-64, where 96 random bits alone would allow only 2^32 values (NIST SP 800-38D, 8.3).
"""

from __future__ import annotations

import hashlib
import hmac
import os
from collections.abc import Callable, Sequence

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

VERSION = 1
KEY_LENGTH = 32
SALT_LENGTH = 16
NONCE_LENGTH = 12
TAG_LENGTH = 16

_LABEL = b"wharfage small value 1"
_TAG_LABEL = b"wharfage tag 1"


class SmallSealer:
    """Seals for one purpose. A value that was sealed for another purpose, or bound to something else, does not open."""

    def __init__(
        self,
        keys: Sequence[tuple[str, bytes]] | Callable[[], Sequence[tuple[str, bytes]]],
        purpose: str,
        *,
        random: Callable[[int], bytes] = os.urandom,
    ) -> None:
        """`keys` are (key id of 1 to 255 bytes, 32 bytes), the active one first; ValueError when they are not.

        A function is called each time, and the keys are read again when it returns another object.
        """
        self._source: Callable[[], Sequence[tuple[str, bytes]]] = keys if callable(keys) else lambda: keys
        self._taken: Sequence[tuple[str, bytes]] | None = None
        self._keys: dict[bytes, bytes] = {}
        self._active = b""
        self._purpose = purpose.encode()
        self._random = random
        self._take()

    def seal(self, plain: bytes, bound_to: bytes = b"") -> bytes:
        """Seal with the active key. `open` needs the same `bound_to`."""
        self._take()
        salt = self._random(SALT_LENGTH)
        nonce = self._random(NONCE_LENGTH)
        cipher = AESGCM(_subkey(self._keys[self._active], salt))
        head = bytes((VERSION, len(self._active))) + self._active
        return head + salt + nonce + cipher.encrypt(nonce, plain, self._associated(self._active, bound_to))

    def open(self, sealed: bytes, bound_to: bytes = b"") -> bytes:
        """The plain value; a ValueError without details if it was altered, is not ours, or is bound to another."""
        self._take()
        if len(sealed) < 2 or sealed[0] != VERSION:
            raise ValueError("not a sealed value of a version we know")
        salt_at = 2 + sealed[1]
        nonce_at = salt_at + SALT_LENGTH
        body_at = nonce_at + NONCE_LENGTH
        if len(sealed) < body_at + TAG_LENGTH:
            raise ValueError("the sealed value is cut short")
        key_id = bytes(sealed[2:salt_at])
        key = self._keys.get(key_id)
        if key is None:
            raise ValueError("the sealed value names a key that is not here")
        cipher = AESGCM(_subkey(key, sealed[salt_at:nonce_at]))
        try:
            return cipher.decrypt(sealed[nonce_at:body_at], sealed[body_at:], self._associated(key_id, bound_to))
        except InvalidTag:
            raise ValueError("the sealed value does not authenticate") from None

    def tag(self, data: bytes) -> bytes:
        """32 bytes that only the holder of the active key can make of `data`, for this purpose."""
        self._take()
        return _tag(self._keys[self._active], self._associated(self._active, data))

    def is_tag(self, tag: bytes, data: bytes) -> bool:
        """Whether it is how `tag` of `data` begins, under any of the keys."""
        self._take()
        made = (_tag(key, self._associated(key_id, data))[: len(tag)] for key_id, key in self._keys.items())
        return any(hmac.compare_digest(tag, each) for each in made)

    def is_current(self, sealed: bytes) -> bool:
        """Whether it names the active key; it may still not open."""
        self._take()
        return sealed[:1] == bytes((VERSION,)) and sealed[1 : 2 + len(self._active)] == (
            bytes((len(self._active),)) + self._active
        )

    def _take(self) -> None:
        found = self._source()
        if found is self._taken:
            return
        if not found:
            raise ValueError("a sealer needs at least one key")
        keys: dict[bytes, bytes] = {}
        for name, key in found:
            key_id = name.encode()
            if not 1 <= len(key_id) <= 255 or len(key) != KEY_LENGTH:
                raise ValueError("a sealing key has an id of 1 to 255 bytes and 32 bytes of key")
            if key_id in keys:
                raise ValueError("two sealing keys have the same id")
            keys[key_id] = key
        self._keys, self._active, self._taken = keys, next(iter(keys)), found

    def _associated(self, key_id: bytes, bound_to: bytes) -> bytes:
        parts = (self._purpose, key_id, bound_to)
        return bytes((VERSION,)) + b"".join(len(part).to_bytes(4, "big") + part for part in parts)


def _tag(key: bytes, data: bytes) -> bytes:
    return hmac.digest(key, _TAG_LABEL + data, hashlib.sha256)


def _subkey(key: bytes, salt: bytes) -> bytes:
    return hmac.digest(key, _LABEL + salt, hashlib.sha256)
