"""What this server was told: one TOML file, `WHARFAGE_<SECTION>_<KEY>`, flags; later ones win.

Promises: every key is a field of a frozen dataclass below, with its default, its meaning and its bounds; an unknown key
or a bad value is a `ConfigError` that names where it stands and the nearest known key. The one module that reads the
environment. Must not know what a setting is used for.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import os
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

PREFIX = "WHARFAGE_"

# Read elsewhere or by the shell, and so not settings: the choice of twin, the file's own place.
_OTHER_VARIABLES = {"WHARFAGE_PURE", "WHARFAGE_CONFIG"}
_ALIASES = {
    "WHARFAGE_ACCESS_KEY_ID": ("keys", "access_key_id"),
    "WHARFAGE_SECRET_ACCESS_KEY": ("keys", "secret_access_key"),
}


class ConfigError(Exception):
    """A setting that cannot be used; the text names file (or variable, or flag), key and what to do."""


def _between(low: float, high: float) -> Callable[[Any], str | None]:
    return lambda value: None if low <= value <= high else f"must be between {low:g} and {high:g}"


def _matches(pattern: str, what: str) -> Callable[[Any], str | None]:
    return lambda value: None if re.fullmatch(pattern, value, re.ASCII) else f"must be {what}"


def _one_of(*values: str) -> Callable[[Any], str | None]:
    return lambda value: None if value in values else f"must be one of {', '.join(values)}"


def _key(default: Any, meaning: str, check: Callable[[Any], str | None] | None = None, *, secret: bool = False) -> Any:
    return field(default=default, metadata={"meaning": meaning, "check": check, "secret": secret})


def _masked(secret: str) -> str:
    """What may be shown of a secret: of a URL all but user, password and query, of anything else nothing."""
    scheme, found, rest = secret.partition("://")
    return f"{scheme}://***@{rest.rpartition('@')[2].partition('?')[0]}" if found else "***"


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
    drain_seconds: float = _key(30.0, "how long running requests may go on after SIGTERM", _between(0, 86_400))
    header_seconds: float = _key(10.0, "in which a request's whole header must come", _between(0.1, 3600))
    body_seconds: float = _key(
        60.0, "how long a body, sent or taken, may stand still before it is cut", _between(0.1, 3600)
    )
    keepalive_seconds: float = _key(75.0, "how long an idle connection stays open", _between(0, 86_400))


@dataclass(frozen=True, slots=True)
class Storage:
    backend: str = _key("filesystem", "where sealed objects lie", _one_of("filesystem", "s3"))
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
    region: str = _key("us-east-1", "s3: the region in signatures", _matches(r"[\w-]{1,64}", "a region's name"))
    access_key_id: str = _key("", "s3: empty takes the usual AWS chain (environment, profile, role)")
    secret_access_key: str = _key("", "s3: goes with access_key_id", secret=True)
    addressing: str = _key("path", "s3: path (HOST/bucket) or virtual (bucket.HOST)", _one_of("path", "virtual"))
    ca_bundle: str = _key("", "s3: PEM file of the authorities that vouch for https endpoints; empty is the system's")
    checksum: str = _key("crc32", "s3: what the store verifies: crc32, or md5 for older ones", _one_of("crc32", "md5"))
    part_mib: int = _key(8, "s3: MiB of a part; 10,000 of them are the largest layer", _between(5, 1024))
    buffers_mib: int = _key(64, "s3: MiB of parts that a worker holds at most, sent or filling", _between(5, 65_536))


@dataclass(frozen=True, slots=True)
class Metadata:
    url: str = _key(
        "",
        "the metadata service: unix:PATH or http://HOST:PORT; empty is the one this server runs",
        _matches(r"((unix:|https?://).+)?", "unix:PATH or http://HOST:PORT"),
    )
    listen: str = _key(
        "",
        "for `wharfage metadata`: HOST:PORT instead of the socket under <data>/run",
        lambda v: _ADDRESS(v) if v else None,
    )
    secret: str = _key("", "shared by proxies and service on TCP; at least 16 characters", secret=True)
    path: str = _key("", "the SQLite file; empty is <data>/metadata.db")
    database: str = _key(
        "",
        "a PostgreSQL instead of the SQLite file: postgresql://USER:PASSWORD@HOST/NAME?sslmode=verify-full",
        _matches(r"(postgres(ql)?://\S+)?", "a URL that begins with postgresql://"),
        secret=True,
    )


@dataclass(frozen=True, slots=True)
class Registry:
    account: str = _key("123456789012", "the registry's account, 12 digits", _matches(r"\d{12}", "12 digits"))
    region: str = _key(
        "us-east-1", "the region in ARNs and signatures", _matches(r"[a-z]{2}(-[a-z]+)+-\d", "an AWS region's name")
    )
    create_on_push: bool = _key(True, "a push to a repository that does not exist creates it")


@dataclass(frozen=True, slots=True)
class Keys:
    file: str = _key("", "the master keys; empty is <data>/keys/master.json")
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
class Uploads:
    idle_hours: float = _key(24.0, "after which an untouched upload session is swept", _between(0.0001, 8760))


@dataclass(frozen=True, slots=True)
class Sweep:
    interval_seconds: float = _key(600.0, "between two rounds of the sweep", _between(0.1, 86_400))
    grace_hours: float = _key(
        24.0, "a blob that nothing uses is kept so long; renewed when it is asked for", _between(0, 8760)
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
    metadata: Metadata
    registry: Registry
    keys: Keys
    uploads: Uploads
    sweep: Sweep
    log: Log
    sources: Mapping[str, str]
    warnings: tuple[str, ...]


_SECTIONS: dict[str, type[Any]] = {
    "server": Server,
    "storage": Storage,
    "metadata": Metadata,
    "registry": Registry,
    "keys": Keys,
    "uploads": Uploads,
    "sweep": Sweep,
    "log": Log,
}


def load(
    file: Path | None = None,
    flags: Mapping[str, Any] | None = None,
    environ: Mapping[str, str] | None = None,
) -> Config:
    """Read `file` (or what WHARFAGE_CONFIG names), then the environment, then `flags` (`section.key` → value or None).

    Raises `ConfigError`. An unknown WHARFAGE_ variable is only a warning: orchestrators set such names by themselves
    (Kubernetes: WHARFAGE_PORT, WHARFAGE_SERVICE_HOST for a service called wharfage).
    """
    environ = os.environ if environ is None else environ
    if file is None and environ.get("WHARFAGE_CONFIG"):
        file = Path(environ["WHARFAGE_CONFIG"])
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}
    warnings: list[str] = []

    def put(name: str, value: Any, source: str) -> None:
        values[name], sources[name] = value, source

    if file is not None:
        for name, value in _read_file(file).items():
            put(name, _checked(name, value, f"{file}: [{name.replace('.', '] ', 1)}"), f"file {file}")
    for variable in sorted(name for name in environ if name.startswith(PREFIX)):
        known = _variables().get(variable)
        if known is not None:
            put(
                known,
                _checked(known, _from_text(known, environ[variable], variable), variable),
                f"environment {variable}",
            )
        elif variable not in _OTHER_VARIABLES:
            warnings.append(f"{variable} is not a setting{_nearest(variable, [*_variables(), *_OTHER_VARIABLES])}")
    for name, value in (flags or {}).items():
        if value is not None:
            put(name, _checked(name, value, _flag(name)), f"flag {_flag(name)}")

    config = Config(
        **{
            section: kind(**{f.name: values.get(f"{section}.{f.name}", f.default) for f in dataclasses.fields(kind)})
            for section, kind in _SECTIONS.items()
        },
        sources=sources,
        warnings=tuple(warnings),
    )
    _check_together(config)
    return config


def describe(config: Config) -> str:
    """What is in force, as TOML with the source of each value beside it; secrets masked."""
    lines: list[str] = []
    for section, kind in _SECTIONS.items():
        lines.append(f"[{section}]")
        for f in dataclasses.fields(kind):
            value = getattr(getattr(config, section), f.name)
            shown = json.dumps(_masked(value) if f.metadata["secret"] and value else value, ensure_ascii=False)
            source = config.sources.get(f"{section}.{f.name}", "default")
            lines.append(f"{f.name} = {shown}".ljust(44) + f"  # {source}; {f.metadata['meaning']}")
        lines.append("")
    return "\n".join(lines)


def _read_file(file: Path) -> dict[str, Any]:
    try:
        document = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: is not TOML: {error}") from error
    found: dict[str, Any] = {}
    for section, keys in document.items():
        if section not in _SECTIONS:
            raise ConfigError(f"{file}: [{section}]: no such section{_nearest(section, _SECTIONS)}")
        if not isinstance(keys, dict):
            raise ConfigError(f"{file}: {section}: must be a section, written [{section}]")
        known = [f.name for f in dataclasses.fields(_SECTIONS[section])]
        for key, value in keys.items():
            if key not in known:
                elsewhere = [
                    f"[{s}] {f.name}" for s, k in _SECTIONS.items() for f in dataclasses.fields(k) if f.name == key
                ]
                hint = f"; it belongs to {' or '.join(elsewhere)}" if elsewhere else _nearest(key, known)
                raise ConfigError(f"{file}: [{section}] {key}: no such key{hint}")
            found[f"{section}.{key}"] = value
    return found


def _field(name: str) -> dataclasses.Field[Any]:
    section, _, key = name.partition(".")
    return next(f for f in dataclasses.fields(_SECTIONS[section]) if f.name == key)


def _checked(name: str, value: Any, where: str) -> Any:
    """The value in its field's type, or a ConfigError that begins with `where`."""
    row = _field(name)
    kind = type(row.default)
    shown = "" if row.metadata["secret"] else f", not {value!r}"
    if kind is float and type(value) is int:
        value = float(value)
    if kind is tuple and isinstance(value, list | tuple) and all(isinstance(item, str) for item in value):
        value = tuple(value)
    if type(value) is not kind:
        words = {
            str: "a string",
            int: "a whole number",
            float: "a number",
            bool: "true or false",
            tuple: "a list of strings",
        }
        raise ConfigError(f"{where}: must be {words[kind]}{shown}")
    check = row.metadata["check"]
    complaint = check(value) if check is not None else None
    if complaint is not None:
        raise ConfigError(f"{where}: {complaint}{shown}")
    return value


