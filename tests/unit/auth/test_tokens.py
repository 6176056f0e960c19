"""Tokens name a principal for twelve hours, survive a restart, and say nothing when they are not ours."""

from __future__ import annotations

import base64
import dataclasses
import json
import random
import string
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.auth.envelope import SmallSealer
from proxy.auth.sessions import pack, packed_percent
from proxy.auth.tokens import LIFETIME, TOKEN_MAX, TokenClaims, TokenExpired, TokenInvalid, Tokens
from proxy.model.identity import Principal, Session, SessionKind
from support.identities import ADMINISTRATORS

KEYS = [("key-1", bytes(range(32)))]
ANNA = Principal("AIDAANNA", "123456789012", "arn:aws:iam::123456789012:user/anna", "anna", policies=ADMINISTRATORS)
NOW = 1_800_000_000.75


def tokens() -> Tokens:
    return Tokens(SmallSealer(KEYS, "authorization-token"))


def sealed(claims: bytes) -> str:
    return base64.urlsafe_b64encode(SmallSealer(KEYS, "authorization-token").seal(claims)).rstrip(b"=").decode()


def test_a_token_names_its_principal_account_region_and_time() -> None:
    token, expires = tokens().issue(ANNA, "123456789012", "us-east-1", NOW, None, "AKIAANNA")
    assert expires == 1_800_000_000 + LIFETIME
    assert tokens().read(token, NOW) == TokenClaims(
        "AIDAANNA", "123456789012", "us-east-1", 1_800_000_000, expires, access_key_id="AKIAANNA"
    )


