"""All settings by section: default, meaning, bounds.

`loader` reads files and the environment into these dataclasses, and refuses what their checks refuse. Meanings that
begin with "s3:" apply to `[storage] backend = "s3"` only. Must not know where a value came from.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from proxy.config.archive_settings import ArchiveSettings
from proxy.config.audit_settings import AuditSettings
from proxy.config.event_settings import EventSettings
from proxy.config.lifecycle_settings import LifecycleSettings
from proxy.config.log_settings import LogSettings
from proxy.config.mirror_settings import MirrorSettings
from proxy.config.outbound_proxies import OutboundProxies
from proxy.config.peer_settings import PeersSettings
from proxy.config.pull_through_settings import PullThroughSettings
from proxy.config.replication_settings import ReplicationSettings
from proxy.config.setting import ADDRESS, BASE_URL, BUCKET, KEY_PREFIX, between, matches, networks, one_of, setting


@dataclass(frozen=True, slots=True)
class ServerSettings:
    listen: str = setting("127.0.0.1:5000", "where docker and aws connect, HOST:PORT", ADDRESS)
    data: str = setting("./data", "the data directory: keys, rows, objects, credentials")
    workers: int = setting(0, "proxy workers; 0 is one a core", between(0, 1024))
    url: str = setting(
        "", "the address clients use, when a proxy changes it, such as https://registry.example", BASE_URL
    )
    advertise: str = setting(
        "",
        "the URL at which other nodes reach this one, such as https://node1.internal:5000; empty: each node fetches "
        "from upstreams for itself",
        matches(r"(https?://[^/,\s]+/?)?", "https://HOST:PORT"),
    )
    trusted_proxies: tuple[str, ...] = setting(
        (), "addresses or networks whose X-Forwarded-For, -Proto and -Host are trusted", networks
    )
    tls_cert: str = setting("", "PEM file of the certificate and its chain; read again when it changes")
    tls_key: str = setting("", "PEM file of the certificate's key")
    tls_self_signed: bool = setting(False, "make a small CA and a certificate under <data>/tls, for a first try")
    drain_delay_seconds: float = setting(
        0.0, "after SIGTERM, serve on for so long while /readyz answers 503: for load balancers", between(0, 3600)
    )
    drain_seconds: float = setting(30.0, "how long running requests may go on after SIGTERM", between(0, 86_400))
    header_seconds: float = setting(10.0, "within which a request's whole header must arrive", between(0.1, 3600))
    body_seconds: float = setting(
        60.0,
        "how long a body, sent or received, may make no progress before its connection is closed",
        between(0.1, 3600),
    )
    keepalive_seconds: float = setting(75.0, "how long an idle connection stays open", between(0, 86_400))
    connections: int = setting(
        10_000, "most connections of a worker; fewer where the limit of open files is low", between(1, 1_000_000)
    )
    connections_per_client: int = setting(
        1_000,
        "most connections of a client (an IPv4 address, an IPv6 /64) a worker; requests at once behind trusted_proxies",
        between(1, 1_000_000),
    )
    login_failures: int = setting(
        20,
        "failed logins of a client, or for a key, in 15 minutes, after which each further one costs a growing wait; "
        "0 is no limit",
        between(0, 1_000_000),
    )
    probes: str = setting(
        "",
        "HOST:PORT of a listener of its own for /healthz, /readyz and /metrics, which the limits do not touch",
        lambda v: ADDRESS(v) if v else None,
    )


@dataclass(frozen=True, slots=True)
class StorageSettings:
    backend: str = setting("filesystem", "where objects are stored", one_of("filesystem", "s3"))
    sealing: str = setting(
        "aes-gcm",
        "how new layers are stored: aes-gcm (sealed), or none (as they are, with a hash of each frame in the rows)",
        one_of("aes-gcm", "none"),
    )
    redirect: bool = setting(
        False, 'with sealing = "none" on s3: a GET of a layer answers 307 to a signed link into the bucket'
    )
    path: str = setting("", "the filesystem store's directory; empty is <data>/objects")
    bucket: str = setting("", "s3: the bucket", BUCKET)
    prefix: str = setting("", "s3: what every key begins with, such as registry/", KEY_PREFIX)
    endpoint: str = setting("", "s3: the store's address; empty is AWS", BASE_URL)
    public_endpoint: str = setting(
        "", "s3: the store's address as clients of redirect reach it; empty is endpoint", BASE_URL
    )
    region: str = setting("us-east-1", "s3: the region in signatures", matches(r"[\w-]{1,64}", "a region's name"))
    access_key_id: str = setting("", "s3: empty takes the usual AWS chain (environment, profile, role)")
    secret_access_key: str = setting("", "s3: goes with access_key_id", secret=True)
    addressing: str = setting("path", "s3: path (HOST/bucket) or virtual (bucket.HOST)", one_of("path", "virtual"))
    ca_bundle: str = setting(
        "", "s3: PEM file of the CAs that https endpoints' certificates are verified with; empty is the system's"
    )
    plaintext: bool = setting(False, "s3: allow http:// off loopback, where the network itself encrypts")
    checksum: str = setting(
        "crc32", "s3: what the store verifies: crc32, or md5 for older ones", one_of("crc32", "md5")
    )
    part_mib: int = setting(8, "s3: MiB of a part; 10,000 of them are the largest layer", between(5, 1024))
    buffers_mib: int = setting(
        64,
        "s3: MiB of parts that a node's workers hold together; each has an even share, two parts at least",
        between(5, 65_536),
    )


def _a_cache(value: Any) -> str | None:
    return None if value == 0 or 64 <= value <= 2**30 else "must be 0, for none, or 64 and more"


@dataclass(frozen=True, slots=True)
class CacheSettings:
    directory: str = setting("", "s3: the directory of this machine's cache, on a local disk; empty is <data>/cache")
    mib: int = setting(4096, "s3: MiB of disk that the cache may take; 0 keeps nothing", _a_cache)


@dataclass(frozen=True, slots=True)
class MetadataSettings:
    url: str = setting(
        "",
        "metadata services, separated by commas: https://HOST:PORT, unix:PATH; empty is the one this server runs",
        matches(
            r"((unix:[^,]+|https?://[^,/\s]+/?)(\s*,\s*(unix:[^,]+|https?://[^,/\s]+/?))*)?",
            "https://HOST:PORT, http://HOST:PORT or unix:PATH, several separated by commas",
        ),
    )
    listen: str = setting(
        "",
        "HOST:PORT where other machines reach this one's metadata service, beside its socket under <data>/run",
        lambda v: ADDRESS(v) if v else None,
    )
    secret: str = setting("", "shared by proxies and services on TCP; at least 16 characters", secret=True)
    advertise: str = setting(
        "",
        "the URL at which other metadata services reach this one's; empty is where it listens",
        matches(r"(https?://[^/,\s]+/?)?", "https://HOST:PORT"),
    )
    tls_cert: str = setting("", "PEM file of the certificate and chain that it shows at `listen`; read again on change")
    tls_key: str = setting("", "PEM file of that certificate's key")
    ca_bundle: str = setting(
        "", "PEM file of the CAs that https services' certificates are verified with; empty is the system's"
    )
    outage_grace: float = setting(
        300.0,
        "seconds for which cached answers are still used while no service reaches PostgreSQL",
        between(0, 86_400),
    )
    plaintext: bool = setting(
        False, "allow services and PostgreSQL off loopback without TLS, where the network itself encrypts"
    )
    path: str = setting("", "the SQLite file; empty is <data>/metadata.db")
    database: str = setting(
        "",
        "a PostgreSQL instead of the SQLite file: postgresql://USER:PASSWORD@HOST/NAME?sslmode=verify-full",
        matches(r"(postgres(ql)?://\S+)?", "a URL that begins with postgresql://"),
        secret=True,
    )


@dataclass(frozen=True, slots=True)
class RegistrySettings:
    account: str = setting(
        "123456789012",
        "the default account, 12 digits: whose registry a bare host is",
        matches(r"\d{12}", "12 digits"),
    )
    region: str = setting(
        "us-east-1", "the region in ARNs and signatures", matches(r"[a-z]{2}(-[a-z]+)+-\d", "an AWS region's name")
    )
    suffix: str = setting(
        "",
        "the domain that hosts end in: each account's registry is ACCOUNT.dkr.ecr.REGION.SUFFIX; empty: one registry",
        matches(
            r"([a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*)?", "a domain such as registry.example"
        ),
    )
    create_on_push: bool = setting(True, "a push to a repository that does not exist creates it")


_MANY = 2_000_000_000  # what a counter's column holds
_RATE = re.compile(r"([A-Z][A-Za-z0-9]{1,63})=(?:none|(\d{1,6}(?:\.\d{1,6})?)(?:/(\d{1,7}))?)", re.ASCII)
"""OPERATION=PER_SECOND, OPERATION=PER_SECOND/BURST or OPERATION=none."""


def parsed_rate(text: str) -> tuple[str, float | None, float | None]:
    """Operation, requests a second (None: no limit) and burst, where one is given. ValueError."""
    found = _RATE.fullmatch(text)
    if found is None:
        raise ValueError(text)
    operation, per_second, burst = found.groups()
    return operation, float(per_second) if per_second else None, float(burst) if burst else None


def _rates(values: Any) -> str | None:
    for value in values:
        if not _RATE.fullmatch(value) or 0 in parsed_rate(value)[1:]:
            return (
                f"{value!r} is not OPERATION=PER_SECOND or OPERATION=PER_SECOND/BURST, both above 0, or OPERATION=none"
            )
    return None


@dataclass(frozen=True, slots=True)
class QuotaSettings:
    repositories: int = setting(100_000, "most repositories in a registry", between(1, _MANY))
    images: int = setting(100_000, "most images in a repository", between(1, _MANY))
    tags: int = setting(1_000, "most tags of an image", between(1, _MANY))
    layer_part_min_mib: int = setting(
        5, "least MiB of each part of a layer but its last, through the API", between(0, 20)
    )
    layer_part_max_mib: int = setting(20, "most MiB of a part", between(1, 20))
    layer_part_mib: int = setting(10, "MiB of a part that InitiateLayerUpload asks for", between(1, 20))
    layer_parts: int = setting(4_200, "most parts of a layer", between(1, 1_000_000))
    layer_mib: int = setting(52_000, "most MiB of a layer, through the API", between(1, 2**30))
    pull_time_exclusions: int = setting(100, "most principals whose pulls are not recorded", between(0, 100_000))
    creation_templates: int = setting(100, "most repository creation templates of a registry", between(0, 100_000))
    pull_through_rules: int = setting(50, "most pull-through cache rules of a registry", between(0, 10_000))
    replication_rules: int = setting(25, "most replication rules of a registry", between(0, 25))
    replication_destinations: int = setting(25, "most destinations of them all, each once", between(0, 2_500))
    secrets: int = setting(500_000, "most secrets of an account", between(0, 10_000_000))
    repository_bytes: int = setting(
        0, "most bytes in a repository: layers, manifests and open uploads; 0: no limit", between(0, 2**60)
    )
    account_bytes: int = setting(
        0, "the same of an account, a layer that several repositories link counted once", between(0, 2**60)
    )
    open_uploads: int = setting(1_000, "most open uploads of a principal", between(1, 1_000_000))
    upload_hours: float = setting(168.0, "after which an upload ends, however busy it is", between(1, 8760))
    preset: str = setting(
        "none",
        "request rates to begin with: none, or ecr (ECR's own, an account and operation)",
        one_of("none", "ecr"),
    )
    rates: tuple[str, ...] = setting(
        (),
        "request rates of single operations, before the preset's: PutImage=10 a second, PutImage=10/50 with a burst "
        "of 50, PutImage=none without a limit",
        _rates,
    )


# Colons stand outside of every part, so that no wildcard takes in another account's number.
_KMS_KEY = r"arn:aws[a-z0-9-]*:kms:[a-z0-9*-]+:[0-9*]{1,12}:(key|alias)/[\w/*-]+|alias/[\w/*-]+"


def _kms_keys(values: Any) -> str | None:
    bad = [value for value in values if not re.fullmatch(_KMS_KEY, value, re.ASCII)]
    return f"{bad[0]!r} is neither a KMS key's ARN nor alias/NAME; * matches any letters" if bad else None


@dataclass(frozen=True, slots=True)
class KeySettings:
    provider: str = setting(
        "local", "who wraps new data keys: local (the key file) or kms (AWS KMS)", one_of("local", "kms")
    )
    file: str = setting("", "the master keys; empty is <data>/keys/master.json")
    key_id: str = setting(
        "",
        "kms: the key's id, ARN or alias; beside a local provider, KMS still opens what it wrapped",
        matches(r"([\w:/-]{1,2048})?", "a key id, an ARN or alias/NAME"),
    )
    region: str = setting(
        "",
        "kms: its region; empty is that of the key's ARN, else the registry's",
        matches(r"[\w-]{0,64}", "a region's name"),
    )
    endpoint: str = setting("", "kms: its address; empty is AWS", BASE_URL)
    plaintext: bool = setting(False, "kms: allow http:// off loopback, where the network itself encrypts")
    kms_access_key_id: str = setting("", "kms: empty takes the usual AWS chain (environment, profile, role)")
    kms_secret_access_key: str = setting("", "kms: goes with kms_access_key_id", secret=True)
    allowed: tuple[str, ...] = setting(
        (),
        "kms: keys that anyone may name for repositories: ARNs, alias/NAME, * for any letters; others need kms: rights",
        _kms_keys,
    )
    cache_seconds: float = setting(300.0, "how long an unwrapped data key stays in memory", between(0, 86_400))
    access_key_id: str = setting(
        "",
        "the administrator's key id (WHARFAGE_ACCESS_KEY_ID); empty makes one",
        matches(r"(\w{16,128})?", "16 to 128 letters and digits"),
    )
    secret_access_key: str = setting(
        "",
        "the administrator's secret (WHARFAGE_SECRET_ACCESS_KEY)",
        matches(r"(\S{16,})?", "16 characters or more, without spaces"),
        secret=True,
    )


@dataclass(frozen=True, slots=True)
class IdentitySettings:
    key_days: int = setting(
        0,
        "days after which an access key is refused, but for WHARFAGE_ACCESS_KEY_ID; 0: never",
        between(0, 36_500),
    )


# Without a comma in the path: in a variable that is where the list is split.
_ISSUER = r"https://(\*\.)?[a-zA-Z0-9]([a-zA-Z0-9.-]*[a-zA-Z0-9])?(:\d{1,5})?(/[\w.~!$&'()+;=:@-]+)*/?"


def _issuers(values: Any) -> str | None:
    bad = [value for value in values if not re.fullmatch(_ISSUER, value, re.ASCII)]
    return f"{bad[0]!r} is not https://HOST, where HOST may begin with *. and a path may follow" if bad else None


@dataclass(frozen=True, slots=True)
class StsSettings:
    oidc_issuers: tuple[str, ...] = setting(
        (),
        "where web identities' keys may be fetched: https://HOST[:PORT][/PATH], HOST perhaps *.DOMAIN; empty: nowhere",
        _issuers,
    )
    oidc_ca_bundle: str = setting(
        "", "PEM file of the CAs that those hosts' certificates are verified with; empty is the system's"
    )


@dataclass(frozen=True, slots=True)
class UploadSettings:
    idle_hours: float = setting(24.0, "after which an untouched upload session is swept", between(0.0001, 8760))


@dataclass(frozen=True, slots=True)
class SweepSettings:
    interval_seconds: float = setting(600.0, "between two rounds of the sweep", between(0.1, 86_400))
    grace_hours: float = setting(
        24.0, "a blob that nothing uses is kept so long; renewed when it is asked for", between(0, 8760)
    )


@dataclass(frozen=True, slots=True)
class Config:
    """All settings. `sources`: where each given `section.key` came from; `warnings` are for the log."""

    server: ServerSettings
    storage: StorageSettings
    archive: ArchiveSettings
    cache: CacheSettings
    metadata: MetadataSettings
    registry: RegistrySettings
    quotas: QuotaSettings
    keys: KeySettings
    identity: IdentitySettings
    sts: StsSettings
    uploads: UploadSettings
    sweep: SweepSettings
    events: EventSettings
    pull_through: PullThroughSettings
    mirror: MirrorSettings
    lifecycle: LifecycleSettings
    replication: ReplicationSettings
    peers: PeersSettings
    audit: AuditSettings
    log: LogSettings
    sources: Mapping[str, str]
    warnings: tuple[str, ...]
    proxies: OutboundProxies


SECTIONS: dict[str, type[Any]] = {
    "server": ServerSettings,
    "storage": StorageSettings,
    "archive": ArchiveSettings,
    "cache": CacheSettings,
    "metadata": MetadataSettings,
    "registry": RegistrySettings,
    "quotas": QuotaSettings,
    "keys": KeySettings,
    "identity": IdentitySettings,
    "sts": StsSettings,
    "uploads": UploadSettings,
    "sweep": SweepSettings,
    "events": EventSettings,
    "pull_through": PullThroughSettings,
    "mirror": MirrorSettings,
    "lifecycle": LifecycleSettings,
    "replication": ReplicationSettings,
    "peers": PeersSettings,
    "audit": AuditSettings,
    "log": LogSettings,
}
