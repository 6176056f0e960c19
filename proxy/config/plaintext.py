"""Finds connections that leave this machine without TLS: to metadata services, other nodes, PostgreSQL, S3 and KMS.

`loader` refuses them at start unless the section has `plaintext = true`: they carry data keys, layers of
`sealing = "none"`, signatures, and every row with its secrets' ciphertexts. Loopback and unix sockets do not leave the
machine; a name other than localhost may resolve to anything. Must not open a connection or look up a name.

libpq's default (`sslmode=prefer`) falls back to plaintext, so PostgreSQL counts as encrypted from `require` on. Only
`verify-full` authenticates the server.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Mapping
from urllib.parse import parse_qs, unquote, urlsplit

from proxy.config.settings import Config

_ENCRYPTED_MODES = ("require", "verify-ca", "verify-full")


def plaintext_connections(config: Config, environ: Mapping[str, str]) -> Iterator[str]:
    """A message for each such connection that is not allowed: its setting, its target, the remedy. `environ` has
    libpq's variables, which count if the URL has no such parameter."""
    if not config.metadata.plaintext:
        yield from _bare_metadata(config)
        yield from _bare_advertise(config.server.advertise)
        host = is_plaintext_postgresql(config.metadata.database, environ) if config.metadata.database else None
        if host is not None:
            yield (
                f"[metadata] database: {host} is reached without TLS: add sslmode=verify-full to its URL (with "
                "sslrootcert, if the authority is yours), or set plaintext = true where the network encrypts"
            )
    if config.storage.backend == "s3" and not config.storage.plaintext:
        for name in ("endpoint", "public_endpoint"):
            yield from _bare_endpoint("storage", name, getattr(config.storage, name))
    if config.keys.key_id and not config.keys.plaintext:
        yield from _bare_endpoint("keys", "endpoint", config.keys.endpoint)


def _bare_metadata(config: Config) -> Iterator[str]:
    metadata = config.metadata
    urls = [("url", each.strip()) for each in metadata.url.split(",")] + [("advertise", metadata.advertise)]
    for name, url in urls:
        if _is_bare(url):
            yield (
                f"[metadata] {name}: {url} leaves this machine without TLS, and the secret does not encrypt: use "
                "https:// (with ca_bundle, if the authority is yours), or plaintext = true where the network encrypts"
            )
    if metadata.listen and not metadata.tls_cert and not is_loopback(_host(f"//{metadata.listen}")):
        yield (
            f"[metadata] listen: {metadata.listen} is reached from other machines, and the secret does not "
            "encrypt: give tls_cert and tls_key, or plaintext = true where the network encrypts"
        )


def _bare_advertise(url: str) -> Iterator[str]:
    if _is_bare(url):
        yield (
            f"[server] advertise: {url} is reached without TLS, and nodes send the secret of [metadata] there: use "
            "https:// (with [metadata] ca_bundle, if the authority is yours), or [metadata] plaintext = true where the "
            "network encrypts"
        )


def _bare_endpoint(section: str, name: str, url: str) -> Iterator[str]:
    if _is_bare(url):
        own = " (with ca_bundle, if the authority is yours)" if section == "storage" else ""
        yield (
            f"[{section}] {name}: {url} leaves this machine without TLS: use https://{own}, or set plaintext = true "
            "where the network encrypts"
        )


def _is_bare(url: str) -> bool:
    return url.startswith("http:") and not is_loopback(_host(url))


def is_plaintext_postgresql(url: str, environ: Mapping[str, str]) -> str | None:
    """The first host of libpq's URL that is reached without TLS; None if there is none.

    Source: PostgreSQL, "Connection URIs" (several hosts, a socket's directory, `host` and `hostaddr` as parameters) and
    "Environment Variables".
    """
    try:
        parts = urlsplit(url)
    except ValueError:  # brackets that hold no address
        return "its host"
    given = {name: values[-1] for name, values in parse_qs(parts.query, keep_blank_values=True).items()}
    if given.get("sslmode", environ.get("PGSSLMODE", "prefer")) in _ENCRYPTED_MODES:
        return None
    if given.get("sslrootcert", environ.get("PGSSLROOTCERT", "")) == "system":  # libpq then requires verify-full
        return None
    if given.get("gssencmode", environ.get("PGGSSENCMODE", "")) == "require":
        return None
    if service := given.get("service", environ.get("PGSERVICE", "")):
        return f"the service {service}, of which this cannot be seen,"
    written = [unquote(each) for each in parts.netloc.rpartition("@")[2].split(",")]  # no password, however odd
    named = given["host"].split(",") if given.get("host") else [_without_port(each) for each in written]
    if not any(named):
        named = environ.get("PGHOST", "").split(",")
    addresses = given.get("hostaddr", environ.get("PGHOSTADDR", "")).split(",")
    hosts = addresses if any(addresses) else named  # libpq connects to the addresses, and takes names for certificates
    bare = [host for host in hosts if host and not host.startswith(("/", "@")) and not is_loopback(host)]
    return bare[0] if bare else None  # an empty one is the socket's directory


def is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _host(url: str) -> str:
    """The host of a URL; empty for none, as in `:5050`, which is every address of the machine."""
    try:
        return urlsplit(url).hostname or ""
    except ValueError:  # brackets that hold no address
        return ""


def _without_port(host: str) -> str:
    if host.startswith("["):
        return host.partition("]")[0][1:]
    return host.partition(":")[0] if not host.startswith("/") else host
