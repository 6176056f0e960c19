"""`[pull_through]`: upstreams that rules may name beside ECR's own, how each is reached, and how each rule caches.

    [pull_through]
    upstreams = ["https://harbor.partner.example", {url = "http://127.0.0.1:5001", connections = 4}]

    [pull_through.rules."docker-hub"]
    refresh_seconds = 3600
    platforms = ["linux/amd64"]
    prefetch = ["library/nginx:stable"]

A rule names an upstream by its host, by HOST:PORT, or as it is written here. Part of `settings`; read by `app.mirror`
and `ecr.pull_through`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from proxy.config.setting import SettingTables, between, setting

_BOUNDS: Mapping[str, tuple[float, float]] = {
    "refresh_seconds": (0, 366 * 86_400),
    "stale_max_seconds": (0, 3660 * 86_400),
    "budget_floor": (0, 1_000_000),
    "bytes": (0, 2**60),
    "unused_days": (0, 3660),
}
_PLATFORM = re.compile(r"[a-z0-9._-]+/[a-z0-9._-]+(/[a-z0-9._-]+)?", re.ASCII)
_IMAGE = re.compile(r"[a-z0-9][a-z0-9._/-]*[a-z0-9](:\w[\w.-]{0,127})?", re.ASCII)
_NO_TABLES = SettingTables()
_URL = re.compile(r"(https?)://([a-z0-9]([a-z0-9.-]*[a-z0-9])?|\[[0-9a-f:]+\])(:([0-9]{1,5}))?/?", re.ASCII)
_PROXY = re.compile(r"https?://[^\s@/]+/?", re.ASCII)
_PORTS = {"https": 443, "http": 80}


@dataclass(frozen=True, slots=True)
class UpstreamSetting:
    """One entry. `url` has scheme and host, and a port that is not its scheme's own."""

    url: str
    ca_bundle: str = ""
    client_cert: str = ""
    proxy: str = ""
    connections: int = 0  # this and the next: 0 takes the value of [pull_through]
    requests_per_second: float = 0.0

    @property
    def host(self) -> str:
        """HOST, or HOST:PORT, as in rules."""
        return self.url.partition("://")[2]


def listed(upstreams: Iterable[UpstreamSetting], url: str) -> UpstreamSetting | None:
    """The entry of a rule's `upstreamRegistryUrl`."""
    for entry in upstreams:
        if url.rstrip("/") in (entry.host, entry.url, f"{entry.host}:{_PORTS[entry.url.partition(':')[0]]}"):
            return entry
    return None


def read_upstream(given: Any) -> UpstreamSetting:
    """An entry of the list, from a text or a table. ValueError with the reason if it is invalid."""
    table = {"url": given} if isinstance(given, str) else given
    if not isinstance(table, Mapping) or not isinstance(table.get("url"), str):
        raise ValueError('each entry must be "https://HOST[:PORT]", or a table with such a url')
    known = {field.name: field.default for field in fields(UpstreamSetting)}
    for key, value in table.items():
        if key not in known:
            raise ValueError(f"{key!r} is no key of an upstream: they are {', '.join(known)}")
        kind: Any = str if key == "url" else type(known[key])
        if not isinstance(value, (int, float) if kind is float else kind) or isinstance(value, bool):
            raise ValueError(f"{key} must be a {'text' if kind is str else 'number'}, not {value!r}")
    found = UpstreamSetting(**{**table, "url": _origin(table["url"])})
    if found.proxy and not _PROXY.fullmatch(found.proxy):
        raise ValueError("proxy must be http://HOST[:PORT], without user and password")
    if not 0 <= found.connections <= 1000:
        raise ValueError("connections must be between 0, for those of [pull_through], and 1000")
    if not 0 <= found.requests_per_second <= 1_000_000:
        raise ValueError("requests_per_second must be between 0, for those of [pull_through], and 1000000")
    return found


def read_upstreams(given: Any) -> tuple[UpstreamSetting, ...]:
    """The setting's value from the file or the environment. ValueError."""
    if not isinstance(given, list | tuple):
        raise ValueError("must be a list of texts and tables")
    found = tuple(map(read_upstream, given))
    hosts = [entry.host for entry in found]
    if len(set(hosts)) != len(hosts):
        raise ValueError("an upstream is listed once")
    return found


