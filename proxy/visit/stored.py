"""check and rewrap: what is stored, looked through or wrapped anew."""

from __future__ import annotations

import asyncio
import secrets
import time

from proxy import server, stores
from proxy.blob.keys import MasterKeys
from proxy.settings import Config
from proxy.upkeep import check as checking
from proxy.upkeep import reseal as resealing
from proxy.upkeep import rewrap as rewrapping
from proxy.visit.visiting import Say, existing, name, shown, visiting


def check(config: Config, *, repair: bool, say: Say) -> int:
    """Verify every blob; returns the exit status that `upkeep.check` gives."""

    async def run(own: server.Rooms, masters: MasterKeys) -> int:
        with shown() as tell:
            report = await checking.check(
                own.metadata,
                own.store,
                own.keys,
                own.pool,
                repair=repair,
                grace=config.sweep.grace_hours * 3600,
                now=time.time,
                progress=tell,
            )
        for what in ("corrupt", "missing", "wrong_size", "headers", "unreadable", "quarantined", "orphans"):
            name(what.replace("_", " "), getattr(report, what), say)
        say(
            f"{report.ok} blobs ok ({report.ok_bytes:,} bytes), {report.damaged} damaged, "
            f"{report.unreadable.count} unreadable, {report.quarantined.count} quarantined, "
            f"{report.orphans.count} orphans, {report.in_grace.count} objects in their grace"
        )
        if repair:
            say(f"repaired: {report.hidden} blobs hidden until they are pushed again, {report.removed} orphans removed")
        return report.status

    stores.claim_store(config, existing(config))
    return asyncio.run(visiting(config, run))


def rewrap(config: Config, *, rotate: bool, reseal: bool, say: Say) -> int:
    """Wrap every data key under a new master key (`rotate`) or the active one; with `reseal`, seal every blob anew."""

    async def run(own: server.Rooms, masters: MasterKeys) -> int:
        turn = masters.rotate if rotate else None
        if reseal:
            with shown() as tell:
                done = await resealing.reseal(
                    own.metadata,
                    own.store,
                    own.keys,
                    own.pool,
                    rotate=turn,
                    new_key=lambda: secrets.token_hex(16),
                    progress=tell,
                )
            name("not resealed", done.failed, say)
            say(
                f"{done.resealed} blobs sealed anew ({done.resealed_bytes:,} bytes), {done.current} were already, "
                f"{done.changed} changed meanwhile, {done.quarantined} quarantined, {done.failed.count} failed"
            )
            return done.status
        with shown() as tell:
            report = await rewrapping.rewrap(own.metadata, own.keys, rotate=turn, progress=tell)
        name("not rewrapped", report.failed, say)
        say(
            f"{report.rewrapped} data keys wrapped anew, {report.current} were already, "
            f"{report.changed} changed meanwhile, {report.failed.count} failed"
        )
        return report.status

    if reseal:
        stores.claim_store(config, existing(config))
    return asyncio.run(visiting(config, run))
