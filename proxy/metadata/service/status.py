"""`/readyz` and `/metrics` of a metadata service, for operators and orchestrators.

Open to all, as a node's are: a probe has no secret, and neither shows rows. Used by `service`. Must not know rows.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from aiohttp import web
from sqlalchemy import text

from proxy import observe
from proxy.metadata.db.store import Store
from proxy.metadata.db.transaction import Transaction
from proxy.model.errors import Failure

CHECK_SECONDS = 5.0  # after which the database counts as not ready


def add_routes(app: web.Application, store: Store, warnings: Callable[[], Sequence[str]]) -> None:
    async def readyz(request: web.Request) -> web.Response:
        """200 when the database answers, else 503 with the reason; both with warnings."""
        reason = await _database(store)
        body = {"ready": reason is None, "database": reason or "ok", "warnings": list(warnings())}
        return web.json_response(body, status=200 if reason is None else 503)

    async def metrics(request: web.Request) -> web.Response:
        content = await asyncio.to_thread(observe.render_metrics)
        return web.Response(body=content, headers={"Content-Type": observe.CONTENT_TYPE})

    app.router.add_get("/readyz", readyz)
    app.router.add_get("/metrics", metrics)


async def _database(store: Store) -> str | None:
    """Why the database is not ready; None when it is."""
    try:
        async with asyncio.timeout(CHECK_SECONDS):
            await store.read(_look)
    except TimeoutError:
        return f"no answer within {CHECK_SECONDS:g} s"
    except Failure as failure:
        return failure.message
    return None


def _look(tx: Transaction) -> None:
    tx.connection.execute(text("SELECT 1"))
