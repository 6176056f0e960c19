"""An event in CloudTrail's shape, as one line of JSON.

`Happened` is what a door knows when a request is over; `line` is what stands in the trail. What is the same in all
events of a caller is laid out once and kept. Source: CloudTrail User Guide, "CloudTrail record contents" and
"userIdentity element"; Amazon ECR User Guide, "Logging Amazon ECR actions with CloudTrail".
"""

from __future__ import annotations

import datetime
import itertools
import json
import uuid
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

from proxy.model.identity import Caller, PrincipalKind, SessionKind

EVENT_VERSION = "1.11"
EVENT_MAX = 64 * 1024  # bytes of a line; parameters that make it longer are left out and said to be
UNAUTHENTICATED_EVENT_MAX = 16 * 1024  # and of one whose caller was not authenticated
VALUE_MAX = 1024  # bytes on the line of each value that such a caller chose; the rest is cut and said to be
_CALLERS_KEPT = 4096  # and so many beginnings of events, of some 900 bytes each

# Members of inputs and outputs that are secret, or bytes of what is stored; compared in lower case.
_NEVER = frozenset(
    {
        "secretaccesskey",
        "secretstring",
        "secretbinary",
        "sessiontoken",
        "webidentitytoken",
        "authorizationtoken",
        "samlassertion",
        "tokencode",
        "password",
        "layerpartblob",
        "imagemanifest",
    }
)
_encoded = json.JSONEncoder(separators=(",", ":")).encode
_quoted = json.encoder.encode_basestring_ascii
_HIDDEN = "HIDDEN_DUE_TO_SECURITY_REASONS"  # CloudTrail's own words


class LaidOut(str):
    """Parameters as they will stand in the event: for a door that says the same again and again, and keeps it."""

    __slots__ = ()


def lay_out(parameters: Mapping[str, Any]) -> LaidOut:
    """`parameters` in CloudTrail's spelling, without what is secret."""
    return LaidOut(_encoded(_shown(parameters)))


@dataclass(frozen=True, slots=True)
class Outsider:
    """Somebody who is no principal of this installation: a web identity, a command on its machine. `type` and `members`
    are userIdentity's."""

    type: str
    members: tuple[tuple[str, str], ...]


_OMITTED = LaidOut('{"omitted":"too large for an event"}')


class Happened(NamedTuple):
    """One request, over or about to be answered; a tuple, for there is one for each pull.

    `source` is the service (`ecr`, `sts`, `iam`), `name` the API operation (data plane: the one it stands for),
    `resources` the ARNs that were asked about, `account` whose registry it concerned. `caller` is None for whom nobody
    knows. `error` is the protocol's code, empty when it was done. Bytes are of blobs and manifests. `moment` is epoch
    seconds."""

    source: str
    name: str
    caller: Caller | Outsider | None
    account: str
    region: str
    source_ip: str
    user_agent: str
    read_only: bool
    data: bool = False
    resources: tuple[str, ...] = ()
    route: str = ""  # of the data plane: method and pattern of the path
    parameters: Mapping[str, Any] | LaidOut | None = None
    # from here on each request has its own
    moment: float = 0.0
    request_id: str = ""
    error: str = ""
    message: str = ""
    response: Mapping[str, Any] | LaidOut | None = None
    bytes_in: int = 0
    bytes_out: int = 0
    status: int = 0  # of the data plane: what was answered


_OWN = Happened._fields.index("moment")


class Lines:
    """Turns what happened into lines, and keeps what it laid out of callers seen lately."""

    def __init__(self, keep: int = _CALLERS_KEPT) -> None:
        self._keep = keep
        self._identities: OrderedDict[Caller | Outsider, str] = OrderedDict()
        self._alike: dict[tuple[object, ...], str] = {}
        # An event's id is a version 4 UUID's first 19 hexadecimal digits, random and this process's own, and a count.
        self._ids = str(uuid.uuid4())[:24]
        self._count = itertools.count()

    def line(self, happened: Happened) -> bytes:
        """One event and its line feed; at most `EVENT_MAX` bytes, `UNAUTHENTICATED_EVENT_MAX` without a caller."""
        limit = EVENT_MAX
        if happened.caller is None:
            happened, limit = _bounded(happened), UNAUTHENTICATED_EVENT_MAX
        text = self._text(happened, self._common(happened))
        if len(text) > limit:
            omitted = None if happened.parameters is None else _OMITTED
            shorter = happened._replace(
                resources=happened.resources[:20],
                message=happened.message[:256],
                parameters=omitted,
                response=None if happened.response is None else _OMITTED,
            )
            text = self._text(shorter, self._laid_out(shorter))
        return text

    def _common(self, happened: Happened) -> str:
        """What all of a caller's pulls of one thing have in common is laid out once: it is most of an event's cost."""
        if not isinstance(happened.parameters, LaidOut):
            return self._laid_out(happened)
        alike = happened[:_OWN]
        found = self._alike.get(alike)
        if found is None:
            if len(self._alike) >= self._keep:
                self._alike.clear()
            found = self._alike[alike] = self._laid_out(happened)
        return found

    def _laid_out(self, happened: Happened) -> str:
        text = (
            f'{{"eventVersion":"{EVENT_VERSION}","userIdentity":{self._identity(happened.caller)}'
            f',"eventSource":"{happened.source}.amazonaws.com","eventName":{_quoted(happened.name[:128])}'
            f',"awsRegion":{_quoted(happened.region)},"sourceIPAddress":{_quoted(happened.source_ip)}'
            f',"userAgent":{_quoted(happened.user_agent[:1024])},"requestParameters":{_json(happened.parameters)}'
            f',"readOnly":{"true" if happened.read_only else "false"},"eventType":"AwsApiCall"'
            f',"managementEvent":{"false" if happened.data else "true"}'
            f',"recipientAccountId":{_quoted(happened.account)}'
            f',"eventCategory":"{"Data" if happened.data else "Management"}"'
        )
        if happened.resources:
            text += f',"resources":[{",".join([_resource(arn[:512]) for arn in happened.resources[:100]])}]'
        if happened.data:
            text += f',"additionalEventData":{{"route":{_quoted(happened.route)}'  # closed by its own status and bytes
        return text

    def _text(self, happened: Happened, common: str) -> bytes:
        error = more = ""
        if happened.error:
            error = f',"errorCode":{_quoted(happened.error)},"errorMessage":{_quoted(happened.message[:2048])}'
        if happened.data:
            bytes_in = f',"bytesTransferredIn":{happened.bytes_in}' if happened.bytes_in else ""
            bytes_out = f',"bytesTransferredOut":{happened.bytes_out}' if happened.bytes_out else ""
            more = f',"status":{happened.status}{bytes_in}{bytes_out}}}'
        return (
            f'{common}{more},"eventTime":"{_moment(int(happened.moment))}"'
            f',"responseElements":{_json(happened.response)}'
            f',"requestID":{_quoted(happened.request_id)},"eventID":"{self._ids}{next(self._count):012x}"{error}}}\n'
        ).encode("ascii")

    def _identity(self, caller: Caller | Outsider | None) -> str:
        if caller is None:
            return '{"type":"Unknown"}'
        found = self._identities.get(caller)
        if found is None:
            found = self._identities[caller] = _encoded(user_identity(caller))
            if len(self._identities) > self._keep:
                self._identities.popitem(last=False)
        else:
            self._identities.move_to_end(caller)
        return found


