"""The audit event of an API call: one event, whether the call succeeded, was refused, or was not authenticated.

A read that imports images through a pull-through cache rule emits a second event, and a third if that creates their
repository, as pulls do (`oci.audit_record`). Every write, and every call that issued credentials, is written to the
kernel before the answer is sent. Answers of reads are not included, as at AWS. Used by `routes`, `query`,
`json_services` and `downloads`.
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

UNKNOWN = "Unknown"  # in eventName: the call was not read, because nothing authenticated it

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
    """One call, filled in while it is answered. `parameters` are included only once the caller is authenticated."""

    def __init__(self, service: ApiService, account: str, info: RequestInfo, request_id: str) -> None:
        """`account` is the account of the event until the caller is known."""
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
        self.created_repository = ""  # by an import
        self.imported: list[Mapping[str, str]] = []  # images, as the call names them

    def set_operation(self, operation: str) -> None:
        """The operation as the client wrote it, served or not."""
        if 0 < len(operation) <= 64 and operation.isascii() and operation.isalnum():
            self.operation = operation

    def set_role(self, role: str) -> None:
        """The role's ARN as the client wrote it. The event is the role's account's, whoever assumes it."""
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
        # One name for refusals by any service, as in CloudTrail.
        self.error = "AccessDenied" if error.name == "AccessDeniedException" else error.name
        self.message = error.message


def _web_identity(response: Mapping[str, Any]) -> ExternalIdentity:
    """The web identity that assumed a role."""
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
    if record.created_repository:
        await trail.record(_import(event, "CreateRepository", record.created_repository))
    if record.imported:
        name = str((record.parameters or {})["repositoryName"])
        await trail.record(_import(event, "BatchImportUpstreamImage", name, imageIds=record.imported))
    keeps = record.caller is not None and (not reads or gives)
    await (trail.record(event) if keeps else trail.note(event))


def _import(read: AuditEvent, name: str, repository: str, **parameters: Any) -> AuditEvent:
    """What a read did that imported images. It was done, even if the read then failed."""
    parameters = {"registryId": read.account, "repositoryName": repository, **parameters}
    return read._replace(name=name, read_only=False, parameters=parameters, error="", message="")
