"""Builds a worker's protocol handlers over its shared services, and the table of paths. Called by `worker`.

What all protocols share is one object here: the callers, the policy evaluator, the names of hosts.
"""

from __future__ import annotations

import asyncio
import json
import ssl
import time
from collections.abc import Awaitable, Callable, Mapping
from functools import cache, partial

from aiohttp import web

from proxy.app import health
from proxy.app.context import WorkerContext
from proxy.app.events import make_event_targets
from proxy.audit.trail import Trail
from proxy.auth import layer_links, secrets, sessions, tokens
from proxy.auth.access import Access
from proxy.auth.callers import Callers
from proxy.auth.failed_logins import FailedLogins
from proxy.auth.identity import BasicAuthenticator
from proxy.auth.pull_through import UpstreamCredentials
from proxy.auth.rates import RateLimiter
from proxy.blob.format import FRAME_LENGTH
from proxy.config.loader import ConfigError
from proxy.config.settings import Config, parsed_rate
from proxy.ecr import downloads
from proxy.ecr import routes as ecr
from proxy.ecr.authorization import Endpoints
from proxy.ecr.eventbridge import EventBridge
from proxy.ecr.iam import Iam
from proxy.ecr.last_use import LastUses
from proxy.ecr.layers import LayerOperations
from proxy.ecr.pull_through import PullThrough
from proxy.ecr.query import QueryHandlers
from proxy.ecr.secretsmanager import SecretsManager
from proxy.ecr.signed_request import Signatures
from proxy.ecr.sts import Sts
from proxy.ecr.sts.issuers import Issuers
from proxy.http.request_info import path_of
from proxy.http.server import Handler
from proxy.http.unproven_budget import UnprovenBytes
from proxy.jobs.event_targets import EventTargets
from proxy.jobs.previews import Previews
from proxy.model.errors import Code, Failure
from proxy.model.hosts import Hosts, port_of
from proxy.model.quotas import ECR_RATES, MIB, Quotas, Rate
from proxy.model.records import Sealing
from proxy.oci import routes as oci
from proxy.oci.mirror_hosts import MirrorHosts
from proxy.registry.blobs import Blobs
from proxy.registry.images import Images
from proxy.registry.mirror import peers
from proxy.registry.mirror.mirror import Mirror
from proxy.registry.pull_times import PullTimes
from proxy.registry.uploads import Uploads

STATE_PURPOSE = "upload-state"
_GRACE_LOOK_SECONDS = 0.1


def hosts_of(config: Config) -> Hosts:
    return Hosts(config.registry.account, config.registry.region, config.registry.suffix)


def quotas_of(config: Config) -> Quotas:
    given = config.quotas
    return Quotas(
        repositories=given.repositories,
        images=given.images,
        tags=given.tags,
        layer_part_min=given.layer_part_min_mib * MIB,
        layer_part_max=given.layer_part_max_mib * MIB,
        layer_part=given.layer_part_mib * MIB,
        layer_parts=given.layer_parts,
        layer_bytes=given.layer_mib * MIB,
        pull_time_exclusions=given.pull_time_exclusions,
        creation_templates=given.creation_templates,
        pull_through_rules=given.pull_through_rules,
        replication_rules=given.replication_rules,
        replication_destinations=given.replication_destinations,
        secrets=given.secrets,
        repository_bytes=given.repository_bytes,
        account_bytes=given.account_bytes,
        open_uploads=given.open_uploads,
        upload_seconds=given.upload_hours * 3600,
    )


def rates_of(config: Config) -> Mapping[str, Rate]:
    """The request rates, by operation. ConfigError for an unknown operation."""
    found = dict(ECR_RATES if config.quotas.preset == "ecr" else {})
    known = ecr.ROUTES.keys() | {route.action.removeprefix("ecr:") for route in oci.ROUTES if route.action}
    for text in config.quotas.rates:
        operation, per_second, burst = parsed_rate(text)
        if operation not in known:
            raise ConfigError(f"[quotas] rates: {text}: {operation} is no operation of this registry")
        found.pop(operation, None)
        if per_second is not None:
            found[operation] = Rate(per_second, burst if burst is not None else max(1.0, per_second))
    return found


