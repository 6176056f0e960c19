"""The durable queue. `enqueue` is called in the transaction that causes the work, so both are committed or neither.
Runners on any node (`jobs.queue`) claim due jobs and finish or fail them; a job whose lease expires is due again.

    enqueue(tx, "replicate", account, f"{digest}/{region}", {"repository": …}, share=region)

A job has a key within its kind. Enqueued again while it waits, it gets the newest subject and keeps its place and
back-off; while it runs, it runs once more afterwards; when it is dead, it is due again. Claims rotate over accounts,
then shares, one job each; a claim costs an index probe for each share, however many jobs wait.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from sqlalchemy import String, and_, bindparam, delete, func, insert, literal, select, tuple_, update

from proxy.metadata.contract import JobPort
from proxy.metadata.db.job_tables import DEAD, LIVE, jobs
from proxy.metadata.db.transaction import FoundRow, Transaction
from proxy.metadata.operations.operation import operation
from proxy.model.jobs import Job, JobCount

PROBES = 256  # shares that a claim looks at, at most: the next claim continues after them
ERROR_MAX = 1000  # characters of a failure that are kept

_NAMED = (jobs.c.kind == bindparam("b_kind"), jobs.c.key == bindparam("b_key"))
_AGAIN = (
    update(jobs)
    .where(*_NAMED, jobs.c.state == LIVE)
    .values(subject=bindparam("b_subject"), revision=jobs.c.revision + 1)
)
_REVIVE = (
    update(jobs)
    .where(*_NAMED)
    .values(
        subject=bindparam("b_subject"),
        revision=jobs.c.revision + 1,
        state=LIVE,
        attempts=0,
        due_at=bindparam("b_due"),
        error="",
    )
)
_HELD = (jobs.c.job_id == bindparam("b_id"), jobs.c.fence == bindparam("b_fence"), jobs.c.state == LIVE)
_NEXT = (
    select(jobs)
    .where(
        jobs.c.kind == bindparam("kind"),
        jobs.c.state == LIVE,
        tuple_(jobs.c.account, jobs.c.share)
        > tuple_(bindparam("account", type_=String), bindparam("share", type_=String)),
    )
    .order_by(jobs.c.account, jobs.c.share, jobs.c.due_at)
    .limit(1)
)
_OF_SHARE = (
    select(jobs)
    .where(
        jobs.c.kind == bindparam("kind"),
        jobs.c.state == LIVE,
        jobs.c.account == bindparam("account"),
        jobs.c.share == bindparam("share"),
        jobs.c.due_at <= bindparam("now"),
    )
    .order_by(jobs.c.due_at)
    .limit(bindparam("most"))
    .with_for_update(skip_locked=True)
)
_LAST_SHARE = "\U0010ffff"  # beyond every share of an account


def enqueue(
    tx: Transaction,
    kind: str,
    account: str,
    key: str,
    subject: Mapping[str, Any],
    *,
    share: str = "",
    delay: float = 0.0,
) -> None:
    """`key` has 512 characters at most, `share` 128. A new job is due after `delay` seconds."""
    named = {"b_kind": kind, "b_key": key, "b_subject": json.dumps(subject, separators=(",", ":"))}
    if tx.connection.execute(_AGAIN, named).rowcount:
        return
    if tx.connection.execute(_REVIVE, named | {"b_due": tx.now + delay}).rowcount:
        return
    tx.connection.execute(
        insert(jobs).values(
            kind=kind,
            account=account,
            key=key,
            subject=named["b_subject"],
            share=share,
            state=LIVE,
            attempts=0,
            due_at=tx.now + delay,
            fence=0,
            last_fence=0,
            revision=1,
            error="",
            created_at=tx.now,
        )
    )


def enqueue_dead(tx: Transaction, job: Job, key: str, subject: Mapping[str, Any], error: str) -> None:
    """Store a failed part of a job as a dead job of its own under `key`; `retry_jobs` retries it alone."""
    tx.connection.execute(
        insert(jobs).values(
            kind=job.kind,
            account=job.account,
            key=key,
            subject=json.dumps(subject, separators=(",", ":")),
            share=job.share,
            state=DEAD,
            attempts=job.attempts + 1,
            due_at=tx.now,
            fence=0,
            last_fence=0,
            revision=1,
            error=error[:ERROR_MAX],
            created_at=tx.now,
        )
    )


@operation(JobPort)
def due_kinds(tx: Transaction, kinds: Sequence[str]) -> Sequence[str]:
    """The `kinds` with a due job. A runner calls it before it claims, because a claim is a write."""
    return tuple(
        kind
        for kind in kinds
        if tx.connection.execute(
            select(literal(1)).where(jobs.c.state == LIVE, jobs.c.kind == kind, jobs.c.due_at <= tx.now).limit(1)
        ).first()
    )


@operation(JobPort, write=True)
def claim_jobs(
    tx: Transaction,
    kind: str,
    limit: int,
    seconds: float,
    after: tuple[str, str],
    running: Sequence[tuple[str, str]],
    account_limit: int,
    share_limit: int,
) -> tuple[Sequence[Job], tuple[str, str]]:
    """Up to `limit` due jobs, leased for `seconds`, and the (account, share) where the next claim continues.

    `after` is where the last claim ended. `running` has the (account, share) of each job that the runner has; it gets
    at most `account_limit` jobs of an account, and `share_limit` of a share."""
    found: list[Job] = []
    held = list(running)
    at, wrapped = after, False
    for _ in range(PROBES):
        row = _next(tx, kind, at)
        if row is None or (wrapped and (row.account, row.share) > after):
            if wrapped:
                break
            at, wrapped = ("", ""), True
            continue
        of_account = account_limit - sum(account == row.account for account, _ in held)
        if of_account <= 0:
            at = (row.account, _LAST_SHARE)
            continue
        at = (row.account, row.share)
        most = min(of_account, share_limit - held.count(at), limit - len(found))
        if row.due_at <= tx.now and most > 0:
            asked = {"kind": kind, "account": row.account, "share": row.share, "now": tx.now, "most": most}
            claimed = [_lease(tx, each, seconds) for each in tx.connection.execute(_OF_SHARE, asked).all()]
            found += claimed
            held += [at] * len(claimed)
            if len(found) >= limit:
                break
    return tuple(found), at


@operation(JobPort, write=True, settles=True)
def renew_job(tx: Transaction, job_id: int, fence: int, seconds: float) -> bool:
    """False when the lease is lost: the runner must stop."""
    return _change(tx, job_id, fence, due_at=tx.now + seconds)


@operation(JobPort, write=True, settles=True)
def finish_job(tx: Transaction, job_id: int, fence: int, revision: int) -> None:
    """Remove the job; if it was enqueued again since `revision`, it is due. Does nothing when the lease is lost."""
    held = {"b_id": job_id, "b_fence": fence}
    gone = tx.connection.execute(delete(jobs).where(*_HELD, jobs.c.revision == revision), held)
    if not gone.rowcount:
        _change(tx, job_id, fence, due_at=tx.now, fence=0, attempts=0, error="", created_at=tx.now)


@operation(JobPort, write=True)
def fail_job(tx: Transaction, job_id: int, fence: int, error: str, seconds: float | None) -> None:
    """Retry the job in `seconds`; None: it is dead. Does nothing when the lease is lost."""
    state, due = (DEAD, tx.now) if seconds is None else (LIVE, tx.now + seconds)
    _change(tx, job_id, fence, state=state, due_at=due, fence=0, attempts=jobs.c.attempts + 1, error=error[:ERROR_MAX])


@operation(JobPort, write=True, settles=True)
def release_job(tx: Transaction, job_id: int, fence: int, seconds: float) -> None:
    """Due again in `seconds`, without counting an attempt: for a node that stops, or a receiver's Retry-After."""
    _change(tx, job_id, fence, due_at=tx.now + seconds, fence=0)


