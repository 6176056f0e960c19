"""A service hears its own news: of a write whose COMMIT's answer was lost, it is all that its nodes ever learn."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from proxy.metadata.client import epochs
from proxy.metadata.client.epochs import Epochs
from proxy.metadata.cluster import membership
from proxy.metadata.cluster.membership import Membership
from proxy.metadata.cluster.outage import OutageGrace
from proxy.metadata.db.store import Announcement
from proxy.metadata.db.transaction import Changes

CHANGES = Changes(identity=True)


@pytest.fixture
def page(tmp_path: Path) -> Iterator[Epochs]:
    made = Epochs(tmp_path / "epochs")
    yield made
    made.close()


@pytest.fixture
async def service(page: Epochs, monkeypatch: pytest.MonkeyPatch) -> Membership:
    """Registered, as far as it knows; it has no database."""
    monkeypatch.setattr(membership, "_UNHEARD_SECONDS", 0.0)
    grace = OutageGrace(0.0, secret=None, trusted=None, clock=lambda: 100.0)
    found = Membership("postgresql://localhost/none", process="me", page=page, now=epochs.now, grace=grace)
    found._registered.set()
    return found


async def hear(service: Membership, number: int, process: str = "me") -> None:
    service._apply_news(process, number, CHANGES)
    await asyncio.sleep(0.001)


async def test_a_write_that_nobody_settled_outdates_what_is_kept_once_it_is_heard_of(
    service: Membership, page: Epochs
) -> None:
    before = page.identity()
    await hear(service, 1)
    assert page.identity() == before + 1


async def test_a_write_that_is_settled_is_not_outdated_again_by_its_news(service: Membership, page: Epochs) -> None:
    before = page.identity()
    assert service.committed(CHANGES, Announcement(1, ())) is None
    await hear(service, 1)
    assert page.identity() == before + 1
    await hear(service, 2)
    assert page.identity() == before + 2


async def test_a_write_that_is_settled_after_it_was_heard_of_is_outdated_both_times(
    service: Membership, page: Epochs
) -> None:
    """Its answer came late: readers may have asked in between, of a snapshot from before the commit."""
    before = page.identity()
    await hear(service, 1)
    assert service.committed(CHANGES, Announcement(1, ())) is None
    assert page.identity() == before + 2


async def test_the_same_number_of_another_service_is_another_write(service: Membership, page: Epochs) -> None:
    before = page.identity()
    assert service.committed(CHANGES, Announcement(1, ())) is None
    await hear(service, 1, "other")
    assert page.identity() == before + 2


async def test_a_write_that_nobody_settled_is_heard_of_though_a_later_one_was_settled(
    service: Membership, page: Epochs
) -> None:
    identity, repository = page.identity(), page.repository("1", "a")
    later = Changes({("1", "a")})
    service.committed(later, Announcement(2, ()))
    service._apply_news("me", 1, CHANGES)
    service._apply_news("me", 2, later)
    await asyncio.sleep(0.01)
    assert (page.identity(), page.repository("1", "a")) == (identity + 1, repository + 1)
