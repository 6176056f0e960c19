"""Web identities: validates OpenID Connect tokens with their issuer's keys.

    read_token     reads issuer, key and claims; unproven
    verify_token   checks the signature with a key of the issuer's JWKS
    admit          checks times and audience: one of the provider's client ids
    trust_keys, session_keys   the condition keys that follow from it

Pure: keys, provider and clock are passed in. Signatures and keys are PyJWT's (well kept, needs nothing but
`cryptography`); its checks of times are not used, because they use the machine's clock. Accepted are RS256, RS384,
RS512, ES256 and ES384, as at AWS. The header's `jwk`, `jku` and `x5u` are not read. Used by `ecr.sts`.
Sources: OpenID Connect Core 3.1.3.7; IAM User Guide, "Available keys for AWS OIDC federation".
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jwt
from jwt.utils import base64url_decode

from proxy.model.errors import Code, Failure
from proxy.model.identity import OidcProvider, Tags

LEEWAY = 300.0  # seconds that clocks may differ
SUBJECT_MAX = 255
_ISSUER = re.compile(r"[\x21-\x7e]{1,512}")
_KEYS_MAX = 100  # of one issuer; real ones have two to five
_RSA_BITS = (2048, 8192)
_KINDS = {"RS256": "RSA", "RS384": "RSA", "RS512": "RSA", "ES256": "P-256", "ES384": "P-384"}
_PUBLIC = ("kty", "crv", "x", "y", "n", "e")

NOT_A_TOKEN = "The ID Token provided is not a valid JWT. (You may see this error if you sent an Access Token)"  # noqa: S105  # a text

_GITHUB = (
    "actor",
    "actor_id",
    "enterprise_id",
    "environment",
    "job_workflow_ref",
    "ref",
    "repository",
    "repository_id",
    "repository_owner_id",
    "workflow",
)
_GITLAB = (
    "namespace_id",
    "pipeline_source",
    "project_id",
    "ref_protected",
    "runner_environment",
    "user_access_level",
    "user_email",
    "user_id",
    "user_login",
)
_BUILDKITE = (
    "build_branch",
    "cluster_id",
    "cluster_name",
    "organization_id",
    "organization_slug",
    "pipeline_id",
    "pipeline_slug",
)
# Beside amr, aud, oaud and sub, a trust policy may only use these keys of these issuers, as at AWS.
_OWN_CLAIMS: Sequence[tuple[re.Pattern[str], Sequence[str]]] = (
    (re.compile(r"token\.actions\.(githubusercontent\.com(/.+)?|[a-z0-9-]+\.ghe\.com)"), _GITHUB),
    (re.compile(r"github\.com/enterprises/[^/]+"), _GITHUB),
    (re.compile(r"gitlab\.com"), _GITLAB),
    (re.compile(r"agent\.buildkite\.com"), _BUILDKITE),
    (re.compile(r"oidc\.circleci\.com/org/[^/]+"), ("oidc.circleci.com/project-id",)),
)

_TAGS_CLAIM = "https://aws.amazon.com/tags"
_SOURCE_CLAIM = "https://aws.amazon.com/source_identity"


@dataclass(frozen=True, slots=True)
class IdToken:
    """A token's unproven claims. `key_id` is empty if the header names none."""

    text: str = field(repr=False)
    issuer: str
    algorithm: str
    key_id: str
    claims: Mapping[str, Any] = field(repr=False)


@dataclass(frozen=True, slots=True)
class WebIdentity:
    """A proven identity. `audience` is the client id that the token was issued for; `authorized`: it is the `azp`.
    `tags`, `transitive` and `source_identity` are set by the issuer for the session."""

    provider: OidcProvider
    subject: str
    audience: str
    authorized: bool
    tags: Tags
    transitive: tuple[str, ...]
    source_identity: str
    claims: Mapping[str, Any] = field(repr=False)


