"""The clients of upstreams, one for each credential; and what their failures mean here.

    the upstream                    the response to a pull
    404                             404, ECR's text: `Requested image not found`
    401, 403, a private address     403, with upstream and rule, never the secret
    429, or our own limit           429 with its seconds
    anything else, or nothing       503 with seconds, unless a stale image is served instead

A negative response is remembered for `NEGATIVE_SECONDS`, for this version of the rule and this login: after a change of
rule or secret the upstream is called again at once. Called by its neighbours and `mirror`. Must not know where rules
and secrets are stored.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable

from yarl import URL

from proxy import observe
from proxy.model.errors import Code, Failure
from proxy.model.lru import Lru
from proxy.model.pull_through import PullThroughRule, upstream_repository
from proxy.upstream.client import Upstream, UpstreamClient, UpstreamLogin
from proxy.upstream.errors import UpstreamFailed, UpstreamReason

NEGATIVE_SECONDS = 60.0
PROBE_SECONDS = 20.0  # of a validation, which a client of the API waits for
NEGATIVES = 4096  # remembered by a worker
CLIENTS = 256  # of a worker; past it the least recently used is closed
RETRY_SECONDS = 5.0  # of a 503 for which the upstream gave no time

Credentials = Callable[[PullThroughRule], Awaitable[UpstreamLogin | None]]
"""The login of a rule; a Failure if its secret cannot be read."""


class Upstreams:
    """One worker's clients. `settings` returns the settings of an upstream by its host[:port] or URL."""

    def __init__(
        self, settings: Callable[[str], Upstream], credentials: Credentials, clock: Callable[[], float]
    ) -> None:
        self._settings = settings
        self._credentials = credentials
        self._clock = clock
        self._clients = Lru[Hashable, UpstreamClient](CLIENTS)
        self._negative = Lru[Hashable, tuple[float, Failure]](NEGATIVES)

    async def client(self, rule: PullThroughRule) -> UpstreamClient:
        upstream = self._settings(rule.upstream_url)
        credential = await self._credentials(rule)
        name = (upstream.base, credential)
        found = self._clients.get(name)
        if found is None:
            old = self._clients.popitem()[1] if len(self._clients) >= CLIENTS else None
            found = self._clients[name] = UpstreamClient(
                upstream,
                credential,
                clock=self._clock,
                note=_noted(upstream.base),
                received=observe.metrics.mirror_bytes.labels(upstream.base.host or "").inc,
            )
            if old is not None:
                await old.__aexit__()
        return found

    async def probe(self, rule: PullThroughRule) -> str:
        """Check that the rule's upstream is a registry and accepts its credential. Empty if so; else the reason.

        Failure if the rule's secret cannot be read."""
        client = await self.client(rule)
        try:
            async with asyncio.timeout(PROBE_SECONDS):
                await client.ping()
        except UpstreamFailed as failed:
            nothing = Failure(Code.IMAGE_NOT_FOUND, f"There is no registry at {rule.upstream_url}")
            return told(rule, failed, missing=nothing).message
        except TimeoutError:
            return f"No answer was given by the upstream registry {rule.upstream_url} in {PROBE_SECONDS:.0f} seconds"
        return ""

    async def close(self) -> None:
        for client in self._clients.values():
            await client.__aexit__()
        self._clients.clear()

    async def require(self, rule: PullThroughRule, repository: str, reference: str) -> None:
        """Raise the remembered failure, if its time is not over and the rule's secret is the same."""
        if not self._negative:
            return
        name = _name(rule, await self._credentials(rule), repository, reference)
        until, failure = self._negative.get(name, (0.0, None))
        if failure is not None:
            if self._clock() < until:
                raise failure
            del self._negative[name]

    def remember(
        self, rule: PullThroughRule, repository: str, reference: str, failed: UpstreamFailed, failure: Failure
    ) -> Failure:
        """Remember `failure`, the meaning of `failed`, if a repeated request would fail alike. Returns it."""
        if failure.code in _LASTING:
            name = _name(rule, failed.asked_as, repository, reference)
            self._negative[name] = (self._clock() + NEGATIVE_SECONDS, failure)
        return failure


def told(rule: PullThroughRule, failed: UpstreamFailed, *, missing: Failure) -> Failure:
    """The failure of a pull for an upstream's failure; `missing` if the upstream has no such thing."""
    where = f"the upstream registry {rule.upstream_url} of the pull through cache rule '{rule.prefix}'"
    if failed.reason is UpstreamReason.MISSING:
        return missing
    if failed.reason is UpstreamReason.DENIED:
        return Failure(
            Code.UPSTREAM_ACCESS_DENIED, f"Access was denied by {where}", hint=f"{failed.kind}: {failed.said}"
        )
    seconds = failed.seconds or RETRY_SECONDS
    if failed.reason is UpstreamReason.LIMITED:
        return Failure(Code.UPSTREAM_TOO_MANY_REQUESTS, f"Too many requests to {where}", seconds=seconds)
    if failed.reason is UpstreamReason.WRONG:
        return Failure(
            Code.UPSTREAM_UNAVAILABLE,
            f"A wrong answer was given by {where}",
            hint=f"{failed.kind}: {failed.said}",
            seconds=seconds,
            wrong="yes",
        )
    return Failure(
        Code.UPSTREAM_UNAVAILABLE, f"No answer was given by {where}", hint=f"{failed.kind}: {failed.said}",
        seconds=seconds,
    )  # fmt: skip


def upstream_name(rule: PullThroughRule, repository: str) -> str:
    return upstream_repository(rule, repository)


_LASTING = frozenset({Code.IMAGE_NOT_FOUND, Code.LAYERS_NOT_FOUND, Code.UPSTREAM_ACCESS_DENIED})


def _name(rule: PullThroughRule, login: object, repository: str, reference: str) -> Hashable:
    return rule.account, rule.prefix, rule.updated_at, login, repository, reference


def _noted(base: URL) -> Callable[[str, str, float], None]:
    host = base.host or ""

    def note(kind: str, outcome: str, seconds: float) -> None:
        observe.metrics.upstream_requests.labels(host, kind, outcome).inc()
        observe.metrics.upstream_seconds.labels(host, kind).observe(seconds)

    return note
