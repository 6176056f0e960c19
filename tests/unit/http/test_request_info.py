"""What a policy learns of where a request came from, and whom that is believed of."""

from __future__ import annotations

import pytest
from aiohttp.test_utils import make_mocked_request
from multidict import CIMultiDict

from proxy.auth.policy.context import RequestInfo
from proxy.http.forwarded import networks, resolve
from proxy.http.request_info import request_info_of

TRUSTED = networks(["10.0.0.0/8", "2001:db8::/32"])


@pytest.mark.parametrize(
    ("remote", "source_ip"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("2001:DB8::7", "2001:db8::7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("fe80::1%eth0", "fe80::1"),
        ("", ""),
        ("/run/socket", ""),
        ("unknown", ""),
    ],
)
def test_the_address_is_the_peers_and_none_where_that_is_no_address(remote: str, source_ip: str) -> None:
    request = make_mocked_request("GET", "/", {"User-Agent": "docker/29"}).clone(remote=remote)
    assert request_info_of(request, now=5.0, region="eu-west-1") == RequestInfo(
        5.0, source_ip, secure=False, user_agent="docker/29", region="eu-west-1"
    )


@pytest.mark.parametrize(("scheme", "secure"), [("http", False), ("https", True)])
def test_a_request_is_secure_when_it_came_over_tls(scheme: str, secure: bool) -> None:
    request = make_mocked_request("GET", "/").clone(scheme=scheme, remote="192.0.2.7")
    assert request_info_of(request, now=0.0, region="r").secure is secure


@pytest.mark.parametrize(
    ("hops", "remote"),
    [
        (["192.0.2.7"], "192.0.2.7"),
        (["198.51.100.1, 192.0.2.7"], "192.0.2.7"),
        (["198.51.100.1", "192.0.2.7"], "192.0.2.7"),
        (["192.0.2.7, 10.1.1.1"], "192.0.2.7"),
        (["192.0.2.7", "10.1.1.1, 10.2.2.2"], "192.0.2.7"),
        (["10.1.1.1"], "10.1.1.1"),
        (["192.0.2.7:4711"], "192.0.2.7"),
        (["[2001:db9::7]:4711"], "2001:db9::7"),
        (["2001:db9::7"], "2001:db9::7"),
        (["garbage"], None),
        (["192.0.2.7, garbage"], None),
        (["garbage, 10.1.1.1"], "10.1.1.1"),
        ([""], None),
        ([], None),
    ],
)
def test_the_client_is_the_nearest_hop_that_is_not_trusted_in_whatever_lines(
    hops: list[str], remote: str | None
) -> None:
    headers = CIMultiDict([("X-Forwarded-For", hop) for hop in hops])
    assert resolve(headers, TRUSTED).get("remote") == remote


def test_of_scheme_and_host_the_nearest_hops_word_counts() -> None:
    headers = CIMultiDict(
        [
            ("X-Forwarded-Proto", "https"),
            ("X-Forwarded-Proto", "http"),
            ("X-Forwarded-Host", "evil.example, good.example"),
        ]
    )
    assert resolve(headers, TRUSTED) == {"scheme": "http", "host": "good.example"}


def test_a_scheme_that_is_none_is_not_taken() -> None:
    assert resolve(CIMultiDict([("X-Forwarded-Proto", "gopher")]), TRUSTED) == {}


def test_of_a_user_agent_policies_see_so_much_that_matching_it_takes_no_time() -> None:
    request = make_mocked_request("GET", "/", {"User-Agent": "a" * 30_000}).clone(remote="192.0.2.7")
    assert request_info_of(request, now=0.0, region="r").user_agent == "a" * 1024
