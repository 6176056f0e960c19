"""Checks, before any outage, that this service can reach the others: without that there is no `outage_grace`.

Grace needs an answer of every other registered service (`outage`), over TLS and with the shared secret as a rule. A
missing authority, name or port would show only when the database is gone, too late to mend it. So each service asks
each other one soon after either has started, and now and then: obstacles are logged with a hint, counted in a metric,
and shown by /readyz. Run by `membership`. Must not know how the database is reached.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import aiohttp

from proxy import observe
from proxy.metadata.cluster.outage import OutageGrace, PeerRefused

ROUND_SECONDS = 2.0
SETTLE_SECONDS = 5.0  # a service is registered some moments before it listens, and for some after it has ended
RECHECK_SECONDS = 30.0  # after which a service that answered is asked once more
_HOSTNAME_MISMATCH = 62  # OpenSSL's X509_V_ERR_HOSTNAME_MISMATCH; 64 is of an address
_ADDRESS_MISMATCH = 64


@dataclass(frozen=True, slots=True)
class Obstacle:
    """Why a service cannot be asked, and what to do about it."""

    service: str
    reason: str
    hint: str


@dataclass(slots=True)
class _Seen:
    """`since` is when the first failure was, `at` the last question."""

    at: float
    since: float | None = None
    obstacle: Obstacle | None = None


class Reachability:
    """`run` for the life of a service. `others` gives the registered services' addresses by registration, or None while
    the database is not reached; `own` is the address that this service gives."""

    def __init__(
        self, grace: OutageGrace, own: str, others: Callable[[], Mapping[str, str] | None], clock: Callable[[], float]
    ) -> None:
        self._grace = grace
        self._own = own
        self._others = others
        self._clock = clock
        self._seen: dict[str, _Seen] = {}
        self._logged: set[Obstacle] = set()

    async def run(self) -> None:
        while True:
            await self.check()
            await asyncio.sleep(ROUND_SECONDS)

    async def check(self) -> None:
        """Ask those that are due, and log what has changed."""
        others = self._others()
        if others is None:
            return
        now = self._clock()
        self._seen = {each: seen for each, seen in self._seen.items() if each in others}
        due = [
            each
            for each in others
            if (seen := self._seen.get(each)) is None or seen.since is not None or now - seen.at >= RECHECK_SECONDS
        ]
        for each, obstacle in zip(due, await asyncio.gather(*(self._ask(others[each]) for each in due)), strict=True):
            before = self._seen.get(each)
            since = None if obstacle is None else now if before is None or before.since is None else before.since
            self._seen[each] = _Seen(now, since, obstacle)
        self._log_changes()

    def obstacles(self) -> Sequence[Obstacle]:
        """Those that have lasted."""
        now = self._clock()
        return [
            seen.obstacle
            for seen in self._seen.values()
            if seen.obstacle is not None and seen.since is not None and now - seen.since >= SETTLE_SECONDS
        ]

    def warnings(self) -> Sequence[str]:
        """For /readyz."""
        found = [f"no outage_grace: {each.service} cannot be asked: {each.reason}" for each in self.obstacles()]
        if self._seen and not self._own:
            found.append("no outage_grace: the other metadata services cannot ask this one, which gives no address")
        return found

    def _log_changes(self) -> None:
        found = set(self.obstacles())
        observe.metrics.metadata_unasked_services.set(len(found))
        for each in found - self._logged:
            observe.log.warning(
                "there is no outage_grace: this metadata service cannot ask another one",
                service=each.service,
                reason=each.reason,
                hint=each.hint,
            )
        if self._logged and not found:
            observe.log.info("this metadata service can ask every other one: outage_grace is there")
        self._logged = found

    async def _ask(self, address: str) -> Obstacle | None:
        if not address:
            hint = "give it [metadata] listen, or advertise where it listens on all addresses"
            return Obstacle("another metadata service", "it gives no address", hint)
        try:
            await self._grace.ask(address, {"of": ""})
        except Exception as error:  # any failure would prevent grace
            return Obstacle(address, *_explain(error))
        return None


def _explain(error: Exception) -> tuple[str, str]:
    """Reason and hint."""
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        found = error.certificate_error
        code = found.verify_code if isinstance(found, ssl.SSLCertVerificationError) else 0
        if code in (_HOSTNAME_MISMATCH, _ADDRESS_MISMATCH):
            return (
                "its certificate is for another name",
                "its [metadata] advertise (else its listen) must be a name that tls_cert is for",
            )
        return (
            "its certificate is of an authority that this service does not know",
            "give this service, as nodes, [metadata] ca_bundle: the authority that signed the services' certificates",
        )
    if isinstance(error, aiohttp.ClientConnectorSSLError):
        return "it does not speak TLS there", "its [metadata] advertise says https://, so it needs tls_cert and tls_key"
    if isinstance(error, PeerRefused):
        return f"it refuses: {error}", "all services and nodes need the same [metadata] secret"
    if isinstance(error, aiohttp.ClientConnectionError):
        reason = str(error) or type(error).__name__
        return reason, "its [metadata] advertise (else its listen) must be where other services reach it"
    if isinstance(error, TimeoutError):
        return "it does not answer in time", "is a firewall between them, or is it overloaded?"
    return f"what answers there is no metadata service ({type(error).__name__})", "look at its [metadata] advertise"
