"""What a request says of itself is checked, in AWS's words, before anything is looked up; derived keys are kept."""

from __future__ import annotations

import calendar
import time
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.auth.signing_keys import SigningKeys, signing_key
from proxy.auth.sigv4 import (
    Claim,
    SignatureReason,
    SignatureRefused,
    check_claim,
    read_claim,
)

KEY_ID = "AKIDEXAMPLE"
SECRET = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"
TARGET = "AmazonEC2ContainerRegistry_V20150921.ListImages"


VANILLA = (("Host", "example.amazonaws.com"), ("X-Amz-Date", "20150830T123600Z"))


def at(stamp: str) -> float:
    return float(calendar.timegm(time.strptime(stamp, "%Y%m%dT%H%M%SZ")))


def claim_of(date: str = "20261124T055007Z", day: str = "20261124", **other: str) -> Claim:
    facts = {"region": "us-east-1", "service": "ecr", **other}
    return Claim(KEY_ID, day, facts["region"], facts["service"], ("host", "x-amz-date", "x-amz-target"), "0" * 64, date)


def check(claim: Claim, now: float, skew_minutes: int = 5) -> None:
    check_claim(
        claim,
        service="ecr",
        regions=("us-east-1",),
        required=("host", "x-amz-date", "x-amz-target"),
        now=now,
        skew_minutes=skew_minutes,
    )


def test_no_authorization_is_missing() -> None:
    with pytest.raises(SignatureRefused) as caught:
        read_claim(VANILLA)
    assert (caught.value.reason, caught.value.message) == (SignatureReason.MISSING, "Missing Authentication Token")


GOOD = f"Credential={KEY_ID}/20261124/us-east-1/ecr/aws4_request"
LIST = "SignedHeaders=host;x-amz-date"
SIG = "Signature=" + "0" * 64


@pytest.mark.parametrize(
    ("authorization", "text"),
    [
        ("Basic QVdTOmFiYw==", "algorithm"),
        (f"AWS4-HMAC-SHA1 {GOOD}, {LIST}, {SIG}", "algorithm"),
        (f"AWS4-ECDSA-P256-SHA256 {GOOD}, {LIST}, {SIG}", "algorithm"),
        ("AWS4-HMAC-SHA256", "without a value"),
        (f"AWS4-HMAC-SHA256 {LIST}, {SIG}", "requires 'Credential' parameter"),
        (f"AWS4-HMAC-SHA256 {GOOD}, {SIG}", "requires 'SignedHeaders' parameter"),
        (f"AWS4-HMAC-SHA256 {GOOD}, {LIST}", "requires 'Signature' parameter"),
        (f"AWS4-HMAC-SHA256 {GOOD}, {LIST}, {SIG}, {SIG}", "twice"),
        (f"AWS4-HMAC-SHA256 Credential={KEY_ID}/20261124/ecr/aws4_request, {LIST}, {SIG}", "exactly 5"),
        (f"AWS4-HMAC-SHA256 Credential={KEY_ID}/a/b/c/d/aws4_request, {LIST}, {SIG}", "exactly 5"),
        (f"AWS4-HMAC-SHA256 Credential=/20261124/us-east-1/ecr/aws4_request, {LIST}, {SIG}", "exactly 5"),
        (f"AWS4-HMAC-SHA256 Credential={KEY_ID}/2026112/us-east-1/ecr/aws4_request, {LIST}, {SIG}", "YYYYMMDD"),
        (f"AWS4-HMAC-SHA256 {GOOD}, SignedHeaders=Host;x-amz-date, {SIG}", "lower-case"),
        (f"AWS4-HMAC-SHA256 {GOOD}, SignedHeaders=host;host, {SIG}", "once each"),
        (f"AWS4-HMAC-SHA256 {GOOD}, SignedHeaders=host;;x, {SIG}", "lower-case"),
        (f"AWS4-HMAC-SHA256 {GOOD}, SignedHeaders={';'.join(f'h{i}' for i in range(101))}, {SIG}", "lower-case"),
        (f"AWS4-HMAC-SHA256 {GOOD}, {LIST}, Signature={'0' * 63}", "64"),
        (f"AWS4-HMAC-SHA256 {GOOD}, {LIST}, Signature={'G' * 64}", "64"),
        (f"AWS4-HMAC-SHA256 {GOOD}, {LIST}, {SIG}" + " " * 20_000, "too long"),
    ],
)
def test_a_malformed_authorization_is_incomplete_and_says_what_it_lacks(authorization: str, text: str) -> None:
    with pytest.raises(SignatureRefused, match=text) as caught:
        read_claim([*VANILLA, ("Authorization", authorization)])
    assert caught.value.reason is SignatureReason.INCOMPLETE


def test_a_foreign_terminator_is_refused() -> None:
    with pytest.raises(SignatureRefused, match="valid terminator: 'aws4_request'"):
        read_claim([*VANILLA, ("Authorization", f"AWS4-HMAC-SHA256 {GOOD.replace('aws4_', 'aws5_')}, {LIST}, {SIG}")])


@given(st.text(max_size=200))
def test_any_text_as_authorization_is_refused_and_nothing_else_happens(text: str) -> None:
    with pytest.raises(SignatureRefused):
        read_claim([*VANILLA, ("Authorization", text)])


