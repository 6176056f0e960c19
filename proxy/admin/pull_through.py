"""pull-through test: what a pull through a rule meets at its upstream."""

from __future__ import annotations

import asyncio
import contextlib
import time

from proxy.admin.session import CannotVisit, Say, visiting
from proxy.app.context import WorkerContext
from proxy.app.mirror import credentials_of, upstream_of
from proxy.config.settings import Config
from proxy.upstream import trial
from proxy.upstream.client import UpstreamClient


def test(config: Config, prefix: str, image: str, *, account: str, say: Say) -> int:
    """Ask the upstream of the rule with that prefix for an image by its name there; the exit status."""
    repository, reference = _parsed(image)

    async def run(own: WorkerContext) -> int:
        await own.agreement.begin(moving=True)
        rules = await own.metadata.pull_through_rules(account or config.registry.account)
        rule = next((each for each in rules if each.prefix.rstrip("/") == prefix.rstrip("/")), None)
        if rule is None:
            known = ", ".join(each.prefix for each in rules) or "none"
            raise CannotVisit(f"there is no pull-through cache rule {prefix!r}; there are: {known}")
        upstream = upstream_of(config.pull_through)(rule.upstream_url)
        credential = await credentials_of(config, own)(rule)
        say(f"{rule.prefix}: {upstream.base}, {'as ' + credential.username if credential else 'without credentials'}")

        def note(kind: str, outcome: str, seconds: float) -> None:
            if kind == "token":
                say(f"  token     {seconds * 1000:8.1f} ms  {outcome}")

        failed = False
        async with UpstreamClient(upstream, credential, clock=time.monotonic, note=note) as client:
            async with contextlib.aclosing(trial.steps(client, repository, reference)) as found:
                async for step in found:
                    say(f"  {step.name:<9} {step.seconds * 1000:8.1f} ms  {step.said}")
                    failed = step.failed
            if client.budget.remaining is not None:
                say(f"  budget    {client.budget.remaining} of {client.budget.limit} requests left")
        return 1 if failed else 0

    return asyncio.run(visiting(config, run))


def _parsed(image: str) -> tuple[str, str]:
    repository, at, digest = image.partition("@")
    if at:
        return repository, digest
    name, colon, tag = image.rpartition(":")
    return (name, tag) if colon and "/" not in tag else (image, "latest")
