"""A pre-signed query as botocore makes it is accepted while it holds; altered, doubled or cut it is refused."""

from __future__ import annotations

import hashlib
import re
import time
from dataclasses import dataclass, replace
from urllib.parse import urlsplit

import pytest
from botocore.auth import SigV4QueryAuth
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
    check_claim,
    check_signature,
    read_claim,
)

KEY_ID = "AKIDEXAMPLE"
SECRET = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"
TOKEN = "a/token+of=a/session"
ACTION = "Action=GetCallerIdentity&Version=2011-06-15"


@dataclass(frozen=True)
class Presigned:
    """A pre-signed request as a server sees it."""

    query: str
    headers: tuple[tuple[str, str], ...] = (("Host", "sts.example:5000"),)
    method: str = "GET"

    def claim(self) -> Claim:
        return read_claim(self.headers, self.query)

    def verify(self, body: bytes = b"") -> Claim:
        claim = self.claim()
        check_signature(
            claim,
            signing_key(SECRET, claim.day, claim.region, claim.service),
            method=self.method,
            path="/",
            query=self.query,
            headers=self.headers,
            body_sha256=hashlib.sha256(body).hexdigest(),
        )
        return claim


def presigned(
    query: str = ACTION,
    *,
    expires: int = 60,
    headers: dict[str, str] | None = None,
    token: str | None = None,
    method: str = "GET",
) -> Presigned:
    request = AWSRequest(method=method, url=f"http://sts.example:5000/?{query}", headers=headers or {})
    SigV4QueryAuth(Credentials(KEY_ID, SECRET, token), "sts", "us-east-1", expires).add_auth(request)
    lines = (("Host", "sts.example:5000"), *((headers or {}).items()))
    return Presigned(urlsplit(request.url).query, lines, method)


def check(claim: Claim, *, now: float, presigned_seconds: int | None = None, skew_minutes: int = 15) -> None:
    check_claim(
        claim,
        service="sts",
        regions=("us-east-1",),
        required=("host", "x-amz-date"),
        now=now,
        skew_minutes=skew_minutes,
        presigned_seconds=presigned_seconds,
    )


def refused(request: Presigned) -> SignatureRefused:
    with pytest.raises(SignatureRefused) as caught:
        request.verify()
    return caught.value


# ---- what botocore signs ---------------------------------------------------------------------------------------------


def test_a_query_presigned_by_botocore_is_accepted() -> None:
    claim = presigned().verify()
    assert (claim.access_key_id, claim.service, claim.expires, claim.is_presigned) == (KEY_ID, "sts", "60", True)
    assert claim.signed_headers == ("host",)
    check(claim, now=time.time())


def test_a_signed_header_of_a_cluster_is_part_of_it() -> None:
    request = presigned(headers={"x-k8s-aws-id": "my-cluster"})
    assert request.verify().signed_headers == ("host", "x-k8s-aws-id")
    other = replace(request, headers=(request.headers[0], ("x-k8s-aws-id", "your-cluster")))
    assert refused(other).message == MISMATCH_TEXT
    assert refused(replace(request, headers=request.headers[:1])).message == MISMATCH_TEXT


_value = st.text("abc/+=:;&%20 é-_.~*!'()", max_size=12)


@given(st.dictionaries(st.text("abc", min_size=1, max_size=4), _value, max_size=4), st.booleans())
def test_any_parameters_that_botocore_presigns_are_accepted(parameters: dict[str, str], with_token: bool) -> None:
    """Given apart from the URL, which is how its clients sign an operation."""
    request = AWSRequest(method="GET", url="http://sts.example:5000/", params=parameters)
    SigV4QueryAuth(Credentials(KEY_ID, SECRET, TOKEN if with_token else None), "sts", "us-east-1").add_auth(request)
    claim = Presigned(urlsplit(request.url).query).verify()
    assert claim.token == (TOKEN if with_token else "")


def test_a_security_token_counts_whether_it_was_added_before_or_after_signing() -> None:
    before = presigned(token=TOKEN)
    after = presigned()
    after = replace(after, query=after.query + "&X-Amz-Security-Token=a%2Ftoken%2Bof%3Da%2Fsession")
    for request in (before, after):
        assert request.verify().token == TOKEN


