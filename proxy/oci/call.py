"""One authenticated OCI request, and the services that every route function may use.

`OciServices` is shared by all requests. A `Call` is one request: its names are valid, its caller is known and allowed
the route's action. Made by `routes`, passed to `blobs`, `uploads` and `manifests`. Of the protocol, only reading a body
is implemented here.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from multidict import MultiMapping

from proxy.auth.access import Access
from proxy.auth.policy.context import RequestInfo
from proxy.auth.rates import RateLimiter
from proxy.auth.replication import ReplicationAccess
from proxy.http import server
from proxy.http.bounded_reads import BODY_BYTES
from proxy.http.expect import send_continue
from proxy.http.limited_connection import read_body
from proxy.metadata.contract import EpochSource
from proxy.model.errors import Code, Failure
from proxy.model.hosts import Hosts
from proxy.model.identity import Caller
from proxy.model.names import repository_arn
from proxy.model.records import CreateOnPush
from proxy.model.replica_headers import ReplicaHeaders
from proxy.oci.audit_record import OciAuditRecord
from proxy.oci.cacheability import SECONDS, CacheValidity
from proxy.oci.errors import API_VERSION
from proxy.oci.mirror_hosts import MirrorHosts
from proxy.registry.append import Append
from proxy.registry.blobs import Blobs
from proxy.registry.images import Images
from proxy.registry.mirror.mirror import Mirror
from proxy.registry.uploads import Uploads


@dataclass(frozen=True, slots=True)
class OciServices:
    """`stall_seconds`: a client that reads no byte of a blob for this long is disconnected. `rates` is None if no
    operation has a rate limit, `epochs` if no response may be cached, `mirror` if there is no pull-through, and
    `mirror_hosts` if no host is a mirror."""

    uploads: Uploads
    blobs: Blobs
    images: Images
    access: Access
    replication: ReplicationAccess
    hosts: Hosts
    stall_seconds: float
    rates: RateLimiter | None = None
    epochs: EpochSource | None = None
    mirror: Mirror | None = None
    mirror_hosts: MirrorHosts | None = None


@dataclass(frozen=True, slots=True)
class Replica:
    """The headers of a request that replicates an image, and how its repository may be created."""

    headers: ReplicaHeaders
    create: CreateOnPush


@dataclass(slots=True)  # not frozen: that costs a microsecond for each request
class Call:
    """`account` is the registry's, not the caller's. `repository` is empty for `/v2/` and the catalog; `reference` is
    the path's last part: tag, digest or upload id. `record` becomes the request's audit event. `namespace` is the `ns`
    by which a mirror host chose its rule (`mirror_hosts`); `mirrored_name` is the client's name of the repository.
    `replica` is set for a request that replicates an image, which `replicas` serves."""

    request: web.Request
    services: OciServices
    caller: Caller
    info: RequestInfo
    account: str
    repository: str
    reference: str
    record: OciAuditRecord
    validity: CacheValidity | None = None
    namespace: str = ""
    mirrored_name: str = ""
    replica: Replica | None = None

    def need_replica(self) -> Replica:
        """The replica of a call that `routes` admitted as a replication."""
        if self.replica is None:
            raise Failure(Code.SERVER, "a replication was not admitted")
        return self.replica

    @property
    def headers(self) -> Mapping[str, str]:
        """The headers of each response to a pull."""
        return {**API_VERSION, "OCI-Namespace": self.namespace} if self.namespace else API_VERSION

    @property
    def query(self) -> MultiMapping[str]:
        return self.request.query

    async def allow_reuse(self, action: str | None, until: float) -> None:
        """Allow the response to be repeated until `until` (epoch seconds), unless it depends on the clock, a rate limit
        or a KMS key."""
        rates = self.services.rates
        if self.validity is None or (rates is not None and rates.limits(self.record.operation)):
            return
        if action is not None and self.services.access.depends_on_clock(self.caller, action, self._arn("")):
            return
        if self.repository and await self.services.images.has_own_key(self.account, self.repository):
            return
        self.validity.until = min(until, self.info.now + SECONDS, self.validity.most)

    async def may(self, *actions: str, repository: str = "") -> bool:
        """Whether the caller may do all `actions` on this repository, or on `repository` of the same registry."""
        resource = self._arn(repository)
        for action in actions:
            if not (await self.services.access.decide(self.caller, action, resource, self.info)).allowed:
                return False
        return True

    async def require(self, *actions: str) -> None:
        """Failure AccessDenied unless the caller may do all `actions` on this repository; for the catalog, on all."""
        resource = self._arn("")
        for action in actions:
            decision = await self.services.access.decide(self.caller, action, resource, self.info)
            if not decision.allowed:
                raise Failure(Code.ACCESS_DENIED, decision.message, hint=self._elsewhere())

    def _arn(self, repository: str) -> str:
        return repository_arn(self.services.hosts.region, self.account, repository or self.repository or "*")

    def _elsewhere(self) -> str:
        if self.caller.account == self.account or self.services.hosts.suffix:
            return ""
        return (
            f"this address is the registry of account {self.account}; "
            f"with [registry] suffix set, the registry of {self.caller.account} has its own address"
        )


CLIENT_CLOSED = 499  # nginx's number for a client that closed its connection before the response


class BodyCut(Exception):
    """The connection ended before the body was complete."""


def client_closed() -> web.Response:
    """The response after a `BodyCut`: the client cannot read it; log, metrics and audit event show it."""
    response = web.Response(status=CLIENT_CLOSED, reason="Client Closed Request")
    response.force_close()
    return response


def check_encoding(request: web.Request) -> None:
    """Refuse a body with a Content-Encoding: nothing is decompressed, so nothing expands past a limit."""
    if request.headers.get("Content-Encoding", "identity").strip().lower() not in ("", "identity"):
        raise Failure(
            Code.UNSUPPORTED, "a body with a Content-Encoding is not taken", hint="send the bytes that the digest names"
        )


async def body(request: web.Request) -> AsyncIterator[bytes]:
    """The body's chunks as they arrive, unbounded. Sends 100-continue first: call it after all checks that need no
    body.

    BodyCut when the body ends early; SizeInvalid when its chunks are not valid HTTP.
    """
    await _request_body(request)
    while chunk := await _next_chunk(request):
        yield chunk


async def receive(request: web.Request, append: Append) -> None:
    """Read the whole body into an append, a long one directly into its buffers. Fails as `body`."""
    await _request_body(request)
    while True:
        if append.upload.committed is None and (direct_body := server.direct_body(request)) is not None:
            direct_body.begin()
            try:
                whole = await direct_body.read_all(append)
            finally:
                direct_body.end()
            if not whole:
                raise BodyCut
            return
        if not (chunk := await _next_chunk(request)):
            return
        await append.write(chunk)


async def _request_body(request: web.Request) -> None:
    read_body(request, BODY_BYTES)
    await send_continue(request)


async def _next_chunk(request: web.Request) -> bytes:
    """The next chunk; empty at the end."""
    try:
        return await request.content.readany()
    except OSError as error:
        raise BodyCut from error
    except (web.RequestPayloadError, HttpProcessingError) as error:
        if request.transport is None or request.transport.is_closing():
            raise BodyCut from error
        raise Failure(Code.SIZE_INVALID, "the body is not framed as HTTP wants") from error