def public_address(config: Config) -> str:
    """scheme://host:port that clients use, as far as it follows from the settings."""
    if config.server.url:
        return config.server.url.rstrip("/")
    tls = config.server.tls_self_signed or config.server.tls_cert
    return f"{'https' if tls else 'http'}://{config.server.listen}"


def repository_uri(config: Config) -> str:
    """`metadata.transaction.Registry.repository_uri` of a server with these settings."""
    scheme, _, host = public_address(config).partition("://")
    if not config.registry.suffix:
        return f"{host}/{{name}}"
    port = port_of(host)
    return f"{hosts_of(config).registry('{account}', '' if (scheme, port) == ('https', ':443') else port)}/{{name}}"


@cache
def issuers_authorities(ca_bundle: str) -> ssl.SSLContext:
    """The TLS context for issuers of web identities: CAs of `[sts] oidc_ca_bundle`, or the system's. ConfigError."""
    try:
        return ssl.create_default_context(cafile=ca_bundle or None)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"[sts] oidc_ca_bundle {ca_bundle}: cannot be used: {error}") from error


def router(
    config: Config,
    context: WorkerContext,
    trail: Trail,
    leaving: Callable[[], bool],
    pulls: PullTimes,
    unproven: UnprovenBytes | None = None,
    event_targets: EventTargets | None = None,
    mirror: Mirror | None = None,
    previews: Previews | None = None,
) -> Callable[[web.Request], tuple[str, Handler]]:
    """Returns the function that finds a request's handler by its path; each handler routes below that itself."""
    hosts = hosts_of(config)
    access = Access(context.metadata)
    callers = Callers(context.metadata)
    limited = rates_of(config)
    rates = RateLimiter(limited, context.metadata) if limited else None
    logins = FailedLogins(config.server.login_failures)
    issued = tokens.Tokens(context.agreement.sealer(tokens.PURPOSE))
    endpoints = Endpoints(hosts, config.server.url.rstrip("/"))
    uploads = make_uploads(config, context)
    blobs = make_blobs(config, context)
    links = layer_links.LayerLinks(context.agreement.sealer(layer_links.PURPOSE), hosts.region)
    docker = oci.handler(
        uploads=uploads,
        blobs=blobs,
        images=Images(
            context.metadata,
            context.keys,
            region=hosts.region,
            create_on_push=config.registry.create_on_push,
            pulls=pulls,
        ),
        identity=BasicAuthenticator(callers, issued, time.time, region=hosts.region),
        access=access,
        hosts=hosts,
        clock=time.time,
        trail=trail,
        realm=None if hosts.suffix else public_address(config) + "/",
        stall_seconds=config.server.body_seconds,
        rates=rates,
        epochs=context.epochs,
        logins=logins,
        mirror=mirror,
        senders=config.replication.senders,
        mirror_hosts=MirrorHosts(config.mirror.entries, callers, context.metadata, time.time)
        if config.mirror.entries
        else None,
    )
    key_secrets = context.agreement.sealer(secrets.PURPOSE)
    opened = sessions.Sessions(context.agreement.sealer(sessions.PURPOSE))
    issuers = Issuers(
        config.sts.oidc_issuers,
        tls=issuers_authorities(config.sts.oidc_ca_bundle) if config.sts.oidc_issuers else None,
        clock=time.monotonic,
    )
    aws = ecr.handler(
        metadata=context.metadata,
        access=access,
        signatures=Signatures(
            context.metadata,
            key_secrets,
            opened,
            region=hosts.region,
            clock=time.time,
            callers=callers,
            uses=LastUses(context.metadata.note_key_use, time.time),
            unproven=unproven,
            folder=context.run,
            logins=logins,
        ),
        keys=context.keys,
        tokens=issued,
        endpoints=endpoints,
        layers=LayerOperations(uploads, context.metadata, links, endpoints, context.run),
        query_handlers=QueryHandlers(
            Sts(context.metadata, opened, access, issuers, time.time), Iam(context.metadata, access, key_secrets)
        ),
        trail=trail,
        clock=time.time,
        rates=rates,
        pulls=pulls,
        previews=previews,
        allowed_keys=config.keys.allowed,
        json_services={
            "secretsmanager": SecretsManager(
                context.metadata, access, context.agreement.sealer(secrets.VALUE_PURPOSE), region=hosts.region
            ),
            "events": EventBridge(
                context.metadata, access, event_targets or make_event_targets(config), region=hosts.region
            ),
        },
        pull_through=_pull_through(config, context, mirror) if mirror is not None else None,
        mirror=mirror,
    )

    linked = downloads.handler(
        links=links,
        callers=callers,
        metadata=context.metadata,
        blobs=blobs,
        trail=trail,
        account=hosts.account,
        region=hosts.region,
        clock=time.time,
        stall_seconds=config.server.body_seconds,
        mirror=mirror,
    )

    parts: dict[str, Callable[[], Awaitable[str | None]]] = {
        "store": context.store.check,
        "metadata": partial(_check_metadata, context),
        "key": context.agreement.check,
        "key_provider": context.keys.check,
        "audit": trail.check,
    }
    for_peers = mirror.for_peers() if mirror is not None else None
    probes: dict[str, Handler] = {
        "/healthz": health.healthz,
        "/readyz": partial(health.readyz, parts, leaving),
        "/metrics": health.metrics,
    }

    def route(request: web.Request) -> tuple[str, Handler]:
        path, query = path_of(request), request.raw_path.partition("?")[2]
        if path == "/v2" or path.startswith("/v2/"):
            return "oci", docker
        if path == "/" and (request.method == "POST" or (request.method == "GET" and query)):
            return "ecr", aws
        if path.startswith(downloads.PATH):
            return "layers", linked
        if path == peers.PATH and for_peers is not None:
            return "peers", for_peers
        if path in probes:
            return "probe", probes[path]
        return "none", _not_found

    return route


