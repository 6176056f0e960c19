"""What the audit trail is told of a call at this door: one event, whether it was done, refused or never authenticated.

Told before the answer goes out, with the kernel: every write, and every call that gave out credentials. Answers of
reads are not in it, as at AWS.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from proxy.audit.events import AuditEvent, ExternalIdentity
from proxy.audit.trail import Trail
from proxy.auth.policy.context import RequestInfo
from proxy.ecr.errors import WireError
from proxy.ecr.services import STS, ApiService
from proxy.model.identity import Caller

UNKNOWN = "Unknown"  # in eventName: what was asked was not read, for nobody vouched for it

_READS = (
    "Get",
    "List",
    "Describe",
    "BatchGet",
    "BatchCheck",
    "Simulate",
    "Generate",
    "Assume",
    "Decode",
    "Test",
    "Validate",
)
_GIVES_CREDENTIALS = frozenset(
    {"GetAuthorizationToken", "GetSecretValue", "GetSessionToken", "AssumeRole", "AssumeRoleWithWebIdentity"}
)


class ApiAuditRecord:
    """One call, filled in while it is answered. `parameters` are shown only once somebody has vouched for them."""

    def __init__(self, service: ApiService, account: str, info: RequestInfo, request_id: str) -> None:
        """`account` is whom the call concerns as long as nobody has said who asks."""
        self.service = service
        self.account = account
        self.info = info
        self.request_id = request_id
        self.operation = UNKNOWN
        self.caller: Caller | ExternalIdentity | None = None
        self.resources: Sequence[str] = ()
        self.parameters: Mapping[str, Any] | None = None
        self.response: Mapping[str, Any] | None = None
        self.error = "InternalFailure"
        self.message = ""

    def set_operation(self, operation: str) -> None:
        """As the client wrote it, whether it is served or not."""
        if 0 < len(operation) <= 64 and operation.isascii() and operation.isalnum():
            self.operation = operation

    def set_role(self, role: str) -> None:
        """An ARN, as the client wrote it. The role's account is concerned, whoever takes it."""
        self.resources = (role,)
        named = role.split(":")
        if self.caller is None and len(named) == 6 and len(named[4]) == 12:
            self.account = named[4]

    def set_caller(self, caller: Caller | None) -> None:
        self.caller = caller
        if caller is not None:
            self.account = caller.account

    @property
    def is_read(self) -> bool:
        return self.operation.startswith(_READS)

    def succeeded(self, response: Mapping[str, Any]) -> None:
        if self.caller is None and "SubjectFromWebIdentityToken" in response:
            self.caller = _web_identity(response)
        self.error = self.message = ""
        self.response = response

    def failed(self, error: WireError) -> None:
        # One name for refusals, whichever service refuses, as CloudTrail has it.
        self.error = "AccessDenied" if error.name == "AccessDeniedException" else error.name
        self.message = error.message


def _web_identity(response: Mapping[str, Any]) -> ExternalIdentity:
    """Whoever showed the token that a role was given for."""
    provider, subject = str(response.get("Provider", "")), str(response["SubjectFromWebIdentityToken"])
    members = (
        ("principalId", f"{provider}:{response.get('Audience', '')}:{subject}"),
        ("userName", subject),
        ("identityProvider", provider),
    )
    return ExternalIdentity("WebIdentityUser", members)


async def emit(trail: Trail, record: ApiAuditRecord) -> None:
    reads = record.is_read
    gives = record.operation in _GIVES_CREDENTIALS
    shows = not reads or (gives and record.service is STS)
    event = AuditEvent(
        source=record.service.name,
        name=record.operation,
        caller=record.caller,
        account=record.account,
        region=record.info.region,
        moment=record.info.now,
        source_ip=record.info.source_ip,
        user_agent=record.info.user_agent,
        request_id=record.request_id,
        read_only=reads,
        resources=tuple(each for each in record.resources if each != "*"),
        error=record.error,
        message=record.message,
        parameters=record.parameters or None,  # as CloudTrail has it
        response=(record.response or None) if shows else None,
    )
    keeps = record.caller is not None and (not reads or gives)
    await (trail.record(event) if keeps else trail.note(event))
