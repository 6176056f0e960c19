"""The facts of a request, and the condition keys that follow from them.

Keys are computed when they are read. Keys of single operations (aws:RequestTag/…, aws:TagKeys, ecr:AccountSetting,
sts:ExternalId, a web identity's claims) are passed in by the operation.

Source: IAM User Guide, "AWS global condition context keys", "IAM and AWS STS condition context keys".
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from operator import attrgetter
from typing import Any, NamedTuple

from proxy.model.identity import Caller, PrincipalKind, SessionKind, Tags

Context = Mapping[str, Sequence[str]]
"""Condition keys in lower case, each with its values; an absent key has no entry."""


class RequestInfo(NamedTuple):
    """Facts of one request of any protocol. A tuple, because each request makes one.

    `now` is epoch seconds; `source_ip` is empty if the peer has no IP address; `region` is the requested region
    (aws:RequestedRegion)."""

    now: float
    source_ip: str
    secure: bool
    user_agent: str
    region: str


def request_context(
    caller: Caller | None,
    info: RequestInfo,
    resource: str,
    tags: Tags = (),
    extra: Context | None = None,
) -> Context:
    """The condition keys of one request for one resource.

    `caller` is None for a web identity, which has no principal yet. `tags` are the resource's: aws:ResourceTag/… and
    its service's own (ecr:ResourceTag/…). `extra` are keys in lower case that override all others.
    """
    return RequestContext(caller, info, resource, tags, extra or _NOTHING)


def info_behind(keys: Collection[str]) -> Callable[[RequestInfo], Hashable]:
    """The facts of the request that the values of `keys` come from: equal facts give equal values."""
    others = sorted({_KEYS[key].field for key in keys if key in _KEYS} - {"now"})
    told: Callable[[RequestInfo], Hashable] = attrgetter(*others) if others else lambda info: ()
    return (lambda info: (int(info.now), told(info))) if any_depends_on_clock(keys) else told


def any_depends_on_clock(keys: Collection[str]) -> bool:
    """Whether one of these condition keys depends on the clock."""
    return "aws:multifactorauthage" in keys or any(_KEYS[key].field == "now" for key in keys if key in _KEYS)


def resource_account(resource: str, caller: Caller | None) -> str:
    """A resource's account: the caller's if the ARN names none, or names AWS (managed policies)."""
    parts = resource.split(":", 5)
    named = parts[4] if len(parts) == 6 else ""
    if named in ("", "aws", "*"):
        return caller.account if caller is not None else ""
    return named


class RequestContext(Mapping[str, Sequence[str]]):
    """See `request_context`."""

    __slots__ = ("_caller", "_extra", "_found", "_info", "_resource", "_tags")

    def __init__(
        self, caller: Caller | None, info: RequestInfo, resource: str, tags: Tags, extra: Mapping[str, Sequence[str]]
    ) -> None:
        self._caller = caller
        self._info = info
        self._resource = resource
        self._tags = tags
        self._extra = extra
        self._found: dict[str, tuple[str, ...]] = {}

    def get(self, key: str, default: object = None) -> tuple[str, ...] | None:  # type: ignore[override]  # None: absent
        values = self._found.get(key)
        if values is None:
            values = self._found[key] = tuple(self._extra.get(key) or self._computed(key))
        return values or None

    def __getitem__(self, key: str) -> tuple[str, ...]:
        values = self.get(key)
        if values is None:
            raise KeyError(key)
        return values

    def __iter__(self) -> Iterator[str]:
        keys = dict.fromkeys(self._extra)
        keys.update(dict.fromkeys(_KEYS))
        keys.update(dict.fromkeys((*_NEVER, *_PRINCIPAL_KEYS, "aws:resourceaccount")))
        if self._caller is not None:
            keys.update((f"{_PRINCIPAL_TAG}{key}", None) for key in _folded(principal_tags(self._caller)))
            if self._caller.session is not None:
                keys.update((key, None) for key, _ in self._caller.session.claims)
        service = self._resource.removeprefix("arn:aws:").partition(":")[0]
        for tag in _folded(self._tags):
            keys[f"aws:resourcetag/{tag}"] = None
            keys[f"{service}:resourcetag/{tag}"] = None
        return iter(key for key in keys if self.get(key) is not None)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __repr__(self) -> str:
        return repr(dict(self))

    def _computed(self, key: str) -> Sequence[str]:
        of_request = _KEYS.get(key)
        if of_request is not None:
            return _values(of_request.spelled(getattr(self._info, of_request.field)))
        if key in _NEVER:
            return (_spelled(False),)
        if key == "aws:resourceaccount":
            return _values(resource_account(self._resource, self._caller))
        vendor, slash, tag = key.partition(":resourcetag/")
        if slash:
            ours = vendor == "aws" or self._resource.startswith(f"arn:aws:{vendor}:")
            return _values(_folded(self._tags).get(tag)) if ours else ()
        caller = self._caller
        if caller is None:
            return ()
        if key.startswith(_PRINCIPAL_TAG):
            return _values(_folded(principal_tags(caller)).get(key.removeprefix(_PRINCIPAL_TAG)))
        of_principal = _PRINCIPAL_KEYS.get(key)
        if of_principal is not None:
            return _values(of_principal(caller, self._info))
        claims = caller.session.claims if caller.session is not None else ()
        return tuple(value for name, value in claims if name == key)


def principal_tags(caller: Caller) -> Tags:
    """The principal's tags, overridden by its session's."""
    return (*(caller.session.tags if caller.session is not None else ()), *caller.principal.tags)


def moment(at: float) -> str:
    """An instant in the format of aws:CurrentTime and aws:TokenIssueTime."""
    return datetime.fromtimestamp(int(at), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


TOKEN_ISSUE_TIME = "aws:tokenissuetime"  # noqa: S105 - a condition key
_NOTHING: Context = {}
_PRINCIPAL_TAG = "aws:principaltag/"


class _Fact(NamedTuple):
    """A key whose value is formatted from a field of the request's facts; None: absent."""

    field: str
    spelled: Callable[[Any], str | None]


