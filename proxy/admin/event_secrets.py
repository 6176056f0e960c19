"""events secret: the secret that signs an account's events to webhooks, printed, made or rotated."""

from __future__ import annotations

import asyncio

from proxy.admin.audit_trail import audited
from proxy.admin.session import CannotVisit
from proxy.app.context import WorkerContext
from proxy.auth.event_secrets import PURPOSE, new_secret, open_event_secret, seal_event_secret
from proxy.config.settings import Config


def secret(config: Config, account: str | None, rotates: bool, keep_seconds: float) -> str:
    """The one in force afterwards. `CannotVisit` for an account that is not there."""
    number = account or config.registry.account

    async def run(context: WorkerContext) -> str:
        if not (await context.metadata.registry_access(number)).exists:
            raise CannotVisit(f"there is no account {number} here; `wharfage account list` names all")
        await context.agreement.begin(moving=True)
        sealer = context.agreement.sealer(PURPOSE)
        fresh = seal_event_secret(sealer, number, new_secret())
        found = await context.metadata.put_event_secret(number, fresh, rotates=rotates, keep_seconds=keep_seconds)
        return open_event_secret(sealer, number, found.sealed)

    operation = "RotateEventSecret" if rotates else "GetEventSecret"
    about = {"account": number}
    return asyncio.run(
        audited(config, number, operation, about, run, source="events", command="wharfage events secret")
    )
