"""Counts of requests come into the metrics together, none is lost, and clients cannot create entries."""

from __future__ import annotations

import asyncio

from proxy import observe
from proxy.http.access_log import SETTLE_SECONDS, RequestCounters


def counted(method: str, status: str) -> float:
    return float(observe.metrics.http_requests.labels("tallied", method, status)._value.get())


def running() -> float:
    return float(observe.metrics.http_requests_running._value.get())


async def test_requests_are_counted_within_the_settle_time() -> None:
    counters, before, at_rest = RequestCounters(), counted("GET", "200"), running()
    for _ in range(3):
        counters.begin()
    for _ in range(2):
        counters.end("tallied", "GET", 200, 0.01)
    await asyncio.sleep(SETTLE_SECONDS * 2)
    assert (counted("GET", "200") - before, running() - at_rest) == (2, 1)
    counters.end("tallied", "GET", 200, 0.01)
    counters.settle()
    assert (counted("GET", "200") - before, running() - at_rest) == (3, 0)


async def test_methods_that_clients_make_up_share_one_count_and_create_no_entry() -> None:
    counters, before = RequestCounters(), counted("other", "405")
    for number in range(5):
        counters.begin()
        counters.end("tallied", f"METHOD{number}", 405, 0.01)
    counters.settle()
    assert counted("other", "405") - before == 5
    assert counters._tallies == {}
