"""From `[archive]` to what moves layers there and back."""

from __future__ import annotations

import secrets

from proxy import observe
from proxy.app.context import WorkerContext
from proxy.jobs.archive import Archiving
from proxy.storage.tiered import TieredStore


def make_archiving(context: WorkerContext) -> Archiving | None:
    """None where `[archive]` names no place: the class is a mark then."""
    if not isinstance(context.store, TieredStore):
        observe.log.info(
            "[archive] names no place: the storage class of images is a mark, and archived layers stay where they are"
        )
        return None
    return Archiving(context.metadata, context.store, new_key=lambda: secrets.token_hex(16))