@pytest.mark.parametrize("version", [1, 2])
def test_a_token_of_an_older_release_is_read_until_it_expires_and_names_no_key(version: int) -> None:
    expires = NOW // 1 + LIFETIME
    claims: dict[str, object] = {"v": version, "p": "AIDAANNA", "a": "1", "r": "us-east-1", "i": NOW // 1, "e": expires}
    session = Session(SessionKind.ROLE, "ci", NOW // 1, NOW // 1 + 900) if version == 2 else None
    if session is not None:
        claims["s"] = pack(session)
    old = sealed(zlib.compress(json.dumps(claims).encode()))
    assert tokens().read(old, NOW) == TokenClaims(
        "AIDAANNA", "1", "us-east-1", NOW // 1, expires, version, session, access_key_id=""
    )
    with pytest.raises(TokenExpired):
        tokens().read(old, expires)


def test_a_token_that_is_issued_after_a_revocation_is_dated_after_it_and_ends_no_later() -> None:
    revoked = dataclasses.replace(ANNA, revoked=(("", NOW + 60),))
    token, expires = tokens().issue(revoked, "123456789012", "us-east-1", NOW)
    claims = tokens().read(token, NOW)
    assert (claims.issued, claims.expires) == (1_800_000_061, 1_800_000_000 + LIFETIME)
    assert claims.expires == expires


def test_a_token_of_a_session_carries_it_whole_and_outlives_it() -> None:
    session = Session(
        SessionKind.ROLE,
        "ci",
        NOW // 1,
        NOW // 1 + 900,
        policy='{"Statement":[]}',
        policy_arns=("arn:aws:iam::aws:policy/A",),
        tags=(("team", "a"),),
        transitive=("team",),
        source_identity="anna",
        chained=True,
        claims=(("aws:federatedprovider", "x"),),
        mfa=True,
    )
    token, expires = tokens().issue(ANNA, "123456789012", "us-east-1", NOW, session)
    claims = tokens().read(token, expires - 1)
    assert (claims.version, claims.session, claims.expires) == (2, session, 1_800_000_000 + LIFETIME)


def test_a_session_as_large_as_sts_makes_one_fits() -> None:
    noise = "".join(random.Random(1).choices(string.ascii_letters + string.digits, k=2048))
    session = Session(SessionKind.ROLE, "c" * 64, NOW, NOW, policy=noise)
    assert packed_percent(noise, (), ()) <= 100
    token, _expires = tokens().issue(ANNA, "123456789012", "us-east-1", NOW, session)
    assert len(token) <= TOKEN_MAX


def test_a_session_that_no_credential_store_takes_is_refused() -> None:
    tags = tuple((f"{i}", random.Random(i).randbytes(100).hex()) for i in range(40))
    with pytest.raises(ValueError, match="credential store"):
        tokens().issue(ANNA, "123456789012", "us-east-1", NOW, Session(SessionKind.ROLE, "ci", NOW, NOW, tags=tags))


def test_a_token_has_no_colon_and_only_url_safe_letters() -> None:
    for _ in range(50):
        token, _expires = tokens().issue(ANNA, "123456789012", "us-east-1", NOW)
        assert ":" not in token
        assert token.isascii()
        assert set(token) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_")


def test_a_token_fits_a_credential_store_with_room_to_spare() -> None:
    token, _expires = tokens().issue(ANNA, "123456789012", "us-east-1", NOW)
    assert len(token) < TOKEN_MAX // 8


def test_a_token_is_good_until_its_last_second() -> None:
    token, expires = tokens().issue(ANNA, "123456789012", "us-east-1", NOW)
    assert tokens().read(token, expires - 0.01).principal_id == "AIDAANNA"
    with pytest.raises(TokenExpired):
        tokens().read(token, expires)


def test_a_token_of_another_key_is_invalid_and_not_expired() -> None:
    other = Tokens(SmallSealer([("key-1", bytes(32))], "authorization-token"))
    token, _expires = other.issue(ANNA, "123456789012", "us-east-1", NOW)
    with pytest.raises(TokenInvalid):
        tokens().read(token, NOW)


def test_a_value_sealed_for_another_purpose_is_no_token() -> None:
    other = Tokens(SmallSealer(KEYS, "access-key-secret"))
    token, _expires = other.issue(ANNA, "123456789012", "us-east-1", NOW)
    with pytest.raises(TokenInvalid):
        tokens().read(token, NOW)


def test_every_altered_letter_is_noticed() -> None:
    token, _expires = tokens().issue(ANNA, "123456789012", "us-east-1", NOW)
    for at in range(len(token)):
        altered = token[:at] + ("A" if token[at] != "A" else "B") + token[at + 1 :]
        with pytest.raises(TokenInvalid):
            tokens().read(altered, NOW)


def test_every_cut_is_noticed() -> None:
    token, _expires = tokens().issue(ANNA, "123456789012", "us-east-1", NOW)
    for length in range(len(token)):
        with pytest.raises(TokenInvalid):
            tokens().read(token[:length], NOW)


@given(st.text(max_size=200))
def test_any_other_text_is_invalid(text: str) -> None:
    with pytest.raises(TokenInvalid):
        tokens().read(text, NOW)


def test_a_text_over_the_limit_is_invalid_before_it_is_decoded() -> None:
    with pytest.raises(TokenInvalid):
        tokens().read("A" * (TOKEN_MAX + 1), NOW)


@pytest.mark.parametrize(
    "claims",
    [
        b"not compressed",
        zlib.compress(b"not json"),
        zlib.compress(b"[]"),
        zlib.compress(b'{"v":1}'),
        zlib.compress(json.dumps({"v": 3, "p": "x", "a": "x", "r": "x", "i": 1, "e": 9e9}).encode()),
        zlib.compress(json.dumps({"v": 2, "p": "x", "a": "x", "r": "x", "i": 1, "e": 9e9}).encode()),
        zlib.compress(json.dumps({"v": 2, "p": "x", "a": "x", "r": "x", "i": 1, "e": 9e9, "s": {"n": 1}}).encode()),
        zlib.compress(json.dumps({"v": 1, "p": "x", "a": "x", "r": "x", "i": None, "e": 9e9}).encode()),
        zlib.compress(b" " * 1_000_000 + b"{}"),
        zlib.compress(b"{}")[:-3],
    ],
    ids=[
        "raw",
        "text",
        "list",
        "too-few",
        "other-version",
        "no-session",
        "bad-session",
        "no-time",
        "bomb",
        "cut",
    ],
)
def test_sealed_claims_that_we_never_write_are_invalid(claims: bytes) -> None:
    with pytest.raises(TokenInvalid):
        tokens().read(sealed(claims), NOW)


def test_the_exception_does_not_carry_the_token() -> None:
    with pytest.raises(TokenInvalid) as caught:
        tokens().read("secret-looking-text", NOW)
    assert "secret" not in repr(caught.value)
    assert caught.value.__cause__ is None
