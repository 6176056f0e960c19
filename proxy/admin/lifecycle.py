"""lifecycle run: one repository's lifecycle policy, carried out at once or only evaluated."""

from __future__ import annotations

import asyncio

from proxy.admin.session import CannotVisit, Say, existing, visiting
from proxy.app.audit import open_audit_log
from proxy.app.context import WorkerContext
from proxy.app.worker import lifecycle_run
from proxy.audit.trail import NoTrail, Trail
from proxy.config.settings import Config
from proxy.model.errors import Code, Failure

_NOT_THERE = (Code.REPOSITORY_NOT_FOUND, Code.LIFECYCLE_POLICY_NOT_FOUND)
_DONE = {"expire": "expired", "transition": "archived"}
_WHY = {
    "changed": "changed meanwhile",
    "subject": "its subject stays",
    "ImageReferencedByManifestList": "an index lists it",
}


def run(config: Config, account: str, repository: str, *, dry_run: bool, say: Say, hint: Say) -> int:
    """A line an image, and totals by `hint`; the exit status. `CannotVisit` where there is no policy."""

    async def work(context: WorkerContext, trail: Trail) -> int:
        found = lifecycle_run(config, context, trail)
        try:
            policy = await context.metadata.lifecycle_policy(account, repository)
        except Failure as failure:
            raise (CannotVisit(failure.message) if failure.code in _NOT_THERE else failure) from failure
        acted = kept = 0
        if dry_run:
            for mark in await found.marks(account, repository, policy):
                say(f"would be {_DONE[mark.action]}: {mark.digest} rule {mark.priority}")
                acted += 1
        else:
            async for outcome in found.run(account, repository, policy):
                if outcome.kept_for:
                    why = _WHY.get(outcome.kept_for, outcome.kept_for)
                    say(f"kept, {why}: {outcome.digest} rule {outcome.priority}")
                    kept += 1
                else:
                    say(f"{_DONE[outcome.action]}: {outcome.digest} rule {outcome.priority}")
                    acted += 1
        hint(f"{acted} images{' would go' if dry_run else ''}, {kept} kept")
        return 0

    async def audited() -> int:
        if dry_run or config.audit.to != "file":  # standard output is the server's
            return await visiting(config, lambda context: work(context, NoTrail()))
        async with open_audit_log(config, existing(config)) as trail:
            return await visiting(config, lambda context: work(context, trail))

    return asyncio.run(audited())
