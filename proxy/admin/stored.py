"""check and rewrap: verify stored data, or wrap its keys again."""

from __future__ import annotations

import asyncio
import secrets

from proxy.admin.session import Say, existing, name, shown, visiting
from proxy.app import stores
from proxy.app.context import WorkerContext
from proxy.auth import event_secrets as stored_event_secrets
from proxy.auth import secrets as stored_secrets
from proxy.blob.master_file import LOOK_SECONDS, MasterKeys
from proxy.config.settings import Config
from proxy.jobs import check as checking
from proxy.jobs import counts as counting
from proxy.jobs import quick as quick_check
from proxy.jobs import reseal as resealing
from proxy.jobs import rewrap as rewrapping
from proxy.runtime import data_directory

_KINDS = ("corrupt", "missing", "wrong_size", "headers", "unreadable", "quarantined", "orphans", "miscounted")


def check(config: Config, *, repair: bool, quick: bool, say: Say) -> int:
    """Verify every blob, or just its place and size; returns the exit status that `upkeep.check` gives."""

    async def run(own: WorkerContext) -> int:
        grace = config.sweep.grace_hours * 3600
        with shown() as on_progress:
            if quick:
                report = await quick_check.check_quickly(
                    own.metadata, own.store, repair=repair, grace=grace, now=own.metadata.now, progress=on_progress
                )
            else:
                report = await checking.check(
                    own.metadata,
                    own.store,
                    own.keys,
                    own.pool,
                    repair=repair,
                    grace=grace,
                    now=own.metadata.now,
                    progress=on_progress,
                )
            await counting.check_counts(own.metadata, report, repair=repair, progress=on_progress)
        for what in _KINDS:
            name(what.replace("_", " "), getattr(report, what), say)
        say(
            f"{report.ok} blobs ok ({report.ok_bytes:,} bytes), {report.damaged} damaged, "
            f"{report.unreadable.count} unreadable, {report.quarantined.count} quarantined, "
            f"{report.orphans.count} orphans, {report.in_grace.count} objects in their grace, "
            f"{report.miscounted.count} counters wrong"
        )
        if quick:
            say("listed only: objects are there and as long as their rows say; not one of their bytes was verified")
        if repair:
            say(
                f"repaired: {report.hidden} blobs hidden until they are pushed again, "
                f"{report.removed} orphans removed, {report.recounted} counters corrected"
            )
        elif report.miscounted.count:
            say("quotas use these counters: wharfage check --repair corrects them")
        return report.status

    stores.claim_store(config, existing(config))
    return asyncio.run(visiting(config, run))


def rewrap(config: Config, *, rotate: bool, reseal: bool, say: Say) -> int:
    """Wrap every data key by the provider in force, under a new master key (`rotate`) or the active one; with `reseal`,
    seal every blob anew."""
    running = bool(config.metadata.url) or data_directory.is_locked(existing(config))

    async def run(own: WorkerContext) -> int:
        await own.agreement.begin(moving=True)
        await _turn(config, own, rotate=rotate, running=running)
        if reseal:
            with shown() as on_progress:
                done = await resealing.reseal(
                    own.metadata,
                    own.store,
                    own.keys,
                    own.pool,
                    rotate=None,
                    new_key=lambda: secrets.token_hex(16),
                    progress=on_progress,
                )
            name("not resealed", done.failed, say)
            say(
                f"{done.resealed} blobs resealed ({done.resealed_bytes:,} bytes), {done.current} were already, "
                f"{done.changed} changed meanwhile, {done.quarantined} quarantined, {done.failed.count} failed"
                f"{_plain(done.plain)}"
            )
            return done.status
        with shown() as on_progress:
            report = await rewrapping.rewrap(
                own.metadata,
                own.keys,
                rotate=None,
                secrets=own.agreement.sealer(stored_secrets.PURPOSE),
                values=own.agreement.sealer(stored_secrets.VALUE_PURPOSE),
                event_secrets=own.agreement.sealer(stored_event_secrets.PURPOSE),
                progress=on_progress,
            )
        name("not rewrapped", report.failed, say)
        say(
            f"{report.rewrapped} data keys rewrapped, {report.current} were already, "
            f"{report.changed} changed meanwhile, {report.failed.count} failed; {report.secrets} secrets resealed"
            f"{_plain(report.plain)}"
        )
        return report.status

    if reseal:
        stores.claim_store(config, existing(config))
    return asyncio.run(visiting(config, run))


async def _turn(config: Config, own: WorkerContext, *, rotate: bool, running: bool) -> None:
    """Put a new key in force, or the one that the settings name. Every process that serves has it before it seals."""
    pause = LOOK_SECONDS + 1 if running else 0.0
    masters = await asyncio.to_thread(_file_in_force, config)
    if masters is None:
        to = await own.agreement.prepare(fresh=rotate)
        await asyncio.sleep(0 if to.active else pause)
        await own.agreement.move(to)
        return
    if rotate:
        added = await own.agreement.waiting() or (await asyncio.to_thread(masters.add)).name
        if added != masters.active.name:
            await asyncio.sleep(pause)
            await asyncio.to_thread(masters.activate, added)
    await own.agreement.look()
    await own.agreement.move(await own.agreement.prepare(fresh=False))
    await asyncio.sleep(pause)  # until then a worker of any node may still wrap a data key under the old one


def _file_in_force(config: Config) -> MasterKeys | None:
    return MasterKeys.load(existing(config).master_keys) if config.keys.provider == "local" else None


def _plain(count: int) -> str:
    """What becomes of blobs that are not sealed, if there are any."""
    return f"; {count} are stored without sealing and stay as they are" if count else ""
