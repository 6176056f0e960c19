"""A web identity counts when a key of its issuer signed it, for one of our client ids, and now."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from hypothesis import given
from hypothesis import strategies as st

from proxy.auth.web_identity import (
    NOT_A_TOKEN,
    WebIdentity,
    admit,
    key_fits,
    read_keys,
    read_token,
    session_keys,
    trust_keys,
    verify_token,
)
from proxy.model.errors import Code, Failure
from proxy.model.identity import OidcProvider
from support.issuer import github, kubernetes, public_key, sign

NOW = 1_800_000_000.0
ISSUER = "https://idp.example/realm"
PROVIDER = OidcProvider(
    "arn:aws:iam::123456789012:oidc-provider/idp.example/realm",
    "123456789012",
    "idp.example/realm",
    ("sts.amazonaws.com", "other-client"),
    (),
)
RSA = rsa.generate_private_key(65537, 2048)
RSA_TWO = rsa.generate_private_key(65537, 2048)
P256 = ec.generate_private_key(ec.SECP256R1())
P384 = ec.generate_private_key(ec.SECP384R1())
P521 = ec.generate_private_key(ec.SECP521R1())


def claims(**more: Any) -> dict[str, Any]:
    return {key: value for key, value in kubernetes(ISSUER, NOW, **more).items() if value is not None}


def identity(given: Mapping[str, Any], provider: OidcProvider = PROVIDER, now: float = NOW) -> WebIdentity:
    return admit(read_token(sign(given, RSA)), provider, now)


def failure(given: Mapping[str, Any], now: float = NOW) -> Failure:
    with pytest.raises(Failure) as caught:
        identity(given, now=now)
    return caught.value


@pytest.mark.parametrize(
    ("algorithm", "key"),
    [("RS256", RSA), ("RS384", RSA), ("RS512", RSA), ("ES256", P256), ("ES384", P384)],
)
@pytest.mark.parametrize("named", [True, False], ids=["alg-in-key", "no-alg-in-key"])
def test_the_algorithms_that_aws_takes_prove_a_token(algorithm: str, key: Any, named: bool) -> None:
    token = read_token(sign(claims(), key, algorithm, kid="one"))
    keys = read_keys({"keys": [public_key(key, kid="one", **({"alg": algorithm} if named else {}))]})
    assert key_fits(keys[0], token)
    verify_token(token, keys)


@pytest.mark.parametrize(
    ("algorithm", "key"),
    [("HS256", "a secret that is long enough for it"), ("PS256", RSA), ("ES512", P521), ("none", None)],
)
def test_other_algorithms_are_refused_by_name(algorithm: str, key: Any) -> None:
    with pytest.raises(Failure, match="RS256, RS384, RS512, ES256, ES384"):
        read_token(sign(claims(), key, algorithm))


def test_a_public_key_is_no_secret_to_sign_with() -> None:
    """HS256 with the issuer's public key as its secret: the oldest trick."""
    segments = [{"alg": "HS256", "typ": "JWT"}, claims()]
    text = ".".join(base64.urlsafe_b64encode(json.dumps(each).encode()).rstrip(b"=").decode() for each in segments)
    with pytest.raises(Failure):
        read_token(text + ".c2lnbmF0dXJl")


def test_a_token_of_another_key_or_altered_is_not_proven() -> None:
    keys = read_keys({"keys": [public_key(RSA), public_key(P256)]})
    other = read_token(sign(claims(), RSA_TWO))
    header, payload, signature = sign(claims(), RSA).split(".")
    changed = base64.urlsafe_b64encode(json.dumps(claims(sub="somebody-else")).encode()).rstrip(b"=").decode()
    altered = read_token(f"{header}.{changed}.{signature}")
    unsigned = read_token(f"{header}.{payload}.")
    for token in (other, altered, unsigned):
        with pytest.raises(Failure) as caught:
            verify_token(token, [key for key in keys if key_fits(key, token)])
        assert caught.value.code is Code.INVALID_IDENTITY_TOKEN
        assert token.text not in str(caught.value)


def test_any_one_of_several_keys_proves() -> None:
    verify_token(read_token(sign(claims(), RSA)), read_keys({"keys": [public_key(RSA_TWO), public_key(RSA)]}))


def test_a_key_that_the_token_brings_along_does_not_count() -> None:
    token = read_token(sign(claims(), RSA_TWO, jwk=public_key(RSA_TWO), jku="https://evil.example/keys"))
    with pytest.raises(Failure):
        verify_token(token, read_keys({"keys": [public_key(RSA)]}))


def test_a_token_with_a_critical_header_that_nobody_knows_is_no_token() -> None:
    with pytest.raises(Failure):
        read_token(sign(claims(), RSA, crit=["exp"], exp=1))


@pytest.mark.parametrize(
    "more",
    [{"kid": "two"}, {"use": "enc"}, {"alg": "RS512"}, {"kty": "oct"}, {"kty": "EC", "crv": "P-384"}],
)
def test_a_key_of_another_name_use_or_kind_does_not_fit(more: dict[str, str]) -> None:
    token = read_token(sign(claims(), RSA, kid="one"))
    key = public_key(RSA, kid="one")
    assert key_fits(key, token)
    assert not key_fits(key | more, token)