def user_identity(caller: Caller | Outsider) -> dict[str, Any]:
    """CloudTrail's userIdentity element."""
    if isinstance(caller, Outsider):
        return {"type": caller.type, **dict(caller.members)}
    principal, session = caller.principal, caller.session
    kinds = {PrincipalKind.ROOT: "Root", PrincipalKind.USER: "IAMUser", PrincipalKind.ROLE: "AssumedRole"}
    found: dict[str, Any] = {
        "type": kinds[principal.kind],
        "principalId": caller.user_id,
        "arn": caller.arn,
        "accountId": caller.account,
    }
    if caller.access_key_id:
        found["accessKeyId"] = caller.access_key_id
    if principal.kind is PrincipalKind.USER:
        found["userName"] = principal.name
    if session is None:
        return found
    context: dict[str, Any] = {
        "attributes": {
            "creationDate": _moment(int(session.issued)),
            "mfaAuthenticated": "true" if session.mfa else "false",
        }
    }
    if session.kind is SessionKind.ROLE:
        context["sessionIssuer"] = {
            "type": "Role",
            "principalId": principal.principal_id,
            "arn": principal.arn,
            "accountId": principal.account,
            "userName": principal.name,
        }
    if session.source_identity:
        context["sourceIdentity"] = session.source_identity
    if session.claims:
        context["webIdFederationData"] = {"attributes": dict(session.claims)}
    found["sessionContext"] = context
    return found


@lru_cache(_CALLERS_KEPT)
def _resource(arn: str) -> str:
    parts = arn.split(":", 5)
    found = {"ARN": arn}
    if len(parts) == 6 and parts[4]:
        found["accountId"] = parts[4]
    if len(parts) == 6 and parts[2] == "ecr" and parts[5].startswith("repository/"):
        found["type"] = "AWS::ECR::Repository"
    if len(parts) == 6 and parts[2] == "iam" and parts[5].startswith("role/"):
        found["type"] = "AWS::IAM::Role"
    return _encoded(found)


@lru_cache(8)
def _moment(seconds: int) -> str:
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _json(given: Mapping[str, Any] | LaidOut | None) -> str:
    if given is None:
        return "null"
    return given if isinstance(given, LaidOut) else lay_out(given)


def _bounded(happened: Happened) -> Happened:
    """Without values over `VALUE_MAX`: whoever may connect chooses them."""
    parameters = happened.parameters
    return happened._replace(
        user_agent=_cut(happened.user_agent),
        message=_cut(happened.message),
        parameters=parameters if parameters is None or isinstance(parameters, LaidOut) else _cut(parameters),
    )


def _cut(value: Any, depth: int = 0) -> Any:
    if isinstance(value, str):
        if len(_quoted(value)) - 2 <= VALUE_MAX:
            return value
        kept = value[:VALUE_MAX]
        mark = f"... (cut, {len(value)} characters)"
        while len(_quoted(kept + mark)) - 2 > VALUE_MAX:
            kept = kept[: len(kept) * 15 // 16]
        return kept + mark
    if depth > 8:
        return value  # which is not shown either
    if isinstance(value, Mapping):
        return {name: _cut(item, depth + 1) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_cut(item, depth + 1) for item in value]
    return value


def _shown(value: Any, depth: int = 0) -> Any:
    """CloudTrail's spelling (member names begin in lower case), without what is secret or somebody's bytes."""
    if isinstance(value, Mapping):
        if depth > 8:
            return "..."
        return {
            f"{name[:1].lower()}{name[1:]}": _HIDDEN if name.lower() in _NEVER else _shown(item, depth + 1)
            for name, item in value.items()
        }
    if isinstance(value, (list, tuple)):
        return "..." if depth > 8 else [_shown(item, depth + 1) for item in value]
    if value is None or isinstance(value, (str, int, float, bool)):
        return value
    return str(type(value).__name__)
