"""What operators and load balancers ask: /healthz, /readyz, /metrics. Open to all, so cheap and without a secret."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping

from aiohttp import web

from proxy import observe
from proxy.model.errors import Failure

CHECK_SECONDS = 5.0  # after which /readyz calls a part that has not answered not ready


async def healthz(request: web.Request) -> web.StreamResponse:
    """This worker's loop turns. Says nothing of what lies behind it."""
    return web.Response(text="ok\n")


async def readyz(
    parts: Mapping[str, Callable[[], Awaitable[str | None]]], leaving: Callable[[], bool], request: web.Request
) -> web.StreamResponse:
    """Each part asked now: 200, or 503 with the reason of each that is not ready; 503 at once when it leaves.

    A load balancer that asks takes the draining server out while it still serves. A part that is ready may have a word
    to say as well: what its check returns. `?exclude=PART`, once or more: not asked. For balancers that would take out
    every node when a part is away that all of them share; a name that is no part's is 400, not an outage's surprise.
    """
    if leaving():
        return web.json_response({"ready": False, "server": "draining"}, status=503)
    excluded = request.query.getall("exclude", [])
    if not parts.keys() >= set(excluded):
        return web.json_response({"ready": False, "exclude": f"knows {', '.join(parts)}"}, status=400)
    asked = [name for name in parts if name not in excluded]
    found = dict(zip(asked, await asyncio.gather(*(_state(parts[name]) for name in asked)), strict=True))
    ready = all(well for well, _ in found.values())
    states = {name: found[name][1] if name in found else "not asked" for name in parts}
    return web.json_response({"ready": ready, **states}, status=200 if ready else 503)


async def _state(check: Callable[[], Awaitable[str | None]]) -> tuple[bool, str]:
    try:
        async with asyncio.timeout(CHECK_SECONDS):
            return True, await check() or "ok"
    except TimeoutError:
        return False, f"no answer within {CHECK_SECONDS:g} s"
    except Failure as failure:
        return False, f"{failure.message} ({failure.hint})" if failure.hint else failure.message
    except Exception as error:  # whatever a part fails with, the probe's answer is that it is not ready
        observe.log.exception("a readiness check failed")
        return False, type(error).__name__


async def metrics(request: web.Request) -> web.StreamResponse:
    """Prometheus' text, over all processes of this server."""
    text = await asyncio.to_thread(observe.render_metrics)
    return web.Response(body=text, headers={"Content-Type": observe.CONTENT_TYPE})