def test_a_security_token_may_come_as_a_signed_header() -> None:
    request = presigned(headers={"X-Amz-Security-Token": TOKEN})
    assert request.verify().token == TOKEN


def test_a_signed_security_token_cannot_be_taken_out() -> None:
    request = presigned(token=TOKEN)
    bare = "&".join(part for part in request.query.split("&") if not part.startswith("X-Amz-Security-Token"))
    assert refused(replace(request, query=bare)).message == MISMATCH_TEXT


def test_the_order_of_parameters_does_not_matter() -> None:
    request = presigned()
    replace(request, query="&".join(reversed(request.query.split("&")))).verify()


# ---- what was altered ------------------------------------------------------------------------------------------------

CHANGES = {
    "action": ("GetCallerIdentity", "GetSessionToken"),
    "expires": ("X-Amz-Expires=60", "X-Amz-Expires=61"),
    "region": ("us-east-1", "us-east-2"),
    "more": ("Version=", "Extra=1&Version="),
    "headers": ("SignedHeaders=host", "SignedHeaders=host%3Bx-other"),
    "signature": ("X-Amz-Signature=", "X-Amz-Signature=" + "0" * 64 + "&x="),
}


@pytest.mark.parametrize(("old", "new"), CHANGES.values(), ids=CHANGES.keys())
def test_an_altered_query_is_a_mismatch(old: str, new: str) -> None:
    request = presigned()
    assert old in request.query
    found = refused(replace(request, query=request.query.replace(old, new)))
    assert (found.reason, found.message) == (SignatureReason.MISMATCH, MISMATCH_TEXT)


def test_another_method_or_body_is_a_mismatch() -> None:
    request = presigned()
    assert refused(replace(request, method="POST")).message == MISMATCH_TEXT
    with pytest.raises(SignatureRefused, match="does not match"):
        request.verify(body=b"Action=AssumeRole")


# ---- what is not whole, or twice -------------------------------------------------------------------------------------

NAMES = ("X-Amz-Algorithm", "X-Amz-Credential", "X-Amz-Date", "X-Amz-SignedHeaders", "X-Amz-Signature")


@pytest.mark.parametrize("name", NAMES)
def test_a_missing_parameter_is_named(name: str) -> None:
    request = presigned()
    less = re.sub(rf"&?{name}=[^&]*", "", request.query)
    found = refused(replace(request, query=less))
    assert (found.reason, found.message) == (
        SignatureReason.INCOMPLETE,
        f"AWS query-string parameters must include '{name}'. Re-examine the query-string parameters.",
    )


@pytest.mark.parametrize("name", [*NAMES, "X-Amz-Expires"])
def test_a_parameter_sent_twice_is_incomplete(name: str) -> None:
    request = presigned()
    found = refused(replace(request, query=f"{request.query}&{name}=1"))
    assert (found.reason, found.message) == (
        SignatureReason.INCOMPLETE,
        f"The query parameter '{name}' must be sent once.",
    )


@pytest.mark.parametrize(
    ("old", "new", "text"),
    [
        ("AWS4-HMAC-SHA256", "AWS4-HMAC-SHA1", "algorithm"),
        ("%2Fsts", "", "exactly 5"),
        ("aws4_request", "aws5_request", "terminator"),
        ("SignedHeaders=host", "SignedHeaders=Host", "lower-case"),
        ("X-Amz-Date=", "X-Amz-Date=x", "basic format"),
        ("X-Amz-Signature=", "X-Amz-Signature=x", "64 lower-case"),
    ],
)
def test_a_malformed_parameter_is_refused_by_name(old: str, new: str, text: str) -> None:
    request = presigned()
    assert text in refused(replace(request, query=request.query.replace(old, new, 1))).message


def test_an_authorization_header_beside_a_presigned_query_is_refused() -> None:
    request = presigned()
    both = replace(request, headers=(*request.headers, ("Authorization", "Basic QVdTOmFiYw==")))
    assert refused(both).reason is SignatureReason.INCOMPLETE


