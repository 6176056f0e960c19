"""The arithmetic of `Range` and `Content-Range`."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.model.errors import Code, Failure
from proxy.model.ranges import RANGES_MAX, parse_content_range, parse_range

SIZE = 2048


@pytest.mark.parametrize(
    ("header", "wanted"),
    [
        ("bytes=500-1499", ((500, 1500),)),
        ("bytes=500-", ((500, 2048),)),
        ("bytes=-500", ((1548, 2048),)),
        ("bytes=-5000", ((0, 2048),)),
        ("bytes=2000-5000", ((2000, 2048),)),
        ("Bytes=0-0", ((0, 1),)),
        ("bytes=0-0, -1", ((0, 1), (2047, 2048))),
        ("bytes=,0-0,,5-5,", ((0, 1), (5, 6))),
        ("bytes=10-19,0-9", ((0, 20),)),
        ("bytes=0-99,50-149,300-310", ((0, 150), (300, 311))),
        ("bytes=0-99,9000-9999", ((0, 100),)),
        ("bytes=0-99,7-3", ((0, 100),)),
        ("bytes=0-99999999999999999999999", ((0, 2048),)),
    ],
)
def test_a_range_set_is_clamped_sorted_and_joined(header: str, wanted: tuple[tuple[int, int], ...]) -> None:
    assert parse_range(header, SIZE) == wanted


@pytest.mark.parametrize("header", ["", "bytes", "bytes=", "items=0-5", "bytes=-", "bytes=a-b", "bytes=1-2-3", "0-5"])
def test_what_is_no_range_set_is_ignored(header: str) -> None:
    assert parse_range(header, SIZE) is None


@pytest.mark.parametrize(
    "header", ["bytes=500-0", "bytes=5000-10000", "bytes=2048-", "bytes=-0", "bytes=99999999999999999999-"]
)
def test_a_range_that_touches_no_byte_is_refused_with_the_size(header: str) -> None:
    with pytest.raises(Failure) as caught:
        parse_range(header, SIZE)
    assert caught.value.code is Code.RANGE_NOT_SATISFIABLE
    assert caught.value.fields["size"] == SIZE


def test_no_range_of_an_empty_blob_is_satisfiable() -> None:
    with pytest.raises(Failure, match="no byte of 0"):
        parse_range("bytes=0-", 0)


def test_1024_ranges_are_taken_and_one_more_is_not() -> None:
    specs = [f"{at * 2}-{at * 2}" for at in range(RANGES_MAX + 1)]
    taken = parse_range("bytes=" + ",".join(specs[:RANGES_MAX]), 1 << 20)
    assert taken is not None
    assert len(taken) == RANGES_MAX
    with pytest.raises(Failure) as caught:
        parse_range("bytes=" + ",".join(specs), 1 << 20)
    assert caught.value.code is Code.INVALID_PARAMETER


@given(
    size=st.integers(1, 500),
    spans=st.lists(st.tuples(st.integers(0, 600), st.integers(0, 600)), min_size=1, max_size=20),
)
def test_the_bytes_selected_are_exactly_the_union_of_what_was_asked(size: int, spans: list[tuple[int, int]]) -> None:
    wanted = {at for first, last in spans for at in range(first, last + 1) if at < size}
    header = "bytes=" + ",".join(f"{first}-{last}" for first, last in spans)
    try:
        ranges = parse_range(header, size)
    except Failure:
        assert not wanted
        return
    assert ranges is not None
    flat = [at for start, stop in ranges for at in range(start, stop)]
    assert flat == sorted(wanted)
    assert all(before[1] < after[0] for before, after in itertools.pairwise(ranges))


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("0-99", (0, 100)),
        ("100-100", (100, 101)),
        ("bytes 0-99/*", (0, 100)),
        ("bytes=0-99", (0, 100)),
        (" 5-6 ", (5, 7)),
    ],
)
def test_a_chunk_says_its_place(text: str, wanted: tuple[int, int]) -> None:
    assert parse_content_range(text) == wanted


@pytest.mark.parametrize("text", ["", "-", "5-", "-5", "9-3", "a-b", "0-99999999999999999999", "0-1,2-3", "٣-٤"])
def test_a_chunk_with_no_place_is_refused(text: str) -> None:
    with pytest.raises(Failure) as caught:
        parse_content_range(text)
    assert caught.value.code is Code.INVALID_PARAMETER