_KEYS: Mapping[str, _Fact] = {
    "aws:currenttime": _Fact("now", moment),
    "aws:epochtime": _Fact("now", lambda now: str(int(now))),
    "aws:requestedregion": _Fact("region", lambda region: region or None),
    "aws:securetransport": _Fact("secure", lambda secure: _spelled(secure)),
    "aws:sourceip": _Fact("source_ip", lambda source_ip: source_ip or None),
    "aws:useragent": _Fact("user_agent", lambda user_agent: user_agent or None),
}
# No AWS service calls this registry, for itself or on behalf of a principal.
_NEVER = ("aws:principalisawsservice", "aws:viaawsservice")

_PRINCIPAL_KEYS: Mapping[str, Callable[[Caller, RequestInfo], str | None]] = {
    "aws:multifactorauthage": lambda caller, info: (
        str(max(0, int(info.now) - int(caller.session.issued)))
        if caller.session is not None and caller.session.mfa
        else None
    ),
    "aws:multifactorauthpresent": lambda caller, info: (
        _spelled(caller.session.mfa) if caller.session is not None else None
    ),
    "aws:principalaccount": lambda caller, info: caller.account,
    "aws:principalarn": lambda caller, info: caller.principal.arn,
    "aws:principaltype": lambda caller, info: _principal_type(caller),
    "aws:sourceidentity": lambda caller, info: (
        (caller.session.source_identity or None) if caller.session is not None else None
    ),
    TOKEN_ISSUE_TIME: lambda caller, info: moment(caller.token_issued) if caller.token_issued is not None else None,
    "aws:userid": lambda caller, info: caller.user_id,
    "aws:username": lambda caller, info: caller.principal.name if caller.principal.kind is PrincipalKind.USER else None,
}


def _principal_type(caller: Caller) -> str:
    if caller.session is not None and caller.session.kind is SessionKind.ROLE:
        return "AssumedRole"
    return "Account" if caller.principal.kind is PrincipalKind.ROOT else "User"


def _values(value: str | None) -> Sequence[str]:
    # A tag with an empty value exists.
    return () if value is None else (value,)


def _folded(tags: Tags) -> Mapping[str, str]:
    """By key in lower case; the first of keys that differ only in case."""
    return {key.lower(): value for key, value in reversed(tags)}


def _spelled(value: bool) -> str:
    return "true" if value else "false"
