"""The durable queue on rows: coalescing, leases, dead jobs, and fairness, on both databases."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import pytest

from proxy.metadata.operations import jobs
from proxy.model.jobs import Job, JobCount
from support.metadata import ACCOUNT, World

OTHER = "210987654321"


async def enqueue(world: World, key: str = "one", subject: Any = None, **more: Any) -> None:
    assert world.service is not None
    about: dict[str, Any] = {"kind": "copy", "account": ACCOUNT, "key": key, "subject": subject or {"n": 1}} | more
    await world.service.store.write(partial(jobs.enqueue, **about))


async def claim(world: World, limit: int = 8, **more: Any) -> Sequence[Job]:
    return (await claim_after(world, limit, **more))[0]


async def claim_after(world: World, limit: int = 8, **more: Any) -> tuple[Sequence[Job], tuple[str, str]]:
    asked: dict[str, Any] = {
        "seconds": 60.0,
        "after": ("", ""),
        "running": (),
        "account_limit": 4,
        "share_limit": 2,
    } | more
    return await world.metadata.claim_jobs("copy", limit=limit, **asked)


async def every(world: World) -> Sequence[Job]:
    return await world.metadata.list_jobs(after=0, limit=100)


async def test_a_job_is_claimed_once_and_gone_when_it_is_finished(world: World) -> None:
    await enqueue(world)
    assert await world.metadata.due_kinds(["copy", "other"]) == ("copy",)
    [job] = await claim(world)
    assert (job.kind, job.account, job.key, job.subject, job.attempts) == ("copy", ACCOUNT, "one", '{"n":1}', 0)
    assert await claim(world) == ()
    assert await world.metadata.due_kinds(["copy"]) == ()
    await world.metadata.finish_job(job.job_id, job.fence, job.revision)
    assert await every(world) == ()


async def test_nothing_is_enqueued_by_a_transaction_that_fails(world: World) -> None:
    def both(tx: Any) -> None:
        jobs.enqueue(tx, "copy", ACCOUNT, "one", {})
        raise RuntimeError

    assert world.service is not None
    with pytest.raises(RuntimeError):
        await world.service.store.write(both)
    assert await every(world) == ()


async def test_what_waits_is_enqueued_again_as_one_job_with_the_newest_subject(world: World) -> None:
    await enqueue(world, subject={"n": 1})
    await enqueue(world, subject={"n": 2})
    [job] = await claim(world)
    assert job.subject == '{"n":2}'


async def test_what_is_enqueued_again_while_it_is_done_is_done_once_more(world: World) -> None:
    await enqueue(world)
    [job] = await claim(world)
    await enqueue(world, subject={"n": 2})
    assert await claim(world) == ()
    await world.metadata.finish_job(job.job_id, job.fence, job.revision)
    [again] = await claim(world)
    assert (again.job_id, again.subject) == (job.job_id, '{"n":2}')
    await world.metadata.finish_job(again.job_id, again.fence, again.revision)
    assert await every(world) == ()


async def test_a_failed_job_waits_and_enqueuing_it_again_does_not_shorten_that(world: World) -> None:
    await enqueue(world)
    [job] = await claim(world)
    await world.metadata.fail_job(job.job_id, job.fence, error="no route", seconds=10.0)
    await enqueue(world, subject={"n": 2})
    world.clock.now += 9.0
    assert await claim(world) == ()
    world.clock.now += 1.0
    [job] = await claim(world)
    assert (job.attempts, job.error, job.subject) == (1, "no route", '{"n":2}')


async def test_a_lease_that_ended_is_taken_over_and_its_holder_changes_nothing_any_more(world: World) -> None:
    await enqueue(world)
    [old] = await claim(world)
    world.clock.now += 40.0
    assert await world.metadata.renew_job(old.job_id, old.fence, seconds=60.0)
    world.clock.now += 59.0
    assert await claim(world) == ()
    world.clock.now += 1.0
    [new] = await claim(world)
    assert (new.fence, new.attempts) == (old.fence + 1, 1)
    assert not await world.metadata.renew_job(old.job_id, old.fence, seconds=60.0)
    await world.metadata.finish_job(old.job_id, old.fence, old.revision)
    await world.metadata.fail_job(old.job_id, old.fence, error="late", seconds=None)
    await world.metadata.release_job(old.job_id, old.fence, seconds=0.0)
    assert await world.metadata.renew_job(new.job_id, new.fence, seconds=60.0)


async def test_a_job_that_is_given_back_is_due_when_it_says_and_has_no_attempt_more(world: World) -> None:
    await enqueue(world)
    [job] = await claim(world)
    await world.metadata.release_job(job.job_id, job.fence, seconds=5.0)
    assert await claim(world) == ()
    world.clock.now += 5.0
    [job] = await claim(world)
    assert job.attempts == 0


async def test_a_dead_job_lives_again_when_it_is_retried_or_enqueued_and_goes_when_it_is_dropped(world: World) -> None:
    for key in ("one", "two", "three"):
        await enqueue(world, key)
    for job in await claim(world, account_limit=9, share_limit=9):
        await world.metadata.fail_job(job.job_id, job.fence, error="gone", seconds=None)
    assert [(job.dead, job.error) for job in await every(world)] == [(True, "gone")] * 3
    assert await world.metadata.due_kinds(["copy"]) == ()
    one, two, three = [job.job_id for job in await every(world)]
    assert await world.metadata.retry_job(one)
    await enqueue(world, "two")
    assert await world.metadata.drop_job(three)
    assert not await world.metadata.drop_job(three)
    assert not await world.metadata.retry_job(three)
    assert [(job.key, job.attempts, job.error) for job in await claim(world)] == [("one", 0, "gone"), ("two", 0, "")]
    assert await every(world) == await world.metadata.list_jobs(after=0, limit=9, kind="copy", account=ACCOUNT)
    assert await world.metadata.list_jobs(after=0, limit=9, dead=True) == ()
    assert [job.job_id for job in await world.metadata.list_jobs(after=one, limit=1, dead=False)] == [two]


async def test_jobs_are_counted_by_kind_and_state_with_their_age(world: World) -> None:
    assert await world.metadata.job_counts() == ()
    began = world.clock.now
    await enqueue(world, "one")
    world.clock.now += 5.0
    await enqueue(world, "two")
    await enqueue(world, "three", kind="other")
    [job] = await claim(world, 1)
    await world.metadata.fail_job(job.job_id, job.fence, error="gone", seconds=None)
    assert await world.metadata.job_counts() == (
        JobCount("copy", False, 1, began + 5.0),
        JobCount("other", False, 1, began + 5.0),
        JobCount("copy", True, 1, began),
    )


async def test_an_account_or_a_share_with_much_to_do_takes_no_more_than_its_part(world: World) -> None:
    for number in range(20):
        await enqueue(world, f"slow-{number}", share="slow")
        await enqueue(world, f"other-{number}", share=f"s{number}")
    await enqueue(world, "small", account=OTHER)
    found = await claim(world, 8)
    assert [job.account for job in found] == [ACCOUNT] * 4 + [OTHER]
    assert sum(job.share == "slow" for job in found) <= 2
    running = [(job.account, job.share) for job in found]
    assert await claim(world, 8, running=running) == ()


async def test_claims_go_round_accounts(world: World) -> None:
    for account in (ACCOUNT, OTHER, "333333333333"):
        for number in range(3):
            await enqueue(world, f"{account}-{number}", account=account)
    seen, after = [], ("", "")
    for _ in range(9):
        [job], after = await claim_after(world, 1, after=after)
        seen.append(job.account)
    assert seen == [ACCOUNT, OTHER, "333333333333"] * 3


async def test_the_earliest_of_a_share_comes_first_and_what_is_not_due_does_not_come(world: World) -> None:
    await enqueue(world, "later", delay=20.0)
    await enqueue(world, "sooner", delay=10.0)
    assert await claim(world) == ()
    world.clock.now += 30.0
    assert [job.key for job in await claim(world)] == ["sooner", "later"]


async def test_a_failure_is_kept_in_a_thousand_characters(world: World) -> None:
    await enqueue(world)
    [job] = await claim(world)
    await world.metadata.fail_job(job.job_id, job.fence, error="x" * 5000, seconds=1.0)
    [job] = await every(world)
    assert len(job.error) == 1000
