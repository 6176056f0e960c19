"""Commands that change who may do what are in the audit trail of the machine that they ran on, as calls are."""

from __future__ import annotations

import getpass
import os
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import TypeVar

from proxy.admin.session import CannotVisit, existing, visiting
from proxy.app.audit import open_audit_log
from proxy.app.context import WorkerContext
from proxy.audit.events import AuditEvent, ExternalIdentity
from proxy.config.settings import Config
from proxy.model.errors import Failure

T = TypeVar("T")


async def audited(
    config: Config,
    account: str,
    operation: str,
    parameters: Mapping[str, str],
    run: Callable[[WorkerContext], Awaitable[T]],
    *,
    source: str = "organizations",
    command: str = "wharfage account",
) -> T:
    """`run` in rooms; its event is written in the end, whatever came of it. `account` is the one concerned. Failure
    before anything is done, where the log is required and cannot be written."""
    if config.audit.to != "file":  # standard output is the server's
        return await visiting(config, run)
    async with open_audit_log(config, existing(config)) as trail:
        await trail.require()
        error, message = "InternalFailure", ""
        try:
            found = await visiting(config, run)
            error = ""
            return found
        except (CannotVisit, Failure) as refused:
            error, message = "Refused", str(refused)
            raise
        finally:
            await trail.record(
                AuditEvent(
                    source=source,
                    name=operation,
                    caller=ExternalIdentity("AWSService", (("invokedBy", command), ("userName", _user()))),
                    account=account,
                    region=config.registry.region,
                    moment=time.time(),
                    source_ip="",
                    user_agent=command,
                    request_id="",
                    read_only=False,
                    error=error,
                    message=message,
                    parameters=dict(parameters),
                )
            )


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a user id without a name, as in a container
        return f"uid {os.getuid()}"
