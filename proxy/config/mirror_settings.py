"""`[[mirror]]`: hosts at which clients find upstreams' images under the upstreams' own names.

    [[mirror]]
    host = "docker.mirror.example"
    rule = "docker-hub"
    ns = ["docker.io"]
    principal = "arn:aws:iam::123456789012:role/mirror"
    networks = ["10.0.0.0/8"]

A host may have several entries, each with an `ns` of its own. Read by `oci.mirror_hosts`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from proxy.config.setting import networks as bad_networks
from proxy.config.setting import setting

_HOST = re.compile(r"([a-z0-9]([a-z0-9.-]*[a-z0-9])?|\[[0-9a-f:]+\])(:[0-9]{1,5})?", re.ASCII)
_ROLE = re.compile(r"arn:aws:iam::([0-9]{12}):role/([\x21-\x7e]+/)?[\w+=,.@-]{1,64}", re.ASCII)


@dataclass(frozen=True, slots=True)
class MirrorEntry:
    """`host` has a port only if it must match that port alone. `principal` is a role's ARN, and then `networks` is not
    empty; without one, each pull needs credentials."""

    host: str
    rule: str
    ns: tuple[str, ...] = ()
    principal: str = ""
    networks: tuple[str, ...] = ()

    @property
    def account(self) -> str:
        """The principal's account; empty without one."""
        found = _ROLE.fullmatch(self.principal)
        return found[1] if found else ""


def read_entry(given: Any) -> MirrorEntry:
    """An entry from its table. ValueError with the reason if it is invalid."""
    if not isinstance(given, Mapping):
        raise ValueError("must be tables, each written [[mirror]]")
    known = {field.name for field in fields(MirrorEntry)}
    if unknown := [key for key in given if key not in known]:
        raise ValueError(f"{unknown[0]!r} is no key of a mirror: they are {', '.join(sorted(known))}")
    for key in ("host", "rule", "principal"):
        if not isinstance(given.get(key, ""), str):
            raise ValueError(f"{key} must be a text, not {given[key]!r}")
    for key in ("ns", "networks"):
        values = given.get(key, [])
        if not isinstance(values, list | tuple) or not all(isinstance(each, str) for each in values):
            raise ValueError(f"{key} must be a list of texts, not {values!r}")
    entry = MirrorEntry(
        given.get("host", "").strip().lower(),
        given.get("rule", "").rstrip("/"),
        tuple(each.lower() for each in given.get("ns", ())),
        given.get("principal", ""),
        tuple(given.get("networks", ())),
    )
    if not _HOST.fullmatch(entry.host):
        raise ValueError(f"host must be HOST or HOST:PORT, not {entry.host!r}")
    if not entry.rule:
        raise ValueError(f"{entry.host}: rule must be the prefix of a pull-through cache rule")
    if any(not _HOST.fullmatch(each) for each in entry.ns):
        raise ValueError(f"{entry.host}: ns must be hosts such as docker.io")
    if entry.principal and not _ROLE.fullmatch(entry.principal):
        raise ValueError(f"{entry.host}: principal must be a role, such as arn:aws:iam::123456789012:role/mirror")
    if bool(entry.principal) != bool(entry.networks):
        raise ValueError(f"{entry.host}: principal and networks go together: who pulls without credentials, from where")
    if complaint := bad_networks(entry.networks):
        raise ValueError(f"{entry.host}: networks: {complaint}")
    return entry


def read_entries(given: Any) -> tuple[MirrorEntry, ...]:
    """The setting's value from the file's tables. ValueError."""
    if not isinstance(given, list | tuple):
        raise ValueError("must be tables, each written [[mirror]]")
    found = tuple(map(read_entry, given))
    named = [(entry.host, each) for entry in found for each in (entry.ns or ("",))]
    for host, each in named:
        if named.count((host, each)) > 1:
            raise ValueError(f"{host}: two rules for {f'the namespace {each}' if each else 'requests of no ns'}")
    return found


@dataclass(frozen=True, slots=True)
class MirrorSettings:
    entries: tuple[MirrorEntry, ...] = setting(
        (),
        "hosts that serve images of a pull-through cache rule under their upstream's names, each a table [[mirror]]: "
        "host, rule (its prefix), ns (the upstream's names, as containerd says them), principal (a role that pulls "
        "without credentials count as), networks (from where); only a file has them",
        read=read_entries,
    )
