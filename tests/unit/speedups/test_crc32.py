"""CRC-32 of every twin, held to zlib's."""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

import _speedups
from _speedups import pure

native = pytest.importorskip("_speedups.native", reason="needs _speedups.native", exc_type=ModuleNotFoundError)

TWINS: dict[str, Callable[..., int]] = {"native": native.crc32, "pure": pure.crc32, "chosen": _speedups.crc32}
every_twin = pytest.mark.parametrize("twin", list(TWINS))


@every_twin
@given(data=st.binary(max_size=600), value=st.integers(0, 2**32 - 1), skipped=st.integers(0, 20))
def test_counts_as_zlib_counts_from_any_value_and_at_any_address(
    twin: str, data: bytes, value: int, skipped: int
) -> None:
    view = memoryview(data)[skipped:]
    assert TWINS[twin](view) == zlib.crc32(view)
    assert TWINS[twin](view, value) == zlib.crc32(view, value)


@every_twin
@given(pieces=st.lists(st.binary(max_size=300), max_size=6))
def test_goes_on_where_it_was_however_it_is_split(twin: str, pieces: list[bytes]) -> None:
    value = 0
    for piece in pieces:
        value = TWINS[twin](piece, value)
    assert value == zlib.crc32(b"".join(pieces))


@every_twin
@pytest.mark.parametrize("length", [63, 64, 65, 127, 128, 2047, 2048, 2049, 65_536, 1_000_003])
def test_lengths_at_the_borders_of_its_loops(twin: str, length: int) -> None:
    data = random.Random(length).randbytes(length)
    assert TWINS[twin](bytearray(data), 1) == zlib.crc32(data, 1)


@every_twin
@pytest.mark.parametrize("value", [-1, 2**32])
def test_a_value_that_is_no_crc_is_refused_or_taken_as_zlib_takes_it(twin: str, value: int) -> None:
    """Never another number than zlib's."""
    try:
        found = TWINS[twin](b"abc", value)
    except OverflowError:
        return
    assert found == zlib.crc32(b"abc", value)
