"""`[[peers]]`: installations that images are replicated to, each the registry of a region.

    [[peers]]
    region = "eu-west-1"
    url = "https://registry.eu.example"
    access_key_id = "AKIA…"
    secret_access_key = "…"
    accounts = {"111122223333" = "444455556666"}

Read by `app.replication`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from proxy.config.setting import SettingTables, setting

_REGION = re.compile(r"[0-9a-z-]{2,25}", re.ASCII)
_ACCOUNT = re.compile(r"[0-9]{12}", re.ASCII)
_URL = re.compile(r"(https?)://([A-Za-z0-9._-]+|\[[0-9A-Fa-f:]+\])(:[0-9]{1,5})?/?", re.ASCII)
_SAME_NUMBERS = SettingTables()
_LOOPBACK = re.compile(r"127(\.[0-9]{1,3}){3}|localhost|\[::1\]", re.ASCII)


@dataclass(frozen=True, slots=True)
class PeerSetting:
    """One entry. `accounts` maps account ids here to those there; an account that is not listed has the same id there.
    `connections` and `bytes_per_second` (0: no limit) are of one worker."""

    region: str
    url: str
    access_key_id: str
    secret_access_key: str = field(repr=False)
    ca_bundle: str = ""
    accounts: SettingTables = _SAME_NUMBERS
    connections: int = 8
    bytes_per_second: int = 0

    def account_there(self, account: str) -> str:
        return str(self.accounts.get(account, account))


_KEYS = tuple(each.name for each in fields(PeerSetting))
_NEEDED = ("region", "url", "access_key_id", "secret_access_key")
_NUMBERS = {"connections": (1, 1000), "bytes_per_second": (0, 2**50)}


def read_peer(given: Any) -> PeerSetting:
    """An entry from its table. ValueError with the reason if it is invalid, never with a secret."""
    if not isinstance(given, Mapping):
        raise ValueError("must be tables, each written [[peers]]")
    if unknown := [key for key in given if key not in _KEYS]:
        raise ValueError(f"{unknown[0]!r} is no key of a peer: they are {', '.join(_KEYS)}")
    for key in _NEEDED:
        if not isinstance(given.get(key), str) or not given[key]:
            raise ValueError(f"a peer needs {key}, a text")
    region, url = given["region"], given["url"]
    if not _REGION.fullmatch(region):
        raise ValueError(f"region {region[:40]!r} must be 2 to 25 of 0-9, a-z and -")
    found = _URL.fullmatch(url)
    if found is None:
        raise ValueError(f"{region}: url must be https://HOST[:PORT], without user, password or path")
    if found[1] == "http" and not _LOOPBACK.fullmatch(found[2]):
        raise ValueError(f"{region}: url: http:// is not encrypted, and is for loopback addresses only")
    accounts = given.get("accounts", {})
    numbers = [str(each) for pair in accounts.items() for each in pair] if isinstance(accounts, Mapping) else [""]
    if not all(_ACCOUNT.fullmatch(each) for each in numbers):
        raise ValueError(f'{region}: accounts must be a table such as {{"111122223333" = "444455556666"}}')
    for key, (low, high) in _NUMBERS.items():
        value = given.get(key, low)
        if type(value) is not int or not low <= value <= high:
            raise ValueError(f"{region}: {key} must be a whole number between {low} and {high}")
    if not isinstance(given.get("ca_bundle", ""), str):
        raise ValueError(f"{region}: ca_bundle must be a file's name")
    return PeerSetting(**{**given, "url": url.rstrip("/"), "accounts": SettingTables(accounts)})


def read_peers(given: Any) -> tuple[PeerSetting, ...]:
    """The setting's value from the file's tables. ValueError."""
    if not isinstance(given, list | tuple):
        raise ValueError("must be tables, each written [[peers]]")
    found = tuple(map(read_peer, given))
    regions = [peer.region for peer in found]
    for region in regions:
        if regions.count(region) > 1:
            raise ValueError(f"{region}: a region has one peer")
    return found


@dataclass(frozen=True, slots=True)
class PeersSettings:
    entries: tuple[PeerSetting, ...] = setting(
        (),
        "installations of other regions that images are replicated to, each a table [[peers]]: region, "
        "url, ca_bundle, access_key_id and secret_access_key (of a user there), accounts (numbers here = "
        "numbers there), connections (8) and bytes_per_second (0: no cap) of a worker; only a file has them",
        read=read_peers,
    )
