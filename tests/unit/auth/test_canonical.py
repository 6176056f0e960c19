"""One spelling of a request: paths normalized, queries sorted and encoded anew, headers trimmed and joined."""

from __future__ import annotations

from urllib.parse import parse_qsl

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.auth.canonical import canonical_path, canonical_queries, canonical_query, canonical_request


@pytest.mark.parametrize(
    ("path", "wanted"),
    [
        ("", "/"),
        ("/", "/"),
        ("//", "/"),
        ("/./", "/"),
        ("/example/..", "/"),
        ("/../../x", "/x"),
        ("//example//", "/example/"),
        ("/a/./b/", "/a/b/"),
        ("/ex%20ample", "/ex%2520ample"),
        ("/-._~0a", "/-._~0a"),
    ],
)
def test_paths_are_normalized_and_encoded_once_more(path: str, wanted: str) -> None:
    assert canonical_path(path) == wanted


@pytest.mark.parametrize(
    ("query", "wanted"),
    [
        ("", ""),
        ("b=2&a=1", "a=1&b=2"),
        ("a=2&a=1", "a=1&a=2"),
        ("a", "a="),
        ("a=b=c", "a=b%3Dc"),
        ("k=%7e%2f", "k=~%2F"),
        ("k=a+b", "k=a%20b"),
        ("k=%zz", "k=%25zz"),
        ("A-b=1&a=1&A=1", "A=1&A-b=1&a=1"),
    ],
)
def test_queries_are_sorted_and_encoded_anew(query: str, wanted: str) -> None:
    assert canonical_query(query) == wanted


def test_what_is_left_out_is_named_as_it_is_spelled() -> None:
    assert canonical_query("a=1&X-Amz-Signature=2&b=3", ("X-Amz-Signature",)) == "a=1&b=3"
    assert canonical_query("X%2DAmz-Signature=2", ("X-Amz-Signature",)) == "X-Amz-Signature=2"


def test_a_query_spelled_otherwise_may_be_signed_as_it_was_spelled() -> None:
    assert canonical_queries("b=2&a=1") == ("a=1&b=2",)
    assert canonical_queries("b=x:y&a=1") == ("a=1&b=x%3Ay", "a=1&b=x:y")


_queries = st.text("ab=&+%20/:;é", max_size=20)


def form_of(query: str) -> list[tuple[str, str]]:
    """What a form's reader takes from it; a field without name and value is none."""
    return sorted(pair for pair in parse_qsl(query, keep_blank_values=True) if any(pair))


@given(_queries)
def test_every_spelling_that_may_be_signed_means_the_same_form(query: str) -> None:
    """Nothing that a form is read from can be altered without altering what is signed."""
    for spelled in canonical_queries(query):
        assert form_of(spelled) == form_of(query)


@given(_queries, _queries)
def test_queries_of_different_meaning_have_no_spelling_in_common(one: str, other: str) -> None:
    if set(canonical_queries(one)) & set(canonical_queries(other)):
        assert form_of(one) == form_of(other)


def test_header_values_are_trimmed_folded_and_joined() -> None:
    text = canonical_request(
        "GET", "/", "", {"my-header1": ["  a   b  c ", "d"], "host": ["h"]}, ("my-header1", "host"), "e" * 64
    )
    assert text == b"GET\n/\n\nhost:h\nmy-header1:a b c,d\n\nhost;my-header1\n" + b"e" * 64
