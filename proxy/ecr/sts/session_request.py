"""The session that a request describes: its policy, tags and duration, checked against STS's limits but not the role's.
Pure.

Tags with transitive keys are inherited by further sessions: they are added to the requested tags, and cannot be
overridden. Called by `assume` and `sts`. Sources: STS API Reference, "AssumeRole"; IAM User Guide, "Pass session tags
in AWS STS".
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from proxy.auth.policy.errors import PolicyError
from proxy.auth.policy.evaluation import PolicyKind
from proxy.auth.policy.validation import iam_failure, validate
from proxy.auth.sessions import packed_percent
from proxy.awsmodel.validation import invalid_value
from proxy.model.errors import Code, Failure
from proxy.model.identity import Session, Tags

DEFAULT_SECONDS = 3600
CHAINED_SECONDS = 3600
POLICY_MAX = 2048
POLICY_ARNS_MAX = 10
TAGS_MAX = 50

_MFA = "MultiFactorAuthentication failed, "


@dataclass(frozen=True, slots=True)
class SessionRequest:
    """`tags` are all tags of the session, `given` the keys of those in the request itself; `packed` is the percentage
    of the allowed size that policy and tags take, None without both."""

    policy: str
    policy_arns: tuple[str, ...]
    tags: Tags
    given: tuple[str, ...]
    transitive: tuple[str, ...]
    packed: int | None


def read_session_request(
    parameters: Mapping[str, Any], session: Session | None, tags: Tags = (), transitive: Iterable[str] = ()
) -> SessionRequest:
    """`parameters` have the model's form; `session` is the caller's own, whose transitive tags are inherited; `tags`
    and `transitive` come from an ID token. Failure: ValidationError, MalformedPolicyDocument, PackedPolicyTooLarge."""
    policy = parameters.get("Policy") or ""
    if len(policy) > POLICY_MAX:
        raise invalid_value("policy", policy, f"Member must have length less than or equal to {POLICY_MAX}")
    if policy:
        try:
            validate(policy, PolicyKind.SESSION)
        except PolicyError as error:
            raise iam_failure(error) from None
    arns = tuple(dict.fromkeys(each.get("arn") or "" for each in parameters.get("PolicyArns") or ()))
    if len(arns) > POLICY_ARNS_MAX:
        raise invalid_value(
            "policyArns", list(arns), f"Member must have length less than or equal to {POLICY_ARNS_MAX}"
        )
    given = (*((tag["Key"], tag["Value"]) for tag in parameters.get("Tags") or ()), *tags)
    wanted = (*(parameters.get("TransitiveTagKeys") or ()), *transitive)
    all_tags, passing = _tags(given, wanted, session)
    packed = None
    if policy or arns or all_tags:
        packed = packed_percent(policy, arns, all_tags)
        if packed > 100:
            what = " and ".join(
                name for name, there in (("session policies", policy or arns), ("session tags", all_tags)) if there
            )
            raise Failure(Code.PACKED_POLICY_TOO_LARGE, f"Packed size of {what} consumes {packed}% of allotted space.")
    return SessionRequest(policy, arns, all_tags, tuple(key for key, _ in given), passing, packed)


def role_seconds(requested: int | None, longest: int, *, chained: bool) -> int:
    """How long a role's session lasts; ValidationError when that is more than the role, or a chain of roles, allows."""
    if chained and (requested or 0) > CHAINED_SECONDS:
        raise _invalid(
            "The requested DurationSeconds exceeds the 1 hour session limit for roles assumed by role chaining"
        )
    if (requested or 0) > longest:
        raise _invalid("The requested DurationSeconds exceeds the MaxSessionDuration set for this role.")
    return DEFAULT_SECONDS if requested is None else requested


def refuse_mfa(parameters: Mapping[str, Any]) -> None:
    """AccessDenied when the request names an MFA device: MFA is not supported."""
    serial, code = parameters.get("SerialNumber"), parameters.get("TokenCode")
    if serial is None and code is None:
        return
    if serial is None or code is None:
        raise Failure(Code.ACCESS_DENIED, _MFA + "must provide both MFA serial number and one time pass code.")
    raise Failure(
        Code.ACCESS_DENIED,
        _MFA
        + "unable to validate MFA code.  Please verify your MFA serial number is valid and associated with this user.",
    )


def _tags(given: Tags, wanted: tuple[str, ...], session: Session | None) -> tuple[Tags, tuple[str, ...]]:
    """All tags, and the transitive keys. Keys are compared without case; their spelling is preserved."""
    keys = [key.lower() for key, _ in given]
    if len(set(keys)) != len(keys):
        raise _invalid("Duplicate tag keys found. Please note that Tag keys are case insensitive.")
    if any(key.startswith("aws:") for key in keys):
        raise _invalid("Tag keys that begin with aws: are reserved for system use.")
    if any(key.lower() not in keys for key in wanted):
        raise _invalid("The specified transitive tag key must be included in the requested tags.")
    passing = {key.lower() for key in session.transitive} if session is not None else set()
    if passing & set(keys):
        raise _invalid(
            "One of the specified transitive tag keys can't be set because it conflicts with a transitive tag key "
            "from the calling session."
            if passing & {key.lower() for key in wanted}
            else "One of the specified tags can't be set because it conflicts with a transitive tag key from the "
            "calling session."
        )
    inherited = tuple(tag for tag in session.tags if tag[0].lower() in passing) if session is not None else ()
    if len(given) + len(inherited) > TAGS_MAX:
        raise _invalid(
            f"A session can have {TAGS_MAX} tags at most, those of the calling session that pass on included."
        )
    everything = (*inherited, *given)
    written = {key.lower(): key for key, _ in everything}
    return everything, tuple(dict.fromkeys(written[key.lower()] for key in (*(k for k, _ in inherited), *wanted)))


def _invalid(why: str) -> Failure:
    return Failure(Code.VALIDATION_ERROR, why)
