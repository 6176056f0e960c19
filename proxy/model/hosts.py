"""Host names: which registry a request is for, and where a registry is reached.

    <account>.dkr.ecr.<region>.<suffix>                     the registry of an account
    ecr.<region>.<suffix>     api.ecr.<region>.<suffix>     the APIs, which find their account in the signature
    events.<region>.<suffix>
    sts.<suffix>              sts.<region>.<suffix>
    secretsmanager.<region>.<suffix>
    iam.<suffix>
    anything else             the default account's registry, and all APIs

Without a suffix there is only the last line. A host names one region: ours, or the request is refused. Must not know
HTTP.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from proxy.model.errors import Code, Failure

_REGISTRY = re.compile(r"(\d{12})\.dkr\.ecr\.([a-z0-9-]+)", re.ASCII)
_API = re.compile(r"(?:(?:api\.)?ecr|events|sts|secretsmanager)\.([a-z0-9-]+)", re.ASCII)
_PORT = re.compile(r"(?:[^:]+|\[[^\]]+\])(:\d{1,5})", re.ASCII)


@dataclass(frozen=True, slots=True)
class Hosts:
    """The names of one server. `account` is the default one; `suffix` has no dot before it, and may be empty."""

    account: str
    region: str
    suffix: str = ""

    def account_of(self, host: str) -> str:
        """The account whose registry a `Host` header means. InvalidParameter for one of another region."""
        if not self.suffix:
            return self.account
        name = self._below_suffix(host)
        registry = _REGISTRY.fullmatch(name)
        api = _API.fullmatch(name)
        region = registry[2] if registry else api[1] if api else self.region
        if region != self.region:
            raise Failure(
                Code.INVALID_PARAMETER,
                f"This server is the registry of the region {self.region}, not of {region}.",
                hint=f"use {registry[1] + '.dkr.ecr' if registry else 'ecr'}.{self.region}.{self.suffix}",
            )
        return registry[1] if registry else self.account

    def registry(self, account: str, port: str = "") -> str:
        """Where the registry of `account` is; the suffix must be set. `port` as `:5000`."""
        return f"{account}.dkr.ecr.{self.region}.{self.suffix}{port}"

    def certified(self) -> tuple[str, ...]:
        """The names that a certificate for this server must hold."""
        if not self.suffix:
            return ()
        apis = ("ecr.{}", "api.ecr.{}", "events.{}", "sts.{}", "secretsmanager.{}")
        return (
            f"*.dkr.ecr.{self.region}.{self.suffix}",
            *(f"{each.format(self.region)}.{self.suffix}" for each in apis),
            f"sts.{self.suffix}",
            f"iam.{self.suffix}",
        )

    def _below_suffix(self, host: str) -> str:
        """What stands before the suffix, in lower case; empty when the host does not end in it."""
        name = host.lower().removesuffix(port_of(host)).removesuffix(".")
        ending = f".{self.suffix}"
        return name.removesuffix(ending) if name.endswith(ending) else ""


def port_of(host: str) -> str:
    """`:5000` of `name:5000` and `[::1]:5000`; empty where there is none."""
    found = _PORT.fullmatch(host)
    return found[1] if found else ""