def test_a_security_token_in_the_query_and_as_a_header_is_refused() -> None:
    request = presigned(token=TOKEN)
    both = replace(request, headers=(*request.headers, ("X-Amz-Security-Token", TOKEN)))
    assert refused(both).reason is SignatureReason.INCOMPLETE


@given(st.text("X-AmzSignatureCedlDh=&%;/0123TZ", max_size=60))
def test_any_query_is_refused_and_nothing_else_happens(query: str) -> None:
    with pytest.raises(SignatureRefused):
        Presigned("X-Amz-Signature=" + query).verify()


# ---- how long it holds -----------------------------------------------------------------------------------------------

SIGNED_AT = 1_795_499_407  # 20261124T055007Z


def claim_of(expires: str, **other: str) -> Claim:
    facts = {"date": "20261124T055007Z", "day": "20261124", **other}
    return Claim(KEY_ID, facts["day"], "us-east-1", "sts", ("host",), "0" * 64, facts["date"], expires)


@pytest.mark.parametrize("expires", ["1", "60", "604800", "604801", "no number", ""])
def test_of_sts_it_holds_fifteen_minutes_whatever_it_says(expires: str) -> None:
    claim = claim_of(expires)
    check(claim, now=SIGNED_AT + 900, presigned_seconds=900)
    with pytest.raises(SignatureRefused) as caught:
        check(claim, now=SIGNED_AT + 901, presigned_seconds=900)
    assert (caught.value.reason, caught.value.message) == (
        SignatureReason.MISMATCH,
        "Signature expired: 20261124T055007Z is now earlier than 20261124T055008Z (20261124T060508Z - 15 min.)",
    )


@pytest.mark.parametrize(("expires", "shown"), [("1", "1 sec."), ("90", "90 sec."), ("604800", "10080 min.")])
def test_of_other_services_it_holds_as_long_as_it_says(expires: str, shown: str) -> None:
    claim = claim_of(expires)
    check(claim, now=SIGNED_AT + int(expires))
    with pytest.raises(SignatureRefused, match=re.escape(f"- {shown})")):
        check(claim, now=SIGNED_AT + int(expires) + 1)


@pytest.mark.parametrize("expires", ["", "0", "604801", "1000000000", "-1", "1.5", "٣", "1e3"])
def test_of_other_services_it_says_between_a_second_and_a_week(expires: str) -> None:
    with pytest.raises(SignatureRefused, match="1 to 604800") as caught:
        check(claim_of(expires), now=SIGNED_AT)
    assert caught.value.reason is SignatureReason.INCOMPLETE


def test_it_holds_no_earlier_than_clocks_may_differ() -> None:
    check(claim_of("60"), now=SIGNED_AT - 300, skew_minutes=5)
    with pytest.raises(SignatureRefused, match="Signature not yet current"):
        check(claim_of("60"), now=SIGNED_AT - 301, skew_minutes=5)


def test_the_host_must_be_signed_and_the_date_need_not_be_a_header() -> None:
    check(claim_of("60"), now=SIGNED_AT)
    with pytest.raises(SignatureRefused, match="must be a 'SignedHeader'"):
        check(replace(claim_of("60"), signed_headers=("x-k8s-aws-id",)), now=SIGNED_AT)


# ---- a body's declared hash ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "said", ["UNSIGNED-PAYLOAD", "STREAMING-AWS4-HMAC-SHA256-PAYLOAD", "STREAMING-UNSIGNED-PAYLOAD-TRAILER", "abc"]
)
def test_a_declared_hash_that_is_none_is_refused_before_the_body(said: str) -> None:
    with pytest.raises(SignatureRefused) as caught:
        check(replace(claim_of("60"), body_sha256=said), now=SIGNED_AT)
    assert (caught.value.reason, caught.value.message) == (SignatureReason.MISMATCH, MISMATCH_TEXT)


def test_a_declared_hash_in_the_query_must_be_the_bodys() -> None:
    right, wrong = (hashlib.sha256(body).hexdigest() for body in (b"", b"other"))
    presigned(f"{ACTION}&X-Amz-Content-Sha256={right}").verify()
    assert refused(presigned(f"{ACTION}&X-Amz-Content-Sha256={wrong}")).message == MISMATCH_TEXT
