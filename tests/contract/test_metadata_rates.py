"""The buckets of request rates, on every database."""

from __future__ import annotations

from support.metadata import ACCOUNT, World

OTHER = "210987654321"
SLOW, QUICK = "PutImage", "BatchGetImage"


async def test_a_bucket_gives_what_it_holds_and_says_when_it_has_more(world: World) -> None:
    """Full at first; filled by its rate, up to its burst; accounts and operations apart."""

    async def take(most: int, account: str = ACCOUNT, name: str = SLOW) -> tuple[int, float]:
        return await world.metadata.take_tokens(account, name, per_second=10.0, burst=20.0, most=most)

    assert await take(15) == (15, 0.0)
    assert await take(15) == (5, 0.0)
    granted, seconds = await take(1)
    assert (granted, round(seconds, 4)) == (0, 0.1)
    assert await take(15, name=QUICK) == await take(15, account=OTHER) == (15, 0.0)
    world.clock.now += 0.25
    assert await take(15) == (2, 0.0)
    granted, seconds = await take(1)
    assert (granted, round(seconds, 4)) == (0, 0.05)
    world.clock.now += 3600
    assert await take(100) == (20, 0.0)


async def test_a_clock_that_is_set_back_starves_nobody(world: World) -> None:
    """A little behind is another service's clock, and fills nothing twice; far behind counts from now on."""

    async def take() -> int:
        return (await world.metadata.take_tokens(ACCOUNT, SLOW, per_second=10.0, burst=10.0, most=10))[0]

    assert await take() == 10
    world.clock.now -= 1.0
    assert await take() == 0
    world.clock.now += 1.5
    assert await take() == 5
    world.clock.now -= 3600.0
    assert await take() == 0
    world.clock.now += 1.0
    assert await take() == 10