@operation(JobPort)
def job_counts(tx: Transaction) -> Sequence[JobCount]:
    """Counts by kind and state, from an index alone: a million jobs take about 0.1 s."""
    found = []
    for state in (LIVE, DEAD):
        kind = ""
        while True:
            later = select(jobs.c.kind).where(jobs.c.state == state, jobs.c.kind > kind).order_by(jobs.c.kind).limit(1)
            following = tx.connection.execute(later).scalar()
            if following is None:
                break
            kind = following
            counted = select(func.count().label("jobs"), func.min(jobs.c.created_at).label("oldest"))
            row = tx.connection.execute(counted.where(jobs.c.state == state, jobs.c.kind == kind)).one()
            found.append(JobCount(kind, state == DEAD, row.jobs, row.oldest))
    return tuple(found)


@operation(JobPort)
def list_jobs(
    tx: Transaction, after: int, limit: int, kind: str = "", account: str = "", dead: bool | None = None
) -> Sequence[Job]:
    """Jobs by id beyond `after`; of a kind, an account or a state if given (empty, None: all)."""
    wanted = [jobs.c.job_id > after]
    wanted += [jobs.c.kind + "" == kind] if kind else []
    wanted += [jobs.c.account + "" == account] if account else []
    wanted += [jobs.c.state + 0 == (DEAD if dead else LIVE)] if dead is not None else []
    # The sums make both databases use the index of ids, instead of another one and a sort.
    rows = tx.connection.execute(select(jobs).where(and_(*wanted)).order_by(jobs.c.job_id).limit(limit))
    return tuple(_job(row) for row in rows)