def _pull_through(config: Config, context: WorkerContext, mirror: Mirror) -> PullThrough:
    credentials = UpstreamCredentials(
        context.metadata, context.agreement.sealer(secrets.VALUE_PURPOSE), region=config.registry.region
    )
    return PullThrough(context.metadata, credentials, config.pull_through.upstreams, mirror)


def probes_only(
    route: Callable[[web.Request], tuple[str, Handler]],
) -> Callable[[web.Request], tuple[str, Handler]]:
    """`route` restricted to probes, for `[server] probes`."""

    def probing(request: web.Request) -> tuple[str, Handler]:
        name, found = route(request)
        return (name, found) if name == "probe" else ("none", _not_found)

    return probing


def make_uploads(config: Config, context: WorkerContext) -> Uploads:
    return Uploads(
        context.metadata,
        context.store,
        context.keys,
        context.agreement.sealer(STATE_PURPOSE),
        region=config.registry.region,
        frame_length=FRAME_LENGTH,
        create_on_push=config.registry.create_on_push,
        pool=context.pool,
        sealing=Sealing(config.storage.sealing),
        counts_bytes=bool(config.quotas.repository_bytes or config.quotas.account_bytes),
    )


def make_blobs(config: Config, context: WorkerContext) -> Blobs:
    return Blobs(
        context.metadata,
        context.store,
        context.keys,
        context.pool,
        context.links,
        create_on_push=config.registry.create_on_push,
    )


async def _check_metadata(context: WorkerContext) -> str | None:
    """While the grace of an outage lasts the node is ready, with a warning, and does not wait for a service."""
    asking = asyncio.ensure_future(context.metadata.ping())
    try:
        while context.epochs is None or not (context.epochs.in_grace() and context.epochs.lease_valid()):
            if (await asyncio.wait({asking}, timeout=_GRACE_LOOK_SECONDS))[0]:
                await asking
                try:
                    return "; ".join(await context.metadata.warnings()) or None
                except Failure as failure:
                    if failure.code is Code.UNKNOWN_OPERATION:  # a service of an earlier release
                        return None
                    raise
        return "grace: no metadata service reaches its database; what was known is served on"
    finally:
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)


async def _not_found(request: web.Request) -> web.StreamResponse:
    body = json.dumps({"errors": [{"code": "UNSUPPORTED", "message": "There is nothing at this path; see /v2/."}]})
    return web.Response(status=404, text=body, content_type="application/json")
