"""Which images of a rule go, in which order, and when a round is over."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from proxy.audit.events import AuditEvent
from proxy.jobs import cache_size
from proxy.jobs.cache_size import DAY, YOUNG_SECONDS, CacheSize
from proxy.model.mirror import CachedImage, EvictedImage
from proxy.model.pull_through import PullThroughRule
from proxy.model.records import PULL_EVERY_SECONDS

ACCOUNT = "123456789012"
NOW = 100 * DAY


@dataclass
class Rows:
    """Metadata and trail in one. An image is (repository, used_at, bytes); `kept` gives what may not go."""

    images: dict[str, tuple[str, float, int]]
    kept: dict[str, str] = field(default_factory=dict)
    gone: list[str] = field(default_factory=list)
    lines: list[AuditEvent] = field(default_factory=list)
    largest: int = 0

    def now(self) -> float:
        return NOW

    async def pull_through_rules(self, account: str) -> Sequence[PullThroughRule]:
        return [PullThroughRule(ACCOUNT, each, "", "a.example", "ROOT", "", "", 0, 0) for each in ("far", "far/other")]

    def size(self, repository: str) -> int:
        return sum(size for where, _, size in self.images.values() if where == repository)

    async def repository_sizes(self, account: str, *, after: str, limit: int) -> Sequence[tuple[str, int]]:
        names = sorted({where for where, _, _ in self.images.values() if where > after})[:limit]
        return [(name, self.size(name) + 1) for name in names]  # and a byte that is no image's

    async def held_bytes(self, account: str, repository: str, *, after: int, limit: int) -> tuple[int, int]:
        return (self.size(repository), 0) if after else (0, 1)

    async def cached_images(
        self, account: str, repository: str, *, after: str, limit: int
    ) -> tuple[Sequence[CachedImage], str]:
        names = sorted(name for name, (where, _, _) in self.images.items() if where == repository and name > after)
        page = [CachedImage(repository, name, self.images[name][1]) for name in names[:limit]]
        return page, names[limit - 1] if len(names) > limit else ""

    async def evict_images(
        self, account: str, repository: str, *, digests: Sequence[str], unused_since: float
    ) -> Sequence[EvictedImage]:
        self.largest = max(self.largest, len(digests))
        found = []
        for name in digests:
            assert self.images[name][1] <= unused_since
            if name in self.kept:
                found.append(EvictedImage(name, (), 0, self.kept[name]))
                continue
            where, _, size = self.images.pop(name)
            assert where == repository
            self.kept = {each: why for each, why in self.kept.items() if (name, why) != ("index", "index")}
            self.gone.append(name)
            found.append(EvictedImage(name, ("tag",), size, "", name == "index"))
        return found

    async def require(self) -> None: ...

    async def record(self, event: AuditEvent) -> None:
        self.lines.append(event)


async def trimmed(rows: Rows, most: int = 0, days: float = 0) -> list[str]:
    given: Any = rows
    await CacheSize(given, given, "here", lambda: NOW, lambda prefix: (most, days)).trim(ACCOUNT, "far")
    return rows.gone


def images(**given: tuple[float, int]) -> dict[str, tuple[str, float, int]]:
    """By name in repositories by turns: hours since the last use, and bytes."""
    return {
        name: (f"far/{number % 3}", NOW - hours * 3600, size)
        for number, (name, (hours, size)) in enumerate(given.items())
    }


async def test_the_least_recently_pulled_go_until_the_rest_fits() -> None:
    rows = Rows(images(a=(3, 10), b=(5, 10), c=(4, 10), d=(6, 10), e=(1, 10)))
    assert await trimmed(rows, most=25) == ["d", "b", "c"]
    assert [line.name for line in rows.lines] == ["PullThroughCacheEviction"] * 3
    parameters: Any = rows.lines[0].parameters
    assert parameters["imageDigest"] == "d"


async def test_nothing_goes_of_what_fits_or_of_another_rule() -> None:
    assert await trimmed(Rows(images(a=(3, 10), b=(5, 10))), most=20) == []
    assert await trimmed(Rows({"a": ("far/other/app", 0.0, 10), "b": ("quay/app", 0.0, 10)}), most=1, days=1) == []


async def test_what_came_a_moment_ago_stays_however_large_the_cache() -> None:
    young = NOW - YOUNG_SECONDS + 1
    rows = Rows({"a": ("far/a", young, 10), "b": ("far/a", young - 2, 10)})
    assert await trimmed(rows, most=1) == ["b"]


async def test_an_image_that_an_index_lists_goes_after_it() -> None:
    rows = Rows(images(child=(9, 10), index=(8, 1), other=(1, 10)), kept={"child": "index"})
    assert await trimmed(rows, most=10) == ["index", "child"]


async def test_a_cache_of_which_nothing_may_go_ends_the_round() -> None:
    rows = Rows(images(a=(3, 10), b=(5, 10)), kept={"a": "pulled", "b": "referrer"})
    assert await trimmed(rows, most=1) == []


async def test_unused_images_go_once_no_recorded_pull_can_hide_a_later_one() -> None:
    limit = 7 * 24 + PULL_EVERY_SECONDS / 3600
    assert await trimmed(Rows(images(a=(limit + 1, 10), b=(limit - 1, 10))), days=7) == ["a"]


async def test_large_caches_are_removed_by_small_batches_and_read_by_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_size, "PAGE", 7)
    monkeypatch.setattr(cache_size, "BATCH", 10)
    rows = Rows({f"{number:03}": (f"far/{number % 2}", float(number), 1) for number in range(100)})
    assert await trimmed(rows, most=5) == [f"{number:03}" for number in range(95)]
    assert rows.largest <= 10


async def test_a_job_names_its_rule() -> None:
    rows = Rows(images(a=(3, 10)))
    given: Any = rows
    job: Any = type("Job", (), {"account": ACCOUNT, "subject": json.dumps({"prefix": "far"})})
    await CacheSize(given, given, "here", lambda: NOW, lambda prefix: (1, 0)).run(job)
    assert rows.gone == ["a"]
