"""Where the rig goes: the address that people write, and those that a registry names."""

from __future__ import annotations

import pytest
from yarl import URL

from proxy.upstream.address import REFUSED, Reach, parse_address, parse_host
from proxy.upstream.errors import RequestFailed


@pytest.mark.parametrize(
    ("text", "plain", "trusted", "origin"),
    [
        ("registry.example", False, False, "https://registry.example"),
        ("registry.example:5000", False, False, "https://registry.example:5000"),
        ("registry.example", True, False, "http://registry.example"),
        ("https://registry.example/", False, False, "https://registry.example"),
        ("http://registry.example", True, False, "http://registry.example"),
        ("https://registry.example", True, False, "https://registry.example"),
        ("127.0.0.1:5000", False, False, "http://127.0.0.1:5000"),
        ("127.8.9.1:5000", False, False, "http://127.8.9.1:5000"),
        ("localhost", False, False, "http://localhost"),
        ("[::1]:5000", False, False, "http://[::1]:5000"),
        ("127.0.0.1:5000", False, True, "https://127.0.0.1:5000"),
        ("https://127.0.0.1:5000", False, False, "https://127.0.0.1:5000"),
        ("10.0.0.1", False, False, "https://10.0.0.1"),
        ("localhost.example", False, False, "https://localhost.example"),
    ],
)
def test_it_is_https_but_for_loopback_and_those_who_say_so(text: str, plain: bool, trusted: bool, origin: str) -> None:
    assert str(parse_address(text, plain_http=plain, trusted=trusted)) == origin


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "no address"),
        ("registry.example/team", "without a path"),
        ("registry.example?x=1", "without a path"),
        ("registry.example#x", "without a path"),
        ("ftp://registry.example", "no scheme"),
        ("registry.example:port", "no address"),
        ("http://registry.example", "unencrypted"),
        (":5000", "no address"),
    ],
)
def test_what_is_no_address_is_refused(text: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        parse_address(text)


def test_a_password_in_an_address_is_refused_and_not_repeated() -> None:
    with pytest.raises(ValueError, match="--password-stdin") as raised:
        parse_address("https://me:hunter2@registry.example")
    assert "hunter2" not in str(raised.value)


SECURE = Reach(URL("https://registry.example"))
PLAIN = Reach(URL("http://127.0.0.1:5000"))
TOLD = Reach(URL("https://registry.example"), frozenset({"other.example", "odd.example:8443"}))
ASKED = {reach: reach.base / "v2/" for reach in (SECURE, PLAIN, TOLD)}

CASES = [
    # what, by whom, the address, whether it is let through
    ("upload", SECURE, "/v2/a/blobs/uploads/1?x=%2B", True),
    ("upload", SECURE, "https://registry.example:443/v2/x", True),
    ("upload", SECURE, "https://other.example/v2/x", False),
    ("upload", SECURE, "http://registry.example/v2/x", False),
    ("upload", SECURE, "https://registry.example:444/v2/x", False),
    ("upload", SECURE, "//other.example/v2/x", False),
    ("upload", PLAIN, "http://127.0.0.1:5001/v2/x", False),
    ("upload", TOLD, "https://other.example/v2/x", True),
    ("upload", TOLD, "https://odd.example:8443/v2/x", True),
    ("upload", TOLD, "https://odd.example/v2/x", False),
    ("page", SECURE, "/v2/a/tags/list?last=b", True),
    ("page", SECURE, "https://other.example/v2/a/tags/list", False),
    ("redirected", SECURE, "https://bucket.example/x?Signature=y", True),
    ("redirected", SECURE, "http://bucket.example/x", False),
    ("redirected", SECURE, "http://127.0.0.1/x", False),
    ("redirected", SECURE, "http://registry.example/x", False),
    ("redirected", PLAIN, "http://127.0.0.1:9000/x", True),
    ("redirected", PLAIN, "http://localhost:9000/x", True),
    ("redirected", PLAIN, "http://bucket.example/x", False),
    ("redirected", SECURE, "file:///etc/passwd", False),
    ("realm", SECURE, "https://auth.example/token", True),
    ("realm", SECURE, "http://registry.example/token", False),
    ("realm", SECURE, "http://127.0.0.1/token", False),
    ("realm", PLAIN, "http://127.0.0.1:5001/token", True),
    ("realm", PLAIN, "http://localhost:5001/token", False),
    ("realm", TOLD, "http://other.example/token", True),
    ("realm", SECURE, "https://me:pass@auth.example/token", False),
    ("realm", SECURE, "", True),  # the registry itself; `RegistryAuthorizer` asks for no empty one
    ("upload", SECURE, "http://[::1", False),
    ("upload", SECURE, "/v2/x HTTP/1.1", False),
    ("upload", SECURE, "/v2/\tx", False),
    ("upload", SECURE, "/v2/é", False),
    ("redirected", SECURE, "https://host:99999/x", False),
]


@pytest.mark.parametrize(("what", "reach", "text", "fine"), CASES)
def test_a_server_sends_us_only_where_the_rules_let_it(what: str, reach: Reach, text: str, fine: bool) -> None:
    asks = {
        "upload": lambda: reach.upload(text, ASKED[reach]),
        "page": lambda: reach.page(text, ASKED[reach]),
        "redirected": lambda: reach.redirected(text, ASKED[reach]),
        "realm": lambda: reach.realm(text),
    }
    if fine:
        assert asks[what]().host
        return
    with pytest.raises(RequestFailed) as raised:
        asks[what]()
    assert raised.value.kind == REFUSED
    assert "pass" not in raised.value.said


@pytest.mark.parametrize(
    ("text", "host"),
    [("Other.Example", "other.example"), ("other.example:443", "other.example:443"), ("[::1]:5000", "::1:5000")],
)
def test_an_allowed_host_is_a_name_and_perhaps_a_port(text: str, host: str) -> None:
    assert parse_host(text) == host


@pytest.mark.parametrize("text", ["", "https://other.example", "other.example/x", "me@other.example", "a b", "a:b"])
def test_what_is_no_host_cannot_be_allowed(text: str) -> None:
    with pytest.raises(ValueError, match="HOST:PORT"):
        parse_host(text)


def test_an_opaque_location_is_kept_to_the_letter() -> None:
    url = SECURE.upload("/v2/a/blobs/uploads/1?_state=a%2Bb%2F%3D&x=", ASKED[SECURE])
    assert str(url) == "https://registry.example/v2/a/blobs/uploads/1?_state=a%2Bb%2F%3D&x="


def test_only_the_registry_itself_is_its_own() -> None:
    assert SECURE.own(URL("https://registry.example:443/v2/"))
    assert not SECURE.own(URL("http://registry.example/v2/"))
    assert not TOLD.own(URL("https://other.example/v2/"))


def test_a_refusal_names_the_flag_that_would_let_it_through() -> None:
    with pytest.raises(RequestFailed, match=r"--allow-host other.example:443"):
        SECURE.upload("https://other.example/v2/x?secret=1", ASKED[SECURE])
