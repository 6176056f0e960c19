"""An event in CloudTrail's shape, as one line of JSON.

`AuditEvent` is what a protocol knows when a request is over; `encode` is its line in the trail. What is the same in all
events of a caller is laid out once and kept. Source: CloudTrail User Guide, "CloudTrail record contents" and
"userIdentity element"; Amazon ECR User Guide, "Logging Amazon ECR actions with CloudTrail".
"""

from __future__ import annotations

import datetime
import itertools
import json
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

from proxy.model.identity import Caller, PrincipalKind, SessionKind
from proxy.model.lru import Lru
from proxy.model.names import repository_arn

EVENT_VERSION = "1.11"
EVENT_MAX = 64 * 1024  # bytes of a line; parameters that make it longer are left out and said to be
UNAUTHENTICATED_EVENT_MAX = 16 * 1024  # and of one whose caller was not authenticated
VALUE_MAX = 1024  # bytes on the line of each value that such a caller chose; the rest is cut and said to be
_CALLERS_MAX = 4096  # and so many beginnings of events, of some 900 bytes each

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


class EncodedParameters(str):
    """Parameters as they will be written in the event: for a protocol that repeats them, and caches this."""

    __slots__ = ()


def encode_parameters(parameters: Mapping[str, Any]) -> EncodedParameters:
    """`parameters` in CloudTrail's spelling, without what is secret."""
    return EncodedParameters(_encoded(_shown(parameters)))


@dataclass(frozen=True, slots=True)
class ExternalIdentity:
    """Somebody who is no principal of this installation: a web identity, a command on its machine. `type` and `members`
    are userIdentity's."""

    type: str
    members: tuple[tuple[str, str], ...]


_OMITTED = EncodedParameters('{"omitted":"too large for an event"}')


class AuditEvent(NamedTuple):
    """One request, over or about to be answered; a tuple, for there is one for each pull.

    `source` is the service (`ecr`, `sts`, `iam`), `name` the API operation (data plane: the one it stands for),
    `resources` the ARNs that were asked about, `account` whose registry it concerned. `caller` is None for whom nobody
    knows. `error` is the protocol's code, empty when it was done. Bytes are of blobs and manifests. `moment` is epoch
    seconds."""

    source: str
    name: str
    caller: Caller | ExternalIdentity | None
    account: str
    region: str
    source_ip: str
    user_agent: str
    read_only: bool
    data: bool = False
    resources: tuple[str, ...] = ()
    route: str = ""  # of the data plane: method and pattern of the path
    parameters: Mapping[str, Any] | EncodedParameters | None = None
    # from here on each request has its own
    moment: float = 0.0
    request_id: str = ""
    error: str = ""
    message: str = ""
    response: Mapping[str, Any] | EncodedParameters | None = None
    bytes_in: int = 0
    bytes_out: int = 0
    status: int = 0  # of the data plane: what was answered


def job_event(
    job: str, name: str, parameters: Mapping[str, Any], *, account: str, region: str, repository: str, moment: float
) -> AuditEvent:
    """What a background job, such as `lifecycle policy`, did in a repository."""
    return AuditEvent(
        source="ecr",
        name=name,
        caller=ExternalIdentity("AWSService", (("invokedBy", job),)),
        account=account,
        region=region,
        source_ip="",
        user_agent=job,
        read_only=False,
        resources=(repository_arn(region, account, repository),),
        parameters={"repositoryName": repository, **parameters},
        moment=moment,
    )


PER_REQUEST = AuditEvent._fields.index("moment")


