"""The audit event of one OCI request, under the name of the ECR operation that the request corresponds to.

`routes` fills the record in and calls `emit`. The kernel has a write's event before the response is sent; a read's
event follows soon. A push that creates its repository emits a second event, and so does a pull that imports from an
upstream. Not audited: requests that map to no operation (`/v2/` with a valid password, unknown paths and methods), and
the first 401 of a login.
"""

from __future__ import annotations

from functools import lru_cache

from proxy import observe
from proxy.audit.events import AuditEvent, EncodedParameters, encode_parameters
from proxy.audit.trail import Trail
from proxy.auth.policy.context import RequestInfo
from proxy.model.identity import Caller
from proxy.model.names import is_digest_like, is_upload_id, repository_arn
from proxy.registry.upload_ids import upload_name

CUT = "RequestCut"  # in errorCode: the connection ended before the request or the response was complete
AUTHENTICATE = "Authenticate"  # in eventName: a wrong password without an operation; AWS has no such name
UNFINISHED = "InternalFailure"
_SHOWN = 256  # characters of a reference, which may be unchecked
_PARAMETERS_MAX = 4096  # some 400 bytes each

_OF_UPLOADS = frozenset({"UploadLayerPart", "CompleteLayerUpload"})
_OF_MANY_LAYERS = frozenset({"BatchCheckLayerAvailability", "CompleteLayerUpload"})


class OciAuditRecord:
    """One request's record, filled in while the request is handled."""

    __slots__ = (
        "account",
        "bytes_in",
        "bytes_out",
        "caller",
        "created_repository",
        "error",
        "imported",
        "info",
        "layer",
        "message",
        "method",
        "operation",
        "pattern",
        "reference",
        "replicated_from",
        "repository",
        "sources",
        "tags",
    )

    def __init__(self, method: str, account: str, info: RequestInfo) -> None:
        """`account` is the account whose registry the request names, as far as known."""
        self.method = method
        self.account = account
        self.info = info
        self.operation = ""
        self.pattern = ""
        self.caller: Caller | None = None
        self.repository = ""
        self.reference = ""
        self.layer = ""  # a blob's digest: the requested one, or the one that an upload is to become
        self.error = UNFINISHED
        self.message = ""
        self.bytes_in = 0  # of blobs and manifests, as received and sent
        self.bytes_out = 0
        self.tags: tuple[str, ...] = ()  # of a manifest, beside its reference
        self.sources: tuple[str, ...] = ()  # repositories that a blob was mounted from
        self.created_repository = False  # by this push or import
        self.imported = False  # through a pull-through cache rule
        self.replicated_from = ""  # REGION/ACCOUNT that a sender of images says they are of

    def set_route(self, action: str | None, pattern: str, repository: str, reference: str) -> None:
        """Set the matched route; `action` as `ecr:PutImage`. `repository` is valid, `reference` may not be."""
        self.operation = (action or "").removeprefix("ecr:")
        self.pattern = pattern
        self.repository = repository
        if pattern.endswith("/blobs/<reference>"):
            self.layer = reference
        else:
            self.reference = upload_name(reference) if pattern.endswith("/uploads/<reference>") else reference

    def succeeded(self) -> None:
        self.error = self.message = ""

    def failed(self, error: str, message: str) -> None:
        self.error = error
        self.message = message


async def emit(trail: Trail, record: OciAuditRecord, status: int) -> AuditEvent | None:
    """Record the event of a request answered with `status`, and return it; None if it is not audited."""
    if not record.operation:
        return None
    reads = record.method in ("GET", "HEAD")
    info, region = record.info, record.info.region
    event = AuditEvent(
        source="ecr",
        name=record.operation,
        caller=(record.caller.undated or record.caller) if record.caller is not None else None,
        account=record.account,
        region=region,
        moment=info.now,
        source_ip=info.source_ip,
        user_agent=info.user_agent,
        request_id=observe.request_id() or "",
        read_only=reads,
        data=True,
        resources=_resources(region, record.account, record.repository, record.sources),
        error=record.error,
        message=record.message,
        parameters=_parameters(
            record.operation,
            record.account,
            record.repository,
            record.reference[:_SHOWN],
            record.layer[:_SHOWN],
            record.tags,
            record.replicated_from,
        ),
        bytes_in=record.bytes_in,
        bytes_out=record.bytes_out,
        route=f"{record.method} {record.pattern}",
        status=status,
    )
    if record.created_repository:
        await trail.record(_creation(event, record))
    if record.imported:
        await trail.record(_import(event, record))
    await (trail.note(event) if reads or record.caller is None else trail.record(event))
    return event


def _creation(push: AuditEvent, record: OciAuditRecord) -> AuditEvent:
    """The CreateRepository event of a push that created its repository, even if the push then failed."""
    return push._replace(
        name="CreateRepository",
        data=False,
        resources=_resources(push.region, record.account, record.repository, ()),
        route="",
        parameters=_parameters(
            "CreateRepository", record.account, record.repository, "", "", (), record.replicated_from
        ),
        error="",
        message="",
        bytes_in=0,
        bytes_out=0,
        status=0,
    )


def _import(pull: AuditEvent, record: OciAuditRecord) -> AuditEvent:
    """The BatchImportUpstreamImage event of a pull that imported from an upstream."""
    name, reference = "BatchImportUpstreamImage", record.reference[:_SHOWN]
    parameters = _parameters(name, record.account, record.repository, reference, "", (), "")
    return pull._replace(name=name, read_only=False, route="", parameters=parameters, bytes_out=0)


@lru_cache(_PARAMETERS_MAX)
def _resources(region: str, account: str, repository: str, sources: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(repository_arn(region, account, name) for name in (repository, *sources) if name)


@lru_cache(_PARAMETERS_MAX)
def _parameters(
    operation: str, account: str, repository: str, reference: str, layer: str, tags: tuple[str, ...], origin: str
) -> EncodedParameters:
    """The operation's input in the form of the ECR API."""
    found: dict[str, object] = {"registryId": account}
    if repository:
        found["repositoryName"] = repository
    if layer:
        found |= {"layerDigests": [layer]} if operation in _OF_MANY_LAYERS else {"layerDigest": layer}
    if reference:
        image = {"imageDigest" if is_digest_like(reference) else "imageTag": reference}
        if operation in _OF_UPLOADS or (origin and is_upload_id(reference)):
            found["uploadId"] = reference
        elif operation == "PutImage":
            found |= image | ({"imageTags": tags} if tags else {})
        else:
            found["imageIds"] = [image]
    if origin:
        found |= {"replicatedFrom": origin} | ({"imageTags": tags} if tags else {})
    return encode_parameters(found)
