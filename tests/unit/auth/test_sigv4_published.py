"""The requests that AWS publishes with their signatures are accepted, in the header and in the pre-signed form.

Facts of AWS's SigV4 test suite (as in awslabs/aws-c-auth), all of one key, day and region: which request, which signed
headers, which signature. Its cases of unnormalized paths are S3's alone.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import pytest

from proxy.auth.canonical import canonical_query
from proxy.auth.signing_keys import signing_key
from proxy.auth.sigv4 import SignatureRefused, check_signature, read_claim

SECRET = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"
SCOPE = "AKIDEXAMPLE/20150830/us-east-1/service/aws4_request"
HOST = (("Host", "example.amazonaws.com"),)
DATE = ("X-Amz-Date", "20150830T123600Z")
LETTERS = "-._~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
TOKEN = "6e86291e8372ff2a2260956d9b8aae1d763fbf315fa00fa31553b73ebf194267"
LONG_TOKEN = (
    "AQoDYXdzEPT//////////wEXAMPLEtc764bNrC9SAPBSM22wDOk4x4HIZ8j4FZTwdQWLWsKWHGBuFqwAeMicRXmxfpSPfIeoIYRqTflfKD8YUuwthAx"
    "7mSEI/qkPpKPi/kMcGdQrmGdeehM4IC1NtBmUpp2wUE8phUZampKsburEDy0KPkyQDYwT7WZ0wq5VSXDvp75YU9HFvlRd8Tx6q6fE8YQcHNVXAkiY9q6"
    "d+xo0rKwT38xVqr7ZD0u0iPPkUL64lIZbqBAz+scqKmlzm8FDrypNC9Yjc8fPOLn9FX9KSYvKTr4rvx3iSIlTJabIQwj2ICCR/oLxBA=="
)
FORM_HASH = "9095672bbd1f56dfc5b65f3e153adc8731a4a654192329106275f4c7b24d0b6e"


@dataclass(frozen=True)
class Case:
    """`signed` are the names beside host and, in the header form, x-amz-date."""

    signature: str
    method: str = "GET"
    path: str = "/"
    query: str = ""
    headers: tuple[tuple[str, str], ...] = ()
    signed: tuple[str, ...] = ()
    body: bytes = b""


IN_HEADER = {
    "get-vanilla": Case("5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31"),
    "post-vanilla": Case("5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b", "POST"),
    "get-unreserved": Case("07ef7494c76fa4850883e2b006601f940f8a34d404d0cfa977f52a65bbf5f24f", path=f"/{LETTERS}"),
    "get-utf8": Case("8318018e0b0f223aa2bbf98705b62bb787dc9c0e678f255a891fd03141be5d85", path="/ሴ"),
    "get-space": Case("652487583200325589f1fba4c7e578f72c47cb61beeca81406b39ddec1366741", path="/example space/"),
    "get-slashes": Case("9a624bd73a37c9a373b5312afbebe7a714a789de108f0bdfe846570885f57e84", path="//example//"),
    "get-relative-relative": Case(
        "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31", path="/example1/example2/../.."
    ),
    "get-slash-pointless-dot": Case(
        "ef75d96142cf21edca26f06005da7988e4f8dc83a165a80865db7089db637ec5", path="/./example"
    ),
    "get-vanilla-utf8-query": Case("2cdec8eed098649ff3a119c94853b13c643bcf08f8b0a1d91e12c9027818dd04", query="ሴ=bar"),
    "get-vanilla-query-unreserved": Case(
        "9c3e54bfcdf0b19771a7f523ee5669cdf59bc7cc0884027167c21bb143a40197", query=f"{LETTERS}={LETTERS}"
    ),
    "get-vanilla-query-order-key-case": Case(
        "b97d918cfa904a5beff61c982a1b6f458b799221646efd99d3219ec94cdf2500", query="Param2=value2&Param1=value1"
    ),
    "get-vanilla-query-order-encoded": Case(
        "371d3713e185cc334048618a97f809c9ffe339c62934c032af5a0e595648fcac",
        query="Param-3=Value3&Param=Value2&%E1%88%B4=Value1",
    ),
    "get-header-key-duplicate": Case(
        "c9d5ea9f3f72853aea855b47ea873832890dbdd183b4468f858259531a5138ea",
        headers=(("My-Header1", "value2"), ("My-Header1", "value2"), ("My-Header1", "value1")),
        signed=("my-header1",),
    ),
    "get-header-value-order": Case(
        "08c7e5a9acfcfeb3ab6b2185e75ce8b1deb5e634ec47601a50643f830c755c01",
        headers=tuple(("My-Header1", f"value{number}") for number in (4, 1, 3, 2)),
        signed=("my-header1",),
    ),
    "get-header-value-multiline": Case(
        "ba17b383a53190154eb5fa66a1b836cc297cc0a3d70a5d00705980573d8ff790",
        # The suite reads each folded line as a value; no HTTP/1.1 parser of today hands a folded line on.
        headers=(("My-Header1", "value1"), ("My-Header1", "  value2"), ("My-Header1", "     value3")),
        signed=("my-header1",),
    ),
    "get-header-value-trim": Case(
        "acc3ed3afb60bb290fc8d2dd0098b9911fcaa05412b367055dee359757a9c736",
        headers=(("My-Header1", " value1"), ("My-Header2", ' "a   b   c"')),
        signed=("my-header1", "my-header2"),
    ),
    "post-header-key-sort": Case(
        "c5410059b04c1ee005303aed430f6e6645f61f4dc9e1461ec8f8916fdf18852c",
        "POST",
        headers=(("My-Header1", "value1"),),
        signed=("my-header1",),
    ),
    "post-header-value-case": Case(
        "cdbc9802e29d2942e5e10b5bccfdd67c5f22c7c4e8ae67b53629efa58b974b7d",
        "POST",
        headers=(("My-Header1", "VALUE1"),),
        signed=("my-header1",),
    ),
    "post-x-www-form-urlencoded": Case(
        "d3875051da38690788ef43de4db0d8f280229d82040bfac253562e56c3f20e0b",
        "POST",
        headers=(
            ("Content-Type", "application/x-www-form-urlencoded"),
            ("Content-Length", "13"),
            ("x-amz-content-sha256", FORM_HASH),
        ),
        signed=("content-length", "content-type", "x-amz-content-sha256"),
        body=b"Param1=value1",
    ),
    "post-x-www-form-urlencoded-parameters": Case(
        "328d1b9eaadca9f5818ef05e8392801e091653bafec24fcab71e7344e7f51422",
        "POST",
        headers=(
            ("Content-Type", "application/x-www-form-urlencoded; charset=utf-8"),
            ("Content-Length", "13"),
            ("x-amz-content-sha256", FORM_HASH),
        ),
        signed=("content-length", "content-type", "x-amz-content-sha256"),
        body=b"Param1=value1",
    ),
    "get-vanilla-with-session-token": Case(
        "07ec1639c89043aa0e3e2de82b96708f198cceab042d4a97044c66dd9f74e7f8",
        headers=(("X-Amz-Security-Token", TOKEN),),
        signed=("x-amz-security-token",),
    ),
    "post-sts-header-before": Case(
        "85d96828115b5dc0cfc3bd16ad9e210dd772bbebba041836c64533a82be05ead",
        "POST",
        headers=(("X-Amz-Security-Token", LONG_TOKEN),),
        signed=("x-amz-security-token",),
    ),
    "post-sts-header-after": Case(
        "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b",
        "POST",
        headers=(("X-Amz-Security-Token", LONG_TOKEN), ("x-amz-content-sha256", hashlib.sha256(b"").hexdigest())),
    ),
}

PRESIGNED = {
    "get-vanilla-utf8-query": Case("0bdd809b1519ac4f0c1dc3540e2cc46bd0c7f778eda408b2ebf3b913d21ff600", query="ሴ=bar"),
    "get-vanilla-query-order-encoded": Case(
        "c5f1848ceec943ac2ca68ee720460c23aaae30a2300586597ada94c4a65e4787",
        query="Param-3=Value3&Param=Value2&%E1%88%B4=Value1",
    ),
    "get-vanilla-query-unreserved": Case(
        "8e76a88a7433637b12778d5592799b29ad21ecd6cf6325051c21d86f0acda2bf", query=f"{LETTERS}={LETTERS}"
    ),
    "get-vanilla-query-order-key-case": Case(
        "86012e2c9ad4d77369f5d81c11f75158aae4f895a085212cc6d3f923d300bed5", query="Param2=value2&Param1=value1"
    ),
    "get-vanilla-with-session-token": Case(
        "7ff2b50b376cb4d151970630573d6291dc128cc5c2a12ffb237f73cc53f67b6c", query=f"X-Amz-Security-Token={TOKEN}"
    ),
    "get-header-key-duplicate": Case(
        "3349ee0b81b4b589da0ff28a395c3591e04de515651dd74f298fa992d1507a97",
        headers=(("My-Header1", "value2"), ("My-Header1", "value2"), ("My-Header1", "value1")),
        signed=("my-header1",),
    ),
    "get-header-value-trim": Case(
        "e7bb0fd515e125e1aec2ecc4c0c17484fb06f6846b927c35e46005dd3df3acd4",
        headers=(("My-Header1", " value1"), ("My-Header2", ' "a   b   c"')),
        signed=("my-header1", "my-header2"),
    ),
    "get-space": Case("7a1f416954786484c9824d93c1f26ef64acb9b1b6c9154d08c9f07d0e394abf6", path="/example space/"),
    "get-slash-dot-slash": Case("e93c787ed7f371d5c6b165c1b38ede9550f4dce4144713e844b25b7192d3865d", path="/./"),
    "post-sts-header-before": Case(
        "aca67b49ed321f377645504bccbd5a65f9085c536ff1961bc49c835d30827b16",
        "POST",
        headers=(("X-Amz-Security-Token", LONG_TOKEN),),
        signed=("x-amz-security-token",),
    ),
}


def check(case: Case, headers: tuple[tuple[str, str], ...], query: str, body: bytes) -> None:
    claim = read_claim(headers, query)
    check_signature(
        claim,
        signing_key(SECRET, claim.day, claim.region, claim.service),
        method=case.method,
        path=case.path,
        query=query,
        headers=headers,
        body_sha256=hashlib.sha256(body).hexdigest(),
    )


@pytest.mark.parametrize("case", IN_HEADER.values(), ids=IN_HEADER.keys())
def test_a_published_header_signature_is_accepted_and_of_another_body_is_not(case: Case) -> None:
    names = ";".join(sorted(("host", "x-amz-date", *case.signed)))
    authorization = f"AWS4-HMAC-SHA256 Credential={SCOPE}, SignedHeaders={names}, Signature={case.signature}"
    headers = (*HOST, *case.headers, ("Authorization", authorization), DATE)
    check(case, headers, case.query, case.body)
    with pytest.raises(SignatureRefused):
        check(case, headers, case.query, case.body + b"!")


@pytest.mark.parametrize("case", PRESIGNED.values(), ids=PRESIGNED.keys())
def test_a_published_query_signature_is_accepted_and_for_longer_is_not(case: Case) -> None:
    names = "%3B".join(sorted(("host", *case.signed)))
    query = (
        f"X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential={SCOPE.replace('/', '%2F')}&X-Amz-Date=20150830T123600Z"
        f"&X-Amz-SignedHeaders={names}&X-Amz-Expires=3600&X-Amz-Signature={case.signature}"
    )
    query = f"{case.query}&{query}" if case.query else query
    headers = (*HOST, *case.headers, DATE)
    check(case, headers, query, b"")
    with pytest.raises(SignatureRefused):
        check(case, headers, query.replace("Expires=3600", "Expires=7200"), b"")


def test_the_published_signing_key_is_derived() -> None:
    key = signing_key(SECRET, "20120215", "us-east-1", "iam")
    assert key.hex() == "f4780e2d9f65fa895f9c67b32ce1baf0b0d8a43505a000a1a9e090d414db404d"


def test_the_published_query_of_odd_letters_has_a_plus_for_a_space() -> None:
    """Of the suite's first form, post-vanilla-query-nonunreserved: its request line ends at the space."""
    wanted = "%20=%2F%2C%3F%3E%3C%60%22%3B%3A%5C%7C%5D%5B%7B%7D&%40%23%24%25%5E="
    assert canonical_query('@#$%^&+=/,?><`";:\\|][{}') == wanted