class EventEncoder:
    """Turns what happened into lines, and keeps what it laid out of callers seen lately."""

    def __init__(self, keep: int = _CALLERS_MAX) -> None:
        self._keep = keep
        self._identities = Lru[Caller | ExternalIdentity, str](keep)
        self._commons: dict[tuple[object, ...], str] = {}
        # An event's id is a version 4 UUID's first 19 hexadecimal digits, random and this process's own, and a count.
        self._ids = str(uuid.uuid4())[:24]
        self._count = itertools.count()

    def encode(self, event: AuditEvent) -> bytes:
        """One event and its line feed; at most `EVENT_MAX` bytes, `UNAUTHENTICATED_EVENT_MAX` without a caller."""
        limit = EVENT_MAX
        if event.caller is None:
            event, limit = _bounded(event), UNAUTHENTICATED_EVENT_MAX
        text = self._text(event, self._common(event))
        if len(text) > limit:
            omitted = None if event.parameters is None else _OMITTED
            shorter = event._replace(
                resources=event.resources[:20],
                message=event.message[:256],
                parameters=omitted,
                response=None if event.response is None else _OMITTED,
            )
            text = self._text(shorter, self._encode_common(shorter))
        return text

    def _common(self, event: AuditEvent) -> str:
        """What all of a caller's pulls of one thing have in common is laid out once: it is most of an event's cost."""
        if not isinstance(event.parameters, EncodedParameters):
            return self._encode_common(event)
        alike = event[:PER_REQUEST]
        found = self._commons.get(alike)
        if found is None:
            if len(self._commons) >= self._keep:
                self._commons.clear()
            found = self._commons[alike] = self._encode_common(event)
        return found

    def _encode_common(self, event: AuditEvent) -> str:
        text = (
            f'{{"eventVersion":"{EVENT_VERSION}","userIdentity":{self._identity(event.caller)}'
            f',"eventSource":"{event.source}.amazonaws.com","eventName":{_quoted(event.name[:128])}'
            f',"awsRegion":{_quoted(event.region)},"sourceIPAddress":{_quoted(event.source_ip)}'
            f',"userAgent":{_quoted(event.user_agent[:1024])},"requestParameters":{_json(event.parameters)}'
            f',"readOnly":{"true" if event.read_only else "false"},"eventType":"AwsApiCall"'
            f',"managementEvent":{"false" if event.data else "true"}'
            f',"recipientAccountId":{_quoted(event.account)}'
            f',"eventCategory":"{"Data" if event.data else "Management"}"'
        )
        if event.resources:
            text += f',"resources":[{",".join([_resource(arn[:512]) for arn in event.resources[:100]])}]'
        if event.data:
            text += f',"additionalEventData":{{"route":{_quoted(event.route)}'  # closed by its own status and bytes
        return text

    def _text(self, event: AuditEvent, common: str) -> bytes:
        error = more = ""
        if event.error:
            error = f',"errorCode":{_quoted(event.error)},"errorMessage":{_quoted(event.message[:2048])}'
        if event.data:
            bytes_in = f',"bytesTransferredIn":{event.bytes_in}' if event.bytes_in else ""
            bytes_out = f',"bytesTransferredOut":{event.bytes_out}' if event.bytes_out else ""
            more = f',"status":{event.status}{bytes_in}{bytes_out}}}'
        return (
            f'{common}{more},"eventTime":"{_moment(int(event.moment))}"'
            f',"responseElements":{_json(event.response)}'
            f',"requestID":{_quoted(event.request_id)},"eventID":"{self._ids}{next(self._count):012x}"{error}}}\n'
        ).encode("ascii")

    def _identity(self, caller: Caller | ExternalIdentity | None) -> str:
        if caller is None:
            return '{"type":"Unknown"}'
        found = self._identities.get(caller)
        if found is None:
            found = self._identities[caller] = _encoded(user_identity(caller))
        return found


def user_identity(caller: Caller | ExternalIdentity) -> dict[str, Any]:
    """CloudTrail's userIdentity element."""
    if isinstance(caller, ExternalIdentity):
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


@lru_cache(_CALLERS_MAX)
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


def _json(given: Mapping[str, Any] | EncodedParameters | None) -> str:
    if given is None:
        return "null"
    return given if isinstance(given, EncodedParameters) else encode_parameters(given)


def _bounded(event: AuditEvent) -> AuditEvent:
    """Without values over `VALUE_MAX`: whoever may connect chooses them."""
    parameters = event.parameters
    return event._replace(
        user_agent=_cut(event.user_agent),
        message=_cut(event.message),
        parameters=parameters if parameters is None or isinstance(parameters, EncodedParameters) else _cut(parameters),
    )


def _cut(value: Any, depth: int = 0) -> Any:
    if isinstance(value, str):
        if len(_quoted(value)) - 2 <= VALUE_MAX:
            return value
        start = value[:VALUE_MAX]
        mark = f"... (cut, {len(value)} characters)"
        while len(_quoted(start + mark)) - 2 > VALUE_MAX:
            start = start[: len(start) * 15 // 16]
        return start + mark
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
