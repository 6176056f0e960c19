"""Who holds a lease is waited for, and nobody else: services that are deaf, close, or registered before a crash.

The two lines of one service to PostgreSQL, for control and for news, are TCP flows of their own, and a network may lose
one of them alone.
"""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import psycopg
import pytest

from proxy.metadata.client.epochs import Epochs
from proxy.metadata.cluster import membership
from proxy.metadata.cluster.pg_registry import FENCED
from proxy.metadata.cluster.protocol import FENCE_SECONDS
from support import postgresql
from support.cut_connection import CutLine
from support.fault_proxy import fault_proxy
from support.listening import listening
from support.metadata import ACCOUNT, REPOSITORY, digest, index_manifest, postgresql_database
from support.nodes import again_until_done, node, start, until
from support.postgresql import Cluster

pytestmark = pytest.mark.needs(postgresql.PROGRAM)


@dataclass(eq=False)
class Flow:
    """One connection through `Flows`. A silent one passes nothing on and stays open."""

    sent: bytearray = field(default_factory=bytearray)
    silent: bool = False


class Flows:
    """A proxy before PostgreSQL that knows what each connection has asked."""

    def __init__(self, to: int) -> None:
        self.to = to
        self.flows: list[Flow] = []
        self.port = 0

    def silence_news(self) -> None:
        for flow in self.flows:
            flow.silent = flow.silent or b'LISTEN "wharfage"' in flow.sent

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        flow = Flow()
        self.flows.append(flow)
        back_reader, back_writer = await asyncio.open_connection("127.0.0.1", self.to)

        async def up() -> None:
            while data := await reader.read(65536):
                flow.sent += data
                if not flow.silent:
                    back_writer.write(data)

        async def down() -> None:
            while data := await back_reader.read(65536):
                if not flow.silent:
                    writer.write(data)

        ways = [asyncio.create_task(up()), asyncio.create_task(down())]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            writer.transport.abort()
            back_writer.transport.abort()


@pytest.fixture
async def flows() -> AsyncIterator[Flows]:
    found = Flows(postgresql.shared().port)
    async with listening(found.serve) as found.port:
        yield found


def numbered(number: int) -> bytes:
    return index_manifest([], annotations={"number": str(number)})


async def test_a_write_after_a_deaf_service_was_given_up_waits_for_the_end_of_its_lease(
    tmp_path: Path, flows: Flows
) -> None:
    """Its node never reads what an acknowledged write has replaced; the writer itself is given up by nobody."""
    url = await asyncio.to_thread(postgresql_database, tmp_path)
    hears = await start(url, tmp_path, "a")
    deaf = await start(url.replace(str(flows.to), str(flows.port)), tmp_path, "b")
    at_deaf = await node(tmp_path, "nb", [deaf.address], [deaf.address])
    at_hearing = await node(tmp_path, "na", [hears.address], [hears.address])
    acknowledged, stale, over = 0, [], False
    numbers = {digest(numbered(number)): number for number in range(4)}

    async def write(number: int) -> None:
        nonlocal acknowledged
        await at_hearing.world.put(numbered(number), ["v"], create=True)
        acknowledged = number

    async def read() -> None:
        while not over:
            at = acknowledged
            found = await at_deaf.world.metadata.manifest(ACCOUNT, REPOSITORY, "v")
            if numbers[found.digest] < at:
                stale.append((at, numbers[found.digest]))
            await asyncio.sleep(0.002)

    await write(0)
    await until(at_deaf.page.lease_valid)
    assert hears._membership is not None
    assert deaf._membership is not None
    theirs, registration = hears._membership, deaf._membership.registration
    flows.silence_news()
    reading = asyncio.create_task(read())
    began = time.monotonic()
    first = asyncio.create_task(write(1))
    await until(lambda: registration not in theirs.known or theirs.known[registration].renewals == FENCED)
    await write(2)
    await write(3)
    await first
    assert time.monotonic() - began < 20
    await asyncio.sleep(0.2)
    over = True
    await reading
    assert stale == []
    for each in (at_hearing, at_deaf, hears, deaf):
        await each.close()


async def test_a_service_that_does_not_hear_its_own_news_gives_up_nobody_else(tmp_path: Path, flows: Flows) -> None:
    """It begins a fresh session, and what it wrote meanwhile is answered."""
    url = await asyncio.to_thread(postgresql_database, tmp_path)
    deaf = await start(url.replace(str(flows.to), str(flows.port)), tmp_path, "a")
    hears = await start(url, tmp_path, "b")
    at_deaf = await node(tmp_path, "na", [deaf.address], [deaf.address])
    await at_deaf.world.put(numbered(0), ["v"], create=True)
    assert deaf._membership is not None
    assert hears._membership is not None
    before, of_hears = deaf._membership.registration, hears._membership.registration
    flows.silence_news()
    await again_until_done(lambda: at_deaf.world.put(numbered(1), ["v"]))
    assert deaf._membership.registration != before
    assert hears._membership.registration == of_hears
    assert hears._membership.reaches_database()
    for each in (at_deaf, deaf, hears):
        await each.close()


