"""/healthz, /readyz and /metrics, without authentication, so cheap and without a secret. Called by `router`."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping

from aiohttp import web

from proxy import observe
from proxy.model.errors import Failure

CHECK_SECONDS = 5.0  # after which a part that has not answered /readyz counts as not ready


async def healthz(request: web.Request) -> web.StreamResponse:
    """This worker's event loop runs. No other part is checked."""
    return web.Response(text="ok\n")


async def readyz(
    parts: Mapping[str, Callable[[], Awaitable[str | None]]], leaving: Callable[[], bool], request: web.Request
) -> web.StreamResponse:
    """Checks each part now: 200, or 503 with the reason of each that is not ready; 503 at once while draining.

    A load balancer so removes a draining server while it still serves. A ready part may have a warning: the text that
    its check returns. `?exclude=PART`, once or more, skips parts: for balancers that would remove every node when a
    shared part is down. An unknown part is 400, so that a typing error is found before an outage.
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
    except Exception as error:  # after any failure the part is not ready
        observe.log.exception("a readiness check failed")
        return False, type(error).__name__


async def metrics(request: web.Request) -> web.StreamResponse:
    """The metrics of all processes of this server, in Prometheus' text format."""
    text = await asyncio.to_thread(observe.render_metrics)
    return web.Response(body=text, headers={"Content-Type": observe.CONTENT_TYPE})
