"""Builds a worker's pull-through cache from the settings. Called by `worker`, `admin.warming` and `pull_through`."""

from __future__ import annotations

import contextlib
import ssl
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from yarl import URL

from proxy.app.context import WorkerContext
from proxy.app.metadata import trusted_authorities
from proxy.app.router import make_uploads
from proxy.audit.trail import Trail
from proxy.auth.pull_through import UpstreamCredentials
from proxy.auth.secrets import VALUE_PURPOSE
from proxy.config.loader import ConfigError
from proxy.config.pull_through_settings import PullThroughSettings, UpstreamSetting, listed, rule_settings
from proxy.config.settings import Config
from proxy.jobs.cache_size import CacheSize
from proxy.jobs.image_fetch import ImageFetch
from proxy.jobs.pull_through import PullThroughUpkeep
from proxy.model.pull_through import PullThroughRule, choose
from proxy.registry.blobs import Blobs
from proxy.registry.images import Images
from proxy.registry.mirror.blobs import MirrorBlobs
from proxy.registry.mirror.manifests import MirrorManifests, Policy
from proxy.registry.mirror.mirror import Mirror
from proxy.registry.mirror.peers import Peers
from proxy.registry.mirror.referrers import MirrorReferrers
from proxy.registry.mirror.upstreams import Credentials, Upstreams
from proxy.upstream.client import Upstream, UpstreamLogin


@contextlib.asynccontextmanager
async def open_mirror(config: Config, own: WorkerContext, sockets: Path) -> AsyncIterator[Mirror]:
    """The mirror, for a `with` block whose end cancels running fetches. `sockets` is the run's folder, by a path that
    is short enough for a socket's address, the same in every worker."""
    given = config.pull_through
    images = Images(own.metadata, own.keys, region=config.registry.region, create_on_push=False)
    blobs, uploads = Blobs(own.metadata, own.store, own.keys, own.pool, own.links), make_uploads(config, own)

    async def rule(account: str, repository: str) -> PullThroughRule | None:
        return choose(await own.metadata.pull_through_rules(account), repository)

    upstreams = Upstreams(upstream_of(config), credentials_of(config, own), time.monotonic)
    node = config.server.advertise
    peers = Peers(node, config.metadata.secret, trusted_authorities(config)) if node else None
    layers = MirrorBlobs(
        own.metadata, blobs, uploads, upstreams, own.run, sockets, peers, early_ranges=given.early_ranges
    )
    manifests = MirrorManifests(own.metadata, images, upstreams, policy_of(given), time.time)
    referrers = MirrorReferrers(own.metadata, images, upstreams, manifests.bring, time.time)
    await layers.begin()
    try:
        yield Mirror(own.metadata, images, rule, manifests, layers, referrers, upstreams)
    finally:
        await layers.close()
        await upstreams.close()


def credentials_of(config: Config, own: WorkerContext) -> Credentials:
    """Returns the login of a rule, from its secret."""
    secrets = UpstreamCredentials(own.metadata, own.agreement.sealer(VALUE_PURPOSE), region=config.registry.region)

    async def credential(rule: PullThroughRule) -> UpstreamLogin | None:
        found = await secrets.of(rule)
        return UpstreamLogin(found.username, found.access_token) if found is not None else None

    return credential


def upstream_of(config: Config) -> Callable[[str], Upstream]:
    """Returns the settings of an upstream by its URL in a rule (a host, HOST:PORT, or with a scheme); by default https.
    ConfigError for unusable files of an entry."""
    given = config.pull_through
    origins = frozenset(URL(each.url).origin() for each in given.upstreams)
    trusts = {each.url: trust_of(each) for each in given.upstreams}

    def proxy_of(url: URL) -> str:
        return config.proxies.proxy_of(url.scheme, url.host or "", url.port or 0)

    def found(text: str) -> Upstream:
        entry = listed(given.upstreams, text)
        if entry is None:
            base = URL(text if "://" in text else f"https://{text}").origin()
            return Upstream(base, origins, given.connections, given.requests_per_second, proxy_of=proxy_of)
        return Upstream(
            URL(entry.url).origin(),
            origins,
            entry.connections or given.connections,
            entry.requests_per_second or given.requests_per_second,
            trusts[entry.url],
            entry.proxy,
            proxy_of,
            entry.region,
        )

    return found


def trust_of(entry: UpstreamSetting) -> ssl.SSLContext | None:
    """The TLS context for a listed upstream: its CAs, and our client certificate; None for the defaults."""
    if not entry.ca_bundle and not entry.client_cert:
        return None
    try:
        context = ssl.create_default_context(cafile=entry.ca_bundle or None)
        if entry.client_cert:
            context.load_cert_chain(entry.client_cert)  # certificate and key in one file
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"[pull_through] upstreams {entry.url}: its files cannot be used: {error}") from error
    return context


def policy_of(given: PullThroughSettings) -> Callable[[str], Policy]:
    found = rule_settings(given.rules)

    def policy(prefix: str) -> Policy:
        rule = found(prefix)
        return Policy(rule.refresh_seconds, rule.stale_max_seconds, rule.budget_floor, rule.platforms)

    return policy


def make_pull_through_upkeep(config: Config, own: WorkerContext, mirror: Mirror, trail: Trail) -> PullThroughUpkeep:
    """The tasks and kinds of jobs of pull-through cache rules."""
    settings = rule_settings(config.pull_through.rules)

    def limits(prefix: str) -> tuple[int, float]:
        rule = settings(prefix)
        return rule.bytes, rule.unused_days

    size = CacheSize(own.metadata, trail, config.registry.region, time.time, limits)
    every = config.pull_through.interval_seconds
    return PullThroughUpkeep(own.metadata, ImageFetch(own.metadata, mirror), size.run, settings, every=every)