async def test_the_page_of_a_service_that_has_closed_speaks_for_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though a renewal was under way all the time: its row is gone, and no writer waits for it."""
    monkeypatch.setattr(membership, "RENEW_SECONDS", 0.0)
    url = await asyncio.to_thread(postgresql_database, tmp_path)
    for _ in range(10):
        service = await start(url, tmp_path, "s")
        page = await asyncio.to_thread(Epochs, tmp_path / "s-epochs")
        await until(page.lease_valid)
        await service.close()
        assert not page.lease_valid()
        page.close()


async def test_a_registration_outlives_a_crash_of_postgresql_right_after_it(tmp_path: Path) -> None:
    """Renewals may be lost by one, as the session is; who holds a lease must be known to the first who writes."""
    cluster = await asyncio.to_thread(Cluster.start, wal_writer_delay="10s")
    line = CutLine(cluster.port)
    try:
        url = await asyncio.to_thread(cluster.database, "rows")
        migrated = await start(url, tmp_path, "a")
        await migrated.close()
        service = await start(url.replace(str(cluster.port), str(line.port)), tmp_path, "b")
        assert service._membership is not None
        registration = service._membership.registration
        line.cut()
        await asyncio.to_thread(cluster.stop, signal.SIGKILL)
        await asyncio.to_thread(cluster.resume)
        async with await psycopg.AsyncConnection.connect(url) as connection:
            found = await (await connection.execute("SELECT registration FROM services")).fetchall()
        assert found == [(registration,)]
        await service.close()
    finally:
        line.close()
        await asyncio.to_thread(cluster.remove)


async def test_a_service_keeps_its_lease_while_it_gives_up_many_that_died_at_once(tmp_path: Path) -> None:
    """Their machines are gone, and whatever is asked of them waits for its time-out."""
    url = await asyncio.to_thread(postgresql_database, tmp_path)
    service = await start(url, tmp_path, "a")
    page = await asyncio.to_thread(Epochs, tmp_path / "a-epochs")
    await until(page.lease_valid)
    spoke = []

    def looks() -> bool:
        spoke.append(page.lease_valid())
        return service._membership is not None and not service._membership.known

    async def says_nothing(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        while await reader.read(65536):
            pass

    async with listening(says_nothing) as port, await psycopg.AsyncConnection.connect(url) as connection:
        for number in range(9):
            row = f"dead-{number}", "p", "", f"http://127.0.0.1:{port}/{number}"
            await connection.execute("INSERT INTO services VALUES (%s, %s, %s, %s, 7)", row)
        await connection.commit()
        await until(lambda: service._membership is not None and len(service._membership.known) == 9)
        await until(looks)
    assert all(spoke)
    page.close()
    await service.close()


async def test_a_commit_that_stalls_costs_no_other_service_its_lease(tmp_path: Path) -> None:
    """It holds the lock of NOTIFY, so that nobody can confirm anything: a fault of the database, not of the others'."""
    cluster = await asyncio.to_thread(Cluster.start)
    try:
        url = await asyncio.to_thread(cluster.database, "rows")
        local = f"{url}?options=-c%20synchronous_commit%3Dlocal"  # services' commits wait for no standby
        writer, other = [await start(local, tmp_path, name) for name in ("a", "b")]
        async with fault_proxy(int(other.address.rpartition(":")[2])) as line:
            at_writer = await node(tmp_path, "na", [writer.address], [writer.address])
            cut = await node(tmp_path, "cut", [f"127.0.0.1:{line.port}"], [other.address])
            healthy = await node(tmp_path, "nb", [other.address], [other.address])
            await at_writer.world.put(numbered(0), ["v"], create=True)
            assert writer._membership is not None
            assert other._membership is not None
            theirs, registration = writer._membership, other._membership.registration
            async with await psycopg.AsyncConnection.connect(url, autocommit=True) as stalled:
                await stalled.execute("CREATE TABLE others (n bigint)")
                await asyncio.to_thread(_await_standby, cluster, "nobody")
                for number in range(1, 20):
                    await until(lambda: cut.page.lease_valid() and healthy.page.lease_valid())
                    # The other service confirms when the lease of its silent node has ended: commits stall by then.
                    line.mode = "silent"
                    first = asyncio.create_task(at_writer.world.put(numbered(number), ["v"]))
                    await until(lambda: bool(theirs._acknowledgements.first_number()) or first.done())  # noqa: B023
                    stalling = asyncio.create_task(stalled.execute(ANNOUNCE))
                    await asyncio.wait({stalling, first}, timeout=0.1)
                    if not first.done() and not stalling.done():
                        break
                    await asyncio.to_thread(_await_standby, cluster, "")
                    await stalling
                    line.mode = "open"
                    await asyncio.to_thread(_await_standby, cluster, "nobody")
                second = asyncio.create_task(again_until_done(lambda: at_writer.world.put(numbered(100), ["v"])))
                try:
                    began = time.monotonic()
                    while time.monotonic() - began < 2 * FENCE_SECONDS:
                        assert registration in theirs.known
                        assert theirs.known[registration].renewals != FENCED
                        assert other._membership.reaches_database()
                        await asyncio.sleep(0.02)
                    assert not first.done()
                finally:
                    await asyncio.to_thread(_await_standby, cluster, "")
                await asyncio.gather(first, second, stalling)
            assert other._membership.registration == registration
            for one in (at_writer, healthy):
                assert (await one.world.metadata.manifest(ACCOUNT, REPOSITORY, "v")).digest == digest(numbered(100))
            for each in (at_writer, cut, healthy, writer, other):
                await each.close()
    finally:
        await asyncio.to_thread(cluster.remove)


ANNOUNCE = "WITH done AS (INSERT INTO others VALUES (1) RETURNING 1) SELECT pg_notify('another', '') FROM done"


def _await_standby(cluster: Cluster, name: str) -> None:
    """Have commits wait for a standby of that name, which there is not; empty: for none."""
    with psycopg.connect(cluster.url("postgres"), autocommit=True) as connection:
        connection.execute(f"ALTER SYSTEM SET synchronous_standby_names = '{name}'")
        connection.execute("SELECT pg_reload_conf()")
        connection.execute("CHECKPOINT")  # the checkpointer has read it then
