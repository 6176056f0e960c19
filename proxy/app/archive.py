"""Builds, from `[archive]`, the job that moves layers to the archive and back. Called by `worker`."""

from __future__ import annotations

import secrets

from proxy import observe
from proxy.app.context import WorkerContext
from proxy.jobs.archive import Archiving
from proxy.storage.tiered import TieredStore


def make_archiving(context: WorkerContext) -> Archiving | None:
    """None if `[archive]` names no place: then the storage class is only recorded."""
    if not isinstance(context.store, TieredStore):
        observe.log.info(
            "[archive] names no place: the storage class of images is a mark, and archived layers stay where they are"
        )
        return None
    return Archiving(context.metadata, context.store, new_key=lambda: secrets.token_hex(16))