def read_token(text: str) -> IdToken:
    """Read a token. Failure(InvalidIdentityToken) for what is no signed token of an issuer."""
    try:
        _, payload, _ = text.split(".")  # exactly three parts, or what is read here may not be what was signed
        header = jwt.get_unverified_header(text)
        claims = json.loads(base64url_decode(payload))
        json.dumps(claims, ensure_ascii=False).encode()  # refuses lone surrogates, which cannot be stored
        issuer, algorithm, key_id = claims["iss"], header["alg"], header.get("kid", "")
    except (jwt.PyJWTError, ValueError, TypeError, KeyError, RecursionError):
        raise _invalid(NOT_A_TOKEN) from None
    if not (isinstance(issuer, str) and isinstance(algorithm, str) and isinstance(key_id, str)):
        raise _invalid(NOT_A_TOKEN)
    if not _ISSUER.fullmatch(issuer):
        raise _invalid("The claim iss must be a URL.")
    if algorithm not in _KINDS:
        raise _invalid(f"The algorithm of the ID Token is not one of {', '.join(_KINDS)}.")
    return IdToken(text, issuer, algorithm, key_id, claims)


def key_fits(key: Mapping[str, Any], token: IdToken) -> bool:
    """Whether a key of the issuer's set may have signed the token, by its name and kind."""
    return (
        (not token.key_id or key.get("kid") == token.key_id)
        and key.get("use", "sig") == "sig"
        and key.get("alg", token.algorithm) == token.algorithm
        and _KINDS[token.algorithm] == (key.get("crv") if key.get("kty") == "EC" else key.get("kty"))
    )


def read_keys(document: Any) -> tuple[Mapping[str, Any], ...]:
    """The public keys of a JWKS; ValueError for what is none. Keys of other kinds are left out."""
    keys = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(keys, list) or len(keys) > _KEYS_MAX:
        raise ValueError("not a set of keys")
    wanted = (*_PUBLIC, "kid", "use", "alg")
    return tuple(
        {name: value for name in wanted if isinstance(value := key.get(name), str)}
        for key in keys
        if isinstance(key, dict) and key.get("kty") in ("RSA", "EC")
    )


def verify_token(token: IdToken, keys: Sequence[Mapping[str, Any]]) -> None:
    """Failure(InvalidIdentityToken) unless one of `keys` has signed the token."""
    for key in keys:
        try:
            public = jwt.PyJWK({name: key[name] for name in _PUBLIC if name in key}, token.algorithm)
            if _KINDS[token.algorithm] == "RSA" and not _RSA_BITS[0] <= public.key.key_size <= _RSA_BITS[1]:
                continue
            jwt.PyJWS().decode(token.text, public, algorithms=[token.algorithm])
        except (jwt.PyJWTError, ValueError, TypeError, RecursionError):
            continue
        return
    raise _invalid("The signature of the ID Token does not hold by a key of its issuer.")


def admit(token: IdToken, provider: OidcProvider, now: float) -> WebIdentity:
    """The identity of a proven token, at epoch second `now`. Failure: ExpiredTokenException, InvalidIdentityToken."""
    claims = token.claims
    expires, issued = _time(claims, "exp"), _time(claims, "iat")
    if now >= expires + LEEWAY:
        raise Failure(
            Code.EXPIRED_IDENTITY,
            f"Token expired: current date/time {int(now)} must be before the expiration date/time{int(expires)}",
        )
    begins = max(issued, _time(claims, "nbf") if "nbf" in claims else issued)
    if begins > now + LEEWAY:
        raise _invalid(f"Token is not valid yet: current date/time {int(now)} must be after {int(begins)}")
    subject = claims.get("sub")
    if subject is None:
        raise _invalid("Missing a required claim: sub")
    if not isinstance(subject, str) or not 1 <= len(subject) <= SUBJECT_MAX:
        raise _invalid(f"The claim sub must be a text of 1 to {SUBJECT_MAX} characters.")
    party = claims.get("azp")
    candidates = [party] if isinstance(party, str) else _audiences(claims)
    audience = next((each for each in candidates if each in provider.client_ids), None)
    if audience is None:
        raise _invalid("Incorrect token audience")
    tags, transitive = _session_tags(claims)
    source = claims.get(_SOURCE_CLAIM, "")
    if not isinstance(source, str):
        raise _invalid("The source identity that the ID Token sets is not a text.")
    return WebIdentity(provider, subject, audience, isinstance(party, str), tags, transitive, source, claims)


