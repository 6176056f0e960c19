"""Reads the settings: one TOML file, `WHARFAGE_<SECTION>_<KEY>`, flags; later ones win. Called by `cli` and `admin`.

Promises: every key is a field of a frozen dataclass of `settings`; an unknown key or a bad value is a `ConfigError`
that names its place and the nearest known key. The only module that reads settings from the environment. Must not know
what a setting is used for.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from proxy.config.outbound_proxies import read_proxies
from proxy.config.plaintext import plaintext_connections
from proxy.config.setting import SettingTables
from proxy.config.settings import SECTIONS, Config, KeySettings
from proxy.model.errors import OperatorError

PREFIX = "WHARFAGE_"

# Not settings: the choice of the speedups' implementation, and the path of the settings file.
_OTHER_VARIABLES = {"WHARFAGE_PURE", "WHARFAGE_CONFIG"}
_ALIASES = {
    "WHARFAGE_ACCESS_KEY_ID": ("keys", "access_key_id"),
    "WHARFAGE_SECRET_ACCESS_KEY": ("keys", "secret_access_key"),
}


class ConfigError(OperatorError):
    """A setting that cannot be used; the text names file (or variable, or flag), key and remedy."""

    exit_status = 2


def _masked(secret: str) -> str:
    """A secret for display: of a URL all but user, password and query, of anything else nothing."""
    scheme, found, rest = secret.partition("://")
    return f"{scheme}://***@{rest.rpartition('@')[2].partition('?')[0]}" if found else "***"


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

    try:
        proxies = read_proxies(environ)
    except ValueError as error:
        raise ConfigError(f"environment: {error}") from None
    config = Config(
        **{
            section: kind(**{f.name: values.get(f"{section}.{f.name}", f.default) for f in dataclasses.fields(kind)})
            for section, kind in SECTIONS.items()
        },
        sources=sources,
        warnings=tuple(warnings),
        proxies=proxies,
    )
    _check_together(config, environ)
    return config


def describe(config: Config) -> str:
    """All settings as TOML, with the source of each value beside it; secrets masked."""
    lines: list[str] = []
    for section, kind in SECTIONS.items():
        lines.append(f"[{section}]")
        for f in dataclasses.fields(kind):
            value = getattr(getattr(config, section), f.name)
            shown = json.dumps(
                _masked(value) if f.metadata["secret"] and value else value, ensure_ascii=False, default=_as_table
            )
            source = config.sources.get(f"{section}.{f.name}", "default")
            lines.append(f"{f.name} = {shown}".ljust(44) + f"  # {source}; {f.metadata['meaning']}")
        lines.append("")
    return "\n".join(lines)


def _as_table(value: Any) -> dict[str, Any]:
    """An entry of a list of tables, without default values; secrets (hidden by its repr) are masked."""
    given = {f: getattr(value, f.name) for f in dataclasses.fields(value)}
    return {f.name: each if f.repr else _masked(each) for f, each in given.items() if each != f.default}


def _read_file(file: Path) -> dict[str, Any]:
    try:
        document = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: is not TOML: {error}") from error
    found: dict[str, Any] = {}
    for section, keys in document.items():
        if section not in SECTIONS:
            raise ConfigError(f"{file}: [{section}]: no such section{_nearest(section, SECTIONS)}")
        of_section = dataclasses.fields(SECTIONS[section])
        if isinstance(keys, list) and len(of_section) == 1:
            keys = {of_section[0].name: keys}  # [[mirror]]: a section that is a list of tables
        if not isinstance(keys, dict):
            raise ConfigError(f"{file}: {section}: must be a section, written [{section}]")
        known = [f.name for f in of_section]
        for key, value in keys.items():
            if key not in known:
                elsewhere = [
                    f"[{s}] {f.name}" for s, k in SECTIONS.items() for f in dataclasses.fields(k) if f.name == key
                ]
                hint = f"; it belongs to {' or '.join(elsewhere)}" if elsewhere else _nearest(key, known)
                raise ConfigError(f"{file}: [{section}] {key}: no such key{hint}")
            found[f"{section}.{key}"] = value
    return found


def _field(name: str) -> dataclasses.Field[Any]:
    section, _, key = name.partition(".")
    return next(f for f in dataclasses.fields(SECTIONS[section]) if f.name == key)


def _checked(name: str, value: Any, where: str) -> Any:
    """The value in its field's type, or a ConfigError that begins with `where`."""
    row = _field(name)
    kind = type(row.default)
    shown = "" if row.metadata["secret"] else f", not {value!r}"
    if row.metadata["read"] is not None:
        try:
            return row.metadata["read"](value)
        except ValueError as error:
            raise ConfigError(f"{where}: {error}") from None
    if kind is float and type(value) is int:
        value = float(value)
    if kind is tuple and isinstance(value, list | tuple) and all(isinstance(item, str) for item in value):
        value = tuple(value)
    if kind is SettingTables and isinstance(value, dict):
        value = SettingTables(value)
    if type(value) is not kind:
        words = {
            SettingTables: "a table",
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
    if kind is SettingTables:
        return text  # only a file has tables
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


def _check_together(config: Config, environ: Mapping[str, str]) -> None:
    server, keys, storage = config.server, config.keys, config.storage
    if storage.backend == "s3" and not storage.bucket:
        raise ConfigError('[storage] bucket: backend = "s3" needs the name of one')
    of_s3 = [
        f"{section}.{f.name}"
        for section in ("storage", "cache")
        for f in dataclasses.fields(SECTIONS[section])
        if f.metadata["meaning"].startswith("s3:")
    ]
    misplaced = [name for name in of_s3 if name in config.sources] if storage.backend != "s3" else []
    if misplaced:
        raise ConfigError(f'[{misplaced[0].replace(".", "] ")}: goes with [storage] backend = "s3" only')
    if storage.redirect and storage.backend != "s3":
        raise ConfigError('[storage] redirect: clients are sent to a bucket: set backend = "s3", or leave it out')
    if storage.redirect and storage.sealing != "none":
        raise ConfigError(
            '[storage] redirect: clients cannot open sealed objects: set sealing = "none" as well, or leave it out'
        )
    if config.audit.required and config.audit.to == "none":
        raise ConfigError('[audit] required: there is no log to require: set to = "file" or "stdout"')
    if storage.public_endpoint and not storage.redirect:
        raise ConfigError("[storage] public_endpoint: goes with redirect = true only")
    if bool(storage.access_key_id) != bool(storage.secret_access_key):
        raise ConfigError("[storage] access_key_id and secret_access_key go together: one of them is missing")
    if storage.backend == "s3" and storage.buffers_mib < 2 * storage.part_mib:
        raise ConfigError("[storage] buffers_mib: must hold two parts of part_mib: one is sent while another fills")
    _check_archive(config)
    if bool(server.tls_cert) != bool(server.tls_key):
        raise ConfigError("[server] tls_cert and tls_key go together: one of them is missing")
    if server.tls_cert and server.tls_self_signed:
        raise ConfigError("[server] tls_self_signed makes its own certificate: leave tls_cert and tls_key out")
    if bool(keys.access_key_id) != bool(keys.secret_access_key):
        raise ConfigError("WHARFAGE_ACCESS_KEY_ID and WHARFAGE_SECRET_ACCESS_KEY go together: one of them is missing")
    if keys.provider == "kms" and not keys.key_id:
        raise ConfigError('[keys] key_id: provider = "kms" needs the id, ARN or alias of a key')
    of_kms = [
        f.name
        for f in dataclasses.fields(KeySettings)
        if f.metadata["meaning"].startswith("kms:") and f.name != "key_id"
    ]
    misplaced = [name for name in of_kms if f"keys.{name}" in config.sources] if not keys.key_id else []
    if misplaced:
        raise ConfigError(f"[keys] {misplaced[0]}: goes with key_id, the KMS key")
    if bool(keys.kms_access_key_id) != bool(keys.kms_secret_access_key):
        raise ConfigError("[keys] kms_access_key_id and kms_secret_access_key go together: one of them is missing")
    quotas = config.quotas
    if not quotas.layer_part_min_mib <= quotas.layer_part_mib <= quotas.layer_part_max_mib:
        raise ConfigError("[quotas] layer_part_mib: must be between layer_part_min_mib and layer_part_max_mib")
    rated = [each.partition("=")[0] for each in quotas.rates]
    if len(set(rated)) != len(rated):
        raise ConfigError("[quotas] rates: an operation has one rate at most")
    if config.metadata.path and config.metadata.database:
        raise ConfigError("[metadata] path names a SQLite file and database a PostgreSQL: leave one of them out")
    metadata = config.metadata
    if bool(metadata.tls_cert) != bool(metadata.tls_key):
        raise ConfigError("[metadata] tls_cert and tls_key go together: one of them is missing")
    urls = [each.strip() for each in metadata.url.split(",") if each.strip().startswith("http")]
    if config.server.advertise and len(metadata.secret) < 16:
        raise ConfigError("[server] advertise: nodes show each other [metadata] secret, of at least 16 characters")
    if (metadata.listen or urls) and len(metadata.secret) < 16:
        raise ConfigError("[metadata] secret: a metadata service on TCP needs one of at least 16 characters")
    if config.registry.region in {peer.region for peer in config.peers.entries}:
        raise ConfigError(f"[[peers]] {config.registry.region}: that is [registry] region, this installation's own")
    for complaint in plaintext_connections(config, environ):
        raise ConfigError(complaint)


def _check_archive(config: Config) -> None:
    archive, storage = config.archive, config.storage
    if archive.path and archive.bucket:
        raise ConfigError("[archive] path names a folder and bucket a bucket: leave one of them out")
    if archive.bucket and storage.backend != "s3":
        raise ConfigError('[archive] bucket: it is reached as [storage] is: set backend = "s3" there, or name a path')
    if (archive.prefix or archive.storage_class) and not archive.bucket:
        raise ConfigError("[archive] prefix and storage_class go with bucket: name one")
    if archive.bucket and (archive.bucket, archive.prefix) == (storage.bucket, storage.prefix):
        raise ConfigError("[archive] prefix: bucket and prefix are those of [storage]: name another place")
    own = Path(storage.path or Path(config.server.data) / "objects")
    if archive.path and storage.backend == "filesystem" and Path(archive.path) == own:
        raise ConfigError("[archive] path is the folder of [storage]: name another one")


def _variables() -> dict[str, str]:
    found = {
        f"{PREFIX}{s}_{f.name}".upper(): f"{s}.{f.name}"
        for s, kind in SECTIONS.items()
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
