"""The model's regular expressions are run on what anybody sends: none of them may take its time."""

from __future__ import annotations

import time

import pytest

from proxy.awsmodel import models
from proxy.awsmodel.validation import _pattern

PATTERNS = sorted(
    {
        (service, shape["pattern"])
        for service in ("ecr", "sts", "iam")
        for shape in models.service(service)["shapes"].values()
        if "pattern" in shape
    }
)
PIECES = ["a", "0", "A", "*", "/a", "a/", "a.", "a-", "a_", "a:", "a@", "=", " ", "\t", "aa/", "a0._-"]


@pytest.mark.parametrize(("service", "pattern"), PATTERNS)
def test_what_nearly_matches_takes_no_longer_for_being_long(service: str, pattern: str) -> None:
    """One that tries everything doubles its time with each letter: 24 of them take a second."""
    expression = _pattern(pattern)
    for piece in PIECES:
        for end in ("", "\x00", "/", "-"):
            text = (piece * 24)[:24] + end
            began = time.thread_time()
            expression.fullmatch(text)
            assert time.thread_time() - began < 0.1, text


@pytest.mark.parametrize(
    ("text", "is_one"),
    [
        ("*", True),
        ("prod", True),
        ("prod*", True),
        ("a/b-c.d_e*", True),
        ("a//b", False),
        ("a/", False),
        ("/a", False),
        ("a--b", False),
        ("A", False),
        ("", False),
    ],
)
def test_a_filter_of_repositories_is_what_the_model_says(text: str, is_one: bool) -> None:
    pattern = models.shape("ecr", "ScanningRepositoryFilterValue")["pattern"]
    assert (_pattern(pattern).fullmatch(text) is not None) is is_one