@operation(JobPort, write=True)
def retry_job(tx: Transaction, job_id: int) -> bool:
    """Make a job due now and reset its attempts; a runner that has it may finish. False when there is none."""
    return bool(
        tx.connection.execute(
            update(jobs).where(jobs.c.job_id == job_id, jobs.c.fence == 0).values(state=LIVE, due_at=tx.now, attempts=0)
        ).rowcount
    )


@operation(JobPort, write=True)
def drop_job(tx: Transaction, job_id: int) -> bool:
    """Remove a job; a runner that has it loses its lease. False when there is none."""
    return bool(tx.connection.execute(delete(jobs).where(jobs.c.job_id == job_id)).rowcount)


def holds(tx: Transaction, job_id: int, fence: int) -> bool:
    """Whether this lease is in force. A kind's own operations check it before they change rows."""
    found = tx.connection.execute(
        select(jobs.c.due_at).where(jobs.c.job_id == job_id, jobs.c.fence == fence, jobs.c.state == LIVE)
    ).first()
    return found is not None and fence != 0


def _next(tx: Transaction, kind: str, after: tuple[str, str]) -> FoundRow | None:
    """The earliest job of the next share."""
    return tx.connection.execute(_NEXT, {"kind": kind, "account": after[0], "share": after[1]}).first()


def _lease(tx: Transaction, row: FoundRow, seconds: float) -> Job:
    """An expired lease counts as an attempt: so a job that kills its workers is not retried for ever."""
    fence, attempts = row.last_fence + 1, row.attempts + (1 if row.fence else 0)
    tx.connection.execute(
        update(jobs)
        .where(jobs.c.job_id == row.job_id)
        .values(fence=fence, last_fence=fence, attempts=attempts, due_at=tx.now + seconds)
    )
    return replace(_job(row), fence=fence, attempts=attempts)


def _change(tx: Transaction, job_id: int, lease: int, **values: Any) -> bool:
    """Change a job under this lease; no lease has the fence 0."""
    if not lease:
        return False
    held = {"b_id": job_id, "b_fence": lease}
    return bool(tx.connection.execute(update(jobs).where(*_HELD).values(**values), held).rowcount)


def _job(row: FoundRow) -> Job:
    return Job(
        job_id=row.job_id,
        kind=row.kind,
        account=row.account,
        key=row.key,
        subject=row.subject,
        share=row.share,
        attempts=row.attempts,
        due_at=row.due_at,
        created_at=row.created_at,
        fence=row.fence,
        revision=row.revision,
        dead=row.state == DEAD,
        error=row.error,
    )
