"""Every setting there is, by section: its default, its meaning, its bounds.

A setting is one line here; `config` reads files and the environment into these, and refuses what their checks refuse.
Meanings that begin with "s3:" belong to `[storage] backend = "s3"` only. Must not know where a value came from.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any


def _between(low: float, high: float) -> Callable[[Any], str | None]:
    return lambda value: None if low <= value <= high else f"must be between {low:g} and {high:g}"


def _matches(pattern: str, what: str) -> Callable[[Any], str | None]:
    return lambda value: None if re.fullmatch(pattern, value, re.ASCII) else f"must be {what}"


def _one_of(*values: str) -> Callable[[Any], str | None]:
    return lambda value: None if value in values else f"must be one of {', '.join(values)}"


def _key(default: Any, meaning: str, check: Callable[[Any], str | None] | None = None, *, secret: bool = False) -> Any:
    return field(default=default, metadata={"meaning": meaning, "check": check, "secret": secret})


_ADDRESS = _matches(r"(\[[0-9a-fA-F:]+\]|[^:\s]*):\d{1,5}", "HOST:PORT, such as 127.0.0.1:5000")
_NETWORK = r"[0-9a-fA-F.:]+(/\d{1,3})?"


def _networks(values: Any) -> str | None:
    bad = [value for value in values if not re.fullmatch(_NETWORK, value)]
    return f"{bad[0]!r} is neither an address nor a network such as 10.0.0.0/8" if bad else None


@dataclass(frozen=True, slots=True)
class Server:
    listen: str = _key("127.0.0.1:5000", "where docker and aws connect, HOST:PORT", _ADDRESS)
    data: str = _key("./data", "the data directory: keys, rows, objects, credentials")
    workers: int = _key(0, "proxy workers; 0 is one a core", _between(0, 1024))
    url: str = _key(
        "",
        "the address clients use, when a proxy changes it, such as https://registry.example",
        _matches(r"(https?://[^/\s]+/?)?", "http:// or https:// and a host"),
    )
    trusted_proxies: tuple[str, ...] = _key(
        (), "addresses or networks whose X-Forwarded-For, -Proto and -Host are believed", _networks
    )
    tls_cert: str = _key("", "PEM file of the certificate and its chain; read again when it changes")
    tls_key: str = _key("", "PEM file of the certificate's key")
    tls_self_signed: bool = _key(False, "make a small CA and a certificate under <data>/tls, for a first try")
    drain_delay_seconds: float = _key(
        0.0, "after SIGTERM all is served on for so long, and /readyz says 503: for load balancers", _between(0, 3600)
    )
    drain_seconds: float = _key(30.0, "how long running requests may go on after SIGTERM", _between(0, 86_400))
    header_seconds: float = _key(10.0, "in which a request's whole header must come", _between(0.1, 3600))
    body_seconds: float = _key(
        60.0, "how long a body, sent or taken, may stand still before it is cut", _between(0.1, 3600)
    )
    keepalive_seconds: float = _key(75.0, "how long an idle connection stays open", _between(0, 86_400))
    connections: int = _key(
        10_000, "most connections of a worker; fewer where the limit of open files is low", _between(1, 1_000_000)
    )
    connections_per_client: int = _key(
        1_000,
        "most connections of a client (an IPv4 address, an IPv6 /64) a worker; requests at once behind trusted_proxies",
        _between(1, 1_000_000),
    )
    login_failures: int = _key(
        20,
        "failed logins of a client, or for a key, in 15 minutes, after which each further one costs a growing wait; "
        "0 is no limit",
        _between(0, 1_000_000),
    )
    probes: str = _key(
        "",
        "HOST:PORT of a listener of its own for /healthz, /readyz and /metrics, which the limits do not touch",
        lambda v: _ADDRESS(v) if v else None,
    )


@dataclass(frozen=True, slots=True)
class Storage:
    backend: str = _key("filesystem", "where objects lie", _one_of("filesystem", "s3"))
    sealing: str = _key(
        "aes-gcm",
        "how new layers are stored: aes-gcm (sealed), or none (as they are, with a hash of each frame in the rows)",
        _one_of("aes-gcm", "none"),
    )
    redirect: bool = _key(
        False, 'with sealing = "none" on s3: a GET of a layer answers 307 to a signed link into the bucket'
    )
    path: str = _key("", "the filesystem store's directory; empty is <data>/objects")
    bucket: str = _key("", "s3: the bucket", _matches(r"([a-z0-9][a-z0-9.-]{1,61}[a-z0-9])?", "a bucket's name"))
    prefix: str = _key(
        "", "s3: what every key begins with, such as registry/", _matches(r"[\w./-]{0,200}", "letters, digits, . / - _")
    )
    endpoint: str = _key(
        "",
        "s3: the store's address; empty is AWS",
        _matches(r"(https?://[^/\s]+/?)?", "http:// or https:// and a host"),
    )
    public_endpoint: str = _key(
        "",
        "s3: the store's address as clients of redirect reach it; empty is endpoint",
        _matches(r"(https?://[^/\s]+/?)?", "http:// or https:// and a host"),
    )
    region: str = _key("us-east-1", "s3: the region in signatures", _matches(r"[\w-]{1,64}", "a region's name"))
    access_key_id: str = _key("", "s3: empty takes the usual AWS chain (environment, profile, role)")
    secret_access_key: str = _key("", "s3: goes with access_key_id", secret=True)
    addressing: str = _key("path", "s3: path (HOST/bucket) or virtual (bucket.HOST)", _one_of("path", "virtual"))
    ca_bundle: str = _key("", "s3: PEM file of the authorities that vouch for https endpoints; empty is the system's")
    plaintext: bool = _key(False, "s3: allow http:// off loopback, where the network itself encrypts")
    checksum: str = _key("crc32", "s3: what the store verifies: crc32, or md5 for older ones", _one_of("crc32", "md5"))
    part_mib: int = _key(8, "s3: MiB of a part; 10,000 of them are the largest layer", _between(5, 1024))
    buffers_mib: int = _key(64, "s3: MiB of parts that a node's workers hold together, in all", _between(5, 65_536))


def _a_cache(value: Any) -> str | None:
    return None if value == 0 or 64 <= value <= 2**30 else "must be 0, for none, or 64 and more"


@dataclass(frozen=True, slots=True)
class Cache:
    directory: str = _key("", "s3: where this machine keeps what it read, on a local disk; empty is <data>/cache")
    mib: int = _key(4096, "s3: MiB of disk that the cache may take; 0 keeps nothing", _a_cache)


@dataclass(frozen=True, slots=True)
class Metadata:
    url: str = _key(
        "",
        "metadata services, separated by commas: https://HOST:PORT, unix:PATH; empty is the one this server runs",
        _matches(
            r"((unix:[^,]+|https?://[^,/\s]+/?)(\s*,\s*(unix:[^,]+|https?://[^,/\s]+/?))*)?",
            "https://HOST:PORT, http://HOST:PORT or unix:PATH, several separated by commas",
        ),
    )
    listen: str = _key(
        "",
        "HOST:PORT where other machines reach this one's metadata service, beside its socket under <data>/run",
        lambda v: _ADDRESS(v) if v else None,
    )
    secret: str = _key("", "shared by proxies and services on TCP; at least 16 characters", secret=True)
    advertise: str = _key(
        "",
        "the URL at which other metadata services reach this one's; empty is where it listens",
        _matches(r"(https?://[^/,\s]+/?)?", "https://HOST:PORT"),
    )
    tls_cert: str = _key("", "PEM file of the certificate and chain that it shows at `listen`; read again on change")
    tls_key: str = _key("", "PEM file of that certificate's key")
    ca_bundle: str = _key("", "PEM file of the authorities that vouch for https services; empty is the system's")
    outage_grace: float = _key(
        300.0,
        "seconds for which known answers serve on while no service reaches PostgreSQL",
        _between(0, 86_400),
    )
    plaintext: bool = _key(
        False, "allow services and PostgreSQL off loopback without TLS, where the network itself encrypts"
    )
    path: str = _key("", "the SQLite file; empty is <data>/metadata.db")
    database: str = _key(
        "",
        "a PostgreSQL instead of the SQLite file: postgresql://USER:PASSWORD@HOST/NAME?sslmode=verify-full",
        _matches(r"(postgres(ql)?://\S+)?", "a URL that begins with postgresql://"),
        secret=True,
    )


@dataclass(frozen=True, slots=True)
class Registry:
    account: str = _key(
        "123456789012",
        "the default account, 12 digits: whose registry a bare host is",
        _matches(r"\d{12}", "12 digits"),
    )
    region: str = _key(
        "us-east-1", "the region in ARNs and signatures", _matches(r"[a-z]{2}(-[a-z]+)+-\d", "an AWS region's name")
    )
    suffix: str = _key(
        "",
        "the domain that hosts end in: each account's registry is ACCOUNT.dkr.ecr.REGION.SUFFIX; empty: one registry",
        _matches(
            r"([a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*)?", "a domain such as registry.example"
        ),
    )
    create_on_push: bool = _key(True, "a push to a repository that does not exist creates it")


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
    repositories: int = _key(100_000, "most repositories in a registry", _between(1, _MANY))
    images: int = _key(100_000, "most images in a repository", _between(1, _MANY))
    tags: int = _key(1_000, "most tags of an image", _between(1, _MANY))
    layer_part_min_mib: int = _key(
        5, "least MiB of each part of a layer but its last, through the API", _between(0, 20)
    )
    layer_part_max_mib: int = _key(20, "most MiB of a part", _between(1, 20))
    layer_part_mib: int = _key(10, "MiB of a part that InitiateLayerUpload asks for", _between(1, 20))
    layer_parts: int = _key(4_200, "most parts of a layer", _between(1, 1_000_000))
    layer_mib: int = _key(52_000, "most MiB of a layer, through the API", _between(1, 2**30))
    pull_time_exclusions: int = _key(100, "most principals whose pulls are not recorded", _between(0, 100_000))
    creation_templates: int = _key(100, "most repository creation templates of a registry", _between(0, 100_000))
    repository_bytes: int = _key(
        0, "most bytes in a repository: layers, manifests and open uploads; 0: no limit", _between(0, 2**60)
    )
    account_bytes: int = _key(
        0, "the same of an account, a layer that several repositories link counted once", _between(0, 2**60)
    )
    open_uploads: int = _key(1_000, "most open uploads of a principal", _between(1, 1_000_000))
    upload_hours: float = _key(168.0, "after which an upload ends, however busy it is", _between(1, 8760))
    preset: str = _key(
        "none",
        "request rates to begin with: none, or ecr (ECR's own, an account and operation)",
        _one_of("none", "ecr"),
    )
    rates: tuple[str, ...] = _key(
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
class Keys:
    provider: str = _key(
        "local", "who wraps new data keys: local (the key file) or kms (AWS KMS)", _one_of("local", "kms")
    )
    file: str = _key("", "the master keys; empty is <data>/keys/master.json")
    key_id: str = _key(
        "",
        "kms: the key's id, ARN or alias; beside a local provider, KMS still opens what it wrapped",
        _matches(r"([\w:/-]{1,2048})?", "a key id, an ARN or alias/NAME"),
    )
    region: str = _key(
        "",
        "kms: its region; empty is that of the key's ARN, else the registry's",
        _matches(r"[\w-]{0,64}", "a region's name"),
    )
    endpoint: str = _key(
        "",
        "kms: its address; empty is AWS",
        _matches(r"(https?://[^/\s]+/?)?", "http:// or https:// and a host"),
    )
    plaintext: bool = _key(False, "kms: allow http:// off loopback, where the network itself encrypts")
    kms_access_key_id: str = _key("", "kms: empty takes the usual AWS chain (environment, profile, role)")
    kms_secret_access_key: str = _key("", "kms: goes with kms_access_key_id", secret=True)
    allowed: tuple[str, ...] = _key(
        (),
        "kms: keys that anyone may name for repositories: ARNs, alias/NAME, * for any letters; others need kms: rights",
        _kms_keys,
    )
    cache_seconds: float = _key(300.0, "how long an unwrapped data key stays in memory", _between(0, 86_400))
    access_key_id: str = _key(
        "",
        "the administrator's key id (WHARFAGE_ACCESS_KEY_ID); empty makes one",
        _matches(r"(\w{16,128})?", "16 to 128 letters and digits"),
    )
    secret_access_key: str = _key(
        "",
        "the administrator's secret (WHARFAGE_SECRET_ACCESS_KEY)",
        _matches(r"(\S{16,})?", "16 characters or more, without spaces"),
        secret=True,
    )


@dataclass(frozen=True, slots=True)
class Identity:
    key_days: int = _key(
        0,
        "days after which an access key is refused, but for WHARFAGE_ACCESS_KEY_ID; 0: never",
        _between(0, 36_500),
    )


# Without a comma in the path: in a variable that is where the list is split.
_ISSUER = r"https://(\*\.)?[a-zA-Z0-9]([a-zA-Z0-9.-]*[a-zA-Z0-9])?(:\d{1,5})?(/[\w.~!$&'()+;=:@-]+)*/?"


def _issuers(values: Any) -> str | None:
    bad = [value for value in values if not re.fullmatch(_ISSUER, value, re.ASCII)]
    return f"{bad[0]!r} is not https://HOST, where HOST may begin with *. and a path may follow" if bad else None


@dataclass(frozen=True, slots=True)
class Sts:
    oidc_issuers: tuple[str, ...] = _key(
        (),
        "where web identities' keys may be fetched: https://HOST[:PORT][/PATH], HOST perhaps *.DOMAIN; empty: nowhere",
        _issuers,
    )
    oidc_ca_bundle: str = _key("", "PEM file of the authorities that vouch for those hosts; empty is the system's")


@dataclass(frozen=True, slots=True)
class Uploads:
    idle_hours: float = _key(24.0, "after which an untouched upload session is swept", _between(0.0001, 8760))


@dataclass(frozen=True, slots=True)
class Sweep:
    interval_seconds: float = _key(600.0, "between two rounds of the sweep", _between(0.1, 86_400))
    grace_hours: float = _key(
        24.0, "a blob that nothing uses is kept so long; renewed when it is asked for", _between(0, 8760)
    )


@dataclass(frozen=True, slots=True)
class Audit:
    to: str = _key(
        "file",
        "where the audit trail goes: file, stdout (an event a line), or none",
        _one_of("file", "stdout", "none"),
    )
    file: str = _key("", "the trail's file; empty is <data>/audit/audit.jsonl")
    rotate_mib: int = _key(64, "MiB after which the file makes way for a new one", _between(1, 65_536))
    keep: int = _key(10, "how many full files stay", _between(0, 10_000))
    required: bool = _key(False, "refuse writes (503) while their events cannot be written; reads go on")
    unauthenticated_mib: int = _key(
        64, "MiB of all files of events whose caller was not authenticated", _between(1, 65_536)
    )
    unauthenticated_per_second: float = _key(
        10.0, "such events written a second by each worker; the others are only counted", _between(0, 100_000)
    )


@dataclass(frozen=True, slots=True)
class Log:
    form: str = _key("auto", "json, console, or auto: console on a terminal", _one_of("auto", "json", "console"))
    level: str = _key("info", "the least important line that is written", _one_of("debug", "info", "warning", "error"))


@dataclass(frozen=True, slots=True)
class Config:
    """Everything in force. `sources`: where each given `section.key` came from; `warnings` are for the log."""

    server: Server
    storage: Storage
    cache: Cache
    metadata: Metadata
    registry: Registry
    quotas: QuotaSettings
    keys: Keys
    identity: Identity
    sts: Sts
    uploads: Uploads
    sweep: Sweep
    audit: Audit
    log: Log
    sources: Mapping[str, str]
    warnings: tuple[str, ...]


SECTIONS: dict[str, type[Any]] = {
    "server": Server,
    "storage": Storage,
    "cache": Cache,
    "metadata": Metadata,
    "registry": Registry,
    "quotas": QuotaSettings,
    "keys": Keys,
    "identity": Identity,
    "sts": Sts,
    "uploads": Uploads,
    "sweep": Sweep,
    "audit": Audit,
    "log": Log,
}