def _from_text(name: str, text: str, where: str) -> Any:
    kind: type[Any] = type(_field(name).default)
    if kind is str:
        return text
    if kind is tuple:
        return tuple(item.strip() for item in text.split(",") if item.strip())
    if kind is bool:
        found = {
            "true": True,
            "1": True,
            "yes": True,
            "on": True,
            "false": False,
            "0": False,
            "no": False,
            "off": False,
        }
        return found.get(text.strip().lower(), text)
    try:
        return int(text) if kind is int else float(text)
    except ValueError:
        return text  # of the wrong type: `_checked` says so, naming the place


def _check_together(config: Config) -> None:
    server, keys, storage = config.server, config.keys, config.storage
    if storage.backend == "s3" and not storage.bucket:
        raise ConfigError('[storage] bucket: backend = "s3" needs the name of one')
    of_s3 = [f"storage.{f.name}" for f in dataclasses.fields(Storage) if f.metadata["meaning"].startswith("s3:")]
    misplaced = [name for name in of_s3 if name in config.sources] if storage.backend != "s3" else []
    if misplaced:
        raise ConfigError(f'[storage] {misplaced[0].partition(".")[2]}: goes with backend = "s3" only')
    if bool(storage.access_key_id) != bool(storage.secret_access_key):
        raise ConfigError("[storage] access_key_id and secret_access_key go together: one of them is missing")
    if storage.backend == "s3" and storage.buffers_mib < 2 * storage.part_mib:
        raise ConfigError("[storage] buffers_mib: must hold two parts of part_mib: one is sent while another fills")
    if bool(server.tls_cert) != bool(server.tls_key):
        raise ConfigError("[server] tls_cert and tls_key go together: one of them is missing")
    if server.tls_cert and server.tls_self_signed:
        raise ConfigError("[server] tls_self_signed makes its own certificate: leave tls_cert and tls_key out")
    if bool(keys.access_key_id) != bool(keys.secret_access_key):
        raise ConfigError("WHARFAGE_ACCESS_KEY_ID and WHARFAGE_SECRET_ACCESS_KEY go together: one of them is missing")
    if config.metadata.path and config.metadata.database:
        raise ConfigError("[metadata] path names a SQLite file and database a PostgreSQL: leave one of them out")
    tcp = config.metadata.listen or config.metadata.url.startswith("http")
    if tcp and len(config.metadata.secret) < 16:
        raise ConfigError("[metadata] secret: a metadata service on TCP needs one of at least 16 characters")


def _variables() -> dict[str, str]:
    found = {
        f"{PREFIX}{s}_{f.name}".upper(): f"{s}.{f.name}"
        for s, kind in _SECTIONS.items()
        for f in dataclasses.fields(kind)
    }
    return found | {variable: ".".join(name) for variable, name in _ALIASES.items()}


def _flag(name: str) -> str:
    return "--" + name.partition(".")[2].replace("_", "-")


def _nearest(word: str, known: Any) -> str:
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return (
        f"; did you mean {close[0]}?"
        if close
        else f"; known are {', '.join(sorted(known))}"
        if len(list(known)) < 16
        else ""
    )
