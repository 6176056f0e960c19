"""Which names a pull-through rule stands for, and what they are called upstream."""

from __future__ import annotations

from dataclasses import replace

import pytest

from proxy.model.pull_through import (
    ROOT,
    PullThroughRule,
    UpstreamCredential,
    candidates,
    choose,
    covers,
    upstream_repository,
)

RULE = PullThroughRule("123456789012", "docker-hub", "docker-hub", "registry-1.docker.io", ROOT, "", "", 1.0, 1.0)


@pytest.mark.parametrize(
    ("prefix", "upstream_prefix", "repository", "expected"),
    [
        ("ecr-public", ROOT, "ecr-public/a/b", "a/b"),
        (ROOT, ROOT, "a/b", "a/b"),
        (ROOT, ROOT, "a", "a"),
        ("team-a", "team-a", "team-a/x", "team-a/x"),
        ("my-app", "upstream-app", "my-app/i", "upstream-app/i"),
        ("my-app/", "upstream-app/", "my-app/i", "upstream-app/i"),
        ("a/b", "c", "a/b/d/e", "c/d/e"),
    ],
)
def test_a_name_is_mapped_as_the_user_guide_maps_it(
    prefix: str, upstream_prefix: str, repository: str, expected: str
) -> None:
    rule = replace(RULE, prefix=prefix, upstream_prefix=upstream_prefix)
    assert upstream_repository(rule, repository) == expected


@pytest.mark.parametrize("repository", ["docker-hub", "docker-hubs/x", "x/docker-hub/y", "docker-hub/"])
def test_a_rule_stands_only_for_names_under_its_prefix(repository: str) -> None:
    assert not covers(RULE.prefix, repository)
    with pytest.raises(ValueError, match="not under"):
        upstream_repository(RULE, repository)


def test_the_longest_prefix_counts_and_ROOT_last() -> None:
    rules = [replace(RULE, prefix=prefix) for prefix in (ROOT, "a", "a/b/")]
    assert [getattr(choose(rules, name), "prefix", None) for name in ("a/b/c", "a/b", "a", "x/y")] == [
        "a/b/",
        "a",
        ROOT,
        ROOT,
    ]
    assert choose(rules[1:], "x/y") is None


def test_candidates_are_the_prefixes_that_cover_a_name() -> None:
    assert candidates("a/b/c") == ["a/b", "a", ROOT]
    assert all(covers(prefix, "a/b/c") for prefix in candidates("a/b/c"))


def test_a_credential_does_not_show_its_token() -> None:
    assert "s3cret" not in repr(UpstreamCredential("me", "s3cret"))
