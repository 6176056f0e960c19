"""Events of unauthenticated requests: an output of their own, sampled, counted, and never in the way of others."""

from __future__ import annotations

import asyncio
import json
import threading
from typing import Any

from proxy.audit.sampling import Sampler
from proxy.audit.trail import OMITTED, PENDING_MAX, WrittenTrail
from support.audit_examples import CREATED

NOBODY = CREATED._replace(caller=None, error="Unauthorized")


class Written:
    """What one output took; `held` keeps it from going on."""

    def __init__(self) -> None:
        self.lines: list[dict[str, Any]] = []
        self.held = threading.Event()
        self.held.set()

    def write(self, lines: bytes) -> None:
        assert self.held.wait(10)
        self.lines += [json.loads(line) for line in lines.splitlines()]

    @property
    def omitted(self) -> int:
        return sum(each["requestParameters"]["omittedEvents"] for each in self.lines if each["eventName"] == OMITTED)


def test_a_sampler_takes_ten_seconds_of_its_rate_at_once_and_then_the_rate() -> None:
    now = 0.0
    sampler = Sampler(5, lambda: now)
    assert sum(sampler.take() for _ in range(100)) == 50
    now = 2.0
    assert sum(sampler.take() for _ in range(100)) == 10
    now = 1e6
    assert sum(sampler.take() for _ in range(100)) == 50


async def test_events_without_a_caller_go_to_an_output_of_their_own() -> None:
    main, other = Written(), Written()
    trail = WrittenTrail(main.write, write_unauthenticated=other.write)
    await trail.note(NOBODY)
    await trail.record(NOBODY)
    await trail.record(CREATED)
    await asyncio.to_thread(trail.close)
    assert [each["userIdentity"]["type"] for each in main.lines] == ["IAMUser"]
    assert [each["userIdentity"]["type"] for each in other.lines] == ["Unknown", "Unknown"]


async def test_a_flood_is_sampled_and_what_was_omitted_is_counted() -> None:
    main, other = Written(), Written()
    trail = WrittenTrail(main.write, write_unauthenticated=other.write, per_second=0.5)
    for _ in range(1000):
        assert trail.try_enqueue(NOBODY)
    await asyncio.to_thread(trail.close)
    written = [each for each in other.lines if each["eventName"] != OMITTED]
    assert 5 <= len(written) < 100
    assert len(written) + other.omitted == 1000
    assert main.lines == []


async def test_a_flood_that_has_ended_is_counted_without_another_event() -> None:
    other = Written()
    trail = WrittenTrail(Written().write, write_unauthenticated=other.write, per_second=0, batch_seconds=0.01)
    for _ in range(1000):
        await trail.note(NOBODY)
    for _ in range(1000):
        if len(other.lines) and other.omitted >= 999:
            break
        await asyncio.sleep(0.01)
    assert other.omitted + len(other.lines) - sum(each["eventName"] == OMITTED for each in other.lines) == 1000
    await asyncio.to_thread(trail.close)


async def test_a_flood_behind_a_disk_that_stands_still_makes_no_read_of_others_wait() -> None:
    main, other = Written(), Written()
    other.held.clear()
    trail = WrittenTrail(main.write, write_unauthenticated=other.write, per_second=1e6)
    for _ in range(PENDING_MAX + 10):
        assert trail.try_enqueue(NOBODY)
    assert trail.try_enqueue(CREATED)
    other.held.set()
    await asyncio.to_thread(trail.close)
    assert len(main.lines) == 1
    assert sum(each["eventName"] != OMITTED for each in other.lines) + other.omitted == PENDING_MAX + 10
