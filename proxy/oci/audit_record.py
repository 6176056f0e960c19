"""What the audit trail is told of a request at this door: one event, under the name of the API operation it stands for.

A write's event is with the kernel before its answer goes out, a read's follows soon. A push that makes its repository
is two events. Not told: what no operation stands for (`/v2/` with a good password, paths and methods that there are
not), and that a client which showed no password yet was asked for one.
"""

from __future__ import annotations

from functools import lru_cache

from proxy import observe
from proxy.audit.events import Happened, LaidOut, lay_out
from proxy.audit.trail import Trail
from proxy.auth.policy.context import RequestInfo
from proxy.model.identity import Caller
from proxy.model.names import is_digest_like, repository_arn

CUT = "RequestCut"  # in errorCode: the client left, or was left, before all was sent or taken
AUTHENTICATE = "Authenticate"  # in eventName, of a wrong password where no operation was asked: not one of AWS's
UNFINISHED = "InternalFailure"
_SHOWN = 256  # characters of a reference, which may not have been checked yet
_PARAMETERS_KEPT = 4096  # some 400 bytes each

_OF_UPLOADS = frozenset({"UploadLayerPart", "CompleteLayerUpload"})
_OF_MANY_LAYERS = frozenset({"BatchCheckLayerAvailability", "CompleteLayerUpload"})


class Told:
    """One request, filled in while it is answered."""

    __slots__ = (
        "account",
        "bytes_in",
        "bytes_out",
        "caller",
        "created_repository",
        "error",
        "info",
        "layer",
        "message",
        "method",
        "operation",
        "pattern",
        "reference",
        "repository",
        "sources",
        "tags",
    )

    def __init__(self, method: str, account: str, info: RequestInfo) -> None:
        """`account` is whose registry the request named, as far as that is known yet."""
        self.method = method
        self.account = account
        self.info = info
        self.operation = ""
        self.pattern = ""
        self.caller: Caller | None = None
        self.repository = ""
        self.reference = ""
        self.layer = ""  # a blob's digest: the one asked for, or what an upload was to become
        self.error = UNFINISHED
        self.message = ""
        self.bytes_in = 0  # of blobs and manifests, as they were taken and sent
        self.bytes_out = 0
        self.tags: tuple[str, ...] = ()  # that a manifest gets beside its reference
        self.sources: tuple[str, ...] = ()  # repositories that a blob was mounted from
        self.created_repository = False  # by this very push

    def asks(self, action: str | None, pattern: str, repository: str, reference: str) -> None:
        """The route is known; `action` as `ecr:PutImage`. Names within their grammar, the reference as it came."""
        self.operation = (action or "").removeprefix("ecr:")
        self.pattern = pattern
        self.repository = repository
        if pattern.endswith("/blobs/<reference>"):
            self.layer = reference
        else:
            self.reference = reference

    def done(self) -> None:
        self.error = self.message = ""

    def failed(self, error: str, message: str) -> None:
        self.error = error
        self.message = message


async def tell(trail: Trail, told: Told, status: int) -> Happened | None:
    """`status` is what was answered. What the trail was told of the request itself, if anything."""
    if not told.operation:
        return None
    reads = told.method in ("GET", "HEAD")
    info, region = told.info, told.info.region
    happened = Happened(
        source="ecr",
        name=told.operation,
        caller=told.caller,
        account=told.account,
        region=region,
        moment=info.now,
        source_ip=info.source_ip,
        user_agent=info.user_agent,
        request_id=observe.request_id() or "",
        read_only=reads,
        data=True,
        resources=_resources(region, told.account, told.repository, told.sources),
        error=told.error,
        message=told.message,
        parameters=_parameters(
            told.operation, told.account, told.repository, told.reference[:_SHOWN], told.layer[:_SHOWN], told.tags
        ),
        bytes_in=told.bytes_in,
        bytes_out=told.bytes_out,
        route=f"{told.method} {told.pattern}",
        status=status,
    )
    if told.created_repository:
        await trail.record(_creation(happened, told))
    await (trail.note(happened) if reads or told.caller is None else trail.record(happened))
    return happened


def _creation(push: Happened, told: Told) -> Happened:
    """What a push did besides: an event of its own, as CreateRepository's, also where the push then failed."""
    return push._replace(
        name="CreateRepository",
        data=False,
        resources=_resources(push.region, told.account, told.repository, ()),
        route="",
        parameters=_parameters("CreateRepository", told.account, told.repository, "", "", ()),
        error="",
        message="",
        bytes_in=0,
        bytes_out=0,
        status=0,
    )


@lru_cache(_PARAMETERS_KEPT)
def _resources(region: str, account: str, repository: str, sources: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(repository_arn(region, account, name) for name in (repository, *sources) if name)


@lru_cache(_PARAMETERS_KEPT)
def _parameters(
    operation: str, account: str, repository: str, reference: str, layer: str, tags: tuple[str, ...]
) -> LaidOut:
    """The operation's input, as the API would have had it."""
    found: dict[str, object] = {"registryId": account}
    if repository:
        found["repositoryName"] = repository
    if layer:
        found |= {"layerDigests": [layer]} if operation in _OF_MANY_LAYERS else {"layerDigest": layer}
    if reference:
        image = {"imageDigest" if is_digest_like(reference) else "imageTag": reference}
        if operation in _OF_UPLOADS:
            found["uploadId"] = reference
        elif operation == "PutImage":
            found |= image | ({"imageTags": tags} if tags else {})
        else:
            found["imageIds"] = [image]
    return lay_out(found)
