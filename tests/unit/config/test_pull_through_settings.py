"""`[pull_through] upstreams`: what it may say, what a rule may name by it, and what is said of the rest."""

from __future__ import annotations

from pathlib import Path

import pytest

from proxy.config.loader import ConfigError, describe, load
from proxy.config.pull_through_settings import RuleSetting, UpstreamSetting, listed, rule_settings


def written(folder: Path, text: str) -> Path:
    path = folder / "wharfage.toml"
    path.write_text(f"[pull_through]\nupstreams = {text}\n")
    return path


def test_an_entry_is_a_text_or_a_table(tmp_path: Path) -> None:
    table = '{url = "http://127.0.0.1:5001/", connections = 4, requests_per_second = 2, proxy = "http://p:3128"}'
    config = load(written(tmp_path, f'["https://Harbor.Partner.example", {table}]'), environ={})
    assert config.pull_through.upstreams == (
        UpstreamSetting("https://harbor.partner.example"),
        UpstreamSetting("http://127.0.0.1:5001", proxy="http://p:3128", connections=4, requests_per_second=2),
    )
    assert '{"url": "http://127.0.0.1:5001", "proxy": "http://p:3128"' in describe(config)


def test_the_environment_has_texts() -> None:
    found = load(environ={"WHARFAGE_PULL_THROUGH_UPSTREAMS": "https://a.example, http://b.example:8080"})
    assert [entry.url for entry in found.pull_through.upstreams] == ["https://a.example", "http://b.example:8080"]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('"https://a.example"', "must be a list"),
        ('["a.example"]', "'a.example' is not https://HOST"),
        ('["https://a.example/v2/"]', "without a path"),
        ('[{url = "https://a.example", region = "US East"}]', "region must be one as in us-east-1"),
        ('["https://me:s3cret@a.example"]', "'a.example' is not https://HOST"),
        ('["https://a.example:70000"]', "is not https://HOST"),
        ('["ftp://a.example"]', "is not https://HOST"),
        ("[1]", "each entry must be"),
        ("[{ca_bundle = 'x'}]", "each entry must be"),
        ('[{url = "https://a.example", cabundle = "x"}]', "'cabundle' is no key of an upstream"),
        ('[{url = "https://a.example", connections = "4"}]', "connections must be a number"),
        ('[{url = "https://a.example", connections = 1001}]', "between 0"),
        ('[{url = "https://a.example", ca_bundle = 1}]', "ca_bundle must be a text"),
        ('[{url = "https://a.example", proxy = "http://u:p@h"}]', "without user and password"),
        ('["https://a.example", "https://a.example:443/"]', "is listed once"),
    ],
)
def test_what_cannot_be_used_is_refused_by_place_and_reason(tmp_path: Path, text: str, why: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(written(tmp_path, text), environ={})
    assert "[pull_through] upstreams: " in str(caught.value)
    assert why in str(caught.value)
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "found"),
    [
        ("harbor.partner.example", True),
        ("harbor.partner.example:443", True),
        ("https://harbor.partner.example", True),
        ("https://harbor.partner.example/", True),
        ("http://harbor.partner.example", False),
        ("harbor.partner.example:80", False),
        ("partner.example", False),
        ("harbor.partner.example.evil.example", False),
    ],
)
def test_a_rule_names_an_entry_by_its_host_or_as_it_is_written(url: str, found: bool) -> None:
    entry = UpstreamSetting("https://harbor.partner.example")
    assert listed([entry], url) == (entry if found else None)


def with_rule(folder: Path, line: str) -> Path:
    path = folder / "wharfage.toml"
    path.write_text(f'[pull_through.rules."docker-hub"]\n{line}\n')
    return path


def test_a_rule_has_what_is_set_for_its_prefix_and_else_the_defaults(tmp_path: Path) -> None:
    lines = 'refresh_seconds = 60\nplatforms = ["linux/amd64", "linux/arm/v7"]\nprefetch = ["library/nginx:stable"]'
    found = rule_settings(load(with_rule(tmp_path, lines), environ={}).pull_through.rules)
    assert found("docker-hub/") == RuleSetting(
        60, platforms=("linux/amd64", "linux/arm/v7"), prefetch=("library/nginx:stable",)
    )
    assert found("quay") == RuleSetting()


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("refresh = 1", "'docker-hub': 'refresh' is none of refresh_seconds, "),
        ('refresh_seconds = "1"', "refresh_seconds must be a number between 0"),
        ("budget_floor = -1", "budget_floor must be a number between 0"),
        ('platforms = "linux/amd64"', "platforms must be a list of texts, each os/architecture"),
        ('platforms = ["amd64"]', "platforms must be a list of texts, each os/architecture"),
        ("prefetch = [1]", "prefetch must be a list of texts, each the upstream's REPO[:TAG]"),
        ('prefetch = ["library/nginx:"]', "prefetch must be a list"),
        ('prefetch = ["library/nginx@sha256:0"]', "prefetch must be a list"),
    ],
)
def test_what_a_rule_cannot_have_is_refused(tmp_path: Path, line: str, why: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(with_rule(tmp_path, line), environ={})
    assert why in str(caught.value)