def test_a_private_key_in_a_jwks_is_read_without_its_private_half() -> None:
    whole = {**jwt.algorithms.RSAAlgorithm.to_jwk(RSA, as_dict=True), "kid": "one"}
    assert set(read_keys({"keys": [whole]})[0]) == {"kty", "n", "e", "kid"}


@pytest.mark.parametrize("document", [None, [], {}, {"keys": {}}, {"keys": [{}] * 101}])
def test_what_is_no_set_of_keys_is_refused(document: Any) -> None:
    with pytest.raises(ValueError, match="not a set of keys"):
        read_keys(document)


def test_members_of_a_set_that_are_no_keys_prove_nothing() -> None:
    keys = read_keys({"keys": ["text", None, {}, {"kty": "RSA"}, {"kty": "RSA", "n": "!", "e": 7}, {"kty": "oct"}]})
    assert len(keys) == 2
    with pytest.raises(Failure):
        verify_token(read_token(sign(claims(), RSA)), keys)


@pytest.mark.parametrize(
    "text",
    [
        "abcd",
        "a.b.c",
        "a.b.c.d",
        "..",
        sign(claims(), RSA) + ".x",
        sign(claims(), RSA).replace(".", "..", 1),
        "é" + sign(claims(), RSA),
        sign({"sub": "no-issuer"}, RSA),
        "eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOjd9.x",  # {"iss":7}
        base64.urlsafe_b64encode(b"[" * 9000).decode() + ".e30.x",
        "eyJhbGciOiJSUzI1NiJ9." + base64.urlsafe_b64encode(b"[" * 9000).rstrip(b"=").decode() + ".x",
    ],
)
def test_what_is_no_token_is_called_so(text: str) -> None:
    with pytest.raises(Failure) as caught:
        read_token(text)
    assert (caught.value.code, caught.value.message) == (Code.INVALID_IDENTITY_TOKEN, NOT_A_TOKEN)


@pytest.mark.parametrize("more", [{"sub": "\ud800"}, {"amr": ["\udfff"]}, {"iss": "https://\ud800"}, {"\ud800": 1}])
def test_half_a_character_anywhere_is_no_token(more: dict[str, Any]) -> None:
    """JSON can spell one, and nothing that has to pass it on could."""
    with pytest.raises(Failure, match="not a valid JWT"):
        read_token(jwt.PyJWS().encode(json.dumps(claims(**more)).encode(), RSA, "RS256"))


@pytest.mark.parametrize("issuer", ["", "https://a\0b", "https://a b", "https://é", "x" * 513])
def test_an_issuer_is_a_url(issuer: str) -> None:
    with pytest.raises(Failure, match="iss must be a URL"):
        read_token(sign(claims(iss=issuer), RSA))


@given(st.text(max_size=100) | st.lists(st.binary(max_size=40), min_size=3, max_size=3).map(
    lambda parts: ".".join(base64.urlsafe_b64encode(part).rstrip(b"=").decode() for part in parts)
))  # fmt: skip
def test_no_text_does_anything_but_fail(text: str) -> None:
    with pytest.raises(Failure):
        read_token(text)


# ---- times ----------------------------------------------------------------------------------------------------------


def test_an_expired_token_is_told_its_times() -> None:
    refused = failure(claims(exp=int(NOW) - 300))
    assert refused.code is Code.EXPIRED_IDENTITY
    assert refused.code.value == "ExpiredTokenException"
    assert refused.message == (
        "Token expired: current date/time 1800000000 must be before the expiration date/time1799999700"
    )


def test_clocks_may_differ_by_five_minutes() -> None:
    assert identity(claims(exp=int(NOW) - 299))
    assert identity(claims(iat=int(NOW) + 300, nbf=int(NOW) + 300))
    assert failure(claims(iat=int(NOW) + 301)).code is Code.INVALID_IDENTITY_TOKEN
    assert failure(claims(nbf=int(NOW) + 301)).code is Code.INVALID_IDENTITY_TOKEN


@pytest.mark.parametrize("name", ["exp", "iat", "sub", "aud"])
def test_a_claim_that_must_be_there_is_named(name: str) -> None:
    refused = failure(claims(**{name: None}))
    assert (refused.code, refused.message) == (Code.INVALID_IDENTITY_TOKEN, f"Missing a required claim: {name}")


