"""Layers: the same by their key, unlike any other, and nothing that a compressor could use."""

from __future__ import annotations

import hashlib
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.rig.content import BLOCK, PIECE, digest_of, pieces

MIB = 1 << 20


def test_a_layer_is_the_same_on_every_machine_and_release() -> None:
    """What was pushed by one version is found by the next."""
    assert digest_of(b"0/0/0", MIB) == "sha256:a38432571343617e7fdee2ba11cf14999cc3c78c7aff7e5b444cb440a657dc5f"


@given(size=st.integers(32, 3 * PIECE) | st.sampled_from([BLOCK, BLOCK + 1, BLOCK + 31, PIECE, PIECE + 1]))
def test_it_has_its_size_in_pieces_that_are_never_larger_than_one(size: int) -> None:
    found = list(pieces(b"7/1/2", size))
    assert sum(map(len, found)) == size
    assert all(len(piece) == PIECE for piece in found[:-1])
    assert 0 < len(found[-1]) <= PIECE


@given(small=st.integers(32, PIECE), large=st.integers(PIECE, 2 * PIECE))
def test_a_smaller_layer_is_the_beginning_of_a_larger_one_of_its_key(small: int, large: int) -> None:
    assert b"".join(pieces(b"k", large)).startswith(b"".join(pieces(b"k", small)))


def test_no_block_of_any_layer_is_like_another() -> None:
    blocks = set()
    for key in (b"0/0/0", b"0/0/1", b"0/1/0", b"1/0/0"):
        whole = b"".join(pieces(key, 8 * MIB))
        blocks |= {hashlib.sha256(whole[at : at + BLOCK]).digest() for at in range(0, len(whole), BLOCK)}
    assert len(blocks) == 4 * 8 * MIB // BLOCK


def test_the_smallest_layers_differ() -> None:
    assert len({digest_of(b"%d" % number, 32) for number in range(1000)}) == 1000


def test_gzip_makes_it_no_smaller() -> None:
    whole = b"".join(pieces(b"0/0/0", MIB))
    assert len(zlib.compress(whole, 9)) >= len(whole)


def test_pieces_are_bytes_of_their_own_that_a_transport_may_keep() -> None:
    first, second = list(pieces(b"0/0/0", 2 * PIECE))
    assert type(first) is type(second) is bytes
    assert first[:PIECE] != second


@pytest.mark.parametrize("size", [32, PIECE - 1, 5 * MIB + 3])
def test_the_digest_is_that_of_the_pieces(size: int) -> None:
    assert digest_of(b"x", size) == f"sha256:{hashlib.sha256(b''.join(pieces(b'x', size))).hexdigest()}"
