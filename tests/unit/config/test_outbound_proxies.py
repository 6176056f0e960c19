"""What the environment says of proxies, and which requests go through them."""

from __future__ import annotations

import pytest

from proxy.config.loader import ConfigError, load
from proxy.config.outbound_proxies import OutboundProxies, read_proxies

GIVEN = {
    "HTTPS_PROXY": "http://me:s3cret@proxy.example:3128",
    "http_proxy": "other.example:8080",
    "NO_PROXY": "quay.io, .corp.example,*.lab.example, 10.0.0.0/8,harbor.example:8443,2001:db8::/32",
}


def test_names_count_in_capitals_or_not_and_a_scheme_may_be_missing() -> None:
    found = read_proxies(GIVEN)
    assert (found.https, found.http) == ("http://me:s3cret@proxy.example:3128", "http://other.example:8080")
    assert "s3cret" not in repr(found)
    assert load(environ=GIVEN).proxies == found
    assert load(environ={}).proxies == OutboundProxies()


@pytest.mark.parametrize(
    ("host", "port", "goes"),
    [
        ("registry-1.docker.io", 443, True),
        ("quay.io", 443, False),
        ("QUAY.io.", 443, False),
        ("cdn.quay.io", 443, False),
        ("notquay.io", 443, True),
        ("harbor.corp.example", 443, False),
        ("corp.example", 443, False),
        ("a.lab.example", 443, False),
        ("10.1.2.3", 443, False),
        ("11.1.2.3", 443, True),
        ("harbor.example", 8443, False),
        ("harbor.example", 443, True),
        ("127.0.0.1", 5001, False),
        ("localhost", 5001, False),
        ("::1", 5001, False),
        ("2001:db8::1", 443, False),
        ("2001:db9::1", 443, True),
    ],
)
def test_what_no_proxy_names_and_this_machine_are_asked_directly(host: str, port: int, goes: bool) -> None:
    assert bool(read_proxies(GIVEN).proxy_of("https", host, port)) is goes


def test_a_star_exempts_all_and_without_a_proxy_nothing_goes_through_one() -> None:
    assert read_proxies({"HTTPS_PROXY": "http://p:1", "NO_PROXY": "*"}).proxy_of("https", "quay.io", 443) == ""
    assert read_proxies({"HTTPS_PROXY": "http://p:1"}).proxy_of("http", "quay.io", 80) == ""


@pytest.mark.parametrize("text", ["socks5://p:1", "http://a b", "http://me:s3cret@"])
def test_what_is_no_proxy_is_refused_by_its_name_alone(text: str) -> None:
    with pytest.raises(ConfigError, match="HTTPS_PROXY must be http://") as raised:
        load(environ={"HTTPS_PROXY": text})
    assert "s3cret" not in str(raised.value)
