"""pull-through test, refresh: what a pull through a rule meets at its upstream, and a look at it now."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Sequence
from pathlib import Path

from proxy.admin.session import CommandRefused, Say, existing, visiting
from proxy.app.context import WorkerContext
from proxy.app.mirror import credentials_of, open_mirror, upstream_of
from proxy.config.settings import Config
from proxy.jobs.warm import Reference, parse_reference
from proxy.model.errors import Code, Failure
from proxy.registry.mirror.mirror import Mirror
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
            raise CommandRefused(f"there is no pull-through cache rule {prefix!r}; there are: {known}")
        upstream = upstream_of(config)(rule.upstream_url)
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


def refresh(config: Config, references: Sequence[str], *, account: str, say: Say) -> int:
    """Ask the upstreams about tags now; the exit status. CommandRefused for what names no tag."""
    parsed = [parse_reference(text) for text in references]
    for reference in parsed:
        if not reference.name or ":" in reference.name:
            raise CommandRefused(f"{reference}: name a tag, as REPO:TAG; an image by its digest never changes")

    async def run(own: WorkerContext) -> int:
        await own.agreement.begin(moving=True)
        status = 0
        async with open_mirror(config, own, Path(existing(config).metadata_socket).parent) as mirror:
            for reference in parsed:
                done, text = await _refreshed(own, mirror, account or config.registry.account, reference)
                say(f"{reference}: {text}")
                status |= not done
        return status

    return asyncio.run(visiting(config, run))


async def _refreshed(own: WorkerContext, mirror: Mirror, account: str, reference: Reference) -> tuple[bool, str]:
    """Whether the upstream was asked, and what is to be said."""
    before = ""
    try:
        with contextlib.suppress(Failure):
            before = (await own.metadata.manifest(account, reference.repository, reference.name)).digest
        found = await mirror.refresh(account, reference.repository, reference.name)
    except Failure as failure:
        missing = failure.code is Code.IMAGE_NOT_FOUND
        return (
            False,
            "the upstream has no such image" if missing else f"{failure.message}. {failure.hint or ''}".strip(),
        )
    if found is None:
        return False, "stays as it is: it was pushed or moved here, and is not the upstream's any more"
    if found.digest == before:
        return True, f"{before}, unchanged"
    return True, f"{found.digest}, {f'was {before}' if before else 'new'}"


def _parsed(image: str) -> tuple[str, str]:
    repository, at, digest = image.partition("@")
    if at:
        return repository, digest
    name, colon, tag = image.rpartition(":")
    return (name, tag) if colon and "/" not in tag else (image, "latest")
