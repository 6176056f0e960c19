"""An event in CloudTrail's shape, as one line of JSON.

`Happened` is what a door knows when a request is over; `line` is what stands in the trail. What is the same in all
events of a caller is laid out once and kept. Source: CloudTrail User Guide, "CloudTrail record contents" and
"userIdentity element"; Amazon ECR User Guide, "Logging Amazon ECR actions with CloudTrail".
"""

from __future__ import annotations

import datetime
import json
import uuid
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from proxy.model.identity import Caller, PrincipalKind, SessionKind

EVENT_VERSION = "1.11"
EVENT_MAX = 64 * 1024  # bytes of a line; parameters that make it longer are left out and said to be
_CALLERS_KEPT = 4096

# Members of inputs and outputs that are secret, or bytes of what is stored; compared in lower case.
_NEVER = frozenset(
    {
        "secretaccesskey",
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
_HIDDEN = "HIDDEN_DUE_TO_SECURITY_REASONS"  # CloudTrail's own words


@dataclass(frozen=True, slots=True)
class Happened:
    """One request, over or about to be answered.

    `source` is the service (`ecr`, `sts`, `iam`), `name` the API operation (data plane: the one it stands for),
    `resources` the ARNs that were asked about, `account` whose registry it concerned. `caller` is None for whom nobody
    knows. `error` is the protocol's code, empty when it was done. Bytes are of blobs and manifests. `moment` is epoch
    seconds."""

    source: str
    name: str
    caller: Caller | None
    account: str
    region: str
    moment: float
    source_ip: str
    user_agent: str
    request_id: str
    read_only: bool
    data: bool = False
    resources: Sequence[str] = ()
    error: str = ""
    message: str = ""
    parameters: Mapping[str, Any] | None = None
    response: Mapping[str, Any] | None = None
    bytes_in: int = 0
    bytes_out: int = 0
    facts: Mapping[str, Any] = field(default_factory=dict)  # of the data plane: method, reference, status


class Lines:
    """Turns what happened into lines, and keeps what it laid out of callers seen lately."""

    def __init__(self, keep: int = _CALLERS_KEPT) -> None:
        self._keep = keep
        self._identities: OrderedDict[Caller, str] = OrderedDict()

    def line(self, happened: Happened) -> bytes:
        """One event and its line feed; at most `EVENT_MAX` bytes."""
        text = self._text(happened, happened.parameters, happened.response)
        if len(text) > EVENT_MAX:
            omitted = {"omitted": "too large for an event"}
            text = self._text(
                happened, omitted if happened.parameters else None, omitted if happened.response else None
            )
        return text

    def _text(
        self, happened: Happened, parameters: Mapping[str, Any] | None, response: Mapping[str, Any] | None
    ) -> bytes:
        moment = datetime.datetime.fromtimestamp(int(happened.moment), datetime.UTC)
        event: dict[str, Any] = {
            "eventTime": moment.strftime("%Y-%m-%dT%H:%M:%SZ"),
            "eventSource": f"{happened.source}.amazonaws.com",
            "eventName": happened.name[:128],
            "awsRegion": happened.region,
            "sourceIPAddress": happened.source_ip,
            "userAgent": happened.user_agent[:1024],
            "requestParameters": None if parameters is None else _shown(parameters),
            "responseElements": None if response is None else _shown(response),
            "requestID": happened.request_id,
            "eventID": str(uuid.uuid4()),
            "readOnly": happened.read_only,
            "eventType": "AwsApiCall",
            "managementEvent": not happened.data,
            "recipientAccountId": happened.account,
            "eventCategory": "Data" if happened.data else "Management",
        }
        if happened.error:
            event["errorCode"] = happened.error
            event["errorMessage"] = happened.message[:2048]
        if happened.resources:
            event["resources"] = [_resource(arn) for arn in happened.resources[:100]]
        more = dict(happened.facts)
        if happened.bytes_in:
            more["bytesTransferredIn"] = happened.bytes_in
        if happened.bytes_out:
            more["bytesTransferredOut"] = happened.bytes_out
        if more:
            event["additionalEventData"] = more
        # The caller's part is JSON already.
        rest = json.dumps(event, separators=(",", ":"))[1:]
        head = f'{{"eventVersion":"{EVENT_VERSION}","userIdentity":{self._identity(happened.caller)},'
        return f"{head}{rest}\n".encode("ascii")

    def _identity(self, caller: Caller | None) -> str:
        if caller is None:
            return '{"type":"Unknown"}'
        found = self._identities.get(caller)
        if found is None:
            found = self._identities[caller] = json.dumps(user_identity(caller), separators=(",", ":"))
            if len(self._identities) > self._keep:
                self._identities.popitem(last=False)
        else:
            self._identities.move_to_end(caller)
        return found


def user_identity(caller: Caller) -> dict[str, Any]:
    """CloudTrail's userIdentity element."""
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
    created = datetime.datetime.fromtimestamp(int(session.issued), datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    context: dict[str, Any] = {
        "attributes": {"creationDate": created, "mfaAuthenticated": "true" if session.mfa else "false"}
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


def _resource(arn: str) -> dict[str, str]:
    parts = arn.split(":", 5)
    found = {"ARN": arn}
    if len(parts) == 6 and parts[4]:
        found["accountId"] = parts[4]
    if len(parts) == 6 and parts[2] == "ecr" and parts[5].startswith("repository/"):
        found["type"] = "AWS::ECR::Repository"
    return found


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
