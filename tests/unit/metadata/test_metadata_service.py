"""What the service admits: who may ask, how much, in what form; and the client that waits for it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest
from sqlalchemy import Connection

from proxy.http.selfsigned import make_self_signed
from proxy.http.tls import server_context
from proxy.metadata import wire
from proxy.metadata.client.addresses import parse
from proxy.metadata.client.client import MetadataClient
from proxy.metadata.client.epochs import Epochs
from proxy.metadata.cluster.subscriber import Subscriber
from proxy.metadata.db.sqlite import SqliteDatabase
from proxy.metadata.db.transaction import Transaction
from proxy.metadata.operations import INTERNAL, Operation
from proxy.metadata.service import dispatch
from proxy.metadata.service.service import Service, start_service
from proxy.metadata.wire import REACHES, SECRET_HEADER
from proxy.model.errors import Code, Failure
from support import frames, postgresql
from support.metadata import Clock, World, append, digest, postgresql_service, sqlite_service

SECRET = "a long enough shared secret"
FULL, NORMAL = 2, 1  # of SQLite's `synchronous`
NESTED = msgspec.Raw(b"\x91" * 100_000 + b"\xc0")  # an array in an array in …


def _nested(depth: int) -> list[Any]:
    found: list[Any] = []
    for _ in range(depth):
        found = [found]
    return found


@pytest.fixture
async def over_tcp(tmp_path: Path) -> AsyncIterator[Service]:
    service = await start_service(database=tmp_path / "m.db", listen="127.0.0.1:0", secret=SECRET)
    yield service
    await service.close()


@pytest.fixture
async def over_unix(tmp_path: Path) -> AsyncIterator[Service]:
    service = await sqlite_service(tmp_path, Clock())
    yield service
    await service.close()


class TestService:
    async def test_tcp_without_a_secret_is_refused_at_start(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="shared secret"):
            await start_service(database=tmp_path / "m.db", listen="127.0.0.1:0")

    @pytest.mark.parametrize("secret", [None, "", "wrong", SECRET + "x", "schlüssel"])
    async def test_a_request_without_the_secret_is_denied_whatever_it_asks(
        self, over_tcp: Service, secret: str | None
    ) -> None:
        client = MetadataClient.connect(f"http://{over_tcp.address}", secret=secret, patience=0.1)
        with pytest.raises(Failure) as caught:
            await client.ping()
        assert caught.value.code is Code.ACCESS_DENIED
        await client.close()

    async def test_with_the_secret_it_answers_over_tcp(self, over_tcp: Service) -> None:
        client = MetadataClient.connect(f"http://{over_tcp.address}", secret=SECRET)
        await client.ping()
        assert await client.access_key("AKIA") is None
        await client.close()

    async def test_beside_its_socket_it_listens_on_tcp_and_wants_the_secret_at_both(self, tmp_path: Path) -> None:
        socket = f"unix:{tmp_path}/m.sock"
        with pytest.raises(ValueError, match="shared secret"):
            await start_service(database=tmp_path / "m.db", listen=socket, beside="127.0.0.1:0")
        service = await start_service(database=tmp_path / "m.db", listen=socket, beside="127.0.0.1:0", secret=SECRET)
        for address in (socket, f"http://{service.address}"):
            for secret, answered in ((SECRET, True), ("wrong", False)):
                client = MetadataClient.connect(address, secret=secret, patience=0.1)
                with contextlib.nullcontext() if answered else pytest.raises(Failure):
                    await client.ping()
                await client.close()
        await service.close()

    async def test_under_tls_it_answers_who_trusts_its_authority_and_nobody_is_answered_without(
        self, tmp_path: Path
    ) -> None:
        ca, cert, key = await asyncio.to_thread(make_self_signed, tmp_path / "tls", "127.0.0.1")
        tls, trusting, other = await asyncio.to_thread(
            lambda: (server_context(cert, key), ssl.create_default_context(cafile=ca), ssl.create_default_context())
        )
        service = await start_service(database=tmp_path / "m.db", listen="127.0.0.1:0", secret=SECRET, tls=tls)
        page = await asyncio.to_thread(Epochs, tmp_path / "node")
        watch = Subscriber(page, parse(f"https://{service.address}", trusting), secret=SECRET)
        watching = asyncio.create_task(watch.run())
        client = MetadataClient.connect(parse(f"https://{service.address}", trusting), secret=SECRET)
        await client.ping()
        async with asyncio.timeout(5):
            await watch.attached.wait()
        assert page.lease_valid()
        for address in (parse(f"https://{service.address}", other), parse(f"http://{service.address}")):
            stranger = MetadataClient.connect(address, secret=SECRET, patience=0.1)
            with pytest.raises(Failure) as caught:
                await stranger.ping()
            assert caught.value.code is Code.METADATA_UNAVAILABLE
            await stranger.close()
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
        await client.close()
        await service.close()

    @pytest.mark.parametrize("secret", [None, "wrong"])
    async def test_nobody_watches_without_the_secret(self, over_tcp: Service, secret: str | None) -> None:
        headers = {SECRET_HEADER: secret} if secret else {}
        async with aiohttp.ClientSession() as session:
            with pytest.raises(aiohttp.WSServerHandshakeError):
                await session.ws_connect(f"http://{over_tcp.address}/v1/watch", headers=headers)
            async with session.post(
                f"http://{over_tcp.address}/v1/{REACHES}", json={"up": True}, headers=headers
            ) as response:
                assert response.status == 400

    @pytest.mark.parametrize("line", ["GET /v1/watch", f"POST /v1/{REACHES}"])
    async def test_a_secret_that_is_no_text_is_denied_like_any_wrong_one(self, over_tcp: Service, line: str) -> None:
        host, _, port = over_tcp.address.rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        head = f"{line} HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nConnection: close\r\n{SECRET_HEADER}: "
        writer.write(head.encode() + b"\xff\xfe\r\n\r\n{}")
        async with asyncio.timeout(5):
            answer = await reader.read()
        assert answer.startswith(b"HTTP/1.1 400")
        assert b"AccessDenied" in answer
        writer.close()

    async def test_the_socket_is_its_owners_alone_and_a_dead_ones_makes_way(
        self, over_unix: Service, tmp_path: Path
    ) -> None:
        path = tmp_path / "m.sock"
        assert (await asyncio.to_thread(path.stat)).st_mode & 0o777 == 0o600
        await over_unix.close()
        await asyncio.to_thread(path.touch)
        again = await sqlite_service(tmp_path, Clock())
        client = MetadataClient.connect(f"unix:{path}")
        await client.ping()
        await client.close()
        await again.close()

    @pytest.mark.parametrize(
        ("operation", "parameters", "code"),
        [
            ("ping", [], "InvalidParameterException"),
            ("ping", NESTED, "InvalidParameterException"),
            ("ping", {"more": 1}, "InvalidParameterException"),
            ("take_turn", {"task": "x"}, "InvalidParameterException"),
            ("take_turn", {"task": "x", "seconds": "1"}, "InvalidParameterException"),
            ("segments", {"object_key": 1, "plain_offset": 0, "limit": 1}, "InvalidParameterException"),
            ("CreateRepository", [], "InvalidParameterException"),
            ("CreateRepository", NESTED, "InvalidParameterException"),
            ("CreateRepository", {"parameters": {}}, "InvalidParameterException"),
            ("CreateRepository", {"account": "1", "parameters": []}, "InvalidParameterException"),
            ("drop_tables", {}, "UnknownOperationException"),
        ],
    )
    async def test_a_request_of_the_wrong_form_is_answered_in_form(
        self, over_tcp: Service, operation: str, parameters: object, code: str
    ) -> None:
        ok, failure = await frames.ask(over_tcp.address, frames.request(operation, parameters), secret=SECRET)
        assert (ok, failure["__type"]) == (False, code)
        assert failure["message"]

    async def test_a_request_beyond_the_bound_is_not_sent(self, over_tcp: Service) -> None:
        client = MetadataClient.connect(f"http://{over_tcp.address}", secret=SECRET)
        with pytest.raises(Failure) as caught:
            await client.call("1", "CreateRepository", {"repositoryName": "x" * wire.REQUEST_MAX})
        assert caught.value.code is Code.INVALID_PARAMETER
        await client.close()

    @pytest.mark.parametrize("value", ["\ud800", 2**64, _nested(100_000)], ids=["half a pair", "large", "deep"])
    async def test_what_no_message_can_carry_is_bad_input(self, over_tcp: Service, value: object) -> None:
        client = MetadataClient.connect(f"http://{over_tcp.address}", secret=SECRET)
        with pytest.raises(Failure) as caught:
            await client.call("1", "CreateRepository", {"repositoryName": value})
        assert caught.value.code is Code.INVALID_PARAMETER
        await client.close()

    async def test_a_fault_of_ours_says_nothing_of_its_cause(
        self, over_tcp: Service, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def broken(tx: Transaction) -> None:
            raise RuntimeError("the inside of things")

        monkeypatch.setitem(INTERNAL, "ping", Operation(broken))
        ok, failure = await frames.ask(over_tcp.address, frames.request("ping"), secret=SECRET)
        assert (ok, failure["__type"]) == (False, "ServerException")
        assert "inside" not in json.dumps(failure)


async def test_an_upload_waits_for_the_disk_where_it_makes_a_repository_and_where_it_tells_of_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    levels: list[int] = []
    write = SqliteDatabase.write

    def seen(database: SqliteDatabase, run: Callable[[Connection], Any], *, durable: bool = True) -> Any:
        def run_seen(connection: Connection) -> Any:
            result = run(connection)
            levels.append(connection.exec_driver_sql("PRAGMA synchronous").scalar_one())
            return result

        return write(database, run_seen, durable=durable)

    service = await start_service(database=tmp_path / "m.db", listen=f"unix:{tmp_path}/m.sock", alone=True)
    monkeypatch.setattr(SqliteDatabase, "write", seen)
    client = MetadataClient.connect(f"unix:{tmp_path}/m.sock")
    world = World(client)
    await world.begin()
    assert levels.pop() == FULL
    upload = await world.begin()
    leased = await world.lease(upload)
    await client.renew_upload(upload.upload_id, leased.fence, seconds=9)
    await client.release_upload(upload.upload_id, leased.fence)
    leased = await world.lease(upload)
    assert levels == [NORMAL] * 5
    await client.advance_upload(upload.upload_id, leased.fence, segment=append(0, 42), hash_state=b"")
    assert levels.pop() == FULL
    leased = await world.lease(upload)
    assert levels.pop() == NORMAL
    await client.commit_upload(upload.upload_id, leased.fence, digest=digest("x"), segment=None, hash_state=b"")
    assert levels.pop() == FULL
    await client.close()
    await service.close()


@pytest.mark.needs(postgresql.PROGRAM)
async def test_a_value_that_postgresql_cannot_store_is_bad_input(tmp_path: Path) -> None:
    service = await postgresql_service(tmp_path, Clock())
    client = MetadataClient.connect(f"unix:{tmp_path}/m.sock")
    world = World(client)
    for value in ("a\0b", "\ud800"):
        with pytest.raises(Failure) as caught:
            await world.call("CreateRepository", repositoryName="a/b", tags=[{"Key": "k", "Value": value}])
        assert caught.value.code is Code.INVALID_PARAMETER
    await client.close()
    await service.close()


@pytest.fixture
async def faulty(tmp_path: Path) -> AsyncIterator[Callable[[frames.Respond], Awaitable[MetadataClient]]]:
    """A service that answers its n-th request (from 1) as the test says."""
    servers: list[asyncio.Server] = []
    clients: list[MetadataClient] = []

    async def start(respond: frames.Respond) -> MetadataClient:
        servers.append(await asyncio.start_unix_server(frames.serving(respond), tmp_path / "f.sock"))
        clients.append(MetadataClient.connect(f"unix:{tmp_path}/f.sock", patience=1.0, timeout=0.5))
        return clients[-1]

    yield start
    for client in clients:
        await client.close()
    for server in servers:
        server.close()
    await asyncio.sleep(0)


class TestClient:
    async def test_nobody_there_is_unavailable_after_its_patience(self, tmp_path: Path) -> None:
        client = MetadataClient.connect(f"unix:{tmp_path}/nobody.sock", patience=0.2)
        with pytest.raises(Failure) as caught:
            await client.ping()
        assert caught.value.code is Code.METADATA_UNAVAILABLE
        await client.close()

    async def test_a_request_that_was_never_sent_waits_for_the_service_whatever_it_writes(self, tmp_path: Path) -> None:
        client = MetadataClient.connect(f"unix:{tmp_path}/m.sock", patience=10)
        asking = asyncio.create_task(client.take_turn("sweep", seconds=1))
        await asyncio.sleep(0.05)
        service = await sqlite_service(tmp_path, Clock())
        assert await asking
        await client.close()
        await service.close()

    async def test_a_read_whose_answer_was_lost_is_asked_again(
        self, faulty: Callable[[frames.Respond], Awaitable[MetadataClient]]
    ) -> None:
        async def answer(number: int, request: wire.OperationRequest) -> bytes | bytearray | None:
            return None if number < 3 else frames.answer(None)

        assert await (await faulty(answer)).access_key("AKIA") is None

    async def test_a_lease_whose_answer_was_lost_is_taken_again_by_the_same_and_by_nobody_else(
        self, over_unix: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        lost: list[Any] = []

        async def answer_is_lost(store: object, name: str, body: object, request: object) -> Any:
            result = await run(store, name, body, request)  # type: ignore[arg-type]  # the store, as it was passed
            if name == "lease_upload" and not lost:
                lost.append(result)
                raise asyncio.CancelledError  # the connection ends without an answer
            return result

        run = dispatch._run
        monkeypatch.setattr(dispatch, "_run", answer_is_lost)
        client = MetadataClient.connect(f"unix:{tmp_path}/m.sock")
        world = World(client)
        upload = await world.begin()
        leased = await world.lease(upload)
        assert leased.fence > lost[0].fence
        with pytest.raises(Failure) as caught:
            await world.lease(upload)
        assert caught.value.code is Code.UPLOAD_IN_USE
        await client.close()

    async def test_a_write_whose_answer_was_lost_is_asked_for_under_the_id_it_had(
        self, faulty: Callable[[frames.Respond], Awaitable[MetadataClient]]
    ) -> None:
        ids = []

        async def answer(number: int, request: wire.OperationRequest) -> bytes | bytearray | None:
            ids.append(request.id)
            return None if number == 1 else frames.answer(True)

        client = await faulty(answer)
        assert await client.take_turn("sweep", seconds=1)
        assert await client.take_turn("sweep", seconds=1)
        assert ids[0] == ids[1] != ids[2]

    async def test_a_repeated_request_says_that_it_was_made_when_it_was_made_first(
        self, faulty: Callable[[frames.Respond], Awaitable[MetadataClient]]
    ) -> None:
        """By the time that an answer told; its client waits for it for longer since then."""
        stamps: list[tuple[float, float]] = []

        async def answer(number: int, request: wire.OperationRequest) -> bytes | bytearray | None:
            stamps.append((request.made or 0.0, request.within or 0.0))
            if number == 2:
                await asyncio.sleep(0.2)
                return None
            return frames.answer(True, time=1_000_000.0)

        client = await faulty(answer)
        for _ in range(2):
            assert await client.take_turn("sweep", seconds=1)
        assert stamps[0][0] == 0.0
        assert stamps[1][0] == stamps[2][0] >= 1_000_000.0
        assert stamps[2][1] >= stamps[1][1] + 0.2

    async def test_a_service_that_never_answers_is_unavailable_in_bounded_time(
        self, faulty: Callable[[frames.Respond], Awaitable[MetadataClient]]
    ) -> None:
        async def answer(number: int, request: wire.OperationRequest) -> bytes | bytearray | None:
            await asyncio.sleep(3)
            return None

        client = await faulty(answer)
        began = asyncio.get_running_loop().time()
        with pytest.raises(Failure) as caught:
            await client.ping()
        assert caught.value.code is Code.METADATA_UNAVAILABLE
        assert asyncio.get_running_loop().time() - began < 5

    async def test_an_answer_of_another_form_is_unavailable(
        self, faulty: Callable[[frames.Respond], Awaitable[MetadataClient]]
    ) -> None:
        async def answer(number: int, request: wire.OperationRequest) -> bytes | bytearray | None:
            return b"HTTP/1.1 502 Bad Gateway\r\n\r\n"

        client = await faulty(answer)
        with pytest.raises(Failure) as caught:
            await client.ping()
        assert caught.value.code is Code.METADATA_UNAVAILABLE

    async def test_an_error_comes_with_its_fields(self, over_unix: Service, tmp_path: Path) -> None:
        client = MetadataClient.connect(f"unix:{tmp_path}/m.sock")
        world = World(client)
        upload = await world.begin()
        fence = (await world.lease(upload)).fence
        await client.advance_upload(upload.upload_id, fence, segment=append(0, 42), hash_state=b"")
        fence = (await world.lease(upload)).fence
        with pytest.raises(Failure) as caught:
            await client.commit_upload(
                upload.upload_id, fence, digest=digest("x"), segment=append(0, 1), hash_state=b""
            )
        assert (caught.value.code, caught.value.fields["offset"]) == (Code.UPLOAD_CONFLICT, 42)
        await client.close()