def trust_keys(identity: WebIdentity) -> dict[str, tuple[str, ...]]:
    """The issuer's own condition keys for a trust policy, in lower case."""
    name = identity.provider.url
    keys = {"aud": (identity.audience,), "sub": (identity.subject,), "amr": _texts(identity.claims.get("amr"))}
    if identity.authorized:
        keys["oaud"] = tuple(_audiences(identity.claims))
    own = next((claims for issuer, claims in _OWN_CLAIMS if issuer.fullmatch(name)), ())
    keys.update({claim: _texts(identity.claims.get(claim)) for claim in own})
    if name == "accounts.google.com" and isinstance(google := identity.claims.get("google"), dict):
        keys["google/organization_number"] = _texts(google.get("organization_number"))
    return {f"{name}:{claim}".lower(): values for claim, values in keys.items() if values}


def session_keys(identity: WebIdentity) -> Tags:
    """The condition keys that stay in force in the session: issuer, subject and authentication."""
    kept = ("aud", "sub", "amr")
    found = trust_keys(identity)
    names = [f"{identity.provider.url}:{claim}".lower() for claim in kept]
    own = tuple((name, value) for name in names for value in found.get(name, ()))
    return (("aws:federatedprovider", identity.provider.arn), *own)


def _session_tags(claims: Mapping[str, Any]) -> tuple[Tags, tuple[str, ...]]:
    """Tags and transitive keys, nested or flat, as in "Pass session tags in AWS STS".

    {"…/tags": {"principal_tags": {"team": ["a"]}, "transitive_tag_keys": ["team"]}}
    {"…/tags/principal_tags/team": "a", "…/tags/transitive_tag_keys": ["team"]}
    """
    flat = f"{_TAGS_CLAIM}/principal_tags/"
    try:
        nested = claims.get(_TAGS_CLAIM, {})
        given = dict(nested.get("principal_tags", {}))
        given.update({name[len(flat) :]: value for name, value in claims.items() if name.startswith(flat)})
        wanted = (*nested.get("transitive_tag_keys", []), *claims.get(f"{_TAGS_CLAIM}/transitive_tag_keys", []))
        tags = tuple((key, _only(value)) for key, value in given.items())
        return tags, tuple(_text(key) for key in wanted)
    except (AttributeError, TypeError, ValueError):
        raise _invalid("The session tags that the ID Token sets have not the form of session tags.") from None


def _audiences(claims: Mapping[str, Any]) -> list[str]:
    if "aud" not in claims:
        raise _invalid("Missing a required claim: aud")
    given = claims["aud"]
    found = [given] if isinstance(given, str) else given
    if not isinstance(found, list) or not all(isinstance(each, str) for each in found):
        raise _invalid("The claim aud must be a text or a list of texts.")
    return found


def _time(claims: Mapping[str, Any], name: str) -> float:
    found = claims.get(name)
    if found is None:
        raise _invalid(f"Missing a required claim: {name}")
    if isinstance(found, bool) or not isinstance(found, int | float) or not 0 <= found < 2**40:
        raise _invalid(f"The claim {name} must be a time in epoch seconds.")
    return float(found)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError("not a text")
    return value


def _only(value: Any) -> str:
    """A text, or a list of one."""
    if isinstance(value, list):
        [value] = value
    return _text(value)


def _texts(value: Any) -> tuple[str, ...]:
    """A claim as the values of a condition key; none for a claim of another form."""
    found = value if isinstance(value, list) else [value]
    shown = [
        str(each).lower() if isinstance(each, bool) else str(each) for each in found if isinstance(each, str | int)
    ]
    return tuple(shown)


def _invalid(why: str) -> Failure:
    return Failure(Code.INVALID_IDENTITY_TOKEN, why)
