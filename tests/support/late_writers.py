"""Schedules of writers that wake up late: what was answered 201 stays what it was.

Three writers, the sweep and a client that cancels work on one upload session with the real appender, the real
operations on rows, and a bucket in memory. Hypothesis decides about each of their requests: done, done with its answer
lost, never done, or done long after its sender gave up; and when time passes, when a writer's process ends, and what
the store knows of conditions. Then all that is on its way arrives, in any order, and every blob that was committed must
be there, byte for byte. `tests/fuzz/test_late_writers.py` draws schedules, `tests/mutation/late_writers.py` shows that
they find what they are for.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any, NamedTuple, TypeVar

from hypothesis import strategies as st
from sqlalchemy import create_engine, delete, select
from sqlalchemy.pool import StaticPool

from proxy.auth.envelope import SmallSealer
from proxy.blob.buffers import BufferPool
from proxy.jobs import sweep
from proxy.metadata.db import schema
from proxy.metadata.db.transaction import Registry, Transaction
from proxy.metadata.operations.accounts import bootstrap
from proxy.metadata.operations.create_on_push import need_or_make_repository
from proxy.model.errors import Failure
from proxy.model.names import parse_digest
from proxy.model.records import CreateOnPush, Sealing
from proxy.registry.uploads import Uploads
from proxy.storage.base import ObjectMissing
from proxy.storage.s3.store import S3Store
from proxy.storage.threads import ThreadJob
from support.held_requests import OWNER, Fate, HeldBucket, HeldMetadata, Request, Requests

T = TypeVar("T")
ACCOUNT, REPOSITORY = "123456789012", "team/app"
PART = 1000
FRAME = 256
EPOCH = 1_800_000_000.0
HOUR = 3600.0
IDLE, GRACE = 24 * HOUR, 24 * HOUR
WRITERS = ("a", "b", "c")

ENGINE = create_engine("sqlite://", poolclass=StaticPool, connect_args={"check_same_thread": False})
KEPT = {"accounts", "principals", "repositories"}


class VirtualLoop(asyncio.SelectorEventLoop):
    """Its time passes only when it is told so, and its threads are itself."""

    now = 1000.0

    def time(self) -> float:
        return self.now

    def is_busy(self) -> bool:
        """Whether anything is to run before time passes, asked by what runs now."""
        return bool(self._ready)  # type: ignore[attr-defined]  # asyncio's own queue

    def run_in_executor(self, executor: Any, func: Callable[..., T], *args: Any) -> Any:  # type: ignore[override]  # any
        done: Future[T] = Future()
        try:
            done.set_result(func(*args))
        except Exception as error:
            done.set_exception(error)
        return asyncio.wrap_future(done, loop=self)


class Inline:
    """`storage.threads.Threads` on the loop."""

    def give(self, work: Callable[[], T]) -> ThreadJob[T]:
        job: ThreadJob[T] = ThreadJob()
        try:
            job._result = work()
        except Exception as error:
            job.end(error)
        else:
            job.end()
        return job

    def close(self) -> None:
        """There are none."""


class World:
    """One session, and all who work on it."""

    def __init__(self, loop: VirtualLoop, *, conditional: bool, checks_parts: bool) -> None:
        self.loop = loop
        self.requests = Requests()
        self.metadata = HeldMetadata(self.requests, ENGINE, self.now, self._sent)
        self.bucket = HeldBucket(self.requests, self.now, conditional=conditional, checks_parts=checks_parts)
        self.store = S3Store(
            self.bucket,  # type: ignore[arg-type]  # what appenders use of one
            self.metadata,  # type: ignore[arg-type]  # each call by its name
            part_size=PART,
            buffer_bytes=64 * PART,
            stall_seconds=5.0,
        )
        self.store._threads.close()
        self.store._receivers.close()
        self.store._threads = self.store._receivers = Inline()  # type: ignore[assignment]  # the same verbs
        self.uploads = Uploads(
            self.metadata,  # type: ignore[arg-type]  # each call by its name
            self.store,
            None,  # type: ignore[arg-type]  # nothing is sealed: mixed bytes show as they are
            SmallSealer([("key", bytes(32))], "states"),
            region="us-east-1",
            frame_length=FRAME,
            create_on_push=True,
            pool=BufferPool(slot_bytes=1024),
            sealing=Sealing.NONE,
            clock=self.now,
        )
        self.upload_id = ""
        self.recorded: dict[bytes, bytes] = {b"": b""}  # by the hash state of a session: what it holds
        self.writing: dict[str, bytes] = {}  # by writer: what the session will hold once its append is recorded
        self.committed: dict[str, bytes] = {}  # by digest: what it must be
        self.given_up: list[str] = []  # writers that found bytes missing which the session had recorded
        self.tasks: dict[str, asyncio.Task[None]] = {}
        self.numbers = 0

    def now(self) -> float:
        return EPOCH + self.loop.now

    def _sent(self, owner: str, name: str, parameters: dict[str, Any]) -> Callable[[Any], None]:
        """What a request to rows means once it is done: by then its sender may be dead, and write something else."""
        writing = self.writing.get(owner, b"")

        def done(result: Any) -> None:
            if name in ("advance_upload", "finish_upload", "record_append"):
                self.recorded[parameters["hash_state"]] = writing
            elif name == "cancel_upload" and parameters.get("fence") is not None:
                self.given_up.append(owner)
            elif name in ("commit_upload", "record_blob") or (name == "close_upload" and result[0] is None):
                self.committed[parameters["digest"]] = writing

        return done

    def start(self, writer: str, work: Coroutine[Any, Any, None]) -> None:
        if writer in self.tasks and not self.tasks[writer].done():
            work.close()
            return

        async def run() -> None:
            OWNER.set(writer)
            with contextlib.suppress(Failure, ObjectMissing):
                await work

        self.tasks[writer] = self.loop.create_task(run(), context=None)

    async def append(self, writer: str, length: int, *, close: bool, stalls: bool, first: bool = False) -> None:
        """One request: `length` bytes that nobody else sends, kept or committed as what the session then holds.
        `first`: at the Location that the session's beginning was answered with."""
        self.numbers += 1
        fresh = hashlib.sha256(f"{writer}{self.numbers}".encode()).digest() * (length // 32 + 1)
        upload_id = self.upload_id
        if not first:  # a client that goes on asks where it is
            upload_id = (await self.uploads.status(ACCOUNT, REPOSITORY, upload_id)).upload_id
        append = await self.uploads.append(ACCOUNT, REPOSITORY, upload_id, length=None)
        async with append:
            content = self.recorded[append.upload.hash_state] + fresh[:length]
            self.writing[writer] = content
            for at in range(len(content) - length, len(content), 300):
                await append.write(content[at : at + 300][: len(content) - at])
                if stalls and at > len(content) - length:
                    await asyncio.sleep(7.0)  # its client stalls
            if close:
                await append.commit_blob(parse_digest(f"sha256:{hashlib.sha256(content).hexdigest()}"))
            else:
                await append.keep(whole=not stalls)

    async def close_by_rows(self, writer: str) -> None:
        """A closing request without bytes."""
        status = await self.uploads.status(ACCOUNT, REPOSITORY, self.upload_id)
        content = self.recorded[status.hash_state]
        self.writing[writer] = content
        digest = parse_digest(f"sha256:{hashlib.sha256(content).hexdigest()}")
        await self.uploads.close(ACCOUNT, REPOSITORY, self.upload_id, digest)

    async def cancel(self) -> None:
        await self.uploads.cancel(ACCOUNT, REPOSITORY, self.upload_id)

    async def sweep(self) -> None:
        await sweep.expire_uploads(self.metadata, self.store, idle=IDLE)  # type: ignore[arg-type]  # by name
        await sweep.remove_orphans(self.metadata, self.store, sweep.OrphanWalk(), grace=GRACE, now=self.now)  # type: ignore[arg-type]  # by name
        await sweep.remove_strays(self.metadata, self.store, grace=GRACE, now=self.now)  # type: ignore[arg-type]  # by name

    async def settle(self) -> None:
        """Until everybody waits for a request or for time: nothing but this is ready to run."""
        await asyncio.sleep(0)
        while self.loop.is_busy():  # noqa: ASYNC110  # what the others do is not told to anybody
            await asyncio.sleep(0)

    async def crash(self, writer: str) -> None:
        """Its process ends: nothing more comes from it but what it had sent."""
        task = self.tasks.pop(writer, None)
        if task is None or task.done():
            return
        self.requests.dead.add(writer)  # what its cleaning up would ask for never leaves the dead process
        self.requests.abandon(writer)
        await self._see_end(task)
        self.requests.dead.discard(writer)

    async def leave(self, writer: str) -> None:
        """Its client goes away; its process cleans up."""
        if writer in self.tasks and not self.tasks[writer].done():
            self.tasks[writer].cancel()
            await self.settle()

    async def cut_off(self, writer: str) -> None:
        """The store answers it nothing any more, whatever it tries; rows do."""
        while writer in self.tasks and not self.tasks[writer].done():
            if mine := self.of(writer):
                is_to_store = hasattr(self.bucket, f"_{mine[0].what}")
                await self.deliver(mine[0], Fate.HELD if is_to_store else Fate.DONE)
            else:
                self.loop.now += 1.0
                await self.settle()

    async def _see_end(self, task: asyncio.Task[None]) -> None:
        task.cancel()
        while not task.done():
            await self.settle()
            self.loop.now += 1.0

    async def deliver(self, request: Request, fate: Fate) -> None:
        self.requests.decide(request, fate)
        await self.settle()

    async def run(self, writer: str, most: int, *, only_writes: bool = False) -> None:
        """So many of its requests, one after the other, and with `only_writes` those that change nothing before the
        next one. For a client that stands still time passes."""
        for _ in range(200):
            if mine := self.of(writer):
                is_counted = not only_writes or mine[0].what not in READS
                if is_counted and not most:
                    break
                most -= is_counted
                await self.deliver(mine[0], Fate.DONE)
            elif writer in self.tasks and not self.tasks[writer].done() and (most > 50 or only_writes):
                self.loop.now += 1.0
                await self.settle()
            else:
                break

    def of(self, writer: str) -> list[Request]:
        return [request for request in self.requests.pending if request.owner == writer]

    def check(self) -> None:
        """Every blob that was committed lies there, byte for byte; and no session lost what was recorded of it."""
        assert not self.given_up, "a session lost what was recorded of it"
        with ENGINE.begin() as connection:
            rows = connection.execute(select(schema.blobs.c.digest, schema.blobs.c.object_key))
            keys = {row.digest: row.object_key for row in rows}
        for digest, content in self.committed.items():
            assert digest in keys, f"{digest} has no row"
            found = self.bucket.objects.get(keys[digest])
            assert found is not None, f"the object of {digest} is gone"
            assert found[0] == content, f"the object of {digest} holds other bytes"

    def check_ended(self) -> None:
        """A session that a client closed undisturbed is not open: what was recorded of it could be put together."""
        with ENGINE.begin() as connection:
            open_ones = select(schema.uploads.c.upload_id).where(schema.uploads.c.state == schema.UPLOAD_OPEN)
            assert connection.execute(open_ones).first() is None, "a session cannot be closed"

    async def end(self) -> None:
        self.requests.dead |= set(self.tasks)
        for writer, task in self.tasks.items():
            self.requests.abandon(writer)
            await self._see_end(task)


class Round(NamedTuple):
    """One writer begins a request, or goes on with the one that it was stopped in: its requests are done up to one,
    then something happens to it, then time passes."""

    writer: str
    verb: str
    length: int
    stalls: bool  # its client stands still in the middle, so that its stall clock runs
    before: int  # the request with this number
    counts_writes: bool  # only those are counted that change something
    then: str
    seconds: float
    late: bool  # something that was held arrives at the end


LENGTHS = st.sampled_from([1, 300, PART - 1, PART, PART + 1, 2 * PART + 300])
VERBS = st.sampled_from(
    ["append"] * 7 + ["commit"] * 3 + ["first append"] * 3 + ["first commit"] * 2 + ["close", "cancel"]
)
THEN = st.sampled_from(
    ["goes on"] * 3
    + ["stops"] * 4
    + ["is cut off", "loses its client"] * 2
    + ["is not answered", "loses its answer", "dies"]
)
READS = {
    "lease_upload", "renew_upload", "release_upload", "repository_access", "upload", "blob", "open_object",
    "open_object_parts", "open_object_tail", "cut_open_object", "head_object", "get_object",
}  # fmt: skip
"""Requests with which writers begin, or that change nothing which counts when they are late; most are such."""
ROUNDS = st.builds(
    Round,
    st.sampled_from(WRITERS),
    VERBS,
    LENGTHS,
    st.sampled_from([False, False, True]),
    st.sampled_from([0, 0, 0, 0, 1, 1, 1, 2, 2, 3, 5, 8]),
    st.sampled_from([True, True, True, True, False]),
    THEN,
    st.sampled_from([0.0, 6.0] + [16.0] * 7 + [25 * HOUR]),
    st.booleans(),
)
BEFORE = st.sampled_from([0, 300, PART + 300, PART + 300, 2 * PART + 300])
"""Bytes that the session holds at first, of which whole parts are in a multipart upload and the rest in rows."""
Schedule = tuple[bool, bool, int, list[Round]]
"""What the store knows of conditions, whether it checks parts, how the session begins, and what then happens."""
SCHEDULES: st.SearchStrategy[Schedule] = st.tuples(
    st.booleans(), st.booleans(), BEFORE, st.lists(ROUNDS, min_size=2, max_size=6)
)


def prepare() -> None:
    """The database that all schedules share, with an account."""
    with ENGINE.begin() as connection:
        schema.metadata.create_all(connection)
    clean()
    with ENGINE.begin() as connection:
        for table in KEPT:
            connection.execute(delete(schema.metadata.tables[table]))
        tx = Transaction(connection, EPOCH, Registry(account=ACCOUNT))
        bootstrap(tx, ACCOUNT)
        need_or_make_repository(tx, ACCOUNT, REPOSITORY, CreateOnPush.YES)


def clean() -> None:
    with ENGINE.begin() as connection:
        for table in reversed(schema.metadata.sorted_tables):
            if table.name not in KEPT:
                connection.execute(delete(table))


async def follow(world: World, rounds: list[Round]) -> None:
    for each in rounds:
        writer, length = each.writer, each.length
        works: dict[str, Callable[[], Coroutine[Any, Any, None]]] = {
            "append": lambda: world.append(writer, length, close=False, stalls=each.stalls),  # noqa: B023 - begun at once
            "commit": lambda: world.append(writer, length, close=True, stalls=each.stalls),  # noqa: B023
            "first append": lambda: world.append(writer, length, close=False, stalls=each.stalls, first=True),  # noqa: B023
            "first commit": lambda: world.append(writer, length, close=True, stalls=each.stalls, first=True),  # noqa: B023
            "close": lambda: world.close_by_rows(writer),  # noqa: B023
            "cancel": world.cancel,
        }
        world.start(writer, works[each.verb]())
        await world.settle()
        if each.then != "goes on":
            await world.run(writer, each.before, only_writes=each.counts_writes)
        if each.then == "is not answered":
            for request in world.of(writer):
                if request in world.requests.pending:  # one that fails may cancel another
                    await world.deliver(request, Fate.HELD)
        elif each.then == "loses its answer" and world.of(writer):
            await world.deliver(world.of(writer)[0], Fate.ANSWER_LOST)
        elif each.then == "is cut off":
            await world.cut_off(writer)
        elif each.then == "loses its client":
            await world.leave(writer)
        elif each.then == "dies":
            await world.crash(writer)
        if each.then != "stops":
            await world.run(writer, 100)
        world.loop.now += each.seconds
        if each.seconds > HOUR:
            world.start("sweep", world.sweep())
            await world.settle()
            await world.run("sweep", 100)
        if each.late and world.requests.held:
            world.requests.deliver_late(world.requests.held[-1])
        await world.settle()
        world.check()


async def go_on(world: World) -> None:
    """Everybody, undisturbed and to the end."""
    for _ in range(1000):
        if world.requests.pending:
            await world.deliver(world.requests.pending[0], Fate.DONE)
        elif all(task.done() for task in world.tasks.values()):
            break
        else:
            world.loop.now += 7.0
            await world.settle()


async def finish(world: World) -> None:
    """Everybody goes on, a client closes the session, then all that was held arrives, and the sweep comes twice."""
    requests = world.requests
    await go_on(world)
    world.loop.now += 16.0
    world.start("last", world.append("last", 300, close=True, stalls=False))
    await go_on(world)
    world.check()
    world.check_ended()
    while requests.held:
        requests.deliver_late(requests.held[-1])
    world.check()
    for _ in range(2):
        world.loop.now += 25 * HOUR
        world.start("sweep", world.sweep())
        await go_on(world)
    world.check()


def explore(conditional: bool, checks_parts: bool, before: int, rounds: list[Round]) -> World:
    loop = VirtualLoop()

    async def run() -> World:
        world = World(loop, conditional=conditional, checks_parts=checks_parts)
        OWNER.set("client")
        begun = loop.create_task(world.uploads.begin(ACCOUNT, REPOSITORY))
        await world.settle()
        while world.requests.pending:
            await world.deliver(world.requests.pending[0], Fate.DONE)
        world.upload_id = (await begun).upload_id
        if before:
            world.start("first", world.append("first", before, close=False, stalls=True))
            await world.run("first", 100)
        try:
            await follow(world, rounds)
            await finish(world)
        finally:
            await world.end()
        return world

    clean()
    try:
        return loop.run_until_complete(run())
    finally:
        loop.close()