def _origin(text: str) -> str:
    matched = _URL.fullmatch(text.strip().lower())
    if matched is None or not 1 <= int(matched[5] or 1) <= 65_535:
        shown = text.rpartition("@")[2][:128]  # never a password
        raise ValueError(f"{shown!r} is not https://HOST[:PORT] or http://HOST[:PORT], without a path")
    scheme, host, port = matched[1], matched[2], int(matched[5] or 0)
    return f"{scheme}://{host}" + (f":{port}" if port and port != _PORTS[scheme] else "")


@dataclass(frozen=True, slots=True)
class RuleSetting:
    """The settings of one rule's prefix. `platforms` are os/architecture[/variant], `prefetch` REPO[:TAG] upstream."""

    refresh_seconds: float = 24 * 3600.0
    stale_max_seconds: float = 0.0
    budget_floor: int = 0
    platforms: tuple[str, ...] = ()
    prefetch: tuple[str, ...] = ()
    bytes: int = 0
    unused_days: float = 0.0


def rule_settings(tables: Mapping[str, Any]) -> Callable[[str], RuleSetting]:
    """Returns the settings of a prefix, with or without a `/` at its end, from `PullThroughSettings.rules`."""

    def read(keys: Mapping[str, Any]) -> RuleSetting:
        given: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in keys.items()}
        return RuleSetting(**given)

    found = {prefix.rstrip("/"): read(keys) for prefix, keys in tables.items()}
    return lambda prefix: found.get(prefix.rstrip("/"), RuleSetting())


def _rules(tables: Any) -> str | None:
    known = [field.name for field in fields(RuleSetting)]
    for prefix, keys in tables.items():
        if not isinstance(keys, dict):
            return f'{prefix!r} must be a table, written [pull_through.rules."{prefix}"]'
        for key, value in keys.items():
            if key not in known:
                return f"{prefix!r}: {key!r} is none of {', '.join(known)}"
            if complaint := _complaint(key, value):
                return f"{prefix!r}: {key} {complaint}"
    return None


def _complaint(key: str, value: Any) -> str | None:
    if key in _BOUNDS:
        low, high = _BOUNDS[key]
        if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
            return f"must be a number between {low:g} and {high:g}"
        return None
    form, what = (_PLATFORM, "os/architecture") if key == "platforms" else (_IMAGE, "the upstream's REPO[:TAG]")
    if not isinstance(value, list) or not all(isinstance(each, str) and form.fullmatch(each) for each in value):
        return f"must be a list of texts, each {what}"
    return None


@dataclass(frozen=True, slots=True)
class PullThroughSettings:
    upstreams: tuple[UpstreamSetting, ...] = setting(
        (),
        "registries that pull-through cache rules may name beyond ECR's list: https://HOST[:PORT], or http:// where "
        "the network is trusted; or tables with url, ca_bundle, client_cert, proxy, connections, requests_per_second",
        read=read_upstreams,
    )
    connections: int = setting(
        16, "most layers at once from one upstream with one credential, of a worker", between(1, 1000)
    )
    requests_per_second: float = setting(
        0.0, "most requests a second to one upstream with one credential, of a worker; 0: no limit", between(0, 1e6)
    )
    early_ranges: bool = setting(
        True, "ranges of a layer that is still coming are served before its digest is known to be right"
    )
    rules: SettingTables = setting(  # noqa: RUF009  # the default is never changed
        _NO_TABLES,
        "by a rule's prefix: refresh_seconds (86400) after which a tag is checked upstream, stale_max_seconds (0: any) "
        "for which it is served past that while the upstream cannot be asked, budget_floor (0) of requests that the "
        "upstream must have left for checks, platforms ([]) of an index whose images are fetched with it, prefetch "
        "([]) of images that are kept fresh, bytes (0: any) of its images' layers, unused_days (0: any) after "
        "which an image that was not pulled is removed",
        _rules,
    )
    interval_seconds: float = setting(
        300.0, "how often images of rules are refreshed and caches trimmed", between(1, 86_400)
    )