@pytest.mark.parametrize(
    "more",
    [
        {"exp": "soon"},
        {"exp": True},
        {"exp": float("nan")},
        {"exp": float("inf")},
        {"exp": -1},
        {"exp": 10**300},
        {"iat": [1]},
        {"nbf": "x"},
        {"sub": ""},
        {"sub": 7},
        {"sub": "x" * 256},
        {"aud": 7},
        {"aud": [7]},
        {"aud": []},
        {"https://aws.amazon.com/source_identity": 7},
        {"https://aws.amazon.com/tags": 7},
        {"https://aws.amazon.com/tags": {"principal_tags": {"a": {"b": "c"}}}},
        {"https://aws.amazon.com/tags": {"principal_tags": {"a": ["b", "c"]}}},
        {"https://aws.amazon.com/tags": {"principal_tags": [["a"]]}},
        {"https://aws.amazon.com/tags": {"principal_tags": {"a": [7]}}},
        {"https://aws.amazon.com/tags": {"transitive_tag_keys": 7}},
        {"https://aws.amazon.com/tags/principal_tags/a": 7},
    ],
)
def test_claims_of_another_form_are_invalid(more: dict[str, Any]) -> None:
    with pytest.raises(Failure) as caught:
        admit(read_token(jwt.PyJWS().encode(json.dumps(claims(**more)).encode(), RSA, "RS256")), PROVIDER, NOW)
    assert caught.value.code is Code.INVALID_IDENTITY_TOKEN


# ---- for whom -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("more", "audience"),
    [
        ({"aud": "sts.amazonaws.com"}, "sts.amazonaws.com"),
        ({"aud": ["unknown", "other-client"]}, "other-client"),
        ({"aud": "unknown", "azp": "other-client"}, "other-client"),
        ({"aud": "sts.amazonaws.com", "azp": "unknown"}, None),
        ({"aud": "STS.amazonaws.com"}, None),
        ({"aud": []}, None),
        ({"aud": "sts.amazonaws.com.evil"}, None),
    ],
)
def test_the_audience_is_a_client_id_and_azp_comes_before_aud(more: dict[str, Any], audience: str | None) -> None:
    if audience is not None:
        assert identity(claims(**more)).audience == audience
        return
    refused = failure(claims(**more))
    assert (refused.code, refused.message) == (Code.INVALID_IDENTITY_TOKEN, "Incorrect token audience")


# ---- condition keys -------------------------------------------------------------------------------------------------


def test_a_pod_is_known_by_its_service_account() -> None:
    found = identity(claims())
    assert trust_keys(found) == {
        "idp.example/realm:aud": ("sts.amazonaws.com",),
        "idp.example/realm:sub": ("system:serviceaccount:ci:build",),
    }
    assert session_keys(found) == (
        ("aws:federatedprovider", PROVIDER.arn),
        ("idp.example/realm:aud", "sts.amazonaws.com"),
        ("idp.example/realm:sub", "system:serviceaccount:ci:build"),
    )


def test_azp_is_the_audience_and_aud_is_asked_as_oaud() -> None:
    keys = trust_keys(identity(claims(azp="other-client", amr=["pwd", "mfa"], email="a@b")))
    assert keys["idp.example/realm:aud"] == ("other-client",)
    assert keys["idp.example/realm:oaud"] == ("sts.amazonaws.com",)
    assert keys["idp.example/realm:amr"] == ("pwd", "mfa")
    assert "idp.example/realm:email" not in keys


def test_githubs_own_claims_are_asked_of_github_only_and_end_with_the_trust_policy() -> None:
    name = "token.actions.githubusercontent.com"
    provider = OidcProvider("arn:p", "123456789012", name, ("sts.amazonaws.com",), ())
    found = identity(github(f"https://{name}", NOW), provider)
    assert trust_keys(found) == {
        f"{name}:aud": ("sts.amazonaws.com",),
        f"{name}:sub": ("repo:octo-org/app:ref:refs/heads/main",),
        f"{name}:actor": ("octocat",),
        f"{name}:job_workflow_ref": ("octo-org/app/.github/workflows/push.yml@refs/heads/main",),
        f"{name}:ref": ("refs/heads/main",),
        f"{name}:repository": ("octo-org/app",),
        f"{name}:repository_id": ("74",),
        f"{name}:repository_owner_id": ("65",),
    }
    assert {key for key, _ in session_keys(found)} == {"aws:federatedprovider", f"{name}:aud", f"{name}:sub"}
    elsewhere = identity(github(ISSUER, NOW))
    assert not any("repository" in key for key in trust_keys(elsewhere))


NESTED = {
    "https://aws.amazon.com/tags": {
        "principal_tags": {"team": ["a"], "cost": ["7"]},
        "transitive_tag_keys": ["team"],
    }
}
FLAT = {
    "https://aws.amazon.com/tags/principal_tags/team": "a",
    "https://aws.amazon.com/tags/principal_tags/cost": ["7"],
    "https://aws.amazon.com/tags/transitive_tag_keys": ["team"],
}


@pytest.mark.parametrize("given", [NESTED, FLAT], ids=["nested", "flat"])
def test_an_issuer_may_set_tags_and_source_identity(given: dict[str, Any]) -> None:
    found = identity(claims(**given, **{"https://aws.amazon.com/source_identity": "anna"}))
    assert (found.tags, found.transitive, found.source_identity) == ((("team", "a"), ("cost", "7")), ("team",), "anna")


def test_no_record_shows_the_token() -> None:
    text = sign(claims(), RSA)
    token = read_token(text)
    assert text not in repr(token)
    assert "system:serviceaccount" not in repr(token)
