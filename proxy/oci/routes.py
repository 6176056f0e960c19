"""The route table of the OCI API, and the only place where its requests are authenticated, matched and authorised.

Paths are matched as in the request line: nothing is decoded before its grammar is checked, so `..`, `%2e`, `%2f` and
NUL are characters that no name has. The order of checks: mirror host (404), caller (401), route (404, 405), registry
and names (400), rate (429), permission (403), for writes the audit log (503); then the route's function. Every response
has the protocol's form, internal errors too. `app.router` calls `handler`.
Source: OCI Distribution 1.1.1 and main, "Endpoints"; actions as Amazon ECR maps them.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from aiohttp import web

from proxy import observe
from proxy.audit.trail import Trail
from proxy.auth.access import Access
from proxy.auth.failed_logins import FailedLogins
from proxy.auth.identity import BasicAuthenticator, Unauthenticated
from proxy.auth.rates import RateLimiter
from proxy.auth.replication import ReplicationAccess
from proxy.http.expect import expects_continue
from proxy.http.limited_connection import client_of
from proxy.http.request_info import path_of, request_info_of
from proxy.http.response_cache import REVALIDATOR, is_wanted
from proxy.metadata.contract import EpochSource
from proxy.model.errors import Code, Failure
from proxy.model.hosts import Hosts
from proxy.model.names import check_repository
from proxy.model.replica_headers import SOURCE
from proxy.oci import blobs, errors, manifests, replicas, uploads
from proxy.oci.audit_record import AUTHENTICATE, CUT, OciAuditRecord, emit
from proxy.oci.cacheability import CacheValidity, revalidator
from proxy.oci.call import CLIENT_CLOSED, Call, OciServices, Replica
from proxy.oci.errors import API_VERSION
from proxy.oci.mirror_hosts import MirrorHosts
from proxy.registry.blobs import Blobs
from proxy.registry.images import Images
from proxy.registry.mirror.mirror import Mirror
from proxy.registry.upload_ids import upload_name
from proxy.registry.uploads import Uploads

TOO_MANY_TEXT = "too many passwords that do not count came from this address; try again later"

Function = Callable[[Call], Awaitable[web.StreamResponse]]


async def ping(call: Call) -> web.StreamResponse:
    """end-1: this is a registry, and the credentials are valid."""
    return web.Response(body=b"{}", headers={"Content-Type": "application/json", **API_VERSION})


@dataclass(frozen=True, slots=True)
class Route:
    method: str
    pattern: str
    function: Function
    action: str | None  # None: a valid token is enough
    endpoint: str  # the spec's own number
    cacheable: bool = False  # the response may be repeated for the same request


ROUTES = (
    Route("GET", "/v2/", ping, None, "end-1", True),
    Route("HEAD", "/v2/", ping, None, "end-1", True),
    Route("HEAD", "/v2/<name>/blobs/<reference>", blobs.head, "ecr:BatchCheckLayerAvailability", "end-2", True),
    Route("GET", "/v2/<name>/blobs/<reference>", blobs.get, "ecr:GetDownloadUrlForLayer", "end-2"),
    Route("DELETE", "/v2/<name>/blobs/<reference>", blobs.delete, "ecr:BatchDeleteImage", "end-10"),
    Route("HEAD", "/v2/<name>/manifests/<reference>", manifests.head, "ecr:BatchGetImage", "end-3", True),
    Route("GET", "/v2/<name>/manifests/<reference>", manifests.get, "ecr:BatchGetImage", "end-3", True),
    Route("PUT", "/v2/<name>/manifests/<reference>", manifests.put, "ecr:PutImage", "end-7"),
    Route("DELETE", "/v2/<name>/manifests/<reference>", manifests.delete, "ecr:BatchDeleteImage", "end-9"),
    Route("POST", "/v2/<name>/blobs/uploads/", uploads.post, "ecr:InitiateLayerUpload", "end-4, end-11"),
    Route("PATCH", "/v2/<name>/blobs/uploads/<reference>", uploads.patch, "ecr:UploadLayerPart", "end-5"),
    Route("PUT", "/v2/<name>/blobs/uploads/<reference>", uploads.put, "ecr:CompleteLayerUpload", "end-6"),
    Route("GET", "/v2/<name>/blobs/uploads/<reference>", uploads.get, "ecr:UploadLayerPart", "end-13"),
    Route("DELETE", "/v2/<name>/blobs/uploads/<reference>", uploads.delete, "ecr:UploadLayerPart", "end-14"),
    Route("GET", "/v2/<name>/tags/list", manifests.tags, "ecr:ListImages", "end-8"),
    Route("GET", "/v2/<name>/referrers/<reference>", manifests.referrers, "ecr:BatchGetImage", "end-12"),
    Route("GET", "/v2/_catalog", manifests.catalog, "ecr:DescribeRepositories", "docker"),
)


def handler(
    *,
    uploads: Uploads,
    blobs: Blobs,
    images: Images,
    identity: BasicAuthenticator,
    access: Access,
    hosts: Hosts,
    clock: Callable[[], float],
    trail: Trail,
    realm: str | None = None,
    stall_seconds: float = 60.0,
    rates: RateLimiter | None = None,
    epochs: EpochSource | None = None,
    logins: FailedLogins | None = None,
    mirror: Mirror | None = None,
    mirror_hosts: MirrorHosts | None = None,
    senders: Sequence[str] = (),
) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    """The handler of everything under `/v2`.

    `realm` is the registry's address in the 401 challenge; None takes the address of the request. A client that reads
    no byte of a blob for `stall_seconds` is disconnected. `clock` returns epoch seconds. Audit events are recorded in
    `trail`. `rates` counts a request after authentication and before authorisation, so that denied requests count
    against the account that sent them. With `epochs`, responses may be cached (`revalidator`). `logins` slows down
    clients that send wrong passwords (None: no limit). `mirror` pulls through rules, at `mirror_hosts` under the
    upstreams' own names. `senders` are ARNs of principals that may replicate images for other accounts than their own.
    """
    replication = ReplicationAccess(access, region=hosts.region, senders=senders)
    services = OciServices(
        uploads, blobs, images, access, replication, hosts, stall_seconds, rates, epochs, mirror, mirror_hosts
    )

    logins_limit = logins or FailedLogins(0)

    def unauthorized(request: web.Request) -> web.StreamResponse:
        """The response to a request without valid credentials: 401, or 429 after too many wrong passwords. A valid
        token never gets here, so other clients of its address cannot lock it out."""
        if "Authorization" in request.headers:
            client = client_of(request)
            if seconds := logins_limit.wait(client):
                observe.metrics.logins_refused.labels("oci").inc()
                return errors.answer(Failure(Code.THROTTLING, TOO_MANY_TEXT, seconds=seconds))
            observe.metrics.logins_failed.labels("oci").inc()
            logins_limit.failed(client)
        return errors.unauthenticated(realm or _address(request))

    async def handle(request: web.Request) -> web.StreamResponse:
        info = request_info_of(request, now=clock(), region=hosts.region)
        record, status = OciAuditRecord(request.method, hosts.account, info), 500
        snapshot = epochs.snapshot() if epochs is not None and is_wanted(request) else None
        validity = CacheValidity(snapshot) if snapshot is not None else None
        try:
            response = await _answer(services, identity, unauthorized, trail.require, request, record, validity)
            status = response.status
        except (ConnectionError, asyncio.CancelledError):
            record.failed(CUT, "the connection ended before the answer")
            status = CLIENT_CLOSED
            raise
        finally:
            event = await emit(trail, record, status)
        if validity is not None and status in _CACHEABLE and info.now < validity.until:
            response[REVALIDATOR] = revalidator(validity, trail, event, clock)
        if expects_continue(request) and not request.content.is_eof() and not response.prepared:
            response.force_close()  # a body that was not requested may still come, and must not be read as a request
        return response

    return handle


async def _answer(
    services: OciServices,
    identity: BasicAuthenticator,
    unauthorized: Callable[[web.Request], web.StreamResponse],
    before_write: Callable[[], Awaitable[None]],
    request: web.Request,
    record: OciAuditRecord,
    validity: CacheValidity | None,
) -> web.StreamResponse:
    route: Route | None = None
    call: Call | None = None
    try:
        hosts = services.mirror_hosts
        mirror = hosts.find(request.host, request.query.get("ns")) if hosts is not None else None
        caller = await hosts.anonymous(mirror, request.remote) if hosts is not None and mirror is not None else None
        password: str | None = None
        if caller is None:
            credentials = request.headers.getall("Authorization", [])
            password = credentials[0] if len(credentials) == 1 else None
            caller = await identity.authenticate_basic(password)
        record.caller = caller
        observe.note(principal=caller.arn)
        found, name, reference = _match(request)
        if isinstance(found, web.Response):
            return found
        if mirror is not None and found.function not in _MIRRORED:
            return errors.refusal(405, "UNSUPPORTED", "this address is a mirror: it serves pulls", headers=_PULLS_ONLY)
        route = found
        asked = name
        record.account = services.hosts.account_of(request.host)
        if hosts is not None and mirror is not None:
            record.account = mirror.entry.account or record.account
            name = await hosts.repository(mirror, record.account, name) if name else ""
        if name:
            shown = upload_name(reference) if "/uploads/" in route.pattern else reference
            observe.note(repository=check_repository(name), reference=shown)
        replica = replicas.read_replica(request, services.hosts.region) if mirror is None else None
        action, function = route.action, route.function
        if replica is not None:
            action, function = replicas.ACTION, replicas.function_of(function)
            record.account, record.replicated_from = replica.destination.registry, replica.source.text
        record.set_route(action, route.pattern, name, reference)
        validity = validity if route.cacheable and replica is None else None
        if validity is not None and name:
            validity.snapshot.include(record.account, name)
        call = Call(request, services, caller, record.info, record.account, name, reference, record, validity)
        if mirror is not None:
            call = replace(call, namespace=mirror.namespace, mirrored_name=asked)
        if action is not None and services.rates is not None:
            await services.rates.require(caller, record.operation)
        if replica is not None:
            call = replace(call, replica=Replica(replica, await replicas.admit(call, replica)))
        elif action is not None:
            await call.require(action)
        if route.method not in ("GET", "HEAD"):
            await before_write()
        response = await function(call)
        if response.status == CLIENT_CLOSED:
            record.failed(CUT, "the client left before its body was whole")
        else:
            record.succeeded()
            if validity is None:
                pass
            elif password is not None:
                await call.allow_reuse(action, identity.good_until(password, caller))
            elif caller.session is not None:  # the anonymous one of a mirror host
                await call.allow_reuse(action, caller.session.expires)
        return response
    except Unauthenticated:
        _record_unauthenticated(services, request, record)
        return unauthorized(request)
    except Failure as failure:
        if record.caller is None:
            _record_unauthenticated(services, request, record)
        record.failed("AccessDenied" if failure.code is Code.ACCESS_DENIED else failure.code, failure.message)
        return _failed(failure, request, route, call)


def _record_unauthenticated(services: OciServices, request: web.Request, record: OciAuditRecord) -> None:
    """Fill in the record of an unauthenticated request. A first GET of `/v2/` without a password is not audited."""
    with contextlib.suppress(Failure):
        record.account = services.hosts.account_of(request.host)
        found, name, reference = _match(request)
        if isinstance(found, Route):
            record.set_route(found.action, found.pattern, check_repository(name) if name else "", reference)
    if not record.operation and "Authorization" in request.headers:
        record.operation = AUTHENTICATE
    record.failed("Unauthorized", "no password that counts was shown")


def _failed(failure: Failure, request: web.Request, route: Route | None, call: Call | None) -> web.Response:
    response = errors.answer(failure, pushing_manifest=route is not None and route.function is manifests.put)
    if SOURCE in request.headers:
        response.headers.update(replicas.failure_header(failure))
    if failure.code in uploads.POSITIONAL and call is not None and call.reference:
        size = uploads.stored_size(failure)
        if size is not None:
            response.headers.update(uploads.position_at(call, call.reference, size))
    if response.status >= 500 and failure.code not in (Code.UPLOAD_CONFLICT, Code.UPLOAD_IN_USE):
        observe.log.error("a request could not be done", error=str(failure), cause=repr(failure.__cause__))
    else:
        observe.note(error=failure.code)
    return response


_CACHEABLE = (200, 304)
_MIRRORED = frozenset({ping, manifests.head, manifests.get, blobs.head, blobs.get, manifests.referrers})
_PULLS_ONLY = {"Allow": "GET, HEAD"}
_HOST = re.compile(r"[A-Za-z0-9.:_\[\]-]{1,255}", re.ASCII)


def _compile(pattern: str) -> re.Pattern[str]:
    # The name is matched greedily: the last `/blobs/`, `/manifests/`… of a path separates name and reference.
    text = re.escape(pattern).replace("<name>", "(?P<name>.+)").replace("<reference>", "(?P<reference>[^/]+)")
    return re.compile(text + "?" if pattern.endswith("/") else text, re.DOTALL)


_BY_PATTERN: dict[str, tuple[re.Pattern[str], dict[str, Route]]] = {}
for _route in ROUTES:
    _BY_PATTERN.setdefault(_route.pattern, (_compile(_route.pattern), {}))[1][_route.method] = _route
# The more literal pattern first: `blobs/uploads/<reference>` also reads as a blob of a repository `…/blobs`.
_ORDERED = sorted(_BY_PATTERN.items(), key=lambda item: -len(item[0].replace("<name>", "").replace("<reference>", "")))


def _match(request: web.Request) -> tuple[Route | web.Response, str, str]:
    """The route of a raw path with its name and reference, or the 404 or 405 response."""
    path = path_of(request)
    found = _find(request.method, path) if len(path) <= _PATH_CACHED else _search(request.method, path)
    if isinstance(found, tuple):
        return found
    if found is not None:
        message = f"{request.method[:20]} is not a method of this address; it takes {found}"
        return errors.refusal(405, "UNSUPPORTED", message, headers={"Allow": found}), "", ""
    if "/../" in path or path.endswith("/.."):
        raise Failure(Code.NAME_INVALID, "'..' is not a repository name")
    return errors.refusal(404, "UNSUPPORTED", "this registry has no such address"), "", ""


def _search(method: str, path: str) -> tuple[Route, str, str] | str | None:
    """Route, name and reference; or the allowed methods of the path; None for an unknown path."""
    for _, (pattern, routes) in _ORDERED:
        match = pattern.fullmatch(path)
        if match is None:
            continue
        route = routes.get(method)
        if route is None:
            return ", ".join(sorted(routes))
        found = match.groupdict()
        return route, found.get("name") or "", _reference(found.get("reference") or "")
    return None


_find = lru_cache(4096)(_search)  # the paths of pulls repeat, and a search tries up to eight patterns
_PATH_CACHED = 512  # characters: 2 MiB of paths at most


def _address(request: web.Request) -> str:
    """The server's address as the client gave it. A host that could break out of the challenge's quotes is not used."""
    host = request.host if _HOST.fullmatch(request.host) else "registry"
    return f"{request.scheme}://{host}/"


def _reference(text: str) -> str:
    """Decodes the one needless escape that clients use: the colon of a digest."""
    return text.replace("%3A", ":").replace("%3a", ":")
