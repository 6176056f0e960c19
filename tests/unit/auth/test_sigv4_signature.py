"""A request as botocore signs it is accepted; every part that is altered is refused."""

from __future__ import annotations

import hashlib
import string
from collections.abc import Callable
from dataclasses import dataclass, replace
from urllib.parse import quote, urlsplit

import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from hypothesis import given
from hypothesis import strategies as st

from proxy.auth.signing_keys import signing_key
from proxy.auth.sigv4 import (
    MISMATCH_TEXT,
    Claim,
    SignatureReason,
    SignatureRefused,
    check_signature,
    read_claim,
)

KEY_ID = "AKIDEXAMPLE"
SECRET = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"
TARGET = "AmazonEC2ContainerRegistry_V20150921.ListImages"


@dataclass(frozen=True)
class Request:
    """A request as a server sees it."""

    method: str
    path: str
    query: str
    headers: tuple[tuple[str, str], ...]
    body: bytes

    def verify(self, secret: str = SECRET) -> Claim:
        claim = read_claim(self.headers, self.query)
        check_signature(
            claim,
            signing_key(secret, claim.day, claim.region, claim.service),
            method=self.method,
            path=self.path,
            query=self.query,
            headers=self.headers,
            body_sha256=hashlib.sha256(self.body).hexdigest(),
        )
        return claim

    def with_header(self, name: str, value: str) -> Request:
        return replace(self, headers=(*(h for h in self.headers if h[0].lower() != name.lower()), (name, value)))

    def without(self, name: str) -> Request:
        return replace(self, headers=tuple(h for h in self.headers if h[0].lower() != name.lower()))

    def authorization(self) -> str:
        return dict(self.headers)["Authorization"]


def signed(
    url: str = "http://127.0.0.1:5000/",
    *,
    method: str = "POST",
    headers: dict[str, str] | None = None,
    body: bytes = b"{}",
    service: str = "ecr",
    region: str = "us-east-1",
) -> Request:
    """Sign with botocore and hand over what would arrive."""
    given_headers = (
        {"X-Amz-Target": TARGET, "Content-Type": "application/x-amz-json-1.1"} if headers is None else headers
    )
    request = AWSRequest(method=method, url=url, data=body, headers=given_headers)
    SigV4Auth(Credentials(KEY_ID, SECRET), service, region).add_auth(request)
    split = urlsplit(url)
    lines = (("Host", split.netloc), *((name, str(value)) for name, value in request.headers.items()))
    return Request(method, split.path or "/", split.query, lines, body)


# ---- what botocore signs ---------------------------------------------------------------------------------------------


def test_a_request_signed_by_botocore_is_accepted() -> None:
    claim = signed().verify()
    assert (claim.access_key_id, claim.region, claim.service) == (KEY_ID, "us-east-1", "ecr")
    assert claim.signed_headers == ("content-type", "host", "x-amz-date", "x-amz-target")


def test_the_order_of_header_lines_does_not_matter() -> None:
    request = signed()
    replace(request, headers=tuple(reversed(request.headers))).verify()


_visible = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=12)
_values = st.lists(_visible, min_size=1, max_size=4).map("  ".join)
_names = st.text(string.ascii_letters + string.digits + "-", min_size=1, max_size=20).map(lambda tail: "X-My-" + tail)


@given(
    headers=st.dictionaries(_names, _values, max_size=5),
    pairs=st.lists(st.tuples(st.text(max_size=8), st.text(max_size=8)), max_size=5),
    segments=st.lists(st.text(max_size=6), max_size=4),
    body=st.binary(max_size=200),
)
def test_any_headers_query_path_and_body_that_botocore_signs_are_accepted(
    headers: dict[str, str], pairs: list[tuple[str, str]], segments: list[str], body: bytes
) -> None:
    lower = {name.lower(): (name, value) for name, value in headers.items()}
    query = "&".join(f"{_escaped(name)}={_escaped(value)}" for name, value in pairs)
    url = (
        "http://registry.example:5000/" + "/".join(_escaped(part) for part in segments) + ("?" + query if query else "")
    )
    signed(url, headers=dict(lower.values()), body=body).verify()


def _escaped(text: str) -> str:
    return quote(text.encode("utf-8", "replace"), safe="-_.~")


@given(header=st.sampled_from(["X-Amz-Target", "Content-Type", "X-Amz-Date", "Host"]), value=_visible)
def test_a_changed_signed_header_is_refused(header: str, value: str) -> None:
    request = signed()
    if dict(request.headers).get(header) != value:
        with pytest.raises(SignatureRefused):
            request.with_header(header, value).verify()


def test_a_changed_header_that_was_not_signed_changes_nothing() -> None:
    signed().with_header("User-Agent", "other").verify()


def _last_digit_changed(authorization: str) -> str:
    return authorization[:-1] + ("0" if authorization[-1] != "0" else "1")


CHANGES: dict[str, Callable[[Request], Request]] = {
    "body": lambda r: replace(r, body=b"{ }"),
    "method": lambda r: replace(r, method="PUT"),
    "path": lambda r: replace(r, path="/other"),
    "query": lambda r: replace(r, query="a=b"),
    "signature": lambda r: r.with_header("Authorization", _last_digit_changed(r.authorization())),
    "key-day": lambda r: r.with_header("Authorization", r.authorization().replace("/us-east-1/", "/us-east-2/")),
    "header-gone": lambda r: r.without("Content-Type"),
    "list-shorter": lambda r: r.with_header("Authorization", r.authorization().replace("content-type;", "")),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_an_altered_request_is_refused_as_a_mismatch(change: Callable[[Request], Request]) -> None:
    with pytest.raises(SignatureRefused) as caught:
        change(signed()).verify()
    assert (caught.value.reason, caught.value.message) == (SignatureReason.MISMATCH, MISMATCH_TEXT)


def test_a_wrong_secret_is_refused_as_a_mismatch_that_does_not_show_it() -> None:
    with pytest.raises(SignatureRefused) as caught:
        signed().verify(secret="another secret")
    assert caught.value.message == MISMATCH_TEXT
    assert "another secret" not in repr(caught.value)


def test_a_body_hash_in_a_header_is_not_believed() -> None:
    body_hash = hashlib.sha256(b"{}").hexdigest()
    request = signed(headers={"X-Amz-Target": TARGET, "X-Amz-Content-Sha256": body_hash})
    request.verify()
    with pytest.raises(SignatureRefused):
        replace(request, body=b'{"registryId":"1"}').verify()
