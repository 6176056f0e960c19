"""The use of an access key is noted once an hour, off the request's path, and a failure harms nobody."""

from __future__ import annotations

import asyncio

import structlog

from proxy.ecr.last_use import EVERY_SECONDS, NAMES_MAX, RETRY_SECONDS, WAITING_MAX, LastUses
from proxy.model.errors import Code, Failure


class Notes:
    """What was noted; `fails` makes the next notes fail, `gate` holds them up while it is closed."""

    def __init__(self) -> None:
        self.noted: list[tuple[str, float, str, str]] = []
        self.now = 1000.0
        self.fails = False
        self.gate = asyncio.Event()
        self.gate.set()
        self.uses = LastUses(self._note, lambda: self.now)

    async def _note(self, access_key_id: str, at: float, region: str, service: str) -> None:
        await self.gate.wait()
        if self.fails:
            raise Failure(Code.METADATA_UNAVAILABLE, "gone")
        self.noted.append((access_key_id, at, region, service))

    async def used(self, access_key_id: str, service: str = "ecr") -> None:
        self.uses.used(access_key_id, "eu-west-1", service)
        await self.uses.idle()


async def test_a_key_is_noted_when_first_seen_and_again_after_an_hour() -> None:
    notes = Notes()
    await notes.used("AKIA1")
    notes.now += EVERY_SECONDS - 1
    await notes.used("AKIA1", "sts")
    await notes.used("AKIA2", "sts")
    notes.now += 1
    await notes.used("AKIA1", "iam")
    assert notes.noted == [
        ("AKIA1", 1000.0, "eu-west-1", "ecr"),
        ("AKIA2", 1000.0 + EVERY_SECONDS - 1, "eu-west-1", "sts"),
        ("AKIA1", 1000.0 + EVERY_SECONDS, "eu-west-1", "iam"),
    ]


async def test_what_could_not_be_noted_is_noted_at_a_use_a_minute_later() -> None:
    notes = Notes()
    notes.fails = True
    with structlog.testing.capture_logs() as logged:
        await notes.used("AKIA1")
    assert [line["why"] for line in logged] == [Code.METADATA_UNAVAILABLE]
    notes.fails = False
    await notes.used("AKIA1")
    assert notes.noted == []
    notes.now += RETRY_SECONDS
    await notes.used("AKIA1")
    assert [key for key, *_ in notes.noted] == ["AKIA1"]


async def test_notes_that_wait_are_bounded_and_taken_in_order() -> None:
    notes = Notes()
    notes.gate.clear()
    for number in range(WAITING_MAX + 50):
        notes.uses.used(f"AKIA{number}", "eu-west-1", "ecr")
    notes.gate.set()
    await notes.uses.idle()
    assert [key for key, *_ in notes.noted] == [f"AKIA{number}" for number in range(WAITING_MAX)]
    await notes.used(f"AKIA{WAITING_MAX}")
    assert len(notes.noted) == WAITING_MAX + 1


async def test_no_more_keys_are_remembered_than_the_bound() -> None:
    notes = Notes()
    for number in range(NAMES_MAX + 1):
        await notes.used(f"AKIA{number}")
    await notes.used("AKIA1")
    assert len(notes.noted) == NAMES_MAX + 1
    await notes.used("AKIA0")
    assert len(notes.noted) == NAMES_MAX + 2
