"""What the audit trail is told of a call at this door: one event, whether it was done, refused or never authenticated.

Told before the answer goes out, with the kernel: every write, and every call that gave out credentials. Answers of
reads are not in it, as at AWS.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from proxy.audit.events import Happened, Outsider
from proxy.audit.trail import Trail
from proxy.auth.policy.context import RequestFacts
from proxy.ecr.errors import WireError
from proxy.ecr.services import STS, Service
from proxy.model.identity import Caller

UNKNOWN = "Unknown"  # in eventName: what was asked was not read, for nobody vouched for it

_READS = ("Get", "List", "Describe", "BatchGet", "BatchCheck", "Simulate", "Generate", "Assume", "Decode", "Validate")
_GIVES_CREDENTIALS = frozenset(
    {"GetAuthorizationToken", "GetSecretValue", "GetSessionToken", "AssumeRole", "AssumeRoleWithWebIdentity"}
)


class Told:
    """One call, filled in while it is answered. `parameters` are shown only once somebody has vouched for them."""

    def __init__(self, service: Service, account: str, facts: RequestFacts, request_id: str) -> None:
        """`account` is whom the call concerns as long as nobody has said who asks."""
        self.service = service
        self.account = account
        self.facts = facts
        self.request_id = request_id
        self.operation = UNKNOWN
        self.caller: Caller | Outsider | None = None
        self.resources: Sequence[str] = ()
        self.parameters: Mapping[str, Any] | None = None
        self.response: Mapping[str, Any] | None = None
        self.error = "InternalFailure"
        self.message = ""

    def names(self, operation: str) -> None:
        """As the client wrote it, whether it is served or not."""
        if 0 < len(operation) <= 64 and operation.isascii() and operation.isalnum():
            self.operation = operation

    def takes(self, role: str) -> None:
        """An ARN, as the client wrote it. The role's account is concerned, whoever takes it."""
        self.resources = (role,)
        named = role.split(":")
        if self.caller is None and len(named) == 6 and len(named[4]) == 12:
            self.account = named[4]

    def came_from(self, caller: Caller | None) -> None:
        self.caller = caller
        if caller is not None:
            self.account = caller.account

    @property
    def is_read(self) -> bool:
        return self.operation.startswith(_READS)

    def done(self, response: Mapping[str, Any]) -> None:
        if self.caller is None and "SubjectFromWebIdentityToken" in response:
            self.caller = _web_identity(response)
        self.error = self.message = ""
        self.response = response

    def failed(self, error: WireError) -> None:
        # One name for refusals, whichever service refuses, as CloudTrail has it.
        self.error = "AccessDenied" if error.name == "AccessDeniedException" else error.name
        self.message = error.message


def _web_identity(response: Mapping[str, Any]) -> Outsider:
    """Whoever showed the token that a role was given for."""
    provider, subject = str(response.get("Provider", "")), str(response["SubjectFromWebIdentityToken"])
    members = (
        ("principalId", f"{provider}:{response.get('Audience', '')}:{subject}"),
        ("userName", subject),
        ("identityProvider", provider),
    )
    return Outsider("WebIdentityUser", members)


async def tell(trail: Trail, told: Told) -> None:
    reads = told.is_read
    gives = told.operation in _GIVES_CREDENTIALS
    shows = not reads or (gives and told.service is STS)
    happened = Happened(
        source=told.service.name,
        name=told.operation,
        caller=told.caller,
        account=told.account,
        region=told.facts.region,
        moment=told.facts.now,
        source_ip=told.facts.source_ip,
        user_agent=told.facts.user_agent,
        request_id=told.request_id,
        read_only=reads,
        resources=tuple(each for each in told.resources if each != "*"),
        error=told.error,
        message=told.message,
        parameters=told.parameters or None,  # as CloudTrail has it
        response=(told.response or None) if shows else None,
    )
    keeps = told.caller is not None and (not reads or gives)
    await (trail.record(happened) if keeps else trail.note(happened))