@pytest.mark.parametrize(
    "date", ["", "2026-11-24T05:50:07Z", "20261124T055007", "20261124T055007Z ", "Tue, 24 Nov 2026"]
)
def test_a_malformed_date_is_incomplete(date: str) -> None:
    headers = [("Host", "h"), ("X-Amz-Date", date), ("Authorization", f"AWS4-HMAC-SHA256 {GOOD}, {LIST}, {SIG}")]
    with pytest.raises(SignatureRefused) as caught:
        read_claim(headers)
    assert caught.value.reason is SignatureReason.INCOMPLETE


@pytest.mark.parametrize(
    "name", ["Authorization", "host", "X-AMZ-DATE", "x-amz-target", "Content-Type", "X-Amz-Security-Token"]
)
def test_a_second_copy_of_a_header_that_must_be_single_is_refused(name: str) -> None:
    others = (("X-Amz-Target", TARGET), ("Content-Type", "a"), ("X-Amz-Security-Token", "t"))
    authorization = ("Authorization", f"AWS4-HMAC-SHA256 {GOOD}, {LIST}, {SIG}")
    with pytest.raises(SignatureRefused, match="must be sent once") as caught:
        read_claim([*VANILLA, *others, authorization, (name, "another")])
    assert caught.value.reason is SignatureReason.INCOMPLETE


# ---- scope, time and required headers --------------------------------------------------------------------------------

NOW = at("20261124T055007Z")


def test_a_claim_of_now_for_us_is_taken() -> None:
    check(claim_of(), NOW)


@pytest.mark.parametrize("minutes", [-5, 5])
def test_five_minutes_either_way_are_still_good(minutes: int) -> None:
    check(claim_of(), NOW + 60 * minutes)


def test_an_expired_signature_is_refused_in_the_words_of_aws() -> None:
    with pytest.raises(SignatureRefused) as caught:
        check(claim_of("20261124T053502Z"), NOW)
    assert caught.value.reason is SignatureReason.MISMATCH
    assert caught.value.message == (
        "Signature expired: 20261124T053502Z is now earlier than 20261124T054507Z (20261124T055007Z - 5 min.)"
    )


def test_a_signature_from_the_future_is_refused_in_the_words_of_aws() -> None:
    with pytest.raises(SignatureRefused) as caught:
        check(claim_of("20261124T060509Z"), NOW, skew_minutes=15)
    assert caught.value.message == (
        "Signature not yet current: 20261124T060509Z is still later than 20261124T060507Z (20261124T055007Z + 15 min.)"
    )


def test_a_date_that_is_no_date_is_incomplete() -> None:
    with pytest.raises(SignatureRefused) as caught:
        check(claim_of("20261341T993502Z", "20261341"), NOW)
    assert caught.value.reason is SignatureReason.INCOMPLETE


@pytest.mark.parametrize(
    ("claim", "text"),
    [
        (claim_of(region="eu-west-1"), "Credential should be scoped to a valid region."),
        (claim_of(service="s3"), "Credential should be scoped to correct service: 'ecr'."),
        (
            claim_of(day="20261123"),
            "Date in Credential scope does not match YYYYMMDD from ISO-8601 version of date from HTTP: "
            "'20261123' != '20261124', from '20261124T055007Z'.",
        ),
    ],
    ids=["region", "service", "day"],
)
def test_a_scope_that_is_not_ours_is_refused(claim: Claim, text: str) -> None:
    with pytest.raises(SignatureRefused) as caught:
        check(claim, NOW)
    assert (caught.value.reason, caught.value.message) == (SignatureReason.MISMATCH, text)


@pytest.mark.parametrize("missing", ["host", "x-amz-date", "x-amz-target"])
def test_a_required_header_left_unsigned_is_refused(missing: str) -> None:
    claim = claim_of()
    less = replace(claim, signed_headers=tuple(name for name in claim.signed_headers if name != missing))
    with pytest.raises(SignatureRefused, match="must be a 'SignedHeader'") as caught:
        check(less, NOW)
    assert caught.value.reason is SignatureReason.INCOMPLETE


# ---- kept keys -------------------------------------------------------------------------------------------------------


def test_a_signing_key_is_derived_once_for_a_key_and_scope() -> None:
    asked: list[str] = []

    def secret() -> str:
        asked.append("asked")
        return SECRET

    keys = SigningKeys()
    first = keys.get(claim_of(), b"sealed", secret)
    assert keys.get(claim_of(), b"sealed", secret) == first == signing_key(SECRET, "20261124", "us-east-1", "ecr")
    assert len(asked) == 1


def test_a_replaced_secret_is_never_checked_against_the_old_one() -> None:
    keys = SigningKeys()
    old = keys.get(claim_of(), b"sealed-1", lambda: "old")
    assert keys.get(claim_of(), b"sealed-2", lambda: "new") != old


def test_no_more_signing_keys_are_kept_than_the_bound() -> None:
    asked: list[str] = []

    def secret() -> str:
        asked.append("asked")
        return SECRET

    keys = SigningKeys(keep=2)
    for region in ("a", "b", "c", "a"):
        keys.get(claim_of(region=region), b"sealed", secret)
    assert len(asked) == 4
