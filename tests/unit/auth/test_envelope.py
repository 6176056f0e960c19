"""Small sealed values open only whole, under a known key, for their purpose and what they are bound to."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.auth.envelope import NONCE_LENGTH, SALT_LENGTH, TAG_LENGTH, SmallSealer
from proxy.auth.secrets import open_secret, seal_secret

OLD = ("key-1", bytes(range(32)))
NEW = ("key-2", bytes(range(32, 64)))


@given(plain=st.binary(max_size=300), bound=st.binary(max_size=60))
def test_what_was_sealed_opens_to_the_same_bytes(plain: bytes, bound: bytes) -> None:
    sealer = SmallSealer([NEW], "test")
    assert sealer.open(sealer.seal(plain, bound), bound) == plain


def test_a_value_sealed_before_a_rotation_opens_after_it() -> None:
    assert SmallSealer([NEW, OLD], "test").open(SmallSealer([OLD], "test").seal(b"x")) == b"x"


def test_keys_given_as_a_function_are_taken_anew_when_they_change() -> None:
    """Without a restart: the new one seals, the old one still opens."""
    in_force = [OLD]
    sealer = SmallSealer(lambda: in_force, "test")
    before = sealer.seal(b"x")
    assert sealer.is_current(before)
    in_force = [NEW, OLD]
    assert not sealer.is_current(before)
    assert sealer.open(before) == b"x"
    assert sealer.is_current(sealer.seal(b"x"))
    assert not sealer.is_current(b"")


def test_the_first_key_seals() -> None:
    sealed = SmallSealer([NEW, OLD], "test").seal(b"x")
    assert sealed[2:7] == b"key-2"
    with pytest.raises(ValueError, match="not here"):
        SmallSealer([OLD], "test").open(sealed)


def test_a_value_of_another_purpose_does_not_open() -> None:
    with pytest.raises(ValueError, match="authenticate"):
        SmallSealer([NEW], "b").open(SmallSealer([NEW], "a").seal(b"x"))


def test_a_value_bound_to_something_else_does_not_open() -> None:
    sealer = SmallSealer([NEW], "test")
    with pytest.raises(ValueError, match="authenticate"):
        sealer.open(sealer.seal(b"x", b"this"), b"that")


def test_purpose_and_binding_cannot_slide_into_each_other() -> None:
    sealed = SmallSealer([NEW], "ab").seal(b"x", b"c")
    with pytest.raises(ValueError, match="authenticate"):
        SmallSealer([NEW], "a").open(sealed, b"bc")


@pytest.mark.parametrize("key", [("key-2", bytes(32))], ids=["same-id-other-key"])
def test_a_key_of_the_same_id_but_other_bytes_does_not_open(key: tuple[str, bytes]) -> None:
    with pytest.raises(ValueError, match="authenticate"):
        SmallSealer([key], "test").open(SmallSealer([NEW], "test").seal(b"x"))


def test_every_altered_byte_is_noticed() -> None:
    sealer = SmallSealer([NEW, OLD], "test")
    sealed = sealer.seal(b"plain", b"bound")
    for at in range(len(sealed)):
        altered = bytearray(sealed)
        altered[at] ^= 1
        with pytest.raises(ValueError, match="sealed value"):
            sealer.open(bytes(altered), b"bound")


def test_every_cut_is_noticed() -> None:
    sealer = SmallSealer([NEW], "test")
    sealed = sealer.seal(b"plain")
    for length in range(len(sealed)):
        with pytest.raises(ValueError, match="sealed value"):
            sealer.open(sealed[:length])


def test_each_value_has_its_own_salt_and_nonce() -> None:
    asked: list[int] = []

    def random(count: int) -> bytes:
        asked.append(count)
        return os.urandom(count)

    sealer = SmallSealer([NEW], "test", random=random)
    assert sealer.seal(b"same") != sealer.seal(b"same")
    assert asked == [SALT_LENGTH, NONCE_LENGTH] * 2


def test_a_sealed_value_is_this_much_longer_than_the_plain_one() -> None:
    sealed = SmallSealer([NEW], "test").seal(b"12345")
    assert len(sealed) == 2 + len("key-2") + SALT_LENGTH + NONCE_LENGTH + 5 + TAG_LENGTH


def test_a_value_sealed_by_the_first_release_opens_for_ever() -> None:
    golden = bytes.fromhex(
        "01056b65792d32000102030405060708090a0b0c0d0e0f000102030405060708090a0b"
        "1fefde712acb391583a2a6ec373798e6c627722b5d"
    )
    assert SmallSealer([NEW], "test").open(golden, b"bound") == b"plain"
    assert SmallSealer([NEW], "test", random=lambda count: bytes(range(count))).seal(b"plain", b"bound") == golden


@pytest.mark.parametrize(
    "keys", [[], [("", bytes(32))], [("k" * 256, bytes(32))], [("k", bytes(31))], [("k", bytes(32)), ("k", bytes(32))]]
)
def test_keys_that_are_none_are_refused(keys: list[tuple[str, bytes]]) -> None:
    with pytest.raises(ValueError, match="key"):
        SmallSealer(keys, "test")


def test_a_secret_moved_to_another_access_key_does_not_open() -> None:
    sealer = SmallSealer([NEW], "access-key-secret")
    sealed = seal_secret(sealer, "AKIAONE", "secret")
    assert open_secret(sealer, "AKIAONE", sealed) == "secret"
    with pytest.raises(ValueError, match="authenticate"):
        open_secret(sealer, "AKIATWO", sealed)
